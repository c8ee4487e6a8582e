"""Noticing that a file was edited."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from watchfiles import watch

from router.config import Look, Watched

log = logging.getLogger("router.worker")

# It would log each change of a folder in which the log may lie, and so log that it has logged.
logging.getLogger("watchfiles").setLevel(logging.WARNING)

LOOK_EVERY = 2.0
"""Seconds after which the files are looked at even if nothing was told."""


class Watcher:
    """Notices whenever the content of what is watched is another than what was read, or than when it noticed last.

    It watches the folders, since editors and deployments replace files, or the links to them; and looks every now and
    then all the same, because some file systems tell nothing.
    """

    def __init__(self, watched: Watched) -> None:
        self._closed = False
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._look = Look(watched)
        self._why_not: str | None = None
        """Why folders couldn't be watched when that was logged last."""

    def watch(self, watched: Watched) -> None:
        """From now on watch this: what the last check has read."""
        with self._lock:
            moved = _folders(watched) != _folders(self._look.seen)
            self._look = Look(watched)
            if moved:
                self._stop.set()

    def start(self, changed: Callable[[], None]) -> None:
        """From now on call ``changed``, in a thread of its own."""
        self._thread = threading.Thread(target=self._run, args=(changed,), name="router-watcher", daemon=True)
        self._thread.start()

    def _run(self, changed: Callable[[], None]) -> None:
        while not self._closed:
            with self._lock:
                look, stop = self._look, threading.Event()
                self._stop = stop
            if self._closed:
                return
            for _ in self._told(look.seen, stop):
                self._look_once(changed)

    def _told(self, watched: Watched, stop: threading.Event) -> Iterator[object]:
        """Whenever there may be an edit, until ``stop``, or once where the folders can't be watched now."""
        folders = [folder for folder in _folders(watched) if os.path.isdir(folder)]
        try:
            if folders:
                yield from watch(
                    *folders,
                    stop_event=stop,
                    recursive=False,
                    raise_interrupt=False,
                    debounce=200,
                    rust_timeout=int(LOOK_EVERY * 1000),
                    yield_on_timeout=True,
                )
                return
        except (OSError, RuntimeError) as error:  # as when one has just vanished, or inotify has no more instances
            if str(error) != self._why_not:
                self._why_not = str(error)
                log.warning("folders can't be watched, files are looked at every %g s: %s", LOOK_EVERY, error)
        stop.wait(LOOK_EVERY)
        yield None

    def _look_once(self, changed: Callable[[], None]) -> None:
        look = self._look
        if look.changed():
            look.wait_until_quiet(self._stop.wait)
            changed()

    def close(self) -> None:
        """Stop watching."""
        self._closed = True
        with self._lock:
            self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)


def _folders(watched: Watched) -> list[str]:
    """Where something may happen that matters."""
    found = [*watched.files, *watched.globs, *(file for files in watched.globs.values() for file in files)]
    return sorted({str(Path(file).parent) for file in found})
