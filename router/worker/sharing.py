"""In a child: ``async def`` handlers that run many at a time, on one event loop.

A handler that waits is cancelled when it is overdue. One that doesn't give way is killed with the child, by the parent,
which knows from the `Mark` whose step it was.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from router.app.context import Context, running
from router.errors import InvalidPayload, JobTimeout
from router.jobs.job import Job, UndecodableJob
from router.jobs.lifecycle import Callback
from router.routing.events import Unread
from router.routing.handlers import Handler
from router.worker.messages import Called, Cancel, NotRunnable, Returned, Run, Started, Tell, ToChild, Verdict
from router.worker.pipes import ChildPipe
from router.worker.runnables import (
    Routes,
    Runnable,
    arguments_of,
    callback_raised,
    context_of,
    encodable,
    prepare,
    raised,
    rss,
)
from router.worker.stepping import Mark, stepping_for, task_factory
from router.worker.telling import Follower

T = TypeVar("T")


class Sharing:
    """Serves shared runs until none is left; what else comes is put into ``inbox``."""

    def __init__(
        self, pipe: ChildPipe, routes: Routes, follower: Follower, mark: Mark, inbox: deque[ToChild], places: int
    ) -> None:
        """``places``: how many there may be at a time."""
        # Of our own, one for each run: what users' handlers have in the loop's own can't keep these waiting.
        self._threads = ThreadPoolExecutor(places, "router-shared")
        self._pipe = pipe
        self._routes = routes
        self._follower = follower
        self._mark = mark
        self._inbox = inbox
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._verdicts: dict[int, asyncio.Future[Verdict]] = {}
        self._overdue: set[int] = set()
        self._ended = asyncio.Event()
        self._parent_gone = False
        self._broken: BaseException | None = None

    async def serve(self, first: Run) -> None:
        """Raises EOFError where the parent is gone, and what can't be told to it."""
        loop = asyncio.get_running_loop()
        loop.set_task_factory(task_factory(self._mark))
        loop.add_reader(self._pipe.fileno(), self._read)
        try:
            for message in (first, *self._pipe.arrived()):
                self._take(message)
            while self._tasks and not self._parent_gone and self._broken is None:
                self._ended.clear()
                await self._ended.wait()
        finally:
            loop.remove_reader(self._pipe.fileno())
            loop.set_task_factory(None)
            self._threads.shutdown(wait=False)
        if self._parent_gone:
            raise EOFError("the parent is gone")
        if self._broken is not None:
            raise self._broken

    def _read(self) -> None:
        try:
            for message in self._pipe.read():
                self._take(message)
        except (EOFError, OSError):
            self._parent_gone = True
            self._ended.set()

    def _take(self, message: ToChild) -> None:
        match message:
            case Run(shared=True):
                self._start(message)
            case Verdict(run):
                self._verdicts.pop(run).set_result(message)
            case Cancel(run) if run in self._tasks:
                self._overdue.add(run)
                self._tasks[run].cancel()
            case Cancel():
                pass  # it has just ended by itself
            case Tell(event):
                self._follower.tell(event)
            case _:
                self._inbox.append(message)

    def _start(self, message: Run) -> None:
        number = message.run
        self._mark.set(number)
        try:
            job, runnable, unread = prepare(message.body, self._routes, self._pipe.flush)
        except (UndecodableJob, LookupError, InvalidPayload) as error:
            self._pipe.send(NotRunnable(number, encodable(str(error.args[0]))))
            return
        finally:
            self._mark.set(0)
        context = contextvars.copy_context()
        context.run(stepping_for.set, number)
        attempt = self._attempt(message, job, runnable, unread)
        self._tasks[number] = task = asyncio.get_running_loop().create_task(attempt, context=context)
        task.add_done_callback(lambda task: self._done(number, task))

    def _done(self, number: int, task: asyncio.Task[None]) -> None:
        del self._tasks[number]
        self._overdue.discard(number)
        if not task.cancelled():
            self._broken = self._broken or task.exception()
        self._ended.set()

    async def _attempt(self, message: Run, job: Job, runnable: Runnable, unread: Unread) -> None:
        number, event = message.run, unread.payload
        context = context_of(job, runnable, message.queue)
        began = time.perf_counter()
        self._pipe.send(Started(number))
        self._follower.started(job, message.queue, runnable.options)
        with running(context):
            try:
                if unread.refers:
                    event = await self._in_thread(unread.load)
                await self._call(runnable.handler, event, context=context)
            except BaseException as error:  # noqa: BLE001 - what a handler raises is its failure, not the child's end
                overdue = number in self._overdue and isinstance(error, asyncio.CancelledError)
                if overdue:
                    error = JobTimeout(f"ran longer than {runnable.options.timeout:g} s and was cancelled")
                self._overdue.discard(number)
                verdict = self._verdicts[number] = asyncio.get_running_loop().create_future()
                self._pipe.send(raised(number, time.perf_counter() - began, error, runnable, overdue=overdue))
                while not verdict.done():
                    # A Cancel may still come that was sent before the parent heard of the end.
                    with suppress(asyncio.CancelledError):
                        await asyncio.wait((verdict,))
                name = verdict.result().callback
                if name is not None:
                    await self._callback(number, name, error, job, runnable, event)
            else:
                self._pipe.send(Returned(number, time.perf_counter() - began, rss()))

    async def _callback(
        self, number: int, name: Callback, error: BaseException, job: Job, runnable: Runnable, event: Any
    ) -> None:
        try:
            if name in runnable.callbacks:
                await self._call(runnable.callbacks[name], *arguments_of(name, job, error, event))
        except BaseException as problem:  # noqa: BLE001 - it is logged
            callback_raised(name, job, problem, error)
        self._pipe.send(Called(number))

    async def _call(self, handler: Handler, *arguments: Any, context: Context | None = None) -> None:
        call = partial(handler.call_with, context, *arguments)
        await (call() if handler.is_async else self._in_thread(call))

    async def _in_thread(self, call: Callable[[], T]) -> T:
        """Call what may block. Cancelled meanwhile, it ends when the thread does: that alone would go on for ever."""
        context = contextvars.copy_context()
        running = asyncio.get_running_loop().run_in_executor(self._threads, context.run, call)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait((running,))
            raise
