"""The contract of a broker: small enough to read in one sitting, and the same for SQLite, memory and RabbitMQ.

What every broker promises, and `tests/contract` checks on each:

- A job is in exactly one of queue, delayed, running, failed, done; after a crash perhaps in two, never in none.
- Nothing is acknowledged before its successor is confirmed. Where the broker has transactions, both are one.
- A job that is due later is not delivered earlier.
- Locks of unique jobs change at the right moment around those steps; see `Outgoing.claim` and the settlements.

Everything that travels here is frozen. Ids are job ids. Times are seconds since the epoch, durations seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from router.locks.base import Claim, Locks

PUBLISH_LEASE = 30.0
"""Seconds for which a unique lock is taken before its job is confirmed, where lock and job aren't one transaction."""

PUBLISH_DEADLINE = 10.0
"""Seconds a publish may take before what isn't confirmed is reported as unconfirmed."""


class Topology(msgspec.Struct, frozen=True):
    """What a routing table needs on the broker: its queues, and the waits in seconds that its routes can produce."""

    queues: frozenset[str]
    delays: frozenset[float] = frozenset()


class Outgoing(msgspec.Struct, frozen=True):
    """An encoded job on its way to a queue, ready ``delay`` seconds from now.

    ``claim`` is set for a unique job: its lock is taken with the publishing, and holds for ``delay + lease``.
    """

    id: str
    point: str
    queue: str
    body: bytes
    delay: float = 0.0
    claim: Claim | None = None
    lease: float = 0.0


class Receipt(msgspec.Struct, frozen=True):
    """What became of a batch. Each of its jobs is in exactly one of the three.

    ``duplicates``: job id → id of the job that holds its lock. ``unconfirmed``: job id → why; such a job may or may
    not be on the broker, and may be published again with the same id.
    """

    confirmed: tuple[str, ...]
    duplicates: Mapping[str, str] = {}
    unconfirmed: Mapping[str, str] = {}


class Delivery(msgspec.Struct, frozen=True, eq=False):
    """A job handed to this worker until it is settled. ``count``: how often it has been handed out, this time included.

    ``tag`` is the broker's own; two deliveries are the same only if they are the same object.
    """

    queue: str
    body: bytes
    count: int
    tag: Any


Reason = Literal["attempts", "fail", "expired", "undecodable", "unknown_route", "poison"]
"""Why a job failed: no attempts left; `router.Fail`, or an exception that is not to be retried; too old to start; bytes
that are no job; waited too long for a worker that knows its route; took the worker down with it each time."""


class FailedJob(msgspec.Struct, frozen=True):
    """A job that nobody will run until it is retried. ``body`` are the original bytes, ``error`` is the last reason.

    ``id`` is the job id; for bytes that can't be decoded, one made from them, and ``point`` and ``route`` are empty.
    """

    id: str
    queue: str
    point: str
    route: str
    reason: Reason
    error: str
    failed_at: float
    body: bytes


class Done(msgspec.Struct, frozen=True):
    """The job is finished. ``free``: the lock to give up, before the ack."""

    delivery: Delivery
    free: Claim | None = None


class Forward(msgspec.Struct, frozen=True):
    """The job goes on as ``successor`` (a retry, or waiting longer), which is confirmed before the ack.

    If ``successor.claim`` is set, the lock is raised to it (`Locks.extend`, for ``delay + lease``) after the confirm
    and before the ack, or with the ack where that is one transaction with the confirm. A lock that ran out, or that
    another job holds by now, stays as it is: the successor finds out when it starts.
    """

    delivery: Delivery
    successor: Outgoing


class Bury(msgspec.Struct, frozen=True):
    """The job has failed: kept as ``failed``, confirmed before the ack. ``free``: the lock to give up before it."""

    delivery: Delivery
    failed: FailedJob
    free: Claim | None = None


class Return(msgspec.Struct, frozen=True):
    """Another worker may have the job at once, as it is: it was not started here, or its worker ends."""

    delivery: Delivery


Settlement = Done | Forward | Bury | Return


class WorkerState(msgspec.Struct, frozen=True):
    """What a worker says of itself. ``last_error``: why the newest edit of its file is not in force, else None.

    ``running`` are (queue, job id, route, started_at). ``loaded_at``: since when this table is in force;
    ``last_error_at``: since when the error is known. ``seen_at`` is set by the broker.
    """

    name: str
    host: str
    pid: int
    started_at: float
    generation: int
    table_hash: str
    last_error: str | None
    running: tuple[tuple[str, str, str, float], ...]
    loaded_at: float = 0.0
    last_error_at: float | None = None
    seen_at: float = 0.0


class Consumer(Protocol):
    """One worker's hold on its queues. Used from one thread, which must call `poll` at least every `patience` seconds.

    No method blocks for longer than 0.5 s. A broker that is out of reach is not an error here: the consumer keeps
    what it was told to settle, logs once, and goes on when the broker is back.
    """

    def poll(self, room: Mapping[str, int], limit: int | None = None) -> list[Delivery]:
        """Take what is due, at most ``room[queue]`` jobs of each queue, ``limit`` in all, first queue first; keep
        leases and heartbeats alive; carry out settlements that could not be carried out earlier. Queues that aren't in
        ``room`` give nothing.
        """
        ...

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Carry these out, now or as soon as the broker lets us. A delivery that is no longer ours is left alone: no
        successor, no failed copy, no lock change; it shows up in `take_lost`."""
        ...

    def take_lost(self) -> list[Delivery]:
        """Deliveries that stopped being ours since the last call; the broker gives those jobs out again."""
        ...

    @property
    def unsettled(self) -> int:
        """How many jobs are settled, or moved on by the consumer itself, without the broker having done so yet."""
        ...

    def wait_on(self) -> Sequence[int]:
        """File descriptors that become readable when `poll` has something to do."""
        ...

    def patience(self) -> float:
        """Seconds after which `poll` wants to be called even if no descriptor became readable."""
        ...

    def report(self, state: WorkerState) -> None:
        """Let `Broker.workers` see this."""
        ...

    def close(self) -> None:
        """Stop taking part: what was delivered and not settled goes back, the worker's state is removed."""
        ...


class QueueCounts(msgspec.Struct, frozen=True):
    """Numbers of one queue; None is "this broker can't tell for one queue". ``oldest``: when its longest-waiting ready
    job became ready, in seconds since the epoch; None if nothing is ready or it can't be told."""

    ready: int | None
    delayed: int | None
    running: int | None
    failed: int | None
    oldest: float | None


class Counts(msgspec.Struct, frozen=True):
    """Numbers of a namespace: by queue (each asked for, and each that is known to hold something), and in all.

    ``missing``: what the broker doesn't have of what has to be made for these queues and waits, in its own words.
    """

    queues: Mapping[str, QueueCounts]
    delayed: int | None
    failed: int | None
    missing: tuple[str, ...] = ()


class Keep(msgspec.Struct, frozen=True):
    """Leave the failed job where it is."""


class Forget(msgspec.Struct, frozen=True):
    """Delete the failed job. ``free``: the lock to give up before it. Mostly it is free already, but not where the
    broker itself took a job for failed, since its queue was gone."""

    free: Claim | None = None


class Requeue(msgspec.Struct, frozen=True):
    """Publish ``successor``, then remove the failed job. If the successor's claim is Taken, the job stays failed."""

    successor: Outgoing


Decision = Keep | Forget | Requeue


class Sweep(msgspec.Struct, frozen=True):
    """What a sweep did. ``duplicates``: id of a job that stays failed → id of the job that holds its lock."""

    requeued: tuple[str, ...]
    forgotten: tuple[str, ...]
    duplicates: Mapping[str, str]


def together(steps: Iterable[Sweep]) -> Sweep:
    """What these did."""
    requeued: list[str] = []
    forgotten: list[str] = []
    duplicates: dict[str, str] = {}
    for step in steps:
        requeued += step.requeued
        forgotten += step.forgotten
        duplicates.update(step.duplicates)
    return Sweep(tuple(requeued), tuple(forgotten), duplicates)


class Broker(Protocol):
    """The publishing and administering side. Safe to use from many threads and after a fork.

    Methods raise BrokerUnavailable (try again later), BrokerRefused (mend the set-up) or LocksUnavailable.
    """

    @property
    def locks(self) -> Locks | None:
        """The lock store of unique jobs; None if none is configured."""
        ...

    def declare(self, topology: Topology, *, deadline: float = PUBLISH_DEADLINE) -> None:
        """Make sure that everything exists that these queues and delays need. Deletes nothing, may be repeated.

        A broker that is out of reach is waited for, ``deadline`` seconds at most.
        """
        ...

    def objections(self, longest: float) -> list[str]:
        """What the broker's own set-up won't stand where handlers may run for ``longest`` seconds, and what to do."""
        ...

    def publish(self, batch: Sequence[Outgoing], *, deadline: float = PUBLISH_DEADLINE) -> Receipt:
        """Publish all of ``batch`` and wait for the confirms, at most ``deadline`` seconds.

        The jobs of one batch are ready in the order given. A job whose claim is Taken isn't published but reported as a
        duplicate. What could not be confirmed is in the receipt, not an exception; its locks are given up. Only where
        nothing at all was tried (the lock store is out of reach, the set-up is wrong) is there an exception.
        """
        ...

    def consumer(self, name: str) -> Consumer:
        """A consumer for the worker called ``name`` (unique among workers)."""
        ...

    def counts(self, queues: Sequence[str], delays: Iterable[float] = ()) -> Counts:
        """The numbers of these queues. ``delays``: waits in seconds that routes can produce, beside those declared
        here; a broker that has a queue for each finds the delayed jobs by them."""
        ...

    def workers(self) -> list[WorkerState]:
        """The workers that are alive now."""
        ...

    def failed(self) -> list[FailedJob]:
        """All failed jobs of the namespace, oldest failure first; `sweep` looks at them without holding all."""
        ...

    def sweep(self, decide: Callable[[FailedJob], Decision], report: Callable[[Sweep], None] | None = None) -> Sweep:
        """Ask ``decide`` about every failed job and do as it says, losing none even if killed half-way.

        It goes step by step, some hundred jobs each, and ``report`` hears what each step has done. Whatever one of the
        two raises ends the sweep there: what was reported is done, what was not stays failed. Where others have to wait
        for its end, a sweep must not be kept waiting.
        """
        ...

    def restore(self, batch: Sequence[FailedJob], *, deadline: float = PUBLISH_DEADLINE) -> None:
        """Put these among the failed jobs as they are, confirmed. Raises BrokerUnavailable where that can't be said of
        each; then it may be done again.

        A broker that knows jobs by their ids leaves alone what is there already.
        """
        ...

    def close(self) -> None:
        """Close what this process has opened. Using the broker again opens it anew."""
        ...
