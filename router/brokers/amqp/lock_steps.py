"""Lock changes that settlements ask for, made in a thread of their own: a lock store may take seconds to answer, and
the consumer never waits that long."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from router.errors import LocksUnavailable
from router.locks.base import Locks

log = logging.getLogger(__name__)

GIVE_UP_SECONDS = 4.0
"""A lock store that is away for longer doesn't hold up the jobs: they are acked, and the lock runs out by itself.
Shorter than what a worker that stops waits for its settlements."""

PAUSE = 0.25

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class _Step(Generic[Key]):
    key: Key
    what: str
    change: Callable[[], object]
    give_up_at: float


class LockThread(Generic[Key]):
    """Makes lock changes in order. ``wake`` is called, in the thread, when `take` has something to give."""

    def __init__(self, locks: Locks, wake: Callable[[], None]) -> None:
        self._locks = locks
        self._wake = wake
        self._steps: queue.SimpleQueue[_Step[Key] | None] = queue.SimpleQueue()
        self._made: deque[Key] = deque()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._away: LocksUnavailable | None = None
        """Why the last try failed: steps whose time is over while it is away are not tried at all."""

    def add(self, key: Key, what: str, change: Callable[[], object]) -> None:
        """Make ``change``; afterwards `take` returns ``key``. ``what`` says in words which lock it is about."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="router-amqp-locks", daemon=True)
            self._thread.start()
        self._steps.put(_Step(key, what, change, time.monotonic() + GIVE_UP_SECONDS))

    def take(self) -> list[Key]:
        """The keys whose changes are made, or given up."""
        made: list[Key] = []
        while self._made:
            made.append(self._made.popleft())
        return made

    def close(self) -> None:
        """Make no further changes."""
        self._stopped.set()
        self._steps.put(None)

    def _run(self) -> None:
        while not self._stopped.is_set():
            step = self._steps.get()
            if step is None:
                break
            self._make(step)
            self._made.append(step.key)
            self._wake()

    def _make(self, step: _Step[Key]) -> None:
        while not self._stopped.is_set():
            try:
                if self._away is None or time.monotonic() < step.give_up_at:
                    step.change()
                    self._away = None
                    return
            except LocksUnavailable as error:
                self._away = error
            if time.monotonic() >= step.give_up_at:
                log.warning("%s stays as it is until it runs out, or `router locks release`: %s", step.what, self._away)
                return
            self._stopped.wait(PAUSE)
