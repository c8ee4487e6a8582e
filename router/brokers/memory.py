"""A broker inside one process, for tests and for trying things out: it keeps every promise until the process ends."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from router.brokers.base import (
    PUBLISH_DEADLINE,
    Bury,
    Counts,
    Decision,
    Delivery,
    FailedJob,
    Forget,
    Forward,
    Outgoing,
    QueueCounts,
    Receipt,
    Requeue,
    Return,
    Settlement,
    Sweep,
    Topology,
    WorkerState,
    together,
)
from router.brokers.locking import LockSteps, needs_locks, publish_locked
from router.errors import LocksUnavailable
from router.forks import in_forked_children
from router.locks.base import Locks

log = logging.getLogger(__name__)

LEASE = 6.0
"""Seconds after which a consumer that doesn't poll has lost its jobs, and its worker counts as gone."""
IDLE = 0.01


@dataclass(slots=True)
class _Row:
    id: str
    queue: str
    body: bytes
    available_at: float
    serial: int
    claim: int = 0
    lease_until: float = 0.0

    def __lt__(self, other: _Row) -> bool:
        return (self.available_at, self.serial) < (other.available_at, other.serial)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job that is handed out to nobody. ``available_at``: when it is due, in seconds since the epoch."""

    queue: str
    body: bytes
    available_at: float


class _Store:
    """All the state; its methods are called with ``mutex`` held."""

    def __init__(self) -> None:
        self._renew()
        in_forked_children(self, _Store._renew)
        self.jobs: dict[str, _Row] = {}
        self.waiting: dict[str, list[_Row]] = {}
        """Queue name → heap of what is handed out to nobody."""
        self.running: dict[str, dict[int, _Row]] = {}
        """Queue name → serial → what is handed out."""
        self.failed: dict[str, FailedJob] = {}
        self.workers: dict[str, WorkerState] = {}
        self._serials = itertools.count(1)

    def _renew(self) -> None:
        self.mutex = threading.RLock()

    def add(self, batch: Iterable[Outgoing], now: float) -> None:
        for out in batch:
            if out.id not in self.jobs:
                row = _Row(out.id, out.queue, out.body, now + out.delay, next(self._serials))
                self.jobs[out.id] = row
                heapq.heappush(self.waiting.setdefault(out.queue, []), row)

    def claim(self, queue: str, limit: int, now: float) -> list[Delivery]:
        waiting = self.waiting.setdefault(queue, [])
        running = self.running.setdefault(queue, {})
        for row in [row for row in running.values() if row.lease_until <= now]:
            self._put_back(row)
        claimed: list[Delivery] = []
        while waiting and waiting[0].available_at <= now and len(claimed) < limit:
            row = heapq.heappop(waiting)
            row.claim += 1
            row.lease_until = now + LEASE
            running[row.serial] = row
            claimed.append(Delivery(queue, row.body, row.claim, row))
        return claimed

    def is_ours(self, delivery: Delivery) -> bool:
        row: _Row = delivery.tag
        return self.jobs.get(row.id) is row and row.claim == delivery.count

    def renew(self, delivery: Delivery, until: float) -> None:
        """Lengthen the lease of a delivery that is ours."""
        row: _Row = delivery.tag
        self._take_out(row)
        row.lease_until = until
        self.running[row.queue][row.serial] = row

    def give_back(self, delivery: Delivery) -> None:
        row: _Row = delivery.tag
        self._take_out(row)
        self._put_back(row)

    def remove(self, delivery: Delivery) -> None:
        row: _Row = delivery.tag
        self._take_out(row)
        del self.jobs[row.id]

    def _put_back(self, row: _Row) -> None:
        self.running[row.queue].pop(row.serial, None)
        row.lease_until = 0.0
        heapq.heappush(self.waiting[row.queue], row)

    def _take_out(self, row: _Row) -> None:
        """Out of wherever it is: a lease that ran out has brought it back to the heap, if somebody has looked since."""
        if self.running[row.queue].pop(row.serial, None) is None:
            self.waiting[row.queue].remove(row)
            heapq.heapify(self.waiting[row.queue])

    def count(self, queue: str, now: float) -> QueueCounts:
        rows = [*self.waiting.get(queue, ()), *self.running.get(queue, {}).values()]
        running = sum(row.lease_until > now for row in rows)
        ready = [row.available_at for row in rows if row.lease_until <= now and row.available_at <= now]
        failed = sum(failed.queue == queue for failed in self.failed.values())
        return QueueCounts(len(ready), len(rows) - running - len(ready), running, failed, min(ready, default=None))


class MemoryBroker:
    """The contract of `Broker` in this process's memory. ``now`` tells the time in seconds since the epoch.

    Safe to use from many threads; a forked child gets a copy of its own. The locks may live anywhere.
    """

    def __init__(self, namespace: str, locks: Locks | None, now: Callable[[], float] = time.time) -> None:
        self.namespace = namespace
        self._locks = locks
        self._now = now
        self._store = _Store()

    @property
    def locks(self) -> Locks | None:
        return self._locks

    def declare(self, topology: Topology, *, deadline: float = PUBLISH_DEADLINE) -> None:
        """Queues and delays need nothing here."""

    def objections(self, longest: float) -> list[str]:
        """None: jobs may run for as long as they like."""
        return []

    def publish(self, batch: Sequence[Outgoing], *, deadline: float = PUBLISH_DEADLINE) -> Receipt:
        if needs_locks(batch, self._locks) and self._locks is not None:
            return publish_locked(self._locks, batch, self._publish, deadline)
        return self._publish(batch)

    def _publish(self, batch: Sequence[Outgoing]) -> Receipt:
        with self._store.mutex:
            self._store.add(batch, self._now())
        return Receipt(tuple(dict.fromkeys(out.id for out in batch)))

    def waiting(self) -> list[Waiting]:
        """The jobs that are handed out to nobody, the next one first: by when they are due, then as they came."""
        with self._store.mutex:
            rows = sorted(row for heap in self._store.waiting.values() for row in heap)
            return [Waiting(row.queue, row.body, row.available_at) for row in rows]

    def next_waiting(self) -> Waiting | None:
        """The first of `waiting`."""
        with self._store.mutex:
            row = min((heap[0] for heap in self._store.waiting.values() if heap), default=None)
            return None if row is None else Waiting(row.queue, row.body, row.available_at)

    def consumer(self, name: str) -> MemoryConsumer:
        return MemoryConsumer(self._store, name, self._locks, self._now)

    def counts(self, queues: Sequence[str], delays: Iterable[float] = ()) -> Counts:
        with self._store.mutex:
            now = self._now()
            holding = {row.queue for row in self._store.jobs.values()}
            holding.update(failed.queue for failed in self._store.failed.values())
            by_queue = {name: self._store.count(name, now) for name in dict.fromkeys([*queues, *sorted(holding)])}
            return Counts(by_queue, sum(numbers.delayed or 0 for numbers in by_queue.values()), len(self._store.failed))

    def workers(self) -> list[WorkerState]:
        with self._store.mutex:
            alive_since = self._now() - LEASE
            workers = [state for state in self._store.workers.values() if state.seen_at >= alive_since]
        return sorted(workers, key=lambda state: state.name)

    def failed(self) -> list[FailedJob]:
        with self._store.mutex:
            return sorted(self._store.failed.values(), key=lambda failed: failed.failed_at)

    def sweep(self, decide: Callable[[FailedJob], Decision], report: Callable[[Sweep], None] | None = None) -> Sweep:
        swept: list[Sweep] = []
        for failed in self.failed():
            swept.append(self._carry_out(failed, decide(failed)))
            if report is not None:
                report(swept[-1])
        return together(swept)

    def _carry_out(self, failed: FailedJob, decision: Decision) -> Sweep:
        if isinstance(decision, Forget):
            if decision.free is not None and self._locks is not None:
                self._locks.free(decision.free)
            return Sweep((), (failed.id,) if self._remove_failed(failed) else (), {})
        if not isinstance(decision, Requeue):
            return Sweep((), (), {})
        moved, holder = self._requeue(failed, decision.successor)
        return Sweep((failed.id,) if moved else (), (), {failed.id: holder} if not moved and holder is not None else {})

    def restore(self, batch: Sequence[FailedJob], *, deadline: float = PUBLISH_DEADLINE) -> None:
        with self._store.mutex:
            for failed in batch:
                self._store.failed.setdefault(failed.id, failed)

    def _remove_failed(self, failed: FailedJob) -> bool:
        with self._store.mutex:
            if self._store.failed.get(failed.id) is not failed:
                return False
            del self._store.failed[failed.id]
            return True

    def _requeue(self, failed: FailedJob, successor: Outgoing) -> tuple[bool, str | None]:
        """Whether it moved; else the job that holds its lock, or None if somebody else has swept it."""
        moved = False

        def move(admitted: Sequence[Outgoing]) -> Receipt:
            nonlocal moved
            with self._store.mutex:
                moved = bool(admitted) and self._remove_failed(failed)
                if not moved:
                    return Receipt((), unconfirmed={out.id: "somebody else has swept it" for out in admitted})
                self._store.add(admitted, self._now())
                return Receipt((successor.id,))

        if needs_locks((successor,), self._locks) and self._locks is not None:
            receipt = publish_locked(self._locks, (successor,), move, PUBLISH_DEADLINE)
        else:
            receipt = move((successor,))
        superseded = successor.id if successor.id in receipt.confirmed else None
        return moved, receipt.duplicates.get(successor.id, superseded)

    def close(self) -> None:
        """Nothing to close: the jobs stay as long as the broker object."""


class MemoryConsumer:
    """The contract of `Consumer` on a `MemoryBroker`."""

    def __init__(self, store: _Store, name: str, locks: Locks | None, now: Callable[[], float]) -> None:
        self._store = store
        self._name = name
        self._lock_steps = LockSteps(locks)
        self._now = now
        self._held: dict[int, Delivery] = {}
        self._pending: list[Settlement] = []
        self._lost: list[Delivery] = []
        self._state: WorkerState | None = None
        self._in_trouble = False

    def poll(self, room: Mapping[str, int], limit: int | None = None) -> list[Delivery]:
        self._work_off()
        with self._store.mutex:
            now = self._now()
            for delivery in list(self._held.values()):
                if self._store.is_ours(delivery):
                    self._store.renew(delivery, now + LEASE)
                else:
                    self._lose(delivery)
            self._show(now)
            left = sum(room.values()) if limit is None else limit
            deliveries: list[Delivery] = []
            for queue, wanted in room.items():
                most = min(wanted, left - len(deliveries))
                if most > 0:
                    deliveries += self._store.claim(queue, most, now)
            self._held.update((id(delivery), delivery) for delivery in deliveries)
            return deliveries

    def settle(self, settlements: Sequence[Settlement]) -> None:
        settling = {id(settlement.delivery) for settlement in self._pending}
        self._pending.extend(s for s in settlements if id(s.delivery) in self._held.keys() - settling)
        self._work_off()

    def take_lost(self) -> list[Delivery]:
        lost, self._lost = self._lost, []
        return lost

    @property
    def unsettled(self) -> int:
        return len(self._pending) + self._lock_steps.waiting

    def wait_on(self) -> Sequence[int]:
        return ()

    def patience(self) -> float:
        return IDLE

    def report(self, state: WorkerState) -> None:
        self._state = state
        with self._store.mutex:
            self._show(self._now())

    def close(self) -> None:
        self._work_off()
        with self._store.mutex:
            for delivery in self._held.values():
                if self._store.is_ours(delivery):
                    self._store.give_back(delivery)
            self._store.workers.pop(self._name, None)
        self._held.clear()
        self._pending.clear()
        self._state = None

    def _work_off(self) -> None:
        try:
            while self._pending:
                settlement = self._pending[0]
                with self._store.mutex:
                    ours = self._store.is_ours(settlement.delivery)
                if ours:
                    self._lock_steps.before_ack(settlement)
                with self._store.mutex:
                    ours = self._store.is_ours(settlement.delivery)
                    if ours:
                        self._carry_out(settlement)
                del self._pending[0]
                if ours:
                    del self._held[id(settlement.delivery)]
                    self._lock_steps.after_confirm(settlement)
                else:
                    self._lose(settlement.delivery)
            self._lock_steps.raise_locks()
        except LocksUnavailable as error:
            if not self._in_trouble:
                log.error("worker %s waits for its locks, %d settlements kept: %s", self._name, self.unsettled, error)
            self._in_trouble = True
        else:
            self._in_trouble = False

    def _carry_out(self, settlement: Settlement) -> None:
        if isinstance(settlement, Return):
            self._store.give_back(settlement.delivery)
            return
        self._store.remove(settlement.delivery)
        if isinstance(settlement, Forward):
            self._store.add((settlement.successor,), self._now())
        elif isinstance(settlement, Bury):
            self._store.failed[settlement.failed.id] = settlement.failed

    def _lose(self, delivery: Delivery) -> None:
        del self._held[id(delivery)]
        self._lost.append(delivery)
        # Perhaps it is settled, and waits for the lock store.
        self._pending = [settlement for settlement in self._pending if settlement.delivery is not delivery]

    def _show(self, now: float) -> None:
        if self._state is not None:
            self._store.workers[self._name] = msgspec.structs.replace(self._state, seen_at=now)
