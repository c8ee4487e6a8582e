"""In a child: tells the listeners what the parent has said, in a thread, so that a slow one holds up no job."""

from __future__ import annotations

import logging
import queue
import threading
import time

from router.app.listeners import Listeners
from router.config.settings import AsyncOptions
from router.jobs.following import LifecycleEvent, of_job
from router.jobs.job import Job

log = logging.getLogger("router.worker.child")

WAITING_MOST = 10_000
CLOSE_WITHIN = 3.0


class Follower:
    """What a child tells its own listeners, if it has any."""

    def __init__(self, listeners: Listeners, worker: str) -> None:
        self._worker = worker
        self._teller = Teller(listeners) if listeners.by_name else None

    def started(self, job: Job, queue: str, options: AsyncOptions) -> None:
        """An attempt begins here."""
        if self._teller is not None:
            self._teller.tell(of_job("started", job, queue, time.time(), options, worker=self._worker))

    def tell(self, event: LifecycleEvent) -> None:
        """The parent has said that this happened."""
        if self._teller is not None:
            self._teller.tell(event)

    def close(self) -> None:
        """Give the listeners the time that they have."""
        if self._teller is not None:
            self._teller.close()


class Teller:
    """Tells ``listeners`` one event after the other. What comes while ten thousand wait is left out, and logged."""

    def __init__(self, listeners: Listeners) -> None:
        self._listeners = listeners
        self._events: queue.Queue[LifecycleEvent | None] = queue.Queue(WAITING_MOST)
        self._left_out = 0
        self._thread = threading.Thread(target=self._run, name="router listeners", daemon=True)
        self._thread.start()

    def tell(self, event: LifecycleEvent) -> None:
        """Never waits."""
        try:
            self._events.put_nowait(event)
        except queue.Full:
            if not self._left_out:
                log.error("the listeners (router.on) are too slow: what happens now, they are not told")
            self._left_out += 1
            return
        if self._left_out:
            log.error("listeners were not told of %d events", self._left_out)
            self._left_out = 0

    def close(self) -> None:
        """Give the listeners three seconds for what is still to be told."""
        try:
            self._events.put(None, timeout=CLOSE_WITHIN)
        except queue.Full:
            pass
        else:
            self._thread.join(CLOSE_WITHIN)
        if self._thread.is_alive():
            log.error("listeners were not told of about %d events: the worker ends", self._events.qsize())

    def _run(self) -> None:
        while (event := self._events.get()) is not None:
            self._listeners.tell(event)
