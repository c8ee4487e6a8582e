"""The locks of unique jobs where lock and job aren't one transaction.

A crash between two steps leaves a key blocked for `PUBLISH_LEASE`, not for an hour, and never a job that can't start.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from router.brokers.base import PUBLISH_LEASE, Bury, Done, Forward, Outgoing, Receipt, Settlement
from router.errors import BrokerRefused, LocksUnavailable
from router.locks.base import Claim, Held, Locks, Superseded, Taken, Verdict

log = logging.getLogger(__name__)

LOCKS_DEADLINE = 5.0
"""Seconds that taking the locks may cost a publish, but no more than half of its deadline."""

AT_ONCE = 500
"""Locks that are changed in one go; not fewer than the failed jobs that a sweep requeues together."""


def needs_locks(batch: Sequence[Outgoing], locks: Locks | None) -> bool:
    """Whether a job of ``batch`` is unique. Raises BrokerRefused if one is and there is no lock store."""
    if all(outgoing.claim is None for outgoing in batch):
        return False
    if locks is None:
        raise BrokerRefused("a unique job needs a lock store; set locks.url, for example to sqlite:///var/locks.db")
    return True


def publish_locked(
    locks: Locks, batch: Sequence[Outgoing], publish: Callable[[Sequence[Outgoing]], Receipt], deadline: float
) -> Receipt:
    """Take the locks, ``publish`` the jobs that got theirs, then lengthen the locks of what was confirmed.

    The other locks are given up. Where the lock store is slow, what had no answer in time is unconfirmed. Raises
    LocksUnavailable, with nothing published and nothing held, if the lock store can't be reached within half of
    ``deadline`` (at most 5) seconds; and whatever ``publish`` raises.
    """
    began = time.monotonic()
    until = began + min(deadline / 2, LOCKS_DEADLINE)
    lease = max(PUBLISH_LEASE, deadline + LOCKS_DEADLINE)
    unique = [outgoing.claim for outgoing in batch if outgoing.claim is not None]
    verdicts: list[Verdict] = []
    admitted: list[Outgoing] = []
    further: set[str] = set()
    duplicates: dict[str, str] = {}
    late: dict[str, str] = {}
    held: list[tuple[Outgoing, Claim]] = []
    asked = 0
    try:
        while asked < len(unique) and (not asked or time.monotonic() < until):
            some = unique[asked : asked + AT_ONCE]
            asked += len(some)
            verdicts += _hold(locks, some, lease, until)
        took = time.monotonic() - began
        answers = iter(verdicts)
        for outgoing in batch:
            if outgoing.claim is None:
                admitted.append(outgoing)
                continue
            match next(answers, None):
                case Held():
                    held.append((outgoing, outgoing.claim))
                    admitted.append(outgoing)
                case Superseded():
                    further.add(outgoing.id)  # an earlier publish was confirmed after all: a later attempt is under way
                case Taken(holder):
                    duplicates[outgoing.id] = holder
                case None:
                    late[outgoing.id] = f"the lock store took {took:.1f} s for {len(verdicts)} of {len(unique)} locks"
        receipt = publish(admitted)
    except Exception:
        _give_up(locks, unique[:asked])
        raise
    _give_up(locks, [claim for outgoing, claim in held if outgoing.id in receipt.unconfirmed])
    _lengthen(
        locks,
        [
            (claim, outgoing.delay + outgoing.lease)
            for outgoing, claim in held
            if outgoing.id not in receipt.unconfirmed
        ],
    )
    further.update(receipt.confirmed)
    confirmed = tuple(dict.fromkeys(outgoing.id for outgoing in batch if outgoing.id in further))
    return Receipt(confirmed, duplicates, {**receipt.unconfirmed, **late})


def _hold(locks: Locks, claims: Sequence[Claim], lease: float, until: float) -> list[Verdict]:
    while True:
        try:
            return locks.hold_many(claims, lease)
        except LocksUnavailable:
            if time.monotonic() >= until:
                raise
            time.sleep(0.05)


def _give_up(locks: Locks, claims: Sequence[Claim]) -> None:
    for start in range(0, len(claims), AT_ONCE):
        some = claims[start : start + AT_ONCE]
        try:
            locks.free_many(some)
        except LocksUnavailable as error:
            text = "the locks of %d unpublished jobs (%s …) may stay for up to %g s: %s"
            log.warning(text, len(some), some[0].job, PUBLISH_LEASE, error)


def _lengthen(locks: Locks, claims: Sequence[tuple[Claim, float]]) -> None:
    for start in range(0, len(claims), AT_ONCE):
        some = claims[start : start + AT_ONCE]
        try:
            for (claim, _), done in zip(some, locks.extend_many(some), strict=True):
                if not done:
                    log.debug("the lock of job %s was free, or another's, when the job was confirmed", claim.job)
        except LocksUnavailable as error:
            text = "the locks of %d jobs (%s …) may run out before the jobs start: %s"
            log.warning(text, len(some), some[0][0].job, error)


class LockSteps:
    """The lock changes that settlements ask for, around the steps of a broker that can't make them itself."""

    def __init__(self, locks: Locks | None) -> None:
        self._locks = locks
        self._raises: list[tuple[Claim, float]] = []

    def before_ack(self, settlement: Settlement) -> None:
        """Give up the lock of a job that ends; may be called again. Raises LocksUnavailable."""
        if self._locks is not None and isinstance(settlement, (Done, Bury)) and settlement.free is not None:
            self._locks.free(settlement.free)

    def after_confirm(self, settlement: Settlement) -> None:
        """Note that the lock of this settlement's successor is to be raised."""
        if self._locks is not None and isinstance(settlement, Forward) and settlement.successor.claim is not None:
            successor = settlement.successor
            self._raises.append((settlement.successor.claim, successor.delay + successor.lease))

    def raise_locks(self) -> None:
        """Raise the locks that were noted. Raises LocksUnavailable; called again, it goes on where it stopped."""
        while self._raises and self._locks is not None:
            self._locks.extend(*self._raises[0])
            del self._raises[0]

    @property
    def waiting(self) -> int:
        """How many locks are still to be raised."""
        return len(self._raises)
