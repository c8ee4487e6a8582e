"""A worker's hold on its queues in a SQLite file.

One turn is at most one write transaction: what waits to be settled, leases, the worker's own row, then new jobs. An
idle turn reads one number and writes nothing.
"""

from __future__ import annotations

import logging
import math
import sqlite3
import uuid
from collections.abc import Callable, Mapping, Sequence

from router.brokers import sqlite_rows as rows
from router.brokers.base import Bury, Delivery, Done, Forward, Return, Settlement, WorkerState
from router.brokers.locking import LockSteps
from router.errors import BrokerError, LocksUnavailable
from router.locks import sqlite as sqlite_locks
from router.locks.base import Locks
from router.storage.sqlite import Database, Version

log = logging.getLogger(__name__)

LEASE = 6.0
"""Seconds after which a worker that gives no sign of life has lost its jobs, and counts as gone."""
RENEW_EVERY = 2.0
IDLE = 0.02
"""Seconds between two looks for new work."""
TROUBLE = 0.1
"""Seconds between two tries when the last one failed."""


class SqliteConsumer:
    """The contract of `Consumer`. A changed report is written with the next transaction, 2 seconds later at most.

    ``locks_outside`` is the lock store of unique jobs if it isn't in the same file; see `router.brokers.locking`.
    """

    def __init__(
        self, database: Database, namespace: str, name: str, locks_outside: Locks | None, now: Callable[[], float]
    ) -> None:
        self._database = database
        self._namespace = namespace
        self._name = name
        self._owner = f"{name}/{uuid.uuid4().hex[:8]}"
        self._locks_inside = locks_outside is None
        self._lock_steps = LockSteps(locks_outside)
        self._now = now
        self._held: dict[rows.Tag, Delivery] = {}
        self._pending: list[Settlement] = []
        self._lost: list[Delivery] = []
        self._renew_at = now() + RENEW_EVERY
        self._state: WorkerState | None = None
        self._state_changed = False
        self._version: Version | None = None
        self._nothing_until: dict[str, float] = {}
        self._wants_work = False
        self._in_trouble = False
        self._in_touch_at = now()
        self._heir_from = 0.0
        self._locks_error: LocksUnavailable | None = None
        """Why the last turn left settlements undone."""

    def poll(self, room: Mapping[str, int], limit: int | None = None) -> list[Delivery]:
        wanted = {queue: most for queue, most in room.items() if most > 0}
        self._wants_work = bool(wanted)
        return self._turn(wanted, sum(wanted.values()) if limit is None else limit, renew=True)

    def settle(self, settlements: Sequence[Settlement]) -> None:
        settling = {settlement.delivery.tag for settlement in self._pending}
        self._pending.extend(
            settlement
            for settlement in settlements
            if self._held.get(settlement.delivery.tag) is settlement.delivery
            and settlement.delivery.tag not in settling
        )
        self._turn({})

    def take_lost(self) -> list[Delivery]:
        lost, self._lost = self._lost, []
        return lost

    @property
    def unsettled(self) -> int:
        return len(self._pending) + self._lock_steps.waiting

    def wait_on(self) -> Sequence[int]:
        return ()

    def patience(self) -> float:
        if self._in_trouble or self._pending:
            return TROUBLE
        now = self._now()
        wait = self._until_renewal(now) if self._held or self._state else RENEW_EVERY
        if self._wants_work:
            due = min(self._nothing_until.values(), default=math.inf)
            wait = min(wait, IDLE, max(0.0, due - now))
        return wait

    def report(self, state: WorkerState) -> None:
        first = self._state is None
        self._state = state
        self._state_changed = True
        if first:
            self._turn({}, write=True)

    def close(self) -> None:
        """As the contract says, in one try of 0.5 s; what it can't give back is free after its lease, 6 s later."""
        settling = {settlement.delivery.tag for settlement in self._pending}
        # First what needs no lock store, which may be away.
        self._pending[:0] = [Return(delivery) for tag, delivery in self._held.items() if tag not in settling]
        self._state = None
        try:
            ready = self._free_locks()
            with self._database.transaction() as cursor:
                self._settle(cursor, ready)
                rows.remove_worker(cursor, self._namespace, self._name)
            if self._locks_error is not None:
                text = "worker %s could not settle %d jobs; they start again after %g s: %s"
                log.warning(text, self._name, len(self._pending) - ready, LEASE, self._locks_error)
        except (BrokerError, LocksUnavailable) as error:
            log.warning("worker %s could not give its jobs back; they are free in %g s: %s", self._name, LEASE, error)
        self._pending.clear()
        self._held.clear()

    def _turn(
        self, wanted: Mapping[str, int], limit: int = 0, *, renew: bool = False, write: bool = False
    ) -> list[Delivery]:
        deliveries: list[Delivery] = []
        asks = bool(wanted or self._pending or write)
        try:
            deliveries = self._try_turn(wanted, limit, renew, write)
            if self._locks_error is not None:
                raise self._locks_error
            self._lock_steps.raise_locks()
        except (BrokerError, LocksUnavailable) as error:
            if not self._in_trouble:
                log.error("worker %s waits for its broker, %d settlements kept: %s", self._name, self.unsettled, error)
            self._in_trouble = True
            return deliveries
        if self._in_trouble and asks:
            log.info("worker %s has its broker back", self._name)
            self._in_trouble = False
        return deliveries

    def _try_turn(self, wanted: Mapping[str, int], limit: int, renew: bool, write: bool) -> list[Delivery]:
        queues = self._queues_with_work(wanted)
        renewing = renew and not self._until_renewal(self._now()) and bool(self._held or self._state)
        if not (queues or self._pending or renewing or write):
            self._back_in_touch(self._now())
            return []
        ready = self._free_locks()
        with self._database.transaction() as cursor:
            now = self._now()  # only now: the transaction may have waited for others
            self._back_in_touch(now)
            expired = 0.0 if 0 < self._heir_from - now < LEASE / 2 else now
            settled = self._settle(cursor, ready)
            lost = self._renew(cursor, settled, now) if renewing else []
            if self._state is not None and (renewing or write or self._state_changed):
                self._save_state(cursor, self._state, now)
            deliveries: list[Delivery] = []
            for queue in queues:
                most = min(wanted[queue], limit - len(deliveries))
                if most > 0:
                    until = now + LEASE
                    deliveries += rows.claim(cursor, self._namespace, queue, most, self._owner, now, until, expired)
        del self._pending[:ready]
        for settlement, ours in settled:
            if ours:
                del self._held[settlement.delivery.tag]
                self._lock_steps.after_confirm(settlement)
            else:
                self._lose(settlement.delivery)
        for delivery in lost:
            self._lose(delivery)
        self._held.update((delivery.tag, delivery) for delivery in deliveries)
        self._state_changed = False
        if renewing:
            self._renew_at = now + RENEW_EVERY
        return deliveries

    def _back_in_touch(self, now: float) -> None:
        """Where the file, or the whole host, stood still for others too, these may renew their leases first: their jobs
        are still running."""
        if now - self._in_touch_at >= LEASE / 2:
            self._heir_from = now + RENEW_EVERY
        self._in_touch_at = now

    def _until_renewal(self, now: float) -> float:
        """Seconds; none also where the clock was set back: what is claimed from then on has a lease by the new time."""
        left = self._renew_at - now
        return left if 0 < left < LEASE / 2 else 0.0

    def _lose(self, delivery: Delivery) -> None:
        del self._held[delivery.tag]
        self._lost.append(delivery)
        # Perhaps it is settled, and waits for the lock store.
        self._pending = [settlement for settlement in self._pending if settlement.delivery is not delivery]

    def _queues_with_work(self, wanted: Mapping[str, int]) -> list[str]:
        """Those of the wanted queues that have something due; reads, and where nothing has changed not even that."""
        if not wanted:
            return []
        version = self._database.version()
        if version != self._version:
            self._version = version
            self._nothing_until.clear()
        now = self._now()
        unknown = [queue for queue in wanted if self._nothing_until.get(queue, -math.inf) <= now]
        if not unknown:
            return []
        found = []
        with self._database.reading() as cursor:
            for queue in unknown:
                if rows.claimable(cursor, self._namespace, queue, now):
                    self._nothing_until.pop(queue, None)
                    found.append(queue)
                else:
                    self._nothing_until[queue] = rows.next_due(cursor, self._namespace, queue, now)
        return found

    def _free_locks(self) -> int:
        """Give up the locks of what is about to be settled; how many settlements, from the first, are ready then."""
        self._locks_error = None
        if self._locks_inside or not self._pending:
            return len(self._pending)
        with self._database.reading() as cursor:
            ours = [rows.is_ours(cursor, settlement.delivery.tag) for settlement in self._pending]
        for index, (settlement, is_ours) in enumerate(zip(self._pending, ours, strict=True)):
            if is_ours:
                try:
                    self._lock_steps.before_ack(settlement)
                except LocksUnavailable as error:
                    self._locks_error = error
                    return index
        return len(self._pending)

    def _settle(self, cursor: sqlite3.Cursor, ready: int) -> list[tuple[Settlement, bool]]:
        """Carry out the first ``ready`` settlements; each with whether its delivery was still ours."""
        return [(settlement, self._settle_one(cursor, settlement)) for settlement in self._pending[:ready]]

    def _settle_one(self, cursor: sqlite3.Cursor, settlement: Settlement) -> bool:
        tag: rows.Tag = settlement.delivery.tag
        if isinstance(settlement, Return):
            return rows.give_back(cursor, tag)
        if not rows.remove(cursor, tag):
            return False
        now = self._now()
        match settlement:
            case Forward(successor=successor):
                rows.add_jobs(cursor, self._namespace, (successor,), now)
                if successor.claim is not None and self._locks_inside:
                    sqlite_locks.extend(cursor, successor.claim, successor.delay + successor.lease, now)
            case Bury(failed=failed):
                rows.add_failed(cursor, self._namespace, failed)
        if isinstance(settlement, (Done, Bury)) and settlement.free is not None and self._locks_inside:
            sqlite_locks.free(cursor, settlement.free, now)
        return True

    def _renew(self, cursor: sqlite3.Cursor, settled: Sequence[tuple[Settlement, bool]], now: float) -> list[Delivery]:
        """Lengthen the leases of what is still held; the deliveries that were lost."""
        just_settled = {settlement.delivery.tag for settlement, _ in settled}
        return [
            delivery
            for tag, delivery in self._held.items()
            if tag not in just_settled and not rows.renew(cursor, tag, now + LEASE)
        ]

    def _save_state(self, cursor: sqlite3.Cursor, state: WorkerState, now: float) -> None:
        rows.save_worker(cursor, self._namespace, state, now)
        rows.forget_workers(cursor, self._namespace, now - LEASE)
