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
"""Seconds for which publishing tries to reach the lock store."""


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

    The other locks are given up. Raises LocksUnavailable, with nothing published and nothing held, if the lock store
    can't be reached within ``deadline`` (at most 5) seconds; and whatever ``publish`` raises.
    """
    until = time.monotonic() + min(deadline, LOCKS_DEADLINE)
    lease = max(PUBLISH_LEASE, deadline + LOCKS_DEADLINE)
    admitted: list[Outgoing] = []
    further: set[str] = set()
    duplicates: dict[str, str] = {}
    held: list[tuple[Outgoing, Claim]] = []
    try:
        for outgoing in batch:
            if outgoing.claim is None:
                admitted.append(outgoing)
                continue
            match _hold(locks, outgoing.claim, lease, until):
                case Held():
                    held.append((outgoing, outgoing.claim))
                    admitted.append(outgoing)
                case Superseded():
                    further.add(outgoing.id)  # an earlier publish was confirmed after all: a later attempt is under way
                case Taken(holder):
                    duplicates[outgoing.id] = holder
        receipt = publish(admitted)
    except Exception:
        for _, claim in held:
            _give_up(locks, claim)
        raise
    for outgoing, claim in held:
        if outgoing.id in receipt.unconfirmed:
            _give_up(locks, claim)
        else:
            _lengthen(locks, claim, outgoing.delay + outgoing.lease)
    further.update(receipt.confirmed)
    confirmed = tuple(dict.fromkeys(outgoing.id for outgoing in batch if outgoing.id in further))
    return Receipt(confirmed, duplicates, receipt.unconfirmed)


def _hold(locks: Locks, claim: Claim, lease: float, until: float) -> Verdict:
    while True:
        try:
            return locks.hold(claim, lease)
        except LocksUnavailable:
            if time.monotonic() >= until:
                raise
            time.sleep(0.05)


def _give_up(locks: Locks, claim: Claim) -> None:
    try:
        locks.free(claim)
    except LocksUnavailable as error:
        log.warning("the lock of unpublished job %s stays for up to %g s: %s", claim.job, PUBLISH_LEASE, error)


def _lengthen(locks: Locks, claim: Claim, lease: float) -> None:
    try:
        if not locks.extend(claim, lease):
            log.debug("the lock of job %s was free, or another's, when the job was confirmed", claim.job)
    except LocksUnavailable as error:
        log.warning("the lock of job %s may run out before the job starts: %s", claim.job, error)


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
