"""In a child, shared runs on one event loop: what the parent says crosses with what they do."""

from __future__ import annotations

import asyncio
import json
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


class Row:
    """Travels by reference."""


released = threading.Event()


def load(cls: type, key: int) -> Row:
    if key == 1:
        released.wait(DEADLINE)
    return Row()


def called_back_plainly(attempt: int, error: BaseException) -> None:
    released.wait(DEADLINE)


async def called_back(attempt: int, error: BaseException) -> None:
    await asyncio.sleep(0)


def route(handler: str, point: str = "p", callback: str = "called_back") -> Route:
    options = AsyncOptions(
        queue="q",
        delay=0,
        max_attempts=2,
        backoff=Backoff("fixed", (1.0,)),
        timeout=5,
        on_retry=f"{__name__}:{callback}",
    )
    return Route(handler, point, f"{__name__}:{handler}", options=options)


TABLE = compile_table(
    Settings(
        path="x",
        hash="x",
        points=(
            Point("p", tuple(map(route, ("refuses", "gives_itself_up", "works")))),
            Point("plainly", (route("refuses", "plainly", "called_back_plainly"),)),
        ),
    )
)


def run(number: int, handler: str, event: str = "{}", point: str = "p") -> Run:
    job = Job(
        v=1,
        job="j",
        point=point,
        route=handler,
        event=msgspec.Raw(event.encode()),
        dispatched_at=0.0,
        correlation="c",
    )
    return Run(number, "q", encode(job), True)


def row(key: int) -> str:
    """The reference to one: 1 hangs until it is `released`."""
    return json.dumps({"$reference": f"{__name__}:Row", "key": key})


class Talk:
    """A child in a thread of this process, and the parent's end of its pipe."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.pipe, memory = ParentPipe(ours), new_memory()
        follower = Follower(Listeners(), "w")
        references = References()
        references.add(Row, key=lambda row: 1, load=load)
        child = Child(ChildPipe(theirs), import_routes(TABLE, references), follower, Mark(memory), 50)
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


def test_references_whose_loading_hangs_keep_nobody_waiting_and_do_not_give_way(talk: Talk) -> None:
    """They took all the threads there were: everybody else ran into their own timeout, for good."""
    released.clear()
    hanging = [run(number, "works", row(1)) for number in range(1, 31)]
    for message in hanging:
        talk.pipe.post(message)
    talk.pipe.flush()
    talk.hear(*[Started] * 30)
    for message in hanging:
        talk.pipe.post(Cancel(message.run))
    talk.pipe.post(run(99, "works", row(2)))
    talk.pipe.flush()
    assert [message.run for message in talk.hear(Started, Returned)] == [99, 99]  # type: ignore[union-attr]
    released.set()
    late = talk.hear(*[Raised] * 30)
    assert {message.asked for message in late} == {"timeout"}  # type: ignore[union-attr]
    for message in hanging:
        talk.pipe.post(Verdict(message.run, None))
    talk.pipe.flush()


def test_a_plain_callback_keeps_no_neighbour_waiting(talk: Talk) -> None:
    released.clear()
    talk.pipe.send(run(1, "refuses", point="plainly"))
    talk.hear(Started, Raised)
    talk.pipe.post(Verdict(1, "onRetry"))
    talk.pipe.post(run(2, "works"))
    talk.pipe.flush()
    assert [message.run for message in talk.hear(Started, Returned)] == [2, 2]  # type: ignore[union-attr]
    released.set()
    talk.hear(Called)


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
