"""A lock store that is out of reach: when it is asked again, and what the log is told of it."""

from __future__ import annotations

import logging

log = logging.getLogger("router.worker")

AGAIN_AFTER = 1.0
HANG_SHARE = 4
"""So many times as long as a question took, it isn't asked again: one that hangs holds up the worker's other jobs."""

TELL_EVERY = 30.0


class LockOutage:
    """``now`` is the worker's clock, in seconds."""

    def __init__(self) -> None:
        self._again_at = 0.0
        self._told_at: float | None = None

    def lasts(self, now: float) -> bool:
        """Whether it isn't to be asked yet."""
        return now < self._again_at

    def note(self, error: str, took: float, now: float) -> None:
        """It could not answer, which took so many seconds."""
        self._again_at = now + AGAIN_AFTER + HANG_SHARE * took
        if self._told_at is None or now >= self._told_at + TELL_EVERY:
            self._told_at = now
            text = "unique jobs wait, and leases of those that run may end: %s"
            log.warning(text, error, extra={"event": "locks.unavailable"})

    def over(self) -> None:
        """It has answered."""
        if self._told_at is not None:
            self._told_at = None
            log.info("the lock store is back", extra={"event": "locks.available"})
