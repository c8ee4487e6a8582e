"""Ends a worker whose loop makes no progress: its jobs go to others, and whoever supervises it starts a new one."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading

log = logging.getLogger("router.worker")

LIMIT = 30.0
LOOK_EVERY = 1.0
SAY_WITHIN = 2.0


class Watchdog:
    """From `start` on, ends this process with exit code 1 if `progress` isn't called for ``limit`` seconds.

    It counts its own turns, not the clock: a process that is stopped (SIGSTOP, a suspended machine) is not stuck.
    """

    def __init__(self, limit: float = LIMIT, look_every: float = LOOK_EVERY) -> None:
        self._limit = limit
        self._look_every = look_every
        self._quiet = 0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="router-watchdog", daemon=True)

    def start(self) -> None:
        """Watch from now on."""
        self._thread.start()

    def progress(self) -> None:
        """The loop has come round."""
        self._quiet = 0

    def close(self) -> None:
        """Watch no longer."""
        self._closed.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._closed.wait(self._look_every):
            self._quiet += 1
            if self._quiet * self._look_every >= self._limit:
                self._end()

    def _end(self) -> None:
        # The loop may be stuck with a lock of logging in its hands.
        saying = threading.Thread(target=self._say, daemon=True)
        saying.start()
        saying.join(SAY_WITHIN)
        faulthandler.dump_traceback(sys.__stderr__ or 2)
        os._exit(1)

    def _say(self) -> None:
        log.critical(
            "this worker's loop has made no progress for %g s, so the process ends itself; no job is lost: others get "
            "what it held. Where it was stuck is below; please report it",
            self._limit,
            extra={"event": "worker.stuck"},
        )
