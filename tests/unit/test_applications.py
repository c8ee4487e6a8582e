"""A Router inside an application: an event loop that is never kept waiting, forks, transactions of SQLAlchemy."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import sqlalchemy
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Mapped

import router as package
from router import DispatchError, HandlerImportError, InvalidPayload, Router, RouterError, UnknownPoint
from router.app import default
from router.brokers.base import Outgoing, Receipt
from router.config import Look, load
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

async def gives_up(event):
    import asyncio
    task = asyncio.create_task(asyncio.sleep(60))
    task.cancel()
    await task

def leaves(event):
    raise SystemExit(3)

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
  given.up: {handlers: [{handler: "app_handlers:gives_up"}, {handler: "app_handlers:job", async: true}]}
  left: {handlers: [{handler: "app_handlers:leaves"}, {handler: "app_handlers:job", async: true}]}
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
    for name in ("app_handlers", "app_slow", "app_waits", "app_broken"):
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

    monkeypatch.setattr("router.app.router.connect", lambda *a, **k: (blocking(), connect(*a, **k))[1])
    return "queued"


def slow_publish(app: Router, blocking: Blocking, monkeypatch: pytest.MonkeyPatch) -> str:
    publish = app.broker.publish
    monkeypatch.setattr(app.broker, "publish", lambda *a, **k: (blocking(), publish(*a, **k))[1])
    return "queued"


def slow_listener(app: Router, blocking: Blocking, monkeypatch: pytest.MonkeyPatch) -> str:
    app.on("dispatched", blocking)
    app._plan("awaited")
    return "awaited"


SLOW: dict[str, Slow] = {
    "a synchronous handler": lambda *_: "blocks",
    "an import at the first use of a point": lambda *_: "imported",
    "checking and building the event": lambda *_: "typed",
    "the look at the file": slow_look,
    "connecting to the broker": slow_broker,
    "publishing": slow_publish,
    "a listener": slow_listener,
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


SETS_UP = """
import asyncio, router

router.register("noted", "app_handlers:noted", id="at-import")
router.on("failed", print)

def setup(given):
    assert router.configure() is given
    router.register_async("noted", "app_handlers:noted", id="in-setup")
    asyncio.run(router.adispatch("noted", {"n": 1}))
"""


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("whose", ["the package's", "one that another takes the place of", "a worker's", "another's"])
def test_in_a_bootstrap_and_what_it_imports_the_functions_of_the_package_are_those_of_its_router(
    folder: Path, monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    monkeypatch.setattr(default, "_default", None)
    if whose == "one that another takes the place of":
        package.configure()
    monkeypatch.delitem(sys.modules, "app_sets_up", raising=False)
    (folder / "app_sets_up.py").write_text(SETS_UP)
    (folder / "extensions.yaml").write_text(FILE + "bootstrap: app_sets_up:setup\n")
    match whose:
        case "the package's":
            made = default.default_router()
        case "another's":
            made = Router("extensions.yaml")
        case "a worker's":
            made = Router.from_settings(load("extensions.yaml").settings)
        case _:
            made = package.configure("extensions.yaml")
    assert {route.id for route in made.table.points["noted"].routes} >= {"at-import", "in-setup"}
    assert made.listeners.by_name == {"failed": (print,)}
    assert {"n": 1} in seen()


def test_a_bootstrap_that_configures_another_router_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "app_other.py").write_text("import router\ndef setup(_): router.configure('other.yaml')")
    (folder / "other.yaml").write_text(FILE)
    (folder / "extensions.yaml").write_text(FILE + "bootstrap: app_other:setup\n")
    monkeypatch.setattr(default, "_default", None)
    for make in (package.configure, lambda: Router("extensions.yaml")):
        with pytest.raises(RouterError, match="can't configure another router"):
            make()


@pytest.mark.parametrize("given", [{"config": "extensions.yaml"}, {"env": "test"}])
def test_a_default_router_that_takes_the_place_of_another_says_what_that_was_given_by_hand(
    folder: Path, monkeypatch: pytest.MonkeyPatch, given: Any
) -> None:
    (folder / "extensions.yaml").write_text(FILE + "bootstrap: app_broken:setup\n")
    (folder / "extensions.test.yaml").write_text("version: 1\n")
    (folder / "app_broken.py").write_text("def setup(router): router.register('noted', print, id='of-bootstrap')\n")
    monkeypatch.setattr(default, "_default", None)
    package.register("noted", print, id="by-hand")
    package.on("queued", print)
    package.register_reference(Slot, key=str, load=lambda cls, key: None)
    first = package.configure()
    with pytest.warns(
        UserWarning, match="route by-hand of noted, a listener of 'queued', the reference to Slot"
    ) as told:
        second = package.configure(**given)
    assert "of-bootstrap" not in str(told[0].message)
    assert told[0].filename == __file__
    assert first is not second is package.configure()
    package.configure(**given)  # of what bootstrap registers, the next one has it too


def test_configure_without_a_file_keeps_the_default_router_and_its_overlay_but_lets_it_look_no_more(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "extensions.test.yaml").write_text("version: 1\n")
    monkeypatch.setattr(default, "_default", None)
    first = package.configure(env="test")
    package.register("noted", print, id="by-hand")
    assert package.configure(env="test", hot_reload=False) is first
    monkeypatch.setattr(Look, "changed", lambda look: pytest.fail("it looks"))
    monkeypatch.setattr(time, "monotonic", lambda: 1e12)
    package.dispatch("noted")


class Slot: ...


def test_what_workers_wont_know_is_told_in_the_line_that_registers_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, app: Router
) -> None:
    monkeypatch.setattr(default, "_default", app)
    for which, registrar in enumerate([package, app]):
        with pytest.warns(UserWarning, match="workers won't know this route") as told:
            registrar.register_async("noted", "app_handlers:job", id=f"job-{which}")
        assert told[0].filename == __file__
        with pytest.warns(UserWarning, match="workers, which won't know this listener") as told:
            registrar.on("failed", print)
        assert told[0].filename == __file__


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("len(7)", r"TypeError: object of type 'int' has no len\(\)"),
        ("router.register('a b', print)", "RegistrationError: .* can't be the name of an extension point: .*"),
        ("raise SystemExit(0)", "SystemExit: 0"),
    ],
)
def test_what_comes_out_of_a_bootstrap_is_told_with_its_place(folder: Path, statement: str, said: str) -> None:
    (folder / "app_broken.py").write_text(f"def setup(router):\n    {statement}\n")
    (folder / "extensions.yaml").write_text(FILE + "bootstrap: app_broken:setup\n")
    with pytest.raises(HandlerImportError, match=rf"^app_broken:setup: {said} \(at .*app_broken.py:2\)$") as caught:
        Router()
    assert type(caught.value.__cause__).__name__ in said


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("def setup(): ...", "too many positional arguments; it is called with one argument, the router"),
        ("def setup(router, x): ...", "missing a required argument: 'x'; it is called with one argument, the router"),
        ("async def setup(router): ...", "nobody awaits an `async def` here; bootstrap is a plain function"),
        ("def setup(router): yield", "it has a `yield`, so that nothing of it runs when it is called"),
        ("setup = 7", "can't be called; bootstrap is a function that takes the router"),
    ],
)
def test_what_is_no_bootstrap_is_told_how_one_is_called(folder: Path, body: str, said: str) -> None:
    (folder / "app_broken.py").write_text(body)
    (folder / "extensions.yaml").write_text(FILE + "bootstrap: app_broken:setup\n")
    with pytest.raises(HandlerImportError, match=f"^app_broken:setup.*{said}"):
        Router()


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


# -- transactions ----------------------------------------------------------------------------------------------------


class Base(orm.DeclarativeBase): ...


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = orm.mapped_column(primary_key=True)
    name: Mapped[str] = orm.mapped_column(unique=True)


@pytest.fixture
def engine(folder: Path) -> Iterator[sqlalchemy.Engine]:
    engine = sqlalchemy.create_engine(f"sqlite:///{folder}/shop.db")

    # As SQLAlchemy's documentation says: Python's driver doesn't begin transactions when savepoints need them.
    @sqlalchemy.event.listens_for(engine, "connect")
    def _(connection: Any, _: object) -> None:
        connection.isolation_level = None

    @sqlalchemy.event.listens_for(engine, "begin")
    def _(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")

    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def session(engine: sqlalchemy.Engine) -> Iterator[orm.Session]:
    with orm.Session(engine) as session:
        yield session


def payloads(app: Router) -> list[Any]:
    return [msgspec.json.decode(job.event) for job in queued(app)]


def orders(engine: sqlalchemy.Engine) -> list[str]:
    """What others see of the table."""
    with engine.connect() as connection:
        return [*connection.scalars(sqlalchemy.select(Order.name).order_by(Order.id))]


def away(batch: list[Outgoing], deadline: float = 10) -> Receipt:
    return Receipt((), {}, {job.id: "the broker is away" for job in batch})


def test_after_the_commit_the_handlers_run_and_the_jobs_of_all_events_are_published_together(
    app: Router, engine: sqlalchemy.Engine, session: orm.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    publish = app.broker.publish
    monkeypatch.setattr(app.broker, "publish", lambda jobs, **k: (batches.append(len(jobs)), publish(jobs, **k))[1])
    app.register("queued", lambda event: orders(engine), id="looks")
    session.add(Order(name="lamp"))
    first = app.after_commit(session).dispatch("queued", {"n": 1})
    second, third = app.after_commit(session).dispatch_many([("queued", {"n": 2}), ("queued", {"n": 3})])
    session.flush()
    assert (first.done, queued(app)) == (None, [])
    session.commit()
    assert payloads(app) == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert batches == [3]
    for deferred in (first, second, third):
        assert deferred.done is not None
        assert deferred.done.event_id == deferred.event_id
        assert deferred.done.results == {"looks": ["lamp"]}
        assert [*deferred.done.jobs] == ["app_handlers:job"]


ENDS: dict[str, tuple[Callable[[orm.Session], object], bool]] = {
    "commit": (lambda session: session.commit(), True),
    "rollback": (lambda session: session.rollback(), False),
    "close": (lambda session: session.close(), False),
    "a flush that fails": (lambda session: session.add_all([Order(name="lamp"), Order(name="lamp")]), False),
}


@pytest.mark.parametrize("how", ENDS)
def test_only_a_commit_dispatches(app: Router, session: orm.Session, how: str) -> None:
    end, dispatched = ENDS[how]
    session.add(Order(name="chair"))
    deferred = app.after_commit(session).dispatch("queued", {"n": 1})
    session.flush()
    end(session)
    if how == "a flush that fails":
        with pytest.raises(sqlalchemy.exc.IntegrityError):
            session.commit()
        session.rollback()
    session.add(Order(name="table"))
    session.commit()
    assert (len(payloads(app)), deferred.done is not None) == (dispatched, dispatched)


def test_a_savepoint_takes_with_it_what_was_called_inside_and_waits_for_the_outermost_commit(
    app: Router, session: orm.Session
) -> None:
    later = app.after_commit(session)
    later.dispatch("queued", {"n": "outside"})
    with session.begin_nested():
        later.dispatch("queued", {"n": "released"})
        with session.begin_nested() as inner:
            later.dispatch("queued", {"n": "rolled back"})
            with session.begin_nested():
                later.dispatch("queued", {"n": "released into what is rolled back"})
            inner.rollback()
        later.dispatch("queued", {"n": "released, too"})
    later.dispatch("queued", {"n": "outside again"})
    assert payloads(app) == []
    session.commit()
    assert [each["n"] for each in payloads(app)] == ["outside", "released", "released, too", "outside again"]


def test_a_rollback_drops_what_savepoints_have_released(app: Router, session: orm.Session) -> None:
    session.begin()
    with session.begin_nested():
        app.after_commit(session).dispatch("queued", {"n": 1})
    session.rollback()
    session.commit()
    assert payloads(app) == []


def test_one_commit_that_ends_open_savepoints_dispatches_once(app: Router, session: orm.Session) -> None:
    session.begin_nested()
    app.after_commit(session).dispatch("queued", {"n": 1})
    session.commit()
    session.commit()
    assert payloads(app) == [{"n": 1}]


def test_from_within_a_flush_it_belongs_to_the_transaction_around(app: Router, session: orm.Session) -> None:
    @sqlalchemy.event.listens_for(session, "after_flush")
    def _(session: orm.Session, _: object) -> None:
        app.after_commit(session).dispatch("queued", {"new": [each.name for each in session.new]})

    session.add(Order(name="lamp"))
    session.commit()
    session.add(Order(name="chair"))
    session.flush()
    session.rollback()
    assert payloads(app) == [{"new": ["lamp"]}]


def test_outside_a_transaction_it_belongs_to_the_next(app: Router, session: orm.Session) -> None:
    app.after_commit(session).dispatch("queued", {"n": 1})
    session.commit()
    app.after_commit(session).dispatch("queued", {"n": 2})
    with session.begin():
        session.add(Order(name="lamp"))
    app.after_commit(session).dispatch("queued", {"n": 3})
    session.add(Order(name="chair"))
    session.rollback()
    session.commit()
    assert payloads(app) == [{"n": 1}, {"n": 2}]


def test_the_event_is_checked_and_copied_when_it_is_called_for(app: Router, session: orm.Session) -> None:
    app.register("queued", lambda event: event, id="gets")
    later = app.after_commit(session)
    payload = {"items": [{"sku": "lamp"}]}
    deferred = later.dispatch("queued", payload)
    payload["items"][0]["sku"] = "changed"
    with pytest.raises(UnknownPoint, match="did you mean 'queued'"):
        later.dispatch("queud", {})
    with pytest.raises(InvalidPayload, match=r"items\[0\]|items"):
        later.dispatch("queued", {"items": [object()]})
    with pytest.raises(InvalidPayload, match="can't be copied"):
        later.dispatch("noted", {"lock": threading.Lock()})
    with pytest.raises(ValueError, match="no queue"):
        later.dispatch("queued", {}, queue="nix")
    with pytest.raises(InvalidPayload):
        later.dispatch_many([("queued", {"n": 1}), ("queued", {"n": object()})])
    session.commit()
    assert payloads(app) == [{"items": [{"sku": "lamp"}]}]
    assert deferred.done is not None
    assert deferred.done.results == {"gets": {"items": [{"sku": "lamp"}]}}


def test_delay_counts_from_the_commit_and_at_is_a_time(app: Router, session: orm.Session) -> None:
    later = app.after_commit(session)
    soon = datetime.now(UTC) + timedelta(milliseconds=100)
    later.dispatch("queued", {"n": "delay"}, delay=600)
    later.dispatch("queued", {"n": "at"}, at=soon)
    while datetime.now(UTC) < soon:
        time.sleep(0.01)
    session.commit()
    assert payloads(app) == [{"n": "at"}]


def test_an_event_whose_handler_raises_keeps_no_other_from_its_jobs(
    app: Router, engine: sqlalchemy.Engine, session: orm.Session, caplog: pytest.LogCaptureFixture
) -> None:
    session.add(Order(name="lamp"))
    later = app.after_commit(session)
    later.dispatch("queued", {"n": 1})
    refused = later.dispatch("refused", {"n": 2})
    later.dispatch("queued", {"n": 3})
    with pytest.raises(KeyError, match="no"):
        session.commit()
    assert payloads(app) == [{"n": 1}, {"n": 3}]
    assert refused.done is None
    assert "after the commit, a handler of refused raised" in caplog.text
    assert orders(engine) == ["lamp"]


@pytest.mark.parametrize("point", ["given.up", "left"])
def test_a_handler_that_ends_in_no_ordinary_exception_keeps_no_other_event_from_its_jobs(
    app: Router, session: orm.Session, caplog: pytest.LogCaptureFixture, point: str
) -> None:
    later = app.after_commit(session)
    later.dispatch("queued", {"n": 1})
    later.dispatch(point, {"n": 2})
    later.dispatch("queued", {"n": 3})
    with pytest.raises((asyncio.CancelledError, SystemExit)):
        session.commit()
    assert payloads(app) == [{"n": 1}, {"n": 3}]
    assert f"after the commit, a handler of {point} raised" in caplog.text


def test_what_could_not_be_published_is_raised_by_the_commit_and_can_be_sent_again(
    app: Router,
    engine: sqlalchemy.Engine,
    session: orm.Session,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def place() -> None:
        with session.begin():
            session.add(Order(name="lamp"))
            app.after_commit(session).dispatch("refused", {"n": 0})
            app.after_commit(session).dispatch("queued", {"n": 1})

    with monkeypatch.context() as patched:
        patched.setattr(app.broker, "publish", away)
        with pytest.raises(DispatchError, match="the broker is away") as caught:
            place()
    assert "the broker is away" in caplog.text
    assert orders(engine) == ["lamp"]
    session.add(Order(name="chair"))  # the session goes on
    session.commit()
    assert orders(engine) == ["lamp", "chair"]
    assert payloads(app) == []
    app.resend(caught.value.unconfirmed)
    assert payloads(app) == [{"n": 1}]


def test_a_handler_may_use_the_session_for_its_own_work(
    app: Router, engine: sqlalchemy.Engine, session: orm.Session
) -> None:
    def handler(event: dict[str, Any]) -> None:
        session.add(Order(name=f"of {event['n']}"))
        session.commit()

    app.register("queued", handler, id="works")
    app.after_commit(session).dispatch("queued", {"n": 1})
    session.commit()
    assert orders(engine) == ["of 1"]


HOOKS = ("after_transaction_create", "after_commit", "after_transaction_end")


def test_sessions_leave_nothing_behind(app: Router, engine: sqlalchemy.Engine) -> None:
    def listeners() -> list[int]:
        with orm.Session(engine) as session:
            return [len(getattr(session.dispatch, name)) for name in HOOKS]

    def use(end: Callable[[orm.Session], object]) -> tuple[weakref.ref[orm.Session], list[Any]]:
        session = orm.Session(engine)
        session.execute(sqlalchemy.select(Order))
        app.after_commit(session).dispatch("queued", {"n": 1})
        end(session)
        return weakref.ref(session), [*session.info]

    use(orm.Session.commit)
    before = listeners()
    for end in (orm.Session.commit, orm.Session.rollback, orm.Session.close):
        assert use(end)[1] == []
    forgotten, _ = use(lambda _: None)
    gc.collect()
    assert forgotten() is None
    assert listeners() == before
    assert min(before) >= 1


def test_two_routers_and_a_scoped_session(app: Router, folder: Path, engine: sqlalchemy.Engine) -> None:
    other = Router()
    scoped = orm.scoped_session(orm.sessionmaker(engine))
    app.after_commit(scoped).dispatch("queued", {"n": 1})
    other.after_commit(scoped).dispatch("queued", {"n": 2})
    scoped.commit()
    assert (payloads(app), payloads(other)) == ([{"n": 1}], [{"n": 2}])
    scoped.remove()
    other.close()


def test_what_is_no_session_is_refused(app: Router) -> None:
    with pytest.raises(TypeError, match=r"not object; with Django: transaction.on_commit"):
        app.after_commit(object())


def test_the_function_of_the_package_is_the_default_routers(
    app: Router, session: orm.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(default, "_default", app)
    package.after_commit(session).dispatch("queued", {"n": 1})
    session.commit()
    assert payloads(app) == [{"n": 1}]


@pytest.fixture
def in_async_session(folder: Path, engine: sqlalchemy.Engine) -> InAsyncSession:
    def run(call: Callable[[AsyncSession], Awaitable[None]]) -> None:
        async def main() -> None:
            engine = create_async_engine(f"sqlite+aiosqlite:///{folder}/shop.db")
            try:
                async with AsyncSession(engine) as session:
                    await call(session)
            finally:
                await engine.dispose()

        asyncio.run(main())

    return run


InAsyncSession = Callable[[Callable[[AsyncSession], Awaitable[None]]], None]


def test_the_commit_of_an_async_session_awaits_handlers_and_publishes_without_keeping_the_loop_waiting(
    app: Router, blocking: Blocking, in_async_session: InAsyncSession
) -> None:
    async def main(session: AsyncSession) -> None:
        session.add(Order(name="lamp"))
        awaited = await app.after_commit(session).adispatch("awaited", {})
        blocked = app.after_commit(session).dispatch("blocks", {"n": 1})
        await session.flush()
        assert not blocking.begun.is_set()
        await while_the_loop_goes_on(blocking, session.commit())
        assert awaited.done is not None
        assert awaited.done.results == {"app_handlers:awaited": threading.current_thread()}
        assert blocked.done is not None
        assert blocked.done.results["app_handlers:blocks"] == "blocked"

    in_async_session(main)
    assert payloads(app) == [{"n": 1}]


def test_a_rollback_of_an_async_session_drops(app: Router, in_async_session: InAsyncSession) -> None:
    async def main(session: AsyncSession) -> None:
        async with session.begin():
            await app.after_commit(session).adispatch("queued", {"n": 1})
            async with session.begin_nested() as savepoint:
                await app.after_commit(session).adispatch("queued", {"n": 2})
                await savepoint.rollback()
        await app.after_commit(session).adispatch("queued", {"n": 3})
        await session.execute(sqlalchemy.text("SELECT 1"))
        await session.rollback()
        await session.run_sync(lambda session: app.after_commit(session).dispatch("awaited", {}))
        await session.commit()

    in_async_session(main)
    assert payloads(app) == [{"n": 1}]


def test_a_handler_whose_own_task_was_cancelled_keeps_no_other_event_of_an_async_session_from_its_jobs(
    app: Router, in_async_session: InAsyncSession
) -> None:
    async def main(session: AsyncSession) -> None:
        for point in ("queued", "given.up", "queued"):
            app.after_commit(session).dispatch(point, {"point": point})
        await session.execute(sqlalchemy.text("SELECT 1"))
        with pytest.raises(asyncio.CancelledError):
            await session.commit()

    in_async_session(main)
    assert payloads(app) == [{"point": "queued"}, {"point": "queued"}]


def test_exceptions_come_out_of_the_commit_of_an_async_session(
    app: Router, in_async_session: InAsyncSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main(session: AsyncSession) -> None:
        app.after_commit(session).dispatch("refused.later", {"n": 1})
        app.after_commit(session).dispatch("queued", {"n": 2})
        with pytest.raises(KeyError, match="no"):
            await session.commit()
        app.after_commit(session).dispatch("queued", {"n": 3})
        with monkeypatch.context() as patched:
            patched.setattr(app.broker, "publish", away)
            with pytest.raises(DispatchError) as caught:
                await session.commit()
        app.resend(caught.value.unconfirmed)

    in_async_session(main)
    assert payloads(app) == [{"n": 2}, {"n": 3}]


def test_what_is_committed_is_dispatched_even_if_the_commit_is_cancelled_meanwhile(
    app: Router, blocking: Blocking, in_async_session: InAsyncSession
) -> None:
    async def main(session: AsyncSession) -> None:
        deferred = app.after_commit(session).dispatch("blocks", {"n": 1})
        committing = asyncio.create_task(session.commit())
        while not blocking.begun.is_set():
            await asyncio.sleep(0.005)
        committing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await committing
        blocking.over.set()
        while deferred.done is None:
            await asyncio.sleep(0.005)

    in_async_session(main)
    assert payloads(app) == [{"n": 1}]


def test_a_plain_session_in_asyncio_code_dispatches_as_it_commits_in_the_loops_thread(
    app: Router, session: orm.Session
) -> None:
    async def main() -> None:
        app.after_commit(session).dispatch("queued", {"n": 1})
        session.commit()

    asyncio.run(main())
    assert payloads(app) == [{"n": 1}]


def test_a_script_with_a_router_of_its_own_ends_without_a_word(tmp_path: Path) -> None:
    """What remembers it for forks met a half-dismantled interpreter, and said so."""
    (tmp_path / "extensions.yaml").write_text("version: 1\n")
    script = "import router; app = router.Router('extensions.yaml'); app.broker"
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE, check=True
    )
    assert ended.stderr == ""
