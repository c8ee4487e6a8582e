"""A Router inside an application: an event loop that is never kept waiting, forks, transactions of SQLAlchemy."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import router as package
from router import Router, RouterError
from router.app import default
from router.brokers.base import Outgoing, Receipt
from router.config import Look
from router.jobs.job import Job, decode

DEADLINE = 20.0

HANDLERS = """
import dataclasses
import threading
from contextvars import ContextVar
from app_blocking import blocking

seen = []
tenant = ContextVar("tenant", default="nobody")

@dataclasses.dataclass
class Slow:
    n: int
    def __post_init__(self):
        blocking()

def first(event):
    seen.append(("first", threading.current_thread(), tenant.get()))
    tenant.set("set by first")

async def second(event):
    seen.append(("second", threading.current_thread(), tenant.get()))
    tenant.set("set by second")

def third(event):
    seen.append(("third", threading.current_thread(), tenant.get()))

def blocks(event):
    blocking()
    return "blocked"

def refuses(event):
    raise KeyError("no")

async def refuses_later(event):
    raise KeyError("no")

def runs_dry(event):
    next(iter([]))

def noted(event):
    seen.append(event)

async def awaited(event):
    return threading.current_thread()

def job(event): ...

def setup(router):
    blocking()
"""

FILE = """
version: 1
broker: {url: "memory://"}
extensions:
  ordered:
    handlers:
      - {handler: "app_handlers:third", priority: 30}
      - {handler: "app_handlers:second", priority: 20}
      - {handler: "app_handlers:first", priority: 10}
  blocks: {handlers: [{handler: "app_handlers:blocks"}, {handler: "app_handlers:noted"},
                      {handler: "app_handlers:job", async: true}]}
  imported: {handlers: [{handler: "app_slow:handler"}]}
  typed: {event: "app_handlers:Slow", handlers: [{handler: "app_handlers:noted"}]}
  queued: {handlers: [{handler: "app_handlers:job", async: true}]}
  refused: {handlers: [{handler: "app_handlers:refuses"}, {handler: "app_handlers:job", async: true}]}
  refused.later: {handlers: [{handler: "app_handlers:refuses_later"}, {handler: "app_handlers:job", async: true}]}
  tolerant:
    handlers:
      - {handler: "app_handlers:refuses", onError: continue}
      - {handler: "app_handlers:refuses_later", onError: continue}
      - {handler: "app_handlers:noted"}
  dry: {handlers: [{handler: "app_handlers:runs_dry"}]}
  noted: {handlers: [{handler: "app_handlers:noted"}]}
  awaited: {handlers: [{handler: "app_handlers:awaited"}]}
"""


class Blocking:
    """Something that takes as long as the test wants. Called in the loop's own thread it would never end, so that it
    raises after `DEADLINE` instead."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.over = threading.Event()

    def __call__(self, *_: object, **__: object) -> None:
        self.begun.set()
        assert self.over.wait(DEADLINE), "the loop did not go on meanwhile"


@pytest.fixture
def blocking(monkeypatch: pytest.MonkeyPatch) -> Blocking:
    blocking = Blocking()
    monkeypatch.setitem(sys.modules, "app_blocking", SimpleNamespace(blocking=blocking))  # type: ignore[arg-type]
    return blocking


@pytest.fixture
def folder(tmp_path: Path, blocking: Blocking, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "app_handlers.py").write_text(HANDLERS)
    (tmp_path / "app_slow.py").write_text("from app_blocking import blocking\nblocking()\ndef handler(event): ...")
    (tmp_path / "extensions.yaml").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in ("app_handlers", "app_slow", "app_waits"):
        sys.modules.pop(name, None)


@pytest.fixture
def app(folder: Path) -> Iterator[Router]:
    app = Router()
    yield app
    app.close()


def queued(app: Router) -> list[Job]:
    """The jobs that are on the broker and due."""
    consumer = app.broker.consumer("test")
    return [decode(delivery.body) for delivery in consumer.poll(dict.fromkeys(app.table.queues(), 1000))]


def seen() -> list[Any]:
    return sys.modules["app_handlers"].seen  # type: ignore[no-any-return]


# -- the loop --------------------------------------------------------------------------------------------------------


async def while_the_loop_goes_on(blocking: Blocking, call: Awaitable[Any]) -> Any:
    """Await ``call``, whose blocking ends only after the loop has gone round a few times."""
    task = asyncio.ensure_future(call)
    while not blocking.begun.is_set():
        assert not task.done(), task.result()
        await asyncio.sleep(0.005)
    for _ in range(10):
        await asyncio.sleep(0.001)
    assert not task.done()
    blocking.over.set()
    return await task


Slow = Callable[[Router, Blocking, pytest.MonkeyPatch], str]
"""Lets something take long, and names the point at which it does."""


def slow_look(app: Router, blocking: Blocking, monkeypatch: pytest.MonkeyPatch) -> str:
    app._reloader.look_at = 0
    monkeypatch.setattr(Look, "changed", blocking)
    return "noted"


def slow_broker(app: Router, blocking: Blocking, monkeypatch: pytest.MonkeyPatch) -> str:
    from router.brokers import connect

    monkeypatch.setattr("router.app.router.connect", lambda *arguments: (blocking(), connect(*arguments))[1])
    return "queued"


def slow_publish(app: Router, blocking: Blocking, monkeypatch: pytest.MonkeyPatch) -> str:
    publish = app.broker.publish
    monkeypatch.setattr(app.broker, "publish", lambda *a, **k: (blocking(), publish(*a, **k))[1])
    return "queued"


SLOW: dict[str, Slow] = {
    "a synchronous handler": lambda *_: "blocks",
    "an import at the first use of a point": lambda *_: "imported",
    "checking and building the event": lambda *_: "typed",
    "the look at the file": slow_look,
    "connecting to the broker": slow_broker,
    "publishing": slow_publish,
}


@pytest.mark.parametrize("what", SLOW)
def test_the_loop_goes_on_during(app: Router, blocking: Blocking, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    point = SLOW[what](app, blocking, monkeypatch)
    done = asyncio.run(while_the_loop_goes_on(blocking, app.adispatch(point, {"n": 1})))
    assert not done.errors


def test_the_loop_goes_on_while_the_default_router_is_made(
    folder: Path, blocking: Blocking, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "extensions.yaml").write_text(FILE + "bootstrap: app_handlers:setup\n")
    monkeypatch.setattr(default, "_default", None)
    asyncio.run(while_the_loop_goes_on(blocking, package.adispatch("noted", {"n": 1})))
    assert seen() == [{"n": 1}]


def test_a_bootstrap_that_would_wait_for_itself_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "app_waits.py").write_text(
        "import asyncio, router\ndef setup(_): asyncio.run(router.adispatch('noted', {}))"
    )
    (folder / "extensions.yaml").write_text(FILE + "bootstrap: app_waits:setup\n")
    monkeypatch.setattr(default, "_default", None)
    with pytest.raises(RouterError, match="in `bootstrap`, use the router that it is given"):
        asyncio.run(package.adispatch("noted", {}))


def test_handlers_of_both_kinds_run_by_priority_and_share_context_variables_with_the_caller(app: Router) -> None:
    async def main() -> str:
        await app.adispatch("noted", {})  # imports the handlers
        tenant: ContextVar[str] = sys.modules["app_handlers"].tenant
        tenant.set("set by the caller")
        seen().clear()
        done = await app.adispatch("ordered", {})
        assert [*done.results] == ["app_handlers:first", "app_handlers:second", "app_handlers:third"]
        return tenant.get()

    assert asyncio.run(main()) == "set by second"
    assert [(name, tenant) for name, _, tenant in seen()] == [
        ("first", "set by the caller"),
        ("second", "set by first"),
        ("third", "set by second"),
    ]
    main_thread = threading.current_thread()
    assert [thread is main_thread for _, thread, _ in seen()] == [False, True, False]


def test_what_is_only_awaited_needs_no_thread(app: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        await app.adispatch("awaited", {})
        monkeypatch.setattr(asyncio.get_running_loop(), "run_in_executor", None)
        assert (await app.adispatch("awaited", {})).results == {"app_handlers:awaited": threading.current_thread()}

    asyncio.run(main())


@pytest.mark.parametrize("point", ["refused", "refused.later"])
def test_an_exception_propagates_unchanged_and_nothing_is_queued(app: Router, point: str) -> None:
    with pytest.raises(KeyError, match="no"):
        asyncio.run(app.adispatch(point, {}))
    assert queued(app) == []


def test_on_error_continue_keeps_the_exceptions_of_both_kinds_and_goes_on(app: Router) -> None:
    done = asyncio.run(app.adispatch("tolerant", {"n": 1}))
    assert [type(error) for error in done.errors.values()] == [KeyError, KeyError]
    assert seen() == [{"n": 1}]


def test_a_handler_that_raises_stop_iteration_hangs_nobody(app: Router) -> None:
    async def main() -> None:
        async with asyncio.timeout(DEADLINE):
            await app.adispatch("dry", {})

    with pytest.raises(RuntimeError, match="StopIteration"):
        asyncio.run(main())


def test_after_a_cancellation_no_further_handler_runs_and_nothing_is_published(app: Router, blocking: Blocking) -> None:
    async def main() -> None:
        task = asyncio.create_task(app.adispatch("blocks", {}))
        while not blocking.begun.is_set():
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        blocking.over.set()

    asyncio.run(main())  # waits for the executor's threads
    assert seen() == []
    assert queued(app) == []


def test_jobs_that_could_not_be_published_after_a_cancellation_are_logged(
    app: Router, blocking: Blocking, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def publish(batch: list[Outgoing], deadline: float = 10) -> Receipt:
        blocking()
        return Receipt((), {}, {job.id: "the broker is away" for job in batch})

    monkeypatch.setattr(app.broker, "publish", publish)

    async def main() -> None:
        task = asyncio.create_task(app.adispatch("queued", {}))
        while not blocking.begun.is_set():
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        blocking.over.set()

    asyncio.run(main())
    assert "after its adispatch was cancelled" in caplog.text
    assert "the broker is away" in caplog.text


# -- forks -----------------------------------------------------------------------------------------------------------


def in_a_fork(call: Callable[[], object]) -> None:
    """``call`` in a forked child, which must end well within `DEADLINE`."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            call()
            code = 0
        except BaseException as error:  # noqa: BLE001 - nothing of pytest may go on in here
            os.write(2, f"in the forked child: {error!r}\n".encode())
        finally:
            os._exit(code)
    until = time.monotonic() + DEADLINE
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        if time.monotonic() > until:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            raise AssertionError("the forked child hangs")
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(ended[1]) == 0


def with_a_thread_inside(lock: Any, then: Callable[[], None]) -> None:
    """``then``, while another thread holds ``lock``."""
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            over.wait(DEADLINE * 2)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(DEADLINE)
    try:
        then()
    finally:
        over.set()
        thread.join()


def test_a_fork_while_a_thread_reloads_leaves_the_child_a_router_that_works(app: Router) -> None:
    with_a_thread_inside(app._lock, lambda: in_a_fork(lambda: app.dispatch("queued", {"n": 1})))


def test_a_fork_while_a_thread_makes_the_default_router_lets_the_child_make_its_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(default, "_default", None)
    with_a_thread_inside(default._lock, lambda: in_a_fork(lambda: package.dispatch("queued", {"n": 1})))


def test_forked_processes_make_ids_of_their_own(app: Router) -> None:
    """Of the same ids the broker would take one for another copy of the same job, and lose it."""
    app.dispatch("queued", {"n": 0})
    reading, writing = os.pipe()

    def tell() -> None:
        ids = [app.dispatch("queued", {"n": n}).jobs["app_handlers:job"] for n in range(3)]
        os.write(writing, (" ".join(ids) + "\n").encode())

    for _ in range(3):
        in_a_fork(tell)
    os.close(writing)
    with os.fdopen(reading) as lines:
        # Whatever the time of their making was: what follows it in a UUIDv7 is what tells processes apart.
        ends = [id[14:] for line in lines for id in line.split()]
    assert len(set(ends)) == 9
