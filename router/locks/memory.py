"""Locks of unique jobs inside one process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from router.forks import in_forked_children
from router.locks.base import Claim, Held, Lease, Superseded, Taken, Verdict


class MemoryLocks:
    """The contract of `Locks` in a dictionary; gone with the process. ``now`` tells the time in seconds."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._held: dict[str, tuple[Claim, float]] = {}
        self._renew()
        in_forked_children(self, MemoryLocks._renew)

    def _renew(self) -> None:
        self._mutex = threading.Lock()

    def hold(self, claim: Claim, lease: float) -> Verdict:
        with self._mutex:
            holder = self._live(claim.key)
            if holder is not None and holder.job != claim.job:
                return Taken(holder.job)
            if holder is not None and not _covers(claim, holder):
                return Superseded()
            self._held[claim.key] = (claim, self._now() + lease)
            return Held()

    def hold_many(self, claims: Sequence[Claim], lease: float) -> list[Verdict]:
        return [self.hold(claim, lease) for claim in claims]

    def extend(self, claim: Claim, lease: float) -> bool:
        with self._mutex:
            holder = self._live(claim.key)
            if holder is None or not _covers(claim, holder):
                return False
            self._held[claim.key] = (claim, self._now() + lease)
            return True

    def extend_many(self, claims: Sequence[tuple[Claim, float]]) -> list[bool]:
        return [self.extend(claim, lease) for claim, lease in claims]

    def free(self, claim: Claim) -> bool:
        with self._mutex:
            holder = self._live(claim.key)
            if holder is None or not _covers(claim, holder):
                return False
            del self._held[claim.key]
            return True

    def free_many(self, claims: Sequence[Claim]) -> list[bool]:
        return [self.free(claim) for claim in claims]

    def holder(self, key: str) -> Claim | None:
        with self._mutex:
            return self._live(key)

    def held(self, prefix: str) -> list[Lease]:
        with self._mutex:
            now = self._now()
            keys = sorted(key for key in self._held if key.startswith(prefix) and self._held[key][1] > now)
            return [Lease(self._held[key][0], self._held[key][1] - now) for key in keys]

    def close(self) -> None:
        """Nothing to let go of: the locks stay."""

    def _live(self, key: str) -> Claim | None:
        entry = self._held.get(key)
        if entry is None:
            return None
        claim, expires_at = entry
        if expires_at <= self._now():
            del self._held[key]
            return None
        return claim


def _covers(claim: Claim, holder: Claim) -> bool:
    """Whether ``claim`` may change what ``holder`` holds: the same job, with the same or a lower value."""
    return holder.job == claim.job and (holder.round, holder.attempt) <= (claim.round, claim.attempt)
