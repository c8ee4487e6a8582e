"""Noticing that the file was edited."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from watchfiles import watch

# It would log each change of a folder in which the log may lie, and so log that it has logged.
logging.getLogger("watchfiles").setLevel(logging.WARNING)


class Watcher:
    """Calls ``changed`` from a thread of its own whenever the content of ``file`` has become another.

    It watches the folder, since editors and deployments replace files, or the links to them.
    """

    def __init__(self, file: str, changed: Callable[[], None]) -> None:
        self._stop = threading.Event()
        self._file = Path(file)
        self._content = self._read()
        self._changed = changed
        self._thread = threading.Thread(target=self._run, name="router-watcher", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        folder = self._file.parent
        for _ in watch(folder, stop_event=self._stop, recursive=False, raise_interrupt=False, debounce=200):
            content = self._read()
            if content != self._content:
                self._content = content
                self._changed()

    def _read(self) -> bytes | None:
        try:
            return self._file.read_bytes()
        except OSError:  # between two steps of a replacement; a file that stays away is noticed by the check
            return None

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join(timeout=5)
