"""Two ways to carry out steps that now and then have something to await: from plain code, and on a running loop.

The steps are written once, as a generator that yields what is to be awaited. From plain code, plain handlers are called
with no event loop around them, as in a worker, so that they may call `asyncio.run` themselves.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Generator
from contextlib import closing
from functools import partial
from typing import Any, TypeVar

from router.errors import RouterError

T = TypeVar("T")
Steps = Generator[Awaitable[Any], None, T]


def drive(steps: Steps[T]) -> T:
    """From plain code; what is to be awaited gets an event loop. Raises RouterError where one is running already."""
    resume: Callable[[], Awaitable[Any]] = partial(next, steps)
    with closing(asyncio.Runner()) as runner:
        while True:
            try:
                awaitable = resume()
            except StopIteration as end:
                result: T = end.value
                return result
            if _loop_is_running():
                if asyncio.iscoroutine(awaitable):
                    awaitable.close()
                steps.close()
                raise RouterError("a handler is an `async def` and an event loop is running here: `await arun_jobs()`")
            try:
                runner.run(_await(awaitable), context=contextvars.copy_context())
            except BaseException as error:  # noqa: BLE001 - the steps decide what it means
                resume = partial(steps.throw, error)
            else:
                resume = partial(next, steps)


async def adrive(steps: Steps[T]) -> T:
    """On the loop that runs here."""
    resume: Callable[[], Awaitable[Any]] = partial(next, steps)
    while True:
        try:
            awaitable = resume()
        except StopIteration as end:
            result: T = end.value
            return result
        try:
            await awaitable
        except BaseException as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                steps.close()
                raise
            resume = partial(steps.throw, error)
        else:
            resume = partial(next, steps)


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
