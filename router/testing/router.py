"""TestRouter: the Router of a test."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

import msgspec

from router.app.aside import Stages
from router.app.dispatch import Dispatch, Overrides, Raised, overrides
from router.app.plan import Plan
from router.app.router import Router
from router.brokers.base import Outgoing, Receipt
from router.brokers.memory import MemoryBroker
from router.config.settings import Settings
from router.jobs.job import decode, encode
from router.locks.memory import MemoryLocks
from router.testing.clock import Clock, as_datetime, seconds_of
from router.testing.driving import Steps, adrive, drive
from router.testing.looking import Wanted, failed_job, queued_job, shown
from router.testing.recording import Recorder
from router.testing.records import Dispatched, FailedJob, QueuedJob, Report
from router.testing.running import JobRunner
from router.testing.standing_in import StandIn

MAX_JOBS = 10_000


class TestRouter(Router):
    """A Router for a test: it connects to nothing, never sleeps, and remembers what it was given.

    ``config``, ``env``: as those of `Router`. Whatever the file says of its broker and its locks, both are in memory.
    Jobs wait until `run_jobs` runs them, in this process, in virtual time: the router's clock begins now and stands,
    until `advance` or `run_jobs` moves it. The clock of the process (`time.time`) is left alone.

    By ``with``, and whenever it dispatches or runs jobs, it is what the functions of the package use, `router.dispatch`
    and the others. Raises ConfigNotFound, ConfigError, HandlerImportError.
    """

    __test__ = False
    """Says to pytest that this is no class of tests."""

    def __init__(self, config: str | Path | None = None, *, env: str | None = None) -> None:
        super().__init__(config, env=env, hot_reload=False)

    def _start(self, settings: Settings, generation: int) -> None:
        self._clock = Clock(time.time())
        # A file for RabbitMQ without `locks.url` refuses unique jobs, and shall do so in a test.
        has_locks = settings.locks_url is not None or not settings.broker_url.startswith("amqp")
        self._memory = MemoryBroker(settings.namespace, MemoryLocks(self._clock) if has_locks else None, self._clock)
        self._runner = JobRunner(self, self._memory, self._clock)
        self._recorder = Recorder()
        self._stand_in = StandIn(self)
        super()._start(settings, generation)

    def __enter__(self) -> Self:
        self._stand_in.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._stand_in.__exit__()
        self.close()

    # -- what happened, and what waits -----------------------------------------------------------------------------

    @property
    def dispatched(self) -> list[Dispatched]:
        """Every event so far, those that handlers and jobs have raised too, in the order in which they began."""
        return self._recorder.dispatched()

    @property
    def queued(self) -> list[QueuedJob]:
        """The jobs that wait now, retries included, the next one first."""
        table, now = self.table, self._clock()
        return [queued_job(waiting, table, now) for waiting in self._memory.waiting()]

    @property
    def failed(self) -> list[FailedJob]:
        """The jobs that have failed, the first one first."""
        return [failed_job(failed, self._runner.errors) for failed in self._memory.failed()]

    def assert_queued(
        self,
        route: str,
        payload: Mapping[str, Any] | object | None = None,
        *,
        point: str | None = None,
        queue: str | None = None,
        delay: float | str | timedelta | None = None,
    ) -> QueuedJob:
        """The next job that waits for this route; AssertionError, which shows what waits, where there is none.

        ``payload``: an event object, or a mapping of which every value must be the job's, which may have more.
        ``delay``: how long from now. Raises ValueError where no async route has that id, which is a slip of the hand.
        """
        __tracebackhide__ = True
        wanted, queued = Wanted(route, payload, point, queue, delay, self.references), self.queued
        found = wanted.among(queued, self.table)
        if not found:
            raise AssertionError(f"no job waits for {wanted}; {shown(queued)}")
        return found[0]

    def assert_not_queued(
        self,
        route: str,
        payload: Mapping[str, Any] | object | None = None,
        *,
        point: str | None = None,
        queue: str | None = None,
        delay: float | str | timedelta | None = None,
    ) -> None:
        """AssertionError, which shows them, where such jobs wait; the arguments are those of `assert_queued`."""
        __tracebackhide__ = True
        found = Wanted(route, payload, point, queue, delay, self.references).among(self.queued, self.table)
        if found:
            raise AssertionError(shown(found))

    # -- time, and the jobs in it ----------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """The time for this router, in UTC."""
        return as_datetime(self._clock())

    def advance(self, duration: float | str | timedelta) -> None:
        """Let time pass (seconds, ``"10m"``, a timedelta) without running anything. Raises ValueError."""
        self._clock.move_to(self._clock() + seconds_of("duration", duration))

    def run_jobs(
        self,
        until: float | str | timedelta | datetime | None = None,
        *,
        max_jobs: int = MAX_JOBS,
        raising: bool = False,
    ) -> Report:
        """Run the jobs that wait, and those that they dispatch, by when they are due, then as they came.

        ``until`` None: everything; the clock jumps to whatever is due next, retries too, until nothing waits. A
        duration (seconds, ``"5m"``, a timedelta) or a point in time: what is due by then, and then it is then; 0: what
        is due now. ``raising``: the first exception of a handler or callback comes out unchanged, once its job is
        settled as it would be in a worker; a `Retry` that is granted doesn't. ``max_jobs``: attempts after which jobs
        that are still due are taken for endless.

        Handlers run in this process: ``timeout`` is not enforced, and what they leave behind in it stays. Raises
        EndlessJobs, HandlerImportError, ValueError; RouterError for an ``async def`` where an event loop is running.
        """
        __tracebackhide__ = True
        with self._stand_in:
            report, error = drive(self._steps(until, max_jobs, raising))
        if error is not None:
            raise error
        return report

    async def arun_jobs(
        self,
        until: float | str | timedelta | datetime | None = None,
        *,
        max_jobs: int = MAX_JOBS,
        raising: bool = False,
    ) -> Report:
        """`run_jobs` from asyncio code: on the loop that is running, where an ``async def`` is awaited."""
        __tracebackhide__ = True
        with self._stand_in:
            report, error = await adrive(self._steps(until, max_jobs, raising))
        if error is not None:
            raise error
        return report

    def _steps(
        self, until: float | str | timedelta | datetime | None, max_jobs: int, raising: bool
    ) -> Steps[tuple[Report, BaseException | None]]:
        return self._runner.run(None if until is None else self._clock.end_of(until), max_jobs, raising)

    # -- dispatching -----------------------------------------------------------------------------------------------

    def _plan(self, point: str | type) -> Plan:
        self._state.plans.clear()  # a test may have put something else in a handler's place, as for `run_jobs`
        return super()._plan(point)

    def dispatch(
        self,
        event: str | object,
        payload: Any = None,
        *,
        delay: float | str | timedelta | None = None,
        at: datetime | None = None,
        queue: str | None = None,
    ) -> Dispatch:
        """`Router.dispatch`, remembered. ``at`` is a point in this router's time."""
        __tracebackhide__ = True
        raised = self._begin(event, payload, self._overrides(delay, at, queue))
        self._run_steps(raised)
        return self._finish([raised])[0]

    def _run_steps(self, raised: Raised) -> None:
        __tracebackhide__ = True
        with self._stand_in, self._recorder.handling(raised, self._clock()):
            super()._run_steps(raised)

    def _handled(self, raised: Raised) -> Stages[None]:
        with self._stand_in, self._recorder.handling(raised, self._clock()):
            yield from super()._handled(raised)

    def _finish(self, batch: Sequence[Raised], before: Sequence[Dispatch] = ()) -> list[Dispatch]:
        done = super()._finish(batch, before)
        self._recorder.finished(done)
        return done

    def _overrides(self, delay: float | str | timedelta | None, at: datetime | None, queue: str | None) -> Overrides:
        return overrides(delay, at, queue, self.table.queues(), self._clock())

    # -- the broker ------------------------------------------------------------------------------------------------

    @property
    def broker(self) -> MemoryBroker:
        """The broker in memory, whatever the file says."""
        return self._memory

    def _now(self) -> float:
        return self._clock()

    def _publish(self, outgoing: Sequence[Outgoing]) -> Receipt:
        return super()._publish([self._dated(job) for job in outgoing])

    def _dated(self, outgoing: Outgoing) -> Outgoing:
        """That job as if it had been made at this router's time."""
        job = decode(outgoing.body)
        later = self._clock() - job.dispatched_at
        times = {name: getattr(job, name) for name in ("dispatched_at", "not_before", "expires_at")}
        moved = {name: None if when is None else round(when + later, 6) for name, when in times.items()}
        return msgspec.structs.replace(
            outgoing, body=encode(msgspec.structs.replace(job, **moved), inherit=outgoing.body)
        )
