"""The lock store as the worker's loop asks it: never for long, since every other job of the worker waits meanwhile."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from router.errors import LocksUnavailable
from router.locks.base import Locks

log = logging.getLogger("router.worker")

AGAIN_AFTER = 1.0
HANG_SHARE = 4
"""So many times as long as a question took, one that had no answer isn't asked again: it may hang, not refuse."""

TURN_SECONDS = 0.5
"""What the questions of one turn may take together."""

TELL_EVERY = 30.0

T = TypeVar("T")


class LockStore:
    """``now`` is the worker's clock, in seconds, which stands still within a turn."""

    def __init__(self, locks: Locks) -> None:
        self._locks = locks
        self._again_at = 0.0
        self._turn = 0.0
        self._left = TURN_SECONDS
        self._told_at: float | None = None

    def closed(self, now: float) -> bool:
        """Whether it isn't to be asked now: it is away, or was slow in this turn."""
        return now < self._again_at or (now == self._turn and self._left <= 0)

    def ask(self, question: Callable[[Locks], T], now: float) -> T:
        """Its answer. Raises LocksUnavailable, also where it is `closed`: then it was not asked."""
        if self.closed(now):
            raise LocksUnavailable("the lock store isn't asked now")
        if now != self._turn:
            self._turn, self._left = now, TURN_SECONDS
        began = time.monotonic()
        try:
            answer = question(self._locks)
        except LocksUnavailable as error:
            self._note(str(error), time.monotonic() - began, now)
            raise
        self._left -= time.monotonic() - began
        if self._told_at is not None:
            self._told_at = None
            log.info("the lock store is back", extra={"event": "locks.available"})
        return answer

    def _note(self, error: str, took: float, now: float) -> None:
        self._again_at = now + AGAIN_AFTER + HANG_SHARE * took
        if self._told_at is None or now >= self._told_at + TELL_EVERY:
            self._told_at = now
            text = "unique jobs wait, and leases of those that run may end: %s"
            log.warning(text, error, extra={"event": "locks.unavailable"})
