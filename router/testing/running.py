"""Runs the jobs that wait, one by one, as a worker would: by the same decisions, at the time that the test says."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Generator
from dataclasses import dataclass
from typing import Any

import msgspec

from router.app.context import Context, running
from router.app.router import Router
from router.brokers.base import Bury, Delivery, Done, Forward
from router.brokers.memory import MemoryBroker, MemoryConsumer
from router.config.settings import AsyncOptions, Route
from router.errors import InvalidPayload, Retry, RouterError
from router.jobs import lifecycle
from router.jobs.following import Name, of_job, of_step
from router.jobs.job import Job, decode
from router.jobs.unique import until_start
from router.locks.base import Held, Taken, claim_of
from router.routing.events import Unread
from router.routing.handlers import Handler, own_frames
from router.routing.table import RoutingTable
from router.testing.clock import Clock, as_datetime
from router.testing.driving import Steps
from router.testing.records import Outcome, Ran, Report
from router.worker.runnables import Runnable, arguments_of, context_of, error_of, import_routes, outcome_of
from router.worker.settling import lease_of, set_aside, settle

log = logging.getLogger("router.testing")

_FAILURES = (Exception, SystemExit, asyncio.CancelledError)
"""What is a failure of a handler. The rest, Ctrl-C or what `pytest.fail` raises, is meant for whoever runs the test."""


class EndlessJobs(RouterError):
    """``run_jobs`` has run ``max_jobs`` attempts, and more are due: jobs seem to dispatch each other for ever.

    ``report``: what ran.
    """

    def __init__(self, report: Report) -> None:
        most = Counter((ran.route, ran.point) for ran in report).most_common(3)
        routes = ", ".join(f"{route} of {point} ({count:,} times)" for (route, point), count in most)
        super().__init__(
            f"{len(report):,} attempts ran, and more are due: does a job dispatch the event that it runs for? "
            f"Most often ran {routes}. run_jobs(max_jobs=...) sets another limit, until= ends it at a time"
        )
        self.report = report


@dataclass(frozen=True, slots=True)
class _Turn:
    """A job that is handed out."""

    delivery: Delivery
    job: Job
    table: RoutingTable
    options: AsyncOptions | None
    now: float

    def ran(self, outcome: Outcome, error: BaseException | None = None, **more: Any) -> Ran:
        return Ran(
            job=self.job.job,
            point=self.job.point,
            route=self.job.route,
            payload=msgspec.json.decode(self.job.event),
            queue=self.delivery.queue,
            attempt=self.job.attempt,
            max_attempts=self.options.max_attempts if self.options else None,
            at=as_datetime(self.now),
            outcome=outcome,
            error=error,
            **more,
        )


class JobRunner:
    """Runs the jobs of ``broker`` as ``router`` has them. ``errors``: the last exception of each failed job, by id."""

    def __init__(self, router: Router, broker: MemoryBroker, clock: Clock) -> None:
        self.errors: dict[str, BaseException] = {}
        self._router = router
        self._broker = broker
        self._clock = clock
        self._running = False
        self._runnables: dict[tuple[str, str, str], Runnable] = {}

    def run(self, until: float | None, max_jobs: int, raising: bool) -> Steps[tuple[Report, BaseException | None]]:
        """Run what is due until then (None: everything); ``raising``: until something goes wrong, which is returned.

        Raises EndlessJobs; HandlerImportError, where no worker would start.
        """
        if self._running:
            raise RouterError(
                "run_jobs was called by a job that it runs: let the job end, what it dispatches runs next"
            )
        self._running = True
        self._runnables.clear()  # a test may have put something else in a handler's place
        consumer = self._broker.consumer("router.testing")
        runs: list[Ran] = []
        parked: set[str] = set()
        attempts = 0
        try:
            while (due := self._broker.next_waiting()) is not None:
                if until is not None and due.available_at > until:
                    break
                if attempts >= max_jobs:
                    raise EndlessJobs(Report(tuple(runs)))
                self._clock.move_to(due.available_at)
                (delivery,) = consumer.poll({due.queue: 1})
                ran = yield from self._turn(delivery, consumer)
                attempts += ran.outcome in ("succeeded", "retrying", "failed")
                if ran.outcome == "waiting":
                    if ran.job in parked:
                        continue
                    parked.add(ran.job)
                runs.append(ran)
                log.log(logging.INFO if ran.error is None else logging.WARNING, "%s", ran)
                if raising and (error := _wrong(ran)) is not None:
                    return Report(tuple(runs)), error
            if until is not None:
                self._clock.move_to(until)
            return Report(tuple(runs)), None
        finally:
            consumer.close()  # gives back a job whose handler was interrupted
            self._running = False

    def _turn(self, delivery: Delivery, consumer: MemoryConsumer) -> Steps[Ran]:
        table = self._router.table
        job = decode(delivery.body)
        route = table.find(job.point, job.route)
        turn = _Turn(delivery, job, table, route.options if route else None, self._clock())
        if route is None or turn.options is None:
            return self._cannot_run(turn, RouterError(f"{job.point} has no async route {job.route!r} here"), consumer)
        holder = self._lock(turn)
        if holder is not None:
            consumer.settle([Done(delivery)])
            self._told("duplicate", turn, holder=holder)
            return turn.ran("duplicate", RouterError(f"job {holder} holds its lock"))
        runnable = self._import(route, table)
        try:
            unread = runnable.events.read(bytes(job.event), job.event_version)
        except InvalidPayload as error:
            return self._cannot_run(turn, error, consumer)
        return (yield from self._attempt(turn, runnable, unread, consumer))

    def _attempt(self, turn: _Turn, runnable: Runnable, unread: Unread, consumer: MemoryConsumer) -> Steps[Ran]:
        job, options = turn.job, runnable.options
        context = context_of(job, runnable, turn.delivery.queue)
        with running(context):
            event, error, outcome = yield from self._handle(turn, runnable, unread, context)
            step = lifecycle.next_step(job, options, outcome, self._clock())
            if isinstance(outcome, lifecycle.Expired) and isinstance(step, lifecycle.Failed):
                error = error_of("expired", step.error)
            self._router._tell([of_step(step, job, turn.delivery.queue, self._clock(), options, seconds=0.0)])
            callback_error = None
            if error is not None:
                callback_error = yield from self._call_back(runnable, step, job, error, event)
        queues = frozenset(self._router.table.queues())
        consumer.settle([settle(turn.delivery, job, step, options, queues, self._clock())])
        match step:
            case lifecycle.Again(_, wait):
                return turn.ran("retrying", error, retry_in=wait, callback_error=callback_error)
            case lifecycle.Failed() if error is not None:
                self.errors[job.job] = error
                return turn.ran("failed", error, callback_error=callback_error)
            case lifecycle.Finish(skipped) if skipped is not None:
                return turn.ran("skipped", error)
        return turn.ran("succeeded")

    def _handle(
        self, turn: _Turn, runnable: Runnable, unread: Unread, context: Context
    ) -> Steps[tuple[Any, BaseException | None, lifecycle.Outcome]]:
        """The event as callbacks get it, what the handler raised, and what that is to the job."""
        if lifecycle.is_expired(turn.job, self._clock()):
            return unread.payload, None, lifecycle.Expired()
        self._told("started", turn)
        claim, locks = claim_of(turn.job), self._broker.locks
        if claim is not None and locks is not None and until_start(claim.key, runnable.options):
            locks.free(claim)
        event = unread.payload
        try:
            event = unread.load()
        except _FAILURES as problem:
            error: BaseException | None = problem
        else:
            error = yield from _call(runnable.handler, event, context=context)
        if error is None:
            return event, None, lifecycle.Returned()
        return event, error, outcome_of(error, runnable)

    def _call_back(
        self, runnable: Runnable, step: lifecycle.Step, job: Job, error: BaseException, event: Any
    ) -> Steps[BaseException | None]:
        name = lifecycle.callback_of(step)
        callback = runnable.callbacks.get(name) if name else None
        if name is None or callback is None:
            return None
        raised = yield from _call(callback, *arguments_of(name, job, error, event))
        if raised is not None:
            log.error("%s of %s raised (job %s)", name, job.route, job.job, exc_info=raised)  # as a worker does
        return raised

    def _cannot_run(self, turn: _Turn, error: RouterError, consumer: MemoryConsumer) -> Ran:
        limit = turn.table.settings.unknown_route_for
        settlement = set_aside(turn.delivery, turn.job, str(error), limit, turn.now)
        consumer.settle([settlement])
        match settlement:
            case Forward(successor=waiting):
                self._told("waiting", turn, reason=str(error), wait=waiting.delay)
                return turn.ran("waiting", error)
            case Bury(failed=failed):
                self._told("failed", turn, reason=failed.reason, error=failed.error)
                self.errors[turn.job.job] = error
                return turn.ran("failed", error)

    def _told(self, name: Name, turn: _Turn, **more: Any) -> None:
        self._router._tell([of_job(name, turn.job, turn.delivery.queue, self._clock(), turn.options, **more)])

    def _lock(self, turn: _Turn) -> str | None:
        """Take the lock of a unique job, or lengthen it; the job that holds it instead."""
        claim, locks = claim_of(turn.job), self._broker.locks
        if claim is None or locks is None:
            return None
        match locks.hold(claim, lease_of(turn.options)):
            case Held():
                return None
            case Taken() if until_start(claim.key, turn.options):
                return None  # as a worker would
            case Taken(holder):
                return holder
            case _:
                return turn.job.job

    def _import(self, route: Route, table: RoutingTable) -> Runnable:
        key = (table.hash, route.point, route.id)
        if key not in self._runnables:
            point = msgspec.structs.replace(table.points[route.point], routes=(route,))
            alone = msgspec.structs.replace(table, points={point.name: point})
            self._runnables[key] = import_routes(alone, self._router.references)[point.name, route.id]
        return self._runnables[key]


def _call(
    handler: Handler, *arguments: Any, context: Context | None = None
) -> Generator[Awaitable[Any], None, BaseException | None]:
    """Call it; what it raised, with the traceback from its own frame on."""
    try:
        result = handler.call_with(context, *arguments)
        if handler.is_async:
            yield result
    except _FAILURES as error:
        return error.with_traceback(own_frames(error.__traceback__))
    return None


def _wrong(ran: Ran) -> BaseException | None:
    """What ``raising`` lets out: not a retry that was asked for and is granted, nor why a job was not to be done."""
    asked = ran.outcome == "retrying" and isinstance(ran.error, Retry)
    return ran.callback_error if ran.error is None or asked or ran.outcome in ("duplicate", "skipped") else ran.error
