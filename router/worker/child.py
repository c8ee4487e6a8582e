"""A child: imports the handlers, then runs one job at a time, or many that are ``async def``.

``python -m router.worker.child FD PARENT MEMORY`` is one.
"""

from __future__ import annotations

import contextvars
import io
import logging
import os
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from router.app.context import Context, running
from router.app.default import set_default
from router.app.router import Router
from router.errors import InvalidPayload, in_words
from router.jobs.job import Job, UndecodableJob
from router.jobs.lifecycle import Callback
from router.logs import set_up_logging
from router.routing.handlers import Handler
from router.worker.messages import (
    Call,
    Called,
    Hello,
    NotRunnable,
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
from router.worker.runnables import (
    Routes,
    Runnable,
    arguments_of,
    callback_raised,
    context_of,
    encodable,
    error_of,
    import_routes,
    prepare,
    raised,
    rss,
)
from router.worker.stepping import Mark
from router.worker.telling import Follower

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger("router.worker.child")


class Child:
    """Runs what the parent sends, in that order, and says how it went. It decides nothing."""

    def __init__(self, pipe: ChildPipe, routes: Routes, follower: Follower, mark: Mark, places: int) -> None:
        """``places``: how many shared runs it may have at a time."""
        self._places = places
        self._pipe = pipe
        self._routes = routes
        self._follower = follower
        self._mark = mark
        self._inbox: deque[ToChild] = deque()
        self._runner: asyncio.Runner | None = None

    def serve(self) -> None:
        """Until the parent says Stop. Raises EOFError where the parent is gone."""
        while True:
            match self._inbox.popleft() if self._inbox else self._pipe.receive():
                case Run(shared=True) as message:
                    self._share(message)
                case Run() as message:
                    self._run(message)
                case Call() as message:
                    self._call_for_another(message)
                case Tell(event):
                    self._follower.tell(event)
                case Stop():
                    self._follower.close()
                    return

    def _share(self, first: Run) -> None:
        from router.worker.sharing import Sharing  # imports asyncio

        async def serve() -> None:
            await Sharing(self._pipe, self._routes, self._follower, self._mark, self._inbox, self._places).serve(first)

        self._event_loop().run(serve())

    def _run(self, message: Run) -> None:
        try:
            job, runnable, unread = prepare(message.body, self._routes, self._pipe.flush)
        except (UndecodableJob, LookupError, InvalidPayload) as error:
            self._pipe.send(NotRunnable(message.run, encodable(str(error.args[0]))))
            return
        event = unread.payload
        context = context_of(job, runnable, message.queue)
        started = time.perf_counter()
        self._pipe.send(Started(message.run))
        self._follower.started(job, message.queue, runnable.options)
        with running(context):
            try:
                event = unread.load()
                self._call(runnable.handler, event, context=context)
            except BaseException as error:  # noqa: BLE001 - SystemExit of a handler is its failure, not the child's end
                self._pipe.send(raised(message.run, time.perf_counter() - started, error, runnable))
                self._attend_verdict(message.run, error, job, runnable, event)
            else:
                self._pipe.post(Returned(message.run, time.perf_counter() - started, rss()))

    def _attend_verdict(self, run: int, error: BaseException, job: Job, runnable: Runnable, event: Any) -> None:
        while not isinstance(message := self._pipe.receive(), Verdict):
            self._inbox.append(message)
        if message.callback is not None:
            self._callback(run, message.callback, error, job, runnable, event)

    def _call_for_another(self, message: Call) -> None:
        error = error_of(message.outcome, message.error)
        try:
            job, runnable, unread = prepare(message.body, self._routes, self._pipe.flush)
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
        try:
            if name in runnable.callbacks:
                self._call(runnable.callbacks[name], *arguments_of(name, job, error, event))
        except BaseException as problem:  # noqa: BLE001 - it is logged
            callback_raised(name, job, problem, error)
        self._pipe.send(Called(run))

    def _call(self, handler: Handler, *arguments: Any, context: Context | None = None) -> None:
        result = handler.call_with(context, *arguments)
        if handler.is_async:
            self._await(result)

    def _await(self, result: Any) -> None:
        loop = self._event_loop().get_loop()
        task = loop.create_task(_awaited(result), context=contextvars.copy_context())
        while True:
            try:
                return loop.run_until_complete(task)
            except (SystemExit, KeyboardInterrupt) as error:
                if task.done():
                    raise
                # The loop lives on from job to job: it may be one that an earlier handler has left behind.
                log.error("a background task has raised %s: %s; the handler goes on", type(error).__name__, error)

    def _event_loop(self) -> asyncio.Runner:
        if self._runner is None:
            import asyncio  # slow to import: a worker without any `async def` starts sooner

            self._runner = asyncio.Runner()
        return self._runner


async def _awaited(awaitable: Any) -> None:
    await awaitable


def main() -> int:
    """The program. It ends when the parent says so, or is gone."""
    fd, parent, memory = map(int, sys.argv[1:4])
    die_with_parent(parent)
    leave_signals_to_parent()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)  # what handlers print must not be lost when a child is killed
    mark = Mark(memory)
    os.close(memory)
    pipe = ChildPipe(take_over(fd))
    try:
        hello = pipe.receive()
        assert isinstance(hello, Hello)
        set_up_logging(hello.log_level, hello.log_format)
        try:
            router = Router.from_settings(hello.settings, hello.generation, declare=hello.declare)
            set_default(router)
            routes = import_routes(router.table, router.references)
        except Exception as error:  # noqa: BLE001 - whatever importing user code raises is told to the parent
            pipe.send(Unready(encodable(in_words(error))))
            return 1
        sharing = frozenset(key for key, runnable in routes.items() if runnable.handler.is_async)
        pipe.send(Ready(frozenset(router.listeners.by_name), sharing))
        places = sum(hello.settings.async_concurrency.values())
        Child(pipe, routes, Follower(router.listeners, hello.worker), mark, places).serve()
    except (EOFError, OSError):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
