"""What a child needs to run jobs: every asynchronous route with all that it names imported."""

from __future__ import annotations

import logging
import resource
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from router.app.context import Context
from router.config.settings import AsyncOptions, Route
from router.errors import ChildDied, Fail, JobError, JobExpired, JobTimeout, ReferenceMissing, Retry
from router.jobs import lifecycle
from router.jobs.job import Job, decode
from router.jobs.lifecycle import Asked, Callback
from router.routing.events import EventReader, Unread, import_event_type
from router.routing.handlers import Handler, import_callback, import_exception, import_handler, own_frames
from router.routing.references import References
from router.routing.table import RoutingTable
from router.worker.messages import Lost, Raised

log = logging.getLogger("router.worker.child")

_RSS_UNIT = 1 if sys.platform == "darwin" else 1024

Routes = dict[tuple[str, str], "Runnable"]
"""By point and route id."""


@dataclass(frozen=True, slots=True)
class Runnable:
    """An async route with everything imported that running it needs."""

    route: Route
    options: AsyncOptions
    handler: Handler
    events: EventReader
    callbacks: dict[Callback, Handler]
    retry_on: tuple[type[BaseException], ...]
    dont_retry_on: tuple[type[BaseException], ...]

    def asks(self, error: BaseException) -> Asked | None:
        """What the exception of the handler asks for, by itself or by the options."""
        if isinstance(error, ReferenceMissing):
            return self.options.on_missing
        if isinstance(error, Retry):
            return "retry"
        if isinstance(error, (Fail, *self.dont_retry_on)):
            return "fail"
        return "fail" if self.retry_on and not isinstance(error, self.retry_on) else None


def import_routes(table: RoutingTable, references: References) -> Routes:
    """Import every async route of the table, by (point, route id). Raises HandlerImportError."""
    runnables = {}
    for route, options in table.async_routes():
        point = table.points[route.point]
        event_type = import_event_type(point.event) if point.event else None
        paths: dict[Callback, str | None] = {"onRetry": options.on_retry, "onFailure": options.on_failure}
        runnables[route.point, route.id] = Runnable(
            route,
            options,
            import_handler(route.handler),
            EventReader(point, event_type, references),
            {name: import_callback(path) for name, path in paths.items() if path is not None},
            tuple(map(import_exception, options.retry_on)),
            tuple(map(import_exception, options.dont_retry_on)),
        )
    return runnables


def prepare(body: bytes, routes: Routes, before_user_code: Callable[[], None]) -> tuple[Job, Runnable, Unread]:
    """The job of a message, its route, and its event. Raises UndecodableJob, LookupError, InvalidPayload."""
    job = decode(body)
    runnable = routes.get((job.point, job.route))
    if runnable is None:
        raise LookupError(f"{job.point} has no async route {job.route!r} here")
    if runnable.events.runs_user_code:
        before_user_code()
    return job, runnable, runnable.events.read(bytes(job.event), job.event_version)


def raised(run: int, seconds: float, error: BaseException, runnable: Runnable, *, overdue: bool = False) -> Raised:
    """What the parent is told of an attempt that ended in ``error``; ``overdue``: since it ran into its timeout."""
    outcome = outcome_of(error, runnable)
    return Raised(run, seconds, rss(), outcome.error, "timeout" if overdue else outcome.asked, outcome.delay)


def outcome_of(error: BaseException, runnable: Runnable) -> lifecycle.Raised:
    """What an attempt that ended in ``error`` has come to."""
    delay = error.delay if isinstance(error, Retry) else None
    return lifecycle.Raised(describe(error), runnable.asks(error), delay)


def arguments_of(name: Callback, job: Job, error: BaseException, event: Any) -> tuple[Any, Any]:
    """What that callback is called with."""
    return (job.attempt, error) if name == "onRetry" else (error, event)


def callback_raised(name: Callback, job: Job, problem: BaseException, error: BaseException) -> None:
    """Log what a callback, told of ``error``, has raised: of each where it was raised, not how the worker got there."""
    for one in (problem, error):
        one.with_traceback(own_frames(one.__traceback__))
    log.error("%s of %s raised (job %s)", name, job.route, job.job, exc_info=problem)


_ERRORS: dict[Lost, type[JobError]] = {
    "timeout": JobTimeout,
    "died": ChildDied,
    "expired": JobExpired,
    "raised": JobError,
}


def error_of(lost: Lost, words: str) -> JobError:
    """What callbacks get where the exception is gone. ``words``: what the history says of it."""
    error = _ERRORS[lost]
    return error(words.partition("\n")[0].removeprefix(f"{error.__name__}: "))


def context_of(job: Job, runnable: Runnable, queue: str) -> Context:
    """What the handler may know of this attempt."""
    return Context(
        job.point,
        job.route,
        job.correlation,
        job.dispatched_at,
        job.job,
        queue,
        job.attempt,
        runnable.options.max_attempts,
        job.causation,
        job.trace,
    )


def rss() -> int:
    """The most memory that this process has used so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT


def describe(error: BaseException) -> str:
    """``ValueError: text``, and below it the traceback from the handler's own frame on."""
    head = "".join(traceback.format_exception_only(error)).strip()
    trace = own_frames(error.__traceback__)
    return encodable(f"{head}\n\n{''.join(traceback.format_exception(type(error), error, trace))}".strip())


def encodable(text: str) -> str:
    """``text`` as it can travel: half a surrogate pair, as in a file name that is no UTF-8, is shown escaped."""
    return text.encode("utf-8", "backslashreplace").decode()
