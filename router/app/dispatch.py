"""What a dispatch makes and returns."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

import msgspec

from router.app.context import Context
from router.app.plan import Plan, Step
from router.app.tracing import Trace
from router.brokers.base import Outgoing
from router.durations import parse_duration
from router.jobs.following import LifecycleEvent
from router.jobs.job import WIRE_VERSION, Job, encode, new_id
from router.jobs.unique import lock_key
from router.locks.base import claim_of

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Dispatch(msgspec.Struct, frozen=True):
    """What became of one event.

    ``results`` and ``errors`` (of handlers with ``onError: continue``) are by route id, as is ``jobs``: the id of the
    job queued for each async route. ``duplicates`` are pairs of route id and the job that already holds the lock of
    that unique job. ``stopped_by`` is the route that returned False at an interruptible point.
    """

    results: Mapping[str, Any]
    event_id: str = msgspec.field(default_factory=new_id)
    errors: Mapping[str, Exception] = _NOTHING
    jobs: Mapping[str, str] = _NOTHING
    duplicates: tuple[tuple[str, str], ...] = ()
    stopped_by: str | None = None


class Overrides(msgspec.Struct, frozen=True):
    """What one dispatch asks of its jobs beside the file: seconds to wait, a queue."""

    delay: float | None = None
    queue: str | None = None


_A_TIME = "datetime.now(timezone.utc) + timedelta(...)"


def overrides(
    delay: float | str | timedelta | None, at: datetime | None, queue: str | None, queues: Sequence[str], now: float
) -> Overrides:
    """Check the ``delay=``, ``at=`` and ``queue=`` of a dispatch. Raises ValueError."""
    if delay is not None and at is not None:
        raise ValueError("give delay= or at=, not both")
    given = f"delay={delay!r}" if at is None else f"at={at}: the wait"
    if at is not None:
        if not isinstance(at, datetime):
            raise ValueError(f"at={at!r} is no datetime: {_A_TIME}")
        if at.tzinfo is None:
            raise ValueError(f"at= needs a time zone: {_A_TIME}")
        delay = max(at.timestamp() - now, 0.0)
    if queue is not None and queue not in queues:
        raise ValueError(f"the file has no queue {queue!r}; it has {', '.join(queues)}")
    try:
        return Overrides(None if delay is None else parse_duration(delay), queue)
    except ValueError as error:
        raise ValueError(f"{given} {error}") from error


def lock_keys(plan: Plan, data: bytes | None, namespace: str) -> dict[str, str]:
    """The lock key of each unique route, by route id. Raises InvalidPayload where the payload lacks a path."""
    return {
        route.id: lock_key(namespace, route.point, route.id, options.unique, data)
        for route, options in plan.later
        if options.unique is not None and data is not None
    }


@dataclass(slots=True)
class Raised:
    """One event on its way: prepared, then handled step by step, then turned into jobs and a Dispatch.

    ``cause``: the job that has dispatched it, ``trace`` what it belongs to.
    """

    plan: Plan
    event: Any
    data: bytes | None
    wanted: Overrides
    keys: Mapping[str, str]
    cause: Context | None
    trace: Trace | None
    event_id: str = field(default_factory=new_id)
    results: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, Exception] = field(default_factory=dict)
    stopped_by: str | None = None

    @property
    def correlation(self) -> str:
        """The id of the event that started it all."""
        return self.cause.correlation_id if self.cause else self.event_id

    @property
    def causation(self) -> str | None:
        """The id of the job that has dispatched it."""
        return self.cause.job_id if self.cause else None

    def call(self, step: Step) -> Any:
        """Call the handler of that step; an awaitable comes back if it is an ``async def``."""
        if not step.handler.wants_context:
            return step.handler.call_with(None, self.event)
        about = (self.plan.point.name, step.route.id, self.correlation, time.time())
        context = Context(*about, causation_id=self.causation, trace=self.trace)
        return step.handler.call_with(context, self.event)

    @contextmanager
    def handling(self, step: Step) -> Iterator[None]:
        """Around the call of one handler: its exception ends the dispatch, or is kept where the route says continue."""
        try:
            yield
        except Exception as error:
            if step.route.on_error == "stop":
                raise
            self.errors[step.route.id] = error

    def stops_at(self, step: Step) -> bool:
        """Whether that handler has stopped the event."""
        if self.plan.point.interruptible and self.results.get(step.route.id) is False:
            self.stopped_by = step.route.id
        return self.stopped_by is not None

    def jobs(self) -> dict[str, Outgoing]:
        """One job for each async route, by route id, in the order of priority; none if the event was stopped."""
        if self.data is None or self.stopped_by is not None:
            return {}
        now = time.time()
        jobs = {}
        for route, options in self.plan.later:
            delay = options.delay if self.wanted.delay is None else self.wanted.delay
            key = self.keys.get(route.id)
            job = Job(
                v=WIRE_VERSION,
                job=new_id(),
                point=route.point,
                route=route.id,
                event=msgspec.Raw(self.data),
                dispatched_at=now,
                correlation=self.correlation,
                causation=self.causation,
                trace=self.trace,
                event_version=self.plan.point.version,
                not_before=now + delay if delay else None,
                lock=key,
                expires_at=None if options.expires is None else now + delay + options.expires,
            )
            jobs[route.id] = Outgoing(
                id=job.job,
                point=route.point,
                queue=self.wanted.queue or options.queue,
                body=encode(job),
                delay=delay,
                claim=claim_of(job),
                lease=options.unique.lock_timeout if options.unique else 0.0,
            )
        return jobs

    def followed(self, at: float) -> Iterator[LifecycleEvent]:
        """What is to be told of it, beside its jobs, once they are queued."""
        about: dict[str, Any] = {
            "at": at,
            "point": self.plan.point.name,
            "event_id": self.event_id,
            "correlation": self.correlation,
            "causation": self.causation,
            "traceparent": self.trace["traceparent"] if self.trace else None,
        }
        yield LifecycleEvent(name="dispatched", **about)
        if self.stopped_by is not None:
            why = f"{self.stopped_by} has stopped the event"
            for route, options in self.plan.later:
                yield LifecycleEvent(name="skipped", route=route.id, queue=options.queue, reason=why, **about)

    def result(self, jobs: Mapping[str, Outgoing], duplicates: Mapping[str, str]) -> Dispatch:
        """The Dispatch, given what the broker said of the jobs. ``duplicates``: job id → the lock's holder."""
        return Dispatch(
            self.results,
            self.event_id,
            self.errors,
            {route_id: job.id for route_id, job in jobs.items() if job.id not in duplicates},
            tuple((route_id, duplicates[job.id]) for route_id, job in jobs.items() if job.id in duplicates),
            self.stopped_by,
        )
