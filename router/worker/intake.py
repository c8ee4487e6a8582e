"""From a delivery to a run, or to what else is to be done with it."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

from router.brokers.base import Bury, Delivery, Done, Forward, Settlement
from router.errors import LocksUnavailable
from router.jobs.job import Job, Stub, UndecodableJob, UnknownVersion, decode
from router.jobs.unique import until_start
from router.locks.base import Superseded, Taken, claim_of
from router.routing.table import RoutingTable
from router.worker.journal import Journal
from router.worker.lock_store import LockStore
from router.worker.runs import Run, Runs
from router.worker.settling import give_up, lease_of, set_aside, settle

SUSPECT_AFTER = 20
POISON_AFTER = 40
"""A job handed out so often has taken the whole worker down, or was returned, each time; see design.md section 6."""


@dataclass(frozen=True, slots=True)
class LockStoreAway:
    """The lock of a unique job can't be looked at now: hold the delivery and try again."""

    delivery: Delivery


class Intake:
    """Decides what a delivery is to this worker."""

    def __init__(self, runs: Runs, locks: LockStore | None, journal: Journal) -> None:
        self._runs = runs
        self._locks = locks
        self._journal = journal
        self._numbers = itertools.count(1)

    def take(self, delivery: Delivery, table: RoutingTable, now: float) -> Run | Settlement | LockStoreAway | None:
        """A new run; a settlement, where the job isn't run; None, where it joined a run in hand.

        ``now`` is the worker's clock.
        """
        epoch = time.time()
        try:
            job = decode(delivery.body)
        except UnknownVersion as error:
            return self._cannot_run(delivery, error.stub, str(error), table, epoch)
        except UndecodableJob as error:
            self._journal.given_up(None, delivery.queue, "undecodable", str(error))
            return give_up(delivery, None, "undecodable", str(error), epoch)
        if self._runs.attach(delivery, job.run_key) is not None:
            return None
        route = table.find(job.point, job.route)
        if route is None or route.options is None:
            text = f"{job.point} has no async route {job.route!r} here"
            return self._cannot_run(delivery, job, text, table, epoch)
        step = self._runs.ended(job)
        if step is not None:
            return settle(delivery, job, step, route.options, frozenset(table.queues()), epoch)
        if delivery.count >= POISON_AFTER:
            text = f"was handed out {delivery.count} times and never ended: it takes the worker down with it"
            self._journal.given_up(job, delivery.queue, "poison", text)
            return give_up(delivery, job, "poison", text, epoch)
        run = Run(next(self._numbers), job, delivery.body, delivery.queue, route, route.options, [delivery])
        refused = self._lock(run, delivery, now)
        if refused is None:
            self._runs.add(run)
        return refused or run

    def knows(self, delivery: Delivery) -> bool:
        """Whether it is a job that runs here, or has ended here: then nothing starts by it."""
        try:
            return self._runs.knows(decode(delivery.body))
        except UndecodableJob:
            return False

    def _lock(self, run: Run, delivery: Delivery, now: float) -> Settlement | LockStoreAway | None:
        claim = run.claim = claim_of(run.job)
        if claim is None or self._locks is None:
            return None
        lease = lease_of(run.options)
        try:
            verdict = self._locks.ask(lambda locks: locks.hold(claim, lease), now)
        except LocksUnavailable:
            return LockStoreAway(delivery)
        match verdict:
            case Superseded():
                self._journal.superseded(run)
                return Done(delivery)
            case Taken() if until_start(claim.key, run.options):
                # It isn't the other's duplicate: it had started, and was interrupted; or its lease ran out.
                run.claim = None
                return None
            case Taken(holder):
                self._journal.duplicate(run, holder)
                return Done(delivery)
        run.renew_at = now + lease / 3
        return None

    def cannot_run(self, run: Run, reason: str, table: RoutingTable) -> list[Settlement]:
        """A child could not start this run: no attempt paid, it waits for a worker that can."""
        epoch = time.time()
        self._runs.drop(run)
        return [self._cannot_run(delivery, run.job, reason, table, epoch) for delivery in run.deliveries]

    def _cannot_run(
        self, delivery: Delivery, job: Job | Stub, reason: str, table: RoutingTable, epoch: float
    ) -> Settlement:
        settlement = set_aside(delivery, job, reason, table.settings.unknown_route_for, epoch)
        match settlement:
            case Forward(successor=waiting):
                self._journal.waiting(job, delivery.queue, reason, waiting.delay)
            case Bury(failed=failed):
                self._journal.given_up(job, delivery.queue, failed.reason, failed.error)
        return settlement
