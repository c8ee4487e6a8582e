"""A child: imports the handlers, then runs one job at a time. ``python -m router.worker.child FD PARENT`` is one."""

from __future__ import annotations

import contextvars
import io
import logging
import resource
import sys
import time
import traceback
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from router.app.context import Context, running
from router.app.default import set_default
from router.app.router import Router
from router.config.settings import AsyncOptions, Route
from router.errors import ChildDied, Fail, InvalidPayload, JobError, JobExpired, JobTimeout, ReferenceMissing, Retry
from router.jobs.following import of_job
from router.jobs.job import Job, UndecodableJob, decode
from router.jobs.lifecycle import Callback
from router.logs import set_up_logging
from router.routing.events import EventReader, Unread, import_event_type
from router.routing.handlers import Handler, import_callback, import_exception, import_handler
from router.routing.references import References
from router.routing.table import RoutingTable
from router.worker.messages import (
    Asked,
    Call,
    Called,
    Hello,
    NotRunnable,
    Raised,
    Ready,
    Returned,
    Run,
    Started,
    Stop,
    Tell,
    ToChild,
    Unready,
    Verdict,
)
from router.worker.pipes import ChildPipe
from router.worker.processes import die_with_parent, leave_signals_to_parent, take_over
from router.worker.telling import Teller

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger("router.worker.child")

_ERRORS: dict[str, type[JobError]] = {"timeout": JobTimeout, "died": ChildDied, "expired": JobExpired}
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


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


def import_routes(table: RoutingTable, references: References) -> dict[tuple[str, str], Runnable]:
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


class Child:
    """Runs what the parent sends, in that order, and says how it went. It decides nothing."""

    def __init__(
        self, pipe: ChildPipe, routes: dict[tuple[str, str], Runnable], worker: str, teller: Teller | None
    ) -> None:
        """``teller``: None where nobody listens."""
        self._pipe = pipe
        self._routes = routes
        self._worker = worker
        self._teller = teller
        self._inbox: deque[ToChild] = deque()
        self._runner: asyncio.Runner | None = None

    def serve(self) -> None:
        """Until the parent says Stop. Raises EOFError where the parent is gone."""
        while True:
            match self._inbox.popleft() if self._inbox else self._pipe.receive():
                case Run() as message:
                    self._run(message)
                case Call() as message:
                    self._call_for_another(message)
                case Tell(event) if self._teller is not None:
                    self._teller.tell(event)
                case Stop():
                    return

    def _run(self, message: Run) -> None:
        try:
            job, runnable, unread = self._prepare(message.body)
        except (UndecodableJob, LookupError, InvalidPayload) as error:
            self._pipe.send(NotRunnable(message.run, str(error.args[0])))
            return
        event = unread.payload
        context = context_of(job, runnable, message.queue)
        started = time.perf_counter()
        self._pipe.send(Started(message.run))
        if self._teller is not None:
            self._teller.tell(of_job("started", job, message.queue, time.time(), runnable.options, worker=self._worker))
        with running(context):
            try:
                event = unread.load()
                self._call(runnable.handler, event, context=context)
            except BaseException as error:  # noqa: BLE001 - SystemExit of a handler is its failure, not the child's end
                self._raised(message.run, time.perf_counter() - started, error, job, runnable, event)
            else:
                self._pipe.send(Returned(message.run, time.perf_counter() - started, _rss()))

    def _prepare(self, body: bytes) -> tuple[Job, Runnable, Unread]:
        job = decode(body)
        runnable = self._routes.get((job.point, job.route))
        if runnable is None:
            raise LookupError(f"{job.point} has no async route {job.route!r} here")
        return job, runnable, runnable.events.read(bytes(job.event), job.event_version)

    def _raised(self, run: int, seconds: float, error: BaseException, job: Job, runnable: Runnable, event: Any) -> None:
        delay = error.delay if isinstance(error, Retry) else None
        self._pipe.send(Raised(run, seconds, _rss(), describe(error), runnable.asks(error), delay))
        while not isinstance(message := self._pipe.receive(), Verdict):
            self._inbox.append(message)
        if message.callback is not None:
            self._callback(run, message.callback, error, job, runnable, event)

    def _call_for_another(self, message: Call) -> None:
        error = _ERRORS[message.outcome](message.error)
        try:
            job, runnable, unread = self._prepare(message.body)
        except (UndecodableJob, LookupError, InvalidPayload) as problem:
            log.error("%s can't be called: %s", message.callback, problem)
            self._pipe.send(Called(message.run))
            return
        with running(context_of(job, runnable, message.queue)):
            try:
                event = unread.load()
            except Exception as problem:  # noqa: BLE001 - loading is user code; better without than not called
                log.error("%s gets the payload as it travels, since loading fails: %s", message.callback, problem)
                event = unread.payload
            self._callback(message.run, message.callback, error, job, runnable, event)

    def _callback(
        self, run: int, name: Callback, error: BaseException, job: Job, runnable: Runnable, event: Any
    ) -> None:
        arguments = (job.attempt, error) if name == "onRetry" else (error, event)
        try:
            if name in runnable.callbacks:
                self._call(runnable.callbacks[name], *arguments)
        except BaseException:
            log.exception("%s of %s raised (job %s)", name, runnable.route.id, job.job)
        self._pipe.send(Called(run))

    def _call(self, handler: Handler, *arguments: Any, context: Context | None = None) -> None:
        result = handler.call(*arguments, context=context) if handler.wants_context else handler.call(*arguments)
        if handler.is_async:
            self._runner = self._runner or _runner()
            self._runner.run(_await(result), context=contextvars.copy_context())


def _runner() -> asyncio.Runner:
    import asyncio  # slow to import: a worker without any `async def` starts sooner

    return asyncio.Runner()


async def _await(awaitable: Any) -> None:
    await awaitable


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


def _rss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT


def describe(error: BaseException) -> str:
    """``ValueError: text``, and below it the traceback from the handler's own frame on."""
    head = "".join(traceback.format_exception_only(error)).strip()
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return f"{head}\n\n{''.join(traceback.format_exception(type(error), error, trace))}".strip()


def main() -> int:
    """The program. It ends when the parent says so, or is gone."""
    fd, parent = map(int, sys.argv[1:3])
    die_with_parent(parent)
    leave_signals_to_parent()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)  # what handlers print must not be lost when a child is killed
    pipe = ChildPipe(take_over(fd))
    try:
        hello = pipe.receive()
        assert isinstance(hello, Hello)
        set_up_logging(hello.log_level, hello.log_format)
        try:
            router = Router.from_settings(hello.settings, hello.generation)
            set_default(router)
            routes = import_routes(router.table, router.references)
        except Exception as error:  # noqa: BLE001 - whatever importing user code raises is told to the parent
            pipe.send(Unready(f"{type(error).__name__}: {error}"))
            return 1
        listens = frozenset(router.listeners.by_name)
        teller = Teller(router.listeners) if listens else None
        pipe.send(Ready(listens))
        Child(pipe, routes, hello.worker, teller).serve()
        if teller is not None:
            teller.close()
    except (EOFError, OSError):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
