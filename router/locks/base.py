"""The contract of a lock store for unique jobs.

A lock is a lease on a key, held by a job. Its value is the holder's (job, round, attempt), so that a stale copy of the
same job, come back after a lost ack, is recognised by its lower value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from router.jobs.job import Job


class Claim(msgspec.Struct, frozen=True):
    """What a job wants to hold: ``key``, with its own (job, round, attempt) as the value."""

    key: str
    job: str
    round: int
    attempt: int


class Lease(msgspec.Struct, frozen=True):
    """A lock that is held now. ``left``: seconds until it runs out, if nobody renews it."""

    claim: Claim
    left: float


def claim_of(job: Job) -> Claim | None:
    """What this attempt of a unique job must hold; None for any other job."""
    return Claim(job.lock, job.job, job.round, job.attempt) if job.lock else None


class Held(msgspec.Struct, frozen=True):
    """The claim holds its key, for the time it asked."""


class Superseded(msgspec.Struct, frozen=True):
    """The key is held by a later (round, attempt) of the same job: this copy is stale."""


class Taken(msgspec.Struct, frozen=True):
    """The key is held by another job."""

    holder: str


Verdict = Held | Superseded | Taken


class Locks(Protocol):
    """Every method may raise LocksUnavailable, within 5 seconds. Safe to call from many threads and after a fork.

    ``now`` is never passed: expiry is judged by the store's own clock.
    """

    def hold(self, claim: Claim, lease: float) -> Verdict:
        """Take, lengthen or raise the lock in one atomic step.

        Free or expired: it is the claim's now, for ``lease`` seconds. Held by the same job with the same or a lower
        (round, attempt): the value becomes the claim's and the lease starts afresh. Held by the same job with a higher
        value: Superseded, nothing changes. Held by another job: Taken, nothing changes.
        """
        ...

    def hold_many(self, claims: Sequence[Claim], lease: float) -> list[Verdict]:
        """`hold` each of these, in this order and in one go: of two jobs with the same key the first one wins.

        After LocksUnavailable any of them may be held.
        """
        ...

    def extend(self, claim: Claim, lease: float) -> bool:
        """Lengthen or raise a lock that the same job still holds, with the same or a lower value; True if it did.

        Unlike `hold` it never takes a key that is free: the job may have finished, and freed it, a moment ago.
        """
        ...

    def extend_many(self, claims: Sequence[tuple[Claim, float]]) -> list[bool]:
        """`extend` each of these for a lease of its own, in one go."""
        ...

    def free(self, claim: Claim) -> bool:
        """Give the key up if the same job holds it with the same or a lower value; True if it did. Never an error
        if it didn't: a lease that ran out may have been taken by another job since."""
        ...

    def free_many(self, claims: Sequence[Claim]) -> list[bool]:
        """`free` each of these, in one go."""
        ...

    def holder(self, key: str) -> Claim | None:
        """Who holds ``key`` now; None if nobody does or the lease has run out."""
        ...

    def held(self, prefix: str) -> list[Lease]:
        """Every lock that is held now and whose key begins with ``prefix``, by key."""
        ...

    def close(self) -> None:
        """Let go of files and connections of this process. Calling anything afterwards opens them anew."""
        ...
