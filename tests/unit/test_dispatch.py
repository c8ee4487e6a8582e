"""`router.dispatch` and its relatives, in one process, on the broker in memory."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import types
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from router import (
    DispatchError,
    HandlerImportError,
    InvalidPayload,
    RegistrationError,
    Router,
    RouterError,
    UnknownPoint,
)
from router.app.plan import Plan, make_plan
from router.brokers.base import Outgoing, Receipt
from router.config.settings import Point
from router.jobs.job import Job, decode
from router.routing.handlers import Handler, import_handler

HANDLERS = """
import dataclasses
import sys
import threading

@dataclasses.dataclass
class Paid:
    order_id: int

calls = []

def first(event):
    calls.append("first")
    return "one"

def second(event):
    calls.append("second")
    return "two"

def changes(event):
    event["order_id"] = 99

def refuses(event):
    raise KeyError("no")

def says_no(event):
    return False

def typed(event):
    return type(event).__name__

def with_context(event, context):
    return (context.point, context.route, context.job_id)

async def awaited(event):
    return "awaited"

def wrapped(event):
    return awaited(event)

class Class:
    def handle(self, event):
        return "handled"

class Callable:
    def __call__(self, event):
        return "called"

    def method(self, event): ...

    @classmethod
    def of_class(cls, event): ...

class Derived(Callable): ...

class Made:
    meeting = threading.Barrier(2)

    def __init__(self):
        self.meeting.wait(20)

    def handle(self, event): ...

class Leaves:
    def __init__(self):
        sys.exit(0)

    def handle(self, event): ...

def __getattr__(name):
    if name == "lazy":
        raise ImportError("no module for it")
    raise AttributeError(name)

def later(event): ...

async def later_awaited(event): ...
"""

FILE = """
version: 1
broker: {url: "memory://"}
extensions:
  ordered:
    handlers:
      - {handler: "unit_handlers:second", priority: 20}
      - {handler: "unit_handlers:first", priority: 10}
      - {handler: "unit_handlers:later", async: {delay: 60}, priority: 1}
  changed:
    handlers: [{handler: "unit_handlers:changes"}, {handler: "unit_handlers:later", async: true}]
  refused:
    handlers: [{handler: "unit_handlers:refuses"}, {handler: "unit_handlers:later", async: true}]
  tolerant:
    handlers:
      - {handler: "unit_handlers:refuses", onError: continue}
      - {handler: "unit_handlers:first"}
  stoppable:
    interruptible: true
    handlers:
      - {handler: "unit_handlers:says_no"}
      - {handler: "unit_handlers:first"}
      - {handler: "unit_handlers:later", async: true}
  paid:
    event: unit_handlers:Paid
    handlers: [{handler: "unit_handlers:typed"}, {handler: "unit_handlers:later", async: true}]
  kinds:
    handlers:
      - {handler: "unit_handlers:with_context"}
      - {handler: "unit_handlers:Class"}
      - {handler: "unit_handlers:Callable"}
      - {handler: "unit_handlers:awaited"}
  wrapped: {handlers: [{handler: "unit_handlers:wrapped"}]}
  wrapped.before:
    handlers:
      - {handler: "unit_handlers:wrapped", onError: continue}
      - {handler: "unit_handlers:later", async: true}
  single:
    handlers: [{handler: "unit_handlers:later", async: {uniqueJob: true, uniqueBy: [key]}}]
  empty: {}
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Router]:
    (tmp_path / "unit_handlers.py").write_text(HANDLERS)
    (tmp_path / "extensions.yaml").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import sys

    monkeypatch.delitem(sys.modules, "unit_handlers", raising=False)
    router = Router(tmp_path / "extensions.yaml")
    yield router
    router.close()
    sys.modules.pop("unit_handlers", None)


def queued(app: Router) -> list[tuple[str, Job]]:
    """What is on the broker and due."""
    consumer = app.broker.consumer("test")
    return [(d.queue, decode(d.body)) for d in consumer.poll(dict.fromkeys(app.table.queues(), 1000))]


def test_sync_handlers_run_by_priority_and_before_any_job_is_queued(app: Router) -> None:
    done = app.dispatch("ordered", {"order_id": 7})
    assert list(done.results.items()) == [("unit_handlers:first", "one"), ("unit_handlers:second", "two")]
    assert list(done.jobs) == ["unit_handlers:later"]


def test_jobs_do_not_see_what_sync_handlers_change(app: Router) -> None:
    app.dispatch("changed", {"order_id": 7})
    ((_, job),) = queued(app)
    assert msgspec.json.decode(job.event) == {"order_id": 7}


def test_an_exception_of_a_sync_handler_propagates_and_nothing_is_queued(app: Router) -> None:
    with pytest.raises(KeyError, match="no"):
        app.dispatch("refused", {})
    assert queued(app) == []


def test_on_error_continue_keeps_the_exception_and_goes_on(app: Router) -> None:
    done = app.dispatch("tolerant", {})
    assert isinstance(done.errors["unit_handlers:refuses"], KeyError)
    assert done.results == {"unit_handlers:first": "one"}


def test_false_at_an_interruptible_point_stops_everything_behind_it(app: Router) -> None:
    done = app.dispatch("stoppable", {})
    assert (done.stopped_by, dict(done.results), dict(done.jobs)) == (
        "unit_handlers:says_no",
        {"unit_handlers:says_no": False},
        {},
    )
    assert queued(app) == []


def test_an_event_object_finds_its_point_and_a_mapping_becomes_one(app: Router) -> None:
    from unit_handlers import Paid  # type: ignore[import-not-found]

    assert app.dispatch(Paid(7)).results == {"unit_handlers:typed": "Paid"}
    assert app.dispatch("paid", {"order_id": 7}).results == {"unit_handlers:typed": "Paid"}
    assert [msgspec.json.decode(job.event) for _, job in queued(app)] == [{"order_id": 7}] * 2


def test_a_plan_is_made_once_for_each_point_however_it_is_named(app: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    from unit_handlers import Paid  # type: ignore[import-not-found]

    made: list[str] = []

    def counting(point: Point, registered: Mapping[tuple[str, str], Handler], *more: Any, **named: Any) -> Plan:
        made.append(point.name)
        return make_plan(point, registered, *more, **named)

    monkeypatch.setattr("router.app.router.make_plan", counting)
    for _ in range(3):
        app.dispatch(Paid(7))
        app.dispatch("paid", {"order_id": 7})
        app.dispatch("tolerant", {})
    assert made == ["paid", "tolerant"]


def test_every_kind_of_handler_is_called(app: Router) -> None:
    done = app.dispatch("kinds", {})
    assert list(done.results.values()) == [
        ("kinds", "unit_handlers:with_context", None),
        "handled",
        "called",
        "awaited",
    ]


@pytest.mark.usefixtures("app")
def test_threads_that_need_a_class_for_the_first_time_together_share_its_instance() -> None:
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(import_handler, ["unit_handlers:Made"] * 2)
    assert first.call == second.call == import_handler("unit_handlers:Made").call


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize(
    "said",
    [
        r"Leaves: Leaves\(\) fails: SystemExit: 0; it is made with no arguments",
        r"lazy: looking up 'lazy' fails: ImportError: no module for it \(at .*unit_handlers.py:\d+\)",
    ],
)
def test_a_handler_that_cannot_be_had_is_told_as_one(said: str) -> None:
    with pytest.raises(HandlerImportError, match=f"^unit_handlers:{said}$"):
        import_handler("unit_handlers:" + said.partition(":")[0])


def test_adispatch_awaits_where_dispatch_would_block_the_loop(app: Router) -> None:
    async def main() -> None:
        assert (await app.adispatch("kinds", {})).results["unit_handlers:awaited"] == "awaited"
        with pytest.raises(RouterError, match="adispatch"):
            app.dispatch("kinds", {})

    asyncio.run(main())


def test_an_async_def_behind_a_plain_function_is_no_success_of_which_nothing_ran(app: Router) -> None:
    said = "awaited is an `async def` behind something that is none"
    for _ in range(2):  # the second time by the fast path
        with pytest.raises(TypeError, match=said):
            app.dispatch("wrapped", {})
    with pytest.raises(TypeError, match=said):
        asyncio.run(app.adispatch("wrapped", {}))
    done = app.dispatch("wrapped.before", {})
    assert (done.results, [*map(type, done.errors.values())], len(done.jobs)) == ({}, [TypeError], 1)


def test_an_unknown_point_is_an_error_that_suggests_one(app: Router) -> None:
    with pytest.raises(UnknownPoint, match="did you mean 'ordered'"):
        app.dispatch("orderd", {})
    assert app.dispatch("empty").results == {}


@dataclasses.dataclass
class Foreign:
    x: int


@pytest.mark.parametrize(
    "payload", [[1], "text", 7, Foreign(1), {"x": float("nan")}, {"x": {1: object()}}, {"x": "\ud800"}]
)
def test_a_payload_that_json_does_not_know_is_refused(app: Router, payload: object) -> None:
    with pytest.raises(InvalidPayload):
        app.dispatch("changed", payload)
    assert queued(app) == []


def test_a_payload_that_does_not_fit_the_type_is_refused(app: Router) -> None:
    with pytest.raises(InvalidPayload, match="order_id"):
        app.dispatch("paid", {"order_id": "seven"})


def test_an_event_type_of_no_point_is_refused(app: Router) -> None:
    with pytest.raises(UnknownPoint, match="Foreign"):
        app.dispatch(Foreign(1))


def test_delay_at_and_queue_of_one_dispatch_win_over_the_file(app: Router) -> None:
    app.dispatch("ordered", {}, delay=0)
    soon = datetime.now(UTC) - timedelta(seconds=5)
    app.dispatch("ordered", {}, at=soon)
    assert len(queued(app)) == 2
    with pytest.raises(ValueError, match="no queue"):
        app.dispatch("ordered", {}, queue="nix")
    with pytest.raises(ValueError, match="time zone"):
        app.dispatch("ordered", {}, at=datetime(2030, 1, 1))
    for wrong in ("2026-01-01", 1.0, date(2030, 1, 1)):
        with pytest.raises(ValueError, match=r"at=.* is no datetime: datetime.now\(timezone.utc\)"):
            app.dispatch("ordered", {}, at=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"at=2.*: the wait is longer than 365 days"):
        app.dispatch("ordered", {}, at=soon + timedelta(days=400))
    with pytest.raises(ValueError, match="not both"):
        app.dispatch("ordered", {}, at=soon, delay=1)


def test_the_second_unique_job_is_reported_as_a_duplicate_of_the_first(app: Router) -> None:
    first = app.dispatch("single", {"key": 1})
    second = app.dispatch("single", {"key": 1})
    assert second.duplicates == (("unit_handlers:later", first.jobs["unit_handlers:later"]),)
    assert not second.jobs
    assert app.dispatch("single", {"key": 2}).jobs
    with pytest.raises(InvalidPayload, match="key"):
        app.dispatch("single", {})


def test_dispatch_many_confirms_the_events_before_the_one_that_raises(app: Router) -> None:
    with pytest.raises(KeyError):
        app.dispatch_many([("changed", {"n": 1}), ("changed", {"n": 2}), ("refused", {}), ("changed", {"n": 3})])
    assert len(queued(app)) == 2


def test_dispatch_many_returns_a_result_for_each_event(app: Router) -> None:
    done = app.dispatch_many(("changed", {"n": n}) for n in range(2500))
    assert len({job for event in done for job in event.jobs.values()}) == 2500


def test_what_was_not_confirmed_can_be_sent_again_with_the_same_ids(
    app: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(batch: list[Outgoing], deadline: float = 10) -> Receipt:
        return Receipt((), {}, {job.id: "the broker is away" for job in batch})

    broker = app.broker
    with monkeypatch.context() as patched:
        patched.setattr(broker, "publish", refuse)
        with pytest.raises(DispatchError, match="the broker is away") as caught:
            app.dispatch("changed", {})
    assert caught.value.confirmed == ()
    receipt = app.resend(caught.value.unconfirmed)
    assert receipt.confirmed == tuple(job.id for job in caught.value.unconfirmed)
    assert [job.job for _, job in queued(app)] == list(receipt.confirmed)


def test_registered_routes_run_beside_those_of_the_file_and_survive_a_reload(app: Router) -> None:
    app.register("empty", lambda event: "mine", id="mine")
    assert app.dispatch("empty", {}).results == {"mine": "mine"}
    app.reload()
    assert app.dispatch("empty", {}).results == {"mine": "mine"}
    app.register("brand.new", lambda event: 1, id="new")
    assert app.dispatch("brand.new", {}).results == {"new": 1}


def test_register_async_takes_the_options_of_the_file_and_warns_outside_bootstrap(app: Router) -> None:
    with pytest.warns(UserWarning, match="bootstrap"):
        route = app.register_async("empty", "unit_handlers:later", queue="emails", delay=30, retries=5)
    assert route.options is not None
    assert (route.options.queue, route.options.delay, route.options.max_attempts) == ("emails", 30, 5)
    assert "emails" in app.table.queues()


def test_what_a_worker_could_not_import_is_refused(app: Router) -> None:
    def local(event: object) -> None: ...

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for handler in (lambda event: None, local, "__main__:f"):
            with pytest.raises(RegistrationError, match="can't import"):
                app.register_async("empty", handler)
        with pytest.raises(RegistrationError, match="retires"):
            app.register_async("empty", "unit_handlers:later", retires=5)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"point": "a:b c"}, "`a:b c` can't be the name of an extension point.*example `a.b.c`"),
        ({"point": 7}, "by its event type, not by 7"),
        ({"id": "a b"}, "`id` must consist of .*example `a-b`"),
        ({"id": ""}, "`id` must consist of"),
        ({"id": 7}, "`id` must be text, not 7"),
        ({"priority": "high"}, "`priority` must be a whole number .*, not 'high'"),
        ({"priority": 1.5}, "not 1.5"),
        ({"priority": True}, "not True"),
    ],
)
def test_a_route_that_no_file_could_have_is_not_registered(app: Router, wrong: dict[str, Any], said: str) -> None:
    before = app.table
    for register in (app.register, app.register_async):
        with pytest.raises(RegistrationError, match=f"^unit_handlers:later: .*{said}"):
            register(**{"point": "empty", "handler": "unit_handlers:later", **wrong})
    assert app.table is before


def test_an_on_error_that_would_swallow_exceptions_is_refused(app: Router) -> None:
    with pytest.raises(RegistrationError, match="`on_error` must be 'stop' or 'continue', not 'Stop'"):
        app.register("empty", "unit_handlers:later", on_error="Stop")  # type: ignore[arg-type]
    with pytest.raises(RegistrationError, match=r"import path.*did you mean `unit_handlers:later`"):
        app.register_async("empty", "unit_handlers.later")


@pytest.mark.filterwarnings("ignore:register_async")
def test_what_a_worker_would_import_as_something_else_is_refused(app: Router) -> None:
    import unit_handlers  # type: ignore[import-not-found]

    configured = unit_handlers.Callable()
    changed = types.FunctionType(unit_handlers.later.__code__, {"__name__": "unit_handlers"})
    foreign = types.FunctionType(unit_handlers.later.__code__, {"__name__": "never_imported"})
    partial = functools.partial(unit_handlers.later)
    for handler in (configured, configured.method, partial, unit_handlers.Derived.of_class, changed, foreign):
        with pytest.raises(RegistrationError, match="something else than"):
            app.register_async("empty", handler)


@pytest.mark.filterwarnings("ignore:register_async")
def test_what_a_worker_imports_just_so_is_taken(app: Router) -> None:
    import unit_handlers

    not_yet = types.FunctionType(unit_handlers.later.__code__, {"__name__": "unit_handlers"})
    not_yet.__qualname__ = "not_yet"
    kinds = (unit_handlers.later, unit_handlers.later_awaited, unit_handlers.Class, unit_handlers.Callable.of_class)
    for handler in (*kinds, not_yet):
        assert app.register_async("empty", handler).handler == f"unit_handlers:{handler.__qualname__}"


def test_the_same_id_twice_in_a_point_is_refused(app: Router) -> None:
    with pytest.raises(RegistrationError, match="id of its own"):
        app.register("tolerant", "unit_handlers:first")


def test_without_an_async_route_the_broker_is_never_touched(app: Router) -> None:
    app.dispatch("tolerant", {})
    assert app._broker is None
