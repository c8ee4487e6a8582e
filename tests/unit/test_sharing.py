"""In a child, shared runs on one event loop: what the parent says crosses with what they do."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from router.app.listeners import Listeners
from router.config.settings import AsyncOptions, Backoff, Point, Route, Settings
from router.jobs.job import Job, encode
from router.routing.references import References
from router.routing.table import compile_table
from router.worker.child import Child
from router.worker.messages import Called, Cancel, Raised, Returned, Run, Started, Stop, ToParent, Verdict
from router.worker.pipes import ChildPipe, ParentPipe
from router.worker.runnables import import_routes
from router.worker.stepping import Mark, new_memory
from router.worker.telling import Follower

DEADLINE = 20.0


async def refuses(event: Any) -> None:
    raise ValueError("no")


async def gives_itself_up(event: Any) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    raise ValueError("no")


async def works(event: Any) -> None:
    await asyncio.sleep(0)


async def called_back(attempt: int, error: BaseException) -> None:
    await asyncio.sleep(0)


def route(handler: str) -> Route:
    options = AsyncOptions(
        queue="q",
        delay=0,
        max_attempts=2,
        backoff=Backoff("fixed", (1.0,)),
        timeout=5,
        on_retry=f"{__name__}:called_back",
    )
    return Route(handler, "p", f"{__name__}:{handler}", options=options)


TABLE = compile_table(
    Settings(path="x", hash="x", points=(Point("p", tuple(map(route, ("refuses", "gives_itself_up", "works")))),))
)


def run(number: int, handler: str) -> Run:
    job = Job(v=1, job="j", point="p", route=handler, event=msgspec.Raw(b"{}"), dispatched_at=0.0, correlation="c")
    return Run(number, "q", encode(job), True)


class Talk:
    """A child in a thread of this process, and the parent's end of its pipe."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.pipe, memory = ParentPipe(ours), new_memory()
        follower = Follower(Listeners(), "w")
        child = Child(ChildPipe(theirs), import_routes(TABLE, References()), follower, Mark(memory))
        os.close(memory)
        self._theirs = theirs
        self._thread = threading.Thread(target=child.serve, daemon=True)
        self._thread.start()

    def hear(self, *expected: type[ToParent]) -> list[ToParent]:
        """What it says, which has to be of these types."""
        heard: list[ToParent] = []
        give_up_at = time.monotonic() + DEADLINE
        while len(heard) < len(expected) and time.monotonic() < give_up_at:
            heard += self.pipe.receive()
            time.sleep(0.001)
        assert [type(message) for message in heard] == list(expected)
        return heard

    def end(self) -> None:
        self.pipe.send(Stop())
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()
        self.pipe.close()
        self._theirs.close()


@pytest.fixture
def talk() -> Iterator[Talk]:
    talk = Talk()
    yield talk
    talk.end()


@pytest.mark.parametrize("handler", ["refuses", "gives_itself_up"])
def test_a_cancel_that_crosses_with_what_was_raised_costs_neither_the_callback_nor_what_comes_with_it(
    talk: Talk, handler: str
) -> None:
    talk.pipe.send(run(1, handler))
    talk.hear(Started, Raised)
    for message in (Cancel(1), Verdict(1, "onRetry"), run(2, "works")):
        talk.pipe.post(message)
    talk.pipe.flush()
    heard = talk.hear(Started, Called, Returned)
    assert [message.run for message in heard] == [2, 1, 2]  # type: ignore[union-attr]
