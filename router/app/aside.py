"""How asyncio code uses a Router without keeping its event loop waiting: whatever may take long is done in threads."""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable, Generator
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Generic, TypeVar

log = logging.getLogger("router.app")

T = TypeVar("T")

Stages = Generator[Callable[[], Awaitable[Any]] | None, Any, T]
"""Something done in stages. Yields what is to be called and awaited by the event loop, and is given its result or
exception; yields None before each step that a cancellation prevents."""


class _End(Generic[T]):
    def __init__(self, value: T) -> None:
        self.value = value


class _Progress(Generic[T]):
    def __init__(self, stages: Stages[T]) -> None:
        self._stages = stages
        self._mutex = threading.Lock()
        self._inside = False
        self._cancelled = False

    def go_on(self, result: Any, error: Exception | None) -> _End[T] | Callable[[], Awaitable[Any]] | None:
        """Run until something is to be awaited, or to the end; None if it was cancelled."""
        with self._mutex:
            if self._cancelled:
                return None
            self._inside = True
        try:
            asked = self._stages.send(result) if error is None else self._stages.throw(error)
            while asked is None and not self._cancelled:
                asked = next(self._stages)
            return asked
        except StopIteration as end:
            return _End(end.value)
        except Exception:
            if self._cancelled:  # nobody waits for it any more
                log.exception("after its adispatch was cancelled")
            raise
        finally:
            with self._mutex:
                self._inside = False
                if self._cancelled:
                    self._stages.close()

    def cancel(self) -> None:
        """Go no further, and let the stages clean up: at once, or when the step that a thread is in has ended."""
        with self._mutex:
            self._cancelled = True
            if not self._inside:
                self._stages.close()


async def run_aside(stages: Stages[T], *, threads: bool = True) -> T:
    """Run ``stages`` to the end, all but what is to be awaited in threads; ``threads`` False: all here."""
    import asyncio  # slow to import; whoever calls this has it

    progress = _Progress(stages)
    result: Any = None
    error: Exception | None = None
    while True:
        going_on = partial(progress.go_on, result, error)
        try:
            asked = await in_thread(going_on) if threads else going_on()
        except asyncio.CancelledError:
            progress.cancel()
            raise
        if isinstance(asked, _End):
            return asked.value
        assert asked is not None
        result = error = None
        try:
            result = await asked()
        except Exception as raised:  # noqa: BLE001 - the stages say what becomes of it
            error = raised
        except BaseException:
            progress.cancel()
            raise


async def in_thread(call: Callable[[], T]) -> T:
    """Call it in a thread of the loop's executor. It sees our context variables, and we see what it makes of them."""
    import asyncio

    context = copy_context()
    running = asyncio.get_running_loop().run_in_executor(None, context.run, call)
    try:
        return await running
    finally:
        if not running.cancelled():
            _take_over(context)


def _take_over(context: Context) -> None:
    missing = object()
    for variable, value in context.items():
        if variable.get(missing) is not value:
            variable.set(value)
