"""What the contract suites need to know about an implementation, and small helpers to talk to a broker."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from router.brokers.base import Broker, Consumer, Delivery, FailedJob, Outgoing, Topology, WorkerState
from router.locks.base import Claim, Locks

DEADLINE = 10.0
"""Seconds after which something that should have happened is declared missing."""


class Clock:
    """A clock that only moves when told to. ``also``: called with the seconds by which it moves."""

    def __init__(self) -> None:
        self.time = 1_800_000_000.0
        self.also: Callable[[float], None] = lambda _: None

    def __call__(self) -> float:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += seconds
        self.also(seconds)


@dataclass
class Harness:
    """One implementation under test.

    ``make``: a broker for a namespace, over the same storage each time. ``pass_time``: lets seconds go by for that
    storage and its locks; ``pass_lock_time``: for the locks only. ``silence``: makes the storage take a worker for
    dead, so that others get its jobs: the lease runs out, or the connection breaks. ``url``: where other processes find
    it, None if they can't; ``prefix``: what its namespaces begin with. ``table``: it keeps jobs in a table, so that it
    knows them by id, one by one, and by queue. ``lapse``: more seconds than it waits for a silent worker.
    """

    name: str
    make: Callable[[str], Broker]
    pass_time: Callable[[float], None]
    pass_lock_time: Callable[[float], None]
    silence: Callable[[Consumer], None]
    now: Callable[[], float]
    url: str | None = None
    prefix: str = ""
    table: bool = True
    lapse: float = 100.0
    close: Callable[[], None] = lambda: None
    topology: Topology = field(
        default_factory=lambda: Topology(frozenset({"a", "b", "c"}), frozenset({1.0, 2.0, 60.0}))
    )

    def broker(self, namespace: str = "test") -> Broker:
        broker = self.make(self.prefix + namespace)
        broker.declare(self.topology)
        return broker


_numbers = itertools.count(1)


def job(
    queue: str = "a",
    *,
    id: str | None = None,
    delay: float = 0.0,
    key: str | None = None,
    attempt: int = 1,
    round: int = 1,
    lease: float = 100.0,
    body: bytes | None = None,
) -> Outgoing:
    """A job to publish; unique if it has a ``key``."""
    id = id or f"job-{next(_numbers):06}"
    claim = None if key is None else Claim(key, id, round, attempt)
    return Outgoing(id, "point", queue, body or id.encode(), delay, claim, lease if key else 0.0)


def failed(of: Outgoing, *, at: float, error: str = "broken") -> FailedJob:
    return FailedJob(of.id, of.queue, of.point, "route", "attempts", error, at, of.body)


def worker_state(name: str, *, generation: int = 1) -> WorkerState:
    return WorkerState(name, "host", 4711, 1.0, generation, "hash", None, (("a", "job", "route", 2.0),))


def take(consumer: Consumer, room: Mapping[str, int], count: int) -> list[Delivery]:
    """Poll until ``count`` jobs have come; fewer if the deadline passes first."""
    taken: list[Delivery] = []
    until = time.monotonic() + DEADLINE
    while len(taken) < count and time.monotonic() < until:
        left = dict(room)
        for delivery in taken:
            left[delivery.queue] -= 1
        taken += consumer.poll(left)
        if len(taken) < count:
            time.sleep(min(0.02, consumer.patience()))
    return taken


def workers(broker: Broker, *polling: Consumer, count: int) -> list[WorkerState]:
    """The workers that the broker knows of while these consumers are polled: some brokers ask them, and hear nothing
    from those that haven't connected yet. Fewer than ``count`` if the deadline passes first."""
    until = time.monotonic() + DEADLINE
    found: list[WorkerState] = []

    def ask() -> None:
        found[:] = broker.workers()

    while True:
        asking = threading.Thread(target=ask)
        asking.start()
        while asking.is_alive():
            for consumer in polling:
                consumer.poll({})
            asking.join(0.01)
        if len(found) >= count or time.monotonic() > until:
            return found


def ids(deliveries: list[Delivery]) -> list[str]:
    """The job ids of deliveries whose body is their id."""
    return [delivery.body.decode() for delivery in deliveries]


def settled(consumer: Consumer) -> bool:
    """Poll until nothing is left to settle."""
    until = time.monotonic() + DEADLINE
    while consumer.unsettled and time.monotonic() < until:
        consumer.poll({})
        time.sleep(0.01)
    return not consumer.unsettled


def eventually(condition: Callable[[], bool], seconds: float = DEADLINE) -> bool:
    """Whether ``condition`` came true before the deadline."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= until:
            return False
        time.sleep(0.01)
    return True


class BrokenLocks:
    """Lock store that can be put out of reach: ``fail`` raises whatever it is set to."""

    def __init__(self, locks: Locks) -> None:
        self._locks = locks
        self.fail: Exception | None = None
        self.log: list[tuple[str, Claim, float]] = []

    def hold(self, claim: Claim, lease: float):  # type: ignore[no-untyped-def]
        self._check("hold", claim, lease)
        return self._locks.hold(claim, lease)

    def hold_many(self, claims: Sequence[Claim], lease: float):  # type: ignore[no-untyped-def]
        return [self.hold(claim, lease) for claim in claims]

    def extend(self, claim: Claim, lease: float) -> bool:
        self._check("extend", claim, lease)
        return self._locks.extend(claim, lease)

    def extend_many(self, claims: Sequence[tuple[Claim, float]]) -> list[bool]:
        return [self.extend(claim, lease) for claim, lease in claims]

    def free(self, claim: Claim) -> bool:
        self._check("free", claim, 0.0)
        return self._locks.free(claim)

    def free_many(self, claims: Sequence[Claim]) -> list[bool]:
        return [self.free(claim) for claim in claims]

    def holder(self, key: str) -> Claim | None:
        return self._locks.holder(key)

    def close(self) -> None:
        self._locks.close()

    def _check(self, what: str, claim: Claim, lease: float) -> None:
        if self.fail is not None:
            raise self.fail
        self.log.append((what, claim, lease))
