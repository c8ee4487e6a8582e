"""Which job a child is executing at this very moment, in memory that outlives the child.

Of many ``async def`` handlers in one child only one executes at a time; the others wait. When the child dies, or has to
be killed since that one doesn't give way, the parent reads here which one it was.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
from collections.abc import Coroutine, Generator
from contextvars import Context, ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any

from router.forks import in_forked_children

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task

_number = struct.Struct("Q")

stepping_for: ContextVar[int] = ContextVar("stepping_for", default=0)
"""The run to which what is executed in this context belongs; 0: none."""


class Mark:
    """The number of a run, shared by a parent and its child; 0: none."""

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, _number.size)
        in_forked_children(self, Mark._let_go)

    def _let_go(self) -> None:
        # What a copy of the child executes, forked by a handler, says nothing of the child.
        self._memory = mmap.mmap(-1, _number.size)

    def set(self, run: int) -> None:
        """That run executes from now on."""
        _number.pack_into(self._memory, 0, run)

    def get(self) -> int:
        """The run that executes, or did when the child died."""
        run: int = _number.unpack_from(self._memory)[0]
        return run

    def close(self) -> None:
        """Let go of the memory."""
        self._memory.close()


def new_memory() -> int:
    """A descriptor of memory for one `Mark`, to be closed by the caller."""
    if hasattr(os, "memfd_create"):  # a container may have no folder that can be written to, or a full one
        memory = os.memfd_create("router-mark")
        os.ftruncate(memory, _number.size)
        return memory
    with tempfile.TemporaryFile() as file:
        file.truncate(_number.size)
        return os.dup(file.fileno())


class Stepping(Coroutine[Any, Any, Any]):
    """A coroutine each step of which is marked as that run's."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], run: int, mark: Mark) -> None:
        self._coroutine = coroutine
        self._run = run
        self._mark = mark

    def send(self, value: Any) -> Any:
        """One step."""
        self._mark.set(self._run)
        try:
            return self._coroutine.send(value)
        finally:
            self._mark.set(0)

    def throw(self, kind: Any, value: Any = None, trace: TracebackType | None = None) -> Any:
        """One step, with an exception."""
        self._mark.set(self._run)
        try:
            return self._coroutine.throw(kind if value is None else value)
        finally:
            self._mark.set(0)

    def close(self) -> None:
        """End it."""
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coroutine.__await__()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)  # the frames that debuggers ask for


def task_factory(mark: Mark) -> Any:
    """Makes tasks whose steps are marked, those too that a handler makes itself."""

    from asyncio import Task  # slow to import

    def make(loop: AbstractEventLoop, coroutine: Any, context: Context | None = None, **more: Any) -> Task[Any]:
        run = stepping_for.get() if context is None else context.get(stepping_for, 0)
        return Task(Stepping(coroutine, run, mark) if run else coroutine, loop=loop, context=context, **more)

    return make
