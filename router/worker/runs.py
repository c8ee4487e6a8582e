"""The jobs that this worker has in hand, each known by (job, round, attempt)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from router.brokers.base import Delivery
from router.config.settings import AsyncOptions, Route
from router.jobs.job import Job
from router.jobs.lifecycle import Outcome, Step
from router.locks.base import Claim

Key = tuple[str, int, int]
Phase = Literal["waiting", "sent", "running", "calling"]
"""In hand; sent to a child; its handler is being called; its callback is."""

REMEMBER_FOR = 600.0
REMEMBER_MOST = 10_000


@dataclass(slots=True, eq=False)
class Run:
    """One attempt here. ``deliveries``: the broker's copies of it that are ours; none after a lost lease.

    Times are those of the worker's clock. ``outcome``, ``step`` and ``seconds`` say how the attempt ended, while its
    callback is still to run; ``renew_at`` is when the lock of a unique job wants its lease renewed; ``owes_lock``: it
    is unique until it starts, has started, and could not give its lock up yet. ``shared``: it is, or was, in a child
    beside others; ``alone``: that child died, nobody knows for whom, and now it shares none; ``cancelled``: its child
    was told to cancel it.
    """

    number: int
    job: Job
    body: bytes
    queue: str
    route: Route
    options: AsyncOptions
    deliveries: list[Delivery]
    claim: Claim | None = None
    phase: Phase = "waiting"
    shared: bool = False
    alone: bool = False
    sent_at: float = 0.0
    lost_starts: int = 0
    started_at: float = 0.0
    started_epoch: float = 0.0
    deadline: float | None = None
    cancelled: bool = False
    renew_at: float | None = None
    owes_lock: bool = False
    outcome: Outcome | None = None
    step: Step | None = None
    seconds: float = 0.0


@dataclass(slots=True)
class Runs:
    """Every run in hand, and for ten minutes how the ended ones ended.

    A job that comes again although its attempt has ended here (its ack was lost) is settled by that, not run again.
    """

    _by_key: dict[Key, Run] = field(default_factory=dict)
    _by_delivery: dict[Delivery, Run] = field(default_factory=dict)
    _ended: OrderedDict[Key, tuple[float, float | None, Step]] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Run]:
        return iter(tuple(self._by_key.values()))

    def add(self, run: Run) -> None:
        """Take a run in hand, with its deliveries."""
        self._by_key[run.job.run_key] = run
        for delivery in run.deliveries:
            self._by_delivery[delivery] = run

    def attach(self, delivery: Delivery, key: Key) -> Run | None:
        """The run of that key, if it is in hand, which will settle this delivery too."""
        run = self._by_key.get(key)
        if run is not None:
            run.deliveries.append(delivery)
            self._by_delivery[delivery] = run
        return run

    def knows(self, job: Job) -> bool:
        """Whether the run of that job is in hand, or has ended here lately."""
        return job.run_key in self._by_key or self.ended(job) is not None

    def detach(self, delivery: Delivery) -> Run | None:
        """Forget a delivery that is no longer ours; its run, if it is in hand, goes on."""
        run = self._by_delivery.pop(delivery, None)
        if run is not None:
            run.deliveries.remove(delivery)
        return run

    def drop(self, run: Run) -> None:
        """Let go of a run that did not end here (it was returned, or parked)."""
        del self._by_key[run.job.run_key]
        for delivery in run.deliveries:
            del self._by_delivery[delivery]

    def end(self, run: Run, step: Step, now: float) -> None:
        """Let go of a run that has ended, and remember how."""
        self.drop(run)
        self._ended[run.job.run_key] = (now, run.job.retried_at, step)
        while self._ended:
            key, (when, *_) = next(iter(self._ended.items()))
            if now - when <= REMEMBER_FOR and len(self._ended) <= REMEMBER_MOST:
                break
            del self._ended[key]

    def ended(self, job: Job) -> Step | None:
        """How the run of that job ended, if it did here and lately."""
        found = self._ended.get(job.run_key)
        # Exported before, imported and retried again, a job comes with the numbers of a run that it is no copy of.
        return found[2] if found and found[1] == job.retried_at else None
