"""What happens to events and jobs, as values: the log and the listeners (`router.on`) are told the same ones."""

from __future__ import annotations

import logging
from typing import Any, Literal, get_args

import msgspec

from router.config.diagnostics import clean
from router.config.settings import AsyncOptions
from router.durations import format_duration
from router.jobs.job import Job
from router.jobs.lifecycle import Again, Failed, Finish, Step

Name = Literal[
    "dispatched",
    "queued",
    "duplicate",
    "skipped",
    "started",
    "succeeded",
    "retried",
    "failed",
    "waiting",
    "returned",
    "lock_lost",
]
NAMES: tuple[Name, ...] = get_args(Name)

LEVELS: dict[Name, int] = {
    "dispatched": logging.DEBUG,
    "queued": logging.DEBUG,
    "retried": logging.WARNING,
    "failed": logging.ERROR,
    "waiting": logging.WARNING,
    "lock_lost": logging.WARNING,
}
"""The level at which it is logged; of the others, INFO."""


class LifecycleEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that happened to an event or a job. What doesn't apply, or isn't known, is None.

    ``name``: one of those in docs/following.md, ``at``: seconds since the epoch. ``event_id``: of the dispatch, where
    an application tells it; ``worker``: where a worker does. ``seconds``: how long the attempt took; ``wait``: how long
    until the next one. ``holder``: the job that holds the lock. ``traceparent``: as W3C Trace Context has it.
    """

    name: Name
    at: float
    point: str | None = None
    route: str | None = None
    job: str | None = None
    queue: str | None = None
    round: int | None = None
    attempt: int | None = None
    max_attempts: int | None = None
    event_id: str | None = None
    correlation: str | None = None
    causation: str | None = None
    traceparent: str | None = None
    worker: str | None = None
    seconds: float | None = None
    wait: float | None = None
    reason: str | None = None
    error: str | None = None
    holder: str | None = None

    def fields(self) -> dict[str, Any]:
        """What is known, by name, as the JSON log has it: ``event`` is ``job.<name>``."""
        known = {name: value for name in _FIELDS if (value := getattr(self, name)) is not None}
        return {"event": f"job.{self.name}", **known}


_FIELDS = tuple(name for name in LifecycleEvent.__struct_fields__ if name not in ("name", "at"))


def of_job(
    name: Name, job: Job, queue: str, at: float, options: AsyncOptions | None = None, **more: Any
) -> LifecycleEvent:
    """What happened to that job. ``at``: seconds since the epoch; ``more``: what else there is to say."""
    return LifecycleEvent(
        name=name,
        at=at,
        point=job.point,
        route=job.route,
        job=job.job,
        queue=queue,
        round=job.round,
        attempt=job.attempt,
        max_attempts=options.max_attempts if options else None,
        correlation=job.correlation,
        causation=job.causation,
        traceparent=job.trace.get("traceparent") if job.trace else None,
        **more,
    )


def of_step(
    step: Step, job: Job, queue: str, at: float, options: AsyncOptions, *, seconds: float, worker: str | None = None
) -> LifecycleEvent:
    """What an attempt, which took so many seconds, has led to."""
    about: dict[str, Any] = {"seconds": seconds, "worker": worker}
    match step:
        case Again(_, wait, error):
            return of_job("retried", job, queue, at, options, wait=wait, error=error, **about)
        case Failed(_, reason, error):
            return of_job("failed", job, queue, at, options, reason=reason, error=error, **about)
        case Finish(skipped):
            return of_job(name_of(step), job, queue, at, options, reason=skipped, **about)


def name_of(step: Step) -> Name:
    """What `of_step` calls it."""
    match step:
        case Again():
            return "retried"
        case Failed():
            return "failed"
        case Finish(skipped):
            return "succeeded" if skipped is None else "skipped"


def level(name: Name) -> int:
    """The level at which such an event is logged."""
    return LEVELS.get(name, logging.INFO)


def log_event(log: logging.Logger, event: LifecycleEvent) -> None:
    """One line for it, with all it says as fields."""
    log.log(level(event.name), "%s", Sentence(event), extra=event.fields())


class Sentence:
    """An event in words: ``started    confirmation (order.placed) job 0190… attempt 1 of 3``."""

    def __init__(self, event: LifecycleEvent) -> None:
        self._event = event

    def __str__(self) -> str:
        event = self._event
        head = event.name.replace("_", " ")
        # Of one line, and with nothing in it that a terminal would obey: an exception's words may come from anywhere.
        return clean(f"{head:<10} {_subject(event)}{_predicate(event)}")


def _subject(event: LifecycleEvent) -> str:
    if event.route is None:
        return f"{event.point} event {event.event_id}" if event.point else f"a message that is no job in {event.queue}"
    job = f" job {event.job}" if event.job else ""
    attempt = f" attempt {event.attempt}" if event.attempt else ""
    most = f" of {event.max_attempts}" if attempt and event.max_attempts else ""
    return f"{event.route} ({event.point}){job}{attempt}{most}"


def _predicate(event: LifecycleEvent) -> str:
    match event.name:
        case "queued":
            later = f", to start in {format_duration(round(event.wait, 3))}" if event.wait else ""
            return f" in queue {event.queue}{later}"
        case "duplicate" | "lock_lost":
            end = "; this one goes on" if event.name == "lock_lost" else ""
            return f": job {event.holder} holds its lock{end}"
        case "succeeded":
            return f" in {_elapsed(event)}"
        case "retried":
            wait = format_duration(round(event.wait or 0.0, 3))
            return f" after {_elapsed(event)}: next in {wait}; {headline(event.error or '')}"
        case "failed":
            after = f" after {_elapsed(event)}" if event.seconds is not None else ""
            return f"{after}: {headline(event.error or '')}; see: router failed show {event.job}"
        case "waiting":
            wait = format_duration(round(event.wait or 0.0, 3))
            return f" in queue {event.queue}: {event.reason}; looking again in {wait}"
        case _:
            return f": {event.reason}" if event.reason else ""


def headline(error: str) -> str:
    """The first line of an error's text."""
    return error.split("\n", 1)[0]


def _elapsed(event: LifecycleEvent) -> str:
    seconds = event.seconds or 0.0
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
