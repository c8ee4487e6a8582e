"""Noticing that the file was edited."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from watchfiles import watch

# It would log each change of a folder in which the log may lie, and so log that it has logged.
logging.getLogger("watchfiles").setLevel(logging.WARNING)

LOOK_EVERY = 2_000
"""Milliseconds after which the file is looked at even if nothing was told."""


class Watcher:
    """Notices whenever the content of ``file`` is another than when this was made, or when it noticed last.

    It watches the folder, since editors and deployments replace files, or the links to them; and looks every now and
    then all the same, because some file systems tell nothing.
    """

    def __init__(self, file: str) -> None:
        self._stop = threading.Event()
        self._file = Path(file)
        self._content = self._read()
        self._thread: threading.Thread | None = None

    def start(self, changed: Callable[[], None]) -> None:
        """From now on call ``changed``, in a thread of its own."""
        self._thread = threading.Thread(target=self._run, args=(changed,), name="router-watcher", daemon=True)
        self._thread.start()

    def _run(self, changed: Callable[[], None]) -> None:
        events = watch(
            self._file.parent,
            stop_event=self._stop,
            recursive=False,
            raise_interrupt=False,
            debounce=200,
            rust_timeout=LOOK_EVERY,
            yield_on_timeout=True,
        )
        for _ in events:
            content = self._read()
            if content != self._content:
                self._content = content
                changed()

    def _read(self) -> bytes | None:
        try:
            return self._file.read_bytes()
        except OSError:  # between two steps of a replacement; a file that stays away is noticed by the check
            return None

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
