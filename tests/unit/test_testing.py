"""`router.testing` and the pytest plugin: jobs in virtual time, by the decisions of a worker."""

from __future__ import annotations

import asyncio
import functools
import importlib
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import router
from router import Fail, InvalidPayload, Retry, RouterError
from router.app import default
from router.testing import EndlessJobs, TestRouter

pytest_plugins = ["pytester"]

HANDLERS = """
import dataclasses
import router

calls = []
errors = []

@dataclasses.dataclass
class Paid:
    order_id: int

@dataclasses.dataclass
class Narrow:
    day: int
    def __post_init__(self):
        if closed:
            raise ValueError("closed")

closed = False

def note(name):
    def handler(event):
        calls.append((name, event))
        if errors:
            raise errors.pop(0)
        return name
    return handler

sync, one, two, three, single = map(note, ["sync", "one", "two", "three", "single"])

def with_context(event, context):
    calls.append(context)
    raise ValueError(f"attempt {context.attempt}")

def retried(attempt, error):
    calls.append(("retried", attempt, error))

def given_up(error, event):
    calls.append(("given up", error, event))

def broken_callback(attempt, error):
    raise KeyError("callback")

async def awaited(event):
    import asyncio
    await asyncio.sleep(0)
    calls.append(("awaited", event))

def changes(event):
    event["order_id"] = 99

def raises_more(event):
    return router.dispatch("plain", {"from": "sync"}).event_id

def dispatches(event):
    router.dispatch("plain", {"from": "job"})

def again_if_free(event):
    calls.append(("free", event))
    if len(calls) == 1:
        router.dispatch("started", event)

def again(event):
    router.dispatch("endless", event)
"""

FILE = """
version: 1
broker: {url: "amqp://nobody:secret@broker.invalid/"}
locks: {url: "redis://locks.invalid/"}
unknownRouteFor: 30s
extensions:
  plain:
    handlers: [{handler: "till:sync"}]
  changed:
    handlers: [{handler: "till:changes"}, {handler: "till:one", async: true}]
  ordered:
    handlers:
      - {handler: "till:sync"}
      - {handler: "till:two", async: {queue: a}, priority: 2}
      - {handler: "till:one", async: {queue: b}, priority: 1}
      - {handler: "till:three", async: {queue: c, delay: 5s}}
  retried:
    handlers:
      - handler: till:with_context
        id: stubborn
        async: {retries: 3, backoffSeconds: [10, 30], delay: 60, queue: mail, timeout: 2m,
                onRetry: "till:retried", onFailure: "till:given_up"}
  single:
    handlers: [{handler: "till:single", async: {uniqueJob: true, uniqueBy: [key], uniqueLockTimeout: 1h, retries: 2}}]
  broken:
    handlers: [{handler: "till:one", async: {onRetry: "till:broken_callback"}}]
  expiring:
    handlers: [{handler: "till:one", async: {delay: 10s, expires: 1m, onFailure: "till:given_up"}}]
  started:
    handlers: [{handler: "till:again_if_free", async: {uniqueJob: true, uniqueUntil: start}}]
  choosy:
    handlers: [{handler: "till:one", async: {dontRetryOn: ["builtins:KeyError"], jitter: 0.5, backoffSeconds: 10}}]
  paid:
    event: till:Paid
    handlers: [{handler: "till:sync"}, {handler: "till:one", async: true}]
  narrow:
    event: till:Narrow
    handlers: [{handler: "till:one", async: true}]
  async:
    handlers: [{handler: "till:awaited", async: true}]
  outer:
    handlers: [{handler: "till:raises_more"}, {handler: "till:dispatches", async: true}]
  endless:
    handlers: [{handler: "till:again", async: {delay: 1s}}]
"""


@pytest.fixture
def till(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The application's module, in its folder, beside its file."""
    (tmp_path / "till.py").write_text(HANDLERS)
    (tmp_path / "extensions.yaml").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("till")
    del sys.modules["till"]


@pytest.fixture
def app(till: Any) -> Iterator[TestRouter]:
    with TestRouter("extensions.yaml") as made:
        yield made


def names(till: Any) -> list[str]:
    return [call[0] for call in till.calls]


# -- dispatching ---------------------------------------------------------------------------------------------------


def test_nothing_is_connected_to_nor_waited_for_nor_done_by_threads(
    app: TestRouter, till: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("not in a test")

    monkeypatch.setattr(time, "sleep", refuse)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
    app.dispatch("ordered", {})
    app.dispatch("single", {"key": 1})
    app.advance("1d")
    assert len(app.run_jobs().succeeded) == 4
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".pyc") == ["extensions.yaml", "till.py"]


def test_every_event_is_recorded_in_the_order_in_which_they_began(app: TestRouter) -> None:
    app.dispatch("outer", {"order_id": 7})
    outer, inner = app.dispatched
    assert (outer.point, outer.event, list(outer.jobs)) == ("outer", {"order_id": 7}, ["till:dispatches"])
    assert (inner.point, inner.event) == ("plain", {"from": "sync"})
    assert outer.results == {"till:raises_more": inner.event_id}
    assert inner.results == {"till:sync": "sync"}
    assert outer.at == app.now
    assert outer.error is None


def test_events_of_each_way_of_dispatching_are_recorded(app: TestRouter, till: Any) -> None:
    app.dispatch_many([("plain", {"n": 1}), till.Paid(2)])
    asyncio.run(app.adispatch("ordered", {"n": 3}))
    router.dispatch("plain", {"n": 4})
    assert [one.point for one in app.dispatched] == ["plain", "paid", "ordered", "plain"]
    assert app.dispatched[1].event == till.Paid(2)
    assert [len(one.jobs) for one in app.dispatched] == [0, 1, 3, 0]
    assert all(one.results == {"till:sync": "sync"} for one in app.dispatched)


@pytest.mark.parametrize("way", ["dispatch", "adispatch", "dispatch_many"])
def test_an_event_whose_handler_raises_is_recorded_with_the_exception(app: TestRouter, till: Any, way: str) -> None:
    till.errors.append(error := KeyError("no"))
    ways: dict[str, Callable[[], Any]] = {
        "dispatch": lambda: app.dispatch("ordered", {}),
        "adispatch": lambda: asyncio.run(app.adispatch("ordered", {})),
        "dispatch_many": lambda: app.dispatch_many([("ordered", {})]),
    }
    with pytest.raises(KeyError) as caught:
        ways[way]()
    assert caught.value is error
    (recorded,) = app.dispatched
    assert (recorded.error, recorded.jobs, app.queued) == (error, {}, [])


def test_an_event_is_recorded_as_it_was_before_handlers_changed_it(app: TestRouter) -> None:
    app.dispatch("changed", {"order_id": 7})
    assert app.dispatched[0].event == {"order_id": 7}
    assert app.queued[0].payload == {"order_id": 7}


def test_an_event_that_waits_for_a_commit_counts_when_it_is_committed(app: TestRouter) -> None:
    from sqlalchemy import create_engine, text
    from sqlalchemy.orm import Session

    for end in (Session.rollback, Session.commit):
        with Session(create_engine("sqlite://")) as session:
            session.execute(text("SELECT 1"))
            app.after_commit(session).dispatch("paid", {"order_id": 7})
            assert app.dispatched == []
            end(session)
    assert [list(one.jobs) for one in app.dispatched] == [["till:one"]]


def test_a_payload_that_cannot_travel_is_refused_at_dispatch(app: TestRouter) -> None:
    with pytest.raises(InvalidPayload):
        app.dispatch("ordered", {"order": object()})
    assert app.dispatched == []


# -- what waits ----------------------------------------------------------------------------------------------------


def test_a_queued_job_tells_everything_about_itself(app: TestRouter) -> None:
    done = app.dispatch("retried", {"order_id": 7})
    (job,) = app.queued
    assert {"stubborn": job.id} == done.jobs
    assert (job.point, job.route, job.payload, job.queue) == ("retried", "stubborn", {"order_id": 7}, "mail")
    assert (job.delay, job.due, job.attempt, job.max_attempts) == (60.0, app.now + timedelta(minutes=1), 1, 3)
    assert (job.timeout, job.unique_key) == (120.0, None)
    assert job.options is not None
    assert job.options.on_failure == "till:given_up"
    assert str(job) == "stubborn (retried) {'order_id': 7}: in 1m, in queue mail, attempt 1 of 3"


def test_jobs_that_wait_are_listed_by_when_they_are_due_then_by_priority(app: TestRouter) -> None:
    app.dispatch("retried", {})
    app.dispatch("ordered", {})
    assert [job.route for job in app.queued] == ["till:one", "till:two", "till:three", "stubborn"]


def test_delay_at_and_queue_of_a_dispatch_are_those_of_its_jobs(app: TestRouter) -> None:
    app.advance("1h")
    app.dispatch("paid", {"order_id": 1}, delay="10m", queue="mail")
    app.dispatch("paid", {"order_id": 2}, at=app.now + timedelta(minutes=5))
    assert [(job.payload["order_id"], job.delay, job.queue) for job in app.queued] == [
        (2, 300.0, "default"),
        (1, 600.0, "mail"),
    ]


def test_assert_queued_finds_a_job_by_a_part_of_what_it_is(app: TestRouter, till: Any) -> None:
    app.dispatch("paid", {"order_id": 1})
    app.dispatch("paid", {"order_id": 2}, delay=60)
    assert app.assert_queued("till:one").payload == {"order_id": 1}
    assert app.assert_queued("till:one", till.Paid(2), point="paid", queue="default", delay="1m").delay == 60.0
    app.assert_not_queued("till:one", {"order_id": 3})
    app.assert_not_queued("till:one", point="ordered")
    app.assert_not_queued("till:one", {"other": 1})


def test_assert_queued_compares_a_payload_as_it_travels(app: TestRouter) -> None:
    day = datetime(2026, 1, 2, tzinfo=UTC)
    app.dispatch("ordered", {"day": day, "pair": (1, 2)})
    app.assert_queued("till:one", {"day": day, "pair": (1, 2)})
    assert app.queued[0].payload == {"day": "2026-01-02T00:00:00Z", "pair": [1, 2]}


def test_assertions_that_fail_show_what_waits(app: TestRouter) -> None:
    with pytest.raises(AssertionError, match=r"^no job waits for till:one; no job waits$"):
        app.assert_queued("till:one")
    app.dispatch("paid", {"order_id": 1})
    shown = r"these wait:\n  till:one \(paid\) \{'order_id': 1\}: now, in queue default, attempt 1 of 3$"
    with pytest.raises(AssertionError, match=rf"^no job waits for till:one with payload \{{'order_id': 2\}}; {shown}"):
        app.assert_queued("till:one", {"order_id": 2})
    with pytest.raises(AssertionError, match=rf"^{shown}"):
        app.assert_not_queued("till:one")


def test_asserting_that_a_misspelt_route_is_not_queued_is_no_success(app: TestRouter) -> None:
    with pytest.raises(ValueError, match="did you mean 'till:one'"):
        app.assert_not_queued("till:oen")


# -- running jobs --------------------------------------------------------------------------------------------------


def test_jobs_run_by_when_they_are_due_then_by_priority_whatever_their_queue(app: TestRouter, till: Any) -> None:
    app.dispatch("ordered", {"n": 1})
    app.dispatch("ordered", {"n": 2}, delay=2)
    start, till.calls[:] = app.now, []
    report = app.run_jobs()
    assert names(till) == ["one", "two", "one", "two", "three", "three"]
    assert [round((ran.at - start).total_seconds()) for ran in report] == [0, 0, 2, 2, 2, 5]


def test_what_a_test_lets_pass_by_runs_in_the_order_in_which_it_was_due(app: TestRouter, till: Any) -> None:
    app.dispatch("paid", {"order_id": 1}, delay="5m")
    app.dispatch("paid", {"order_id": 2}, delay="1m")
    app.advance("10m")
    assert till.calls == [("sync", till.Paid(1)), ("sync", till.Paid(2))]
    late = app.now
    report = app.run_jobs(until=0)
    assert [ran.payload["order_id"] for ran in report] == [2, 1]
    assert [ran.at for ran in report] == [late, late]


def test_a_job_is_retried_in_virtual_time_as_its_options_say(app: TestRouter, till: Any) -> None:
    done = app.dispatch("retried", {"order_id": 7})
    start = app.now
    report = app.run_jobs()
    assert [(ran.outcome, ran.attempt, (ran.at - start).total_seconds(), ran.retry_in) for ran in report] == [
        ("retrying", 1, 60.0, 10.0),
        ("retrying", 2, 70.0, 30.0),
        ("failed", 3, 100.0, None),
    ]
    assert app.now == start + timedelta(seconds=100)
    contexts = till.calls[::2]
    assert [(context.attempt, context.max_attempts, context.queue) for context in contexts] == [
        (1, 3, "mail"),
        (2, 3, "mail"),
        (3, 3, "mail"),
    ]
    assert {(context.job_id, context.correlation_id) for context in contexts} == {
        (done.jobs["stubborn"], done.event_id)
    }
    assert {context.dispatched_at for context in contexts} == {start.timestamp()}
    errors = [ran.error for ran in report]
    assert till.calls[1::2] == [
        ("retried", 1, errors[0]),
        ("retried", 2, errors[1]),
        ("given up", errors[2], {"order_id": 7}),
    ]


def test_a_failed_job_is_kept_with_reason_error_and_history(app: TestRouter) -> None:
    app.dispatch("retried", {"order_id": 7})
    report = app.run_jobs()
    (failed,) = app.failed
    assert (failed.point, failed.route, failed.payload, failed.queue) == (
        "retried",
        "stubborn",
        {"order_id": 7},
        "mail",
    )
    assert (failed.reason, failed.attempt, failed.failed_at) == ("attempts", 3, app.now)
    assert failed.error is report.failed[0].error
    assert [record.attempt for record in failed.history] == [1, 2, 3]
    assert failed.history[0].error.startswith("ValueError: attempt 1\n\nTraceback")
    assert "router/testing" not in failed.history[0].error
    assert app.queued == []


def test_retry_and_fail_mean_what_they_mean_in_a_worker(app: TestRouter, till: Any) -> None:
    app.dispatch("paid", {"order_id": 7})
    till.errors += [Retry(delay=3), Fail("no such order")]
    report = app.run_jobs()
    assert [(ran.outcome, ran.retry_in) for ran in report] == [("retrying", 3.0), ("failed", None)]
    assert [(job.reason, str(job.error)) for job in app.failed] == [("fail", "no such order")]


@pytest.mark.parametrize("until", [70, "70s", timedelta(seconds=70), None])
def test_until_runs_what_is_due_by_then_and_leaves_the_clock_there(app: TestRouter, until: Any) -> None:
    app.dispatch("retried", {})
    start = app.now
    report = app.run_jobs(start + timedelta(seconds=70) if until is None else until)
    assert [ran.attempt for ran in report] == [1, 2]
    assert app.now == start + timedelta(seconds=70)
    (waiting,) = app.queued
    assert (waiting.attempt, waiting.delay) == (3, 30.0)
    assert len(app.run_jobs("29s")) == 0
    assert len(app.run_jobs("1s")) == 1


def test_until_that_has_passed_or_has_no_time_zone_is_refused(app: TestRouter) -> None:
    with pytest.raises(ValueError, match="has passed"):
        app.run_jobs(app.now - timedelta(seconds=1))
    with pytest.raises(ValueError, match="time zone"):
        app.run_jobs(datetime(2100, 1, 1))


def test_what_is_no_duration_is_named(app: TestRouter) -> None:
    with pytest.raises(ValueError, match=r"^until='soon' is not a duration: write a number of seconds"):
        app.run_jobs("soon")
    with pytest.raises(ValueError, match=r"^duration=-1 must not be negative"):
        app.advance(-1)
    with pytest.raises(ValueError, match=r"^delay='1 minute' is not a duration .* write `1m`"):
        app.assert_queued("till:one", delay="1 minute")


def test_handlers_get_what_comes_off_the_wire(app: TestRouter, till: Any) -> None:
    app.dispatch("ordered", {"pair": (1, 2)})
    app.dispatch(till.Paid(7))
    app.run_jobs(until=0)
    assert till.calls[2:] == [("one", {"pair": [1, 2]}), ("two", {"pair": [1, 2]}), ("one", till.Paid(7))]


def test_an_exception_of_a_handler_comes_out_of_run_jobs_only_on_request(app: TestRouter, till: Any) -> None:
    app.dispatch("paid", {"order_id": 7})
    till.errors += [error := ValueError("no"), ValueError("no")]
    with pytest.raises(ValueError, match="no") as caught:
        app.run_jobs(raising=True)
    assert caught.value is error
    assert [entry.name for entry in caught.traceback][-1] == "handler"
    assert app.assert_queued("till:one").attempt == 2
    assert [ran.outcome for ran in app.run_jobs()] == ["retrying", "succeeded"]


def test_a_retry_that_is_granted_is_no_exception_to_raise(app: TestRouter, till: Any) -> None:
    app.dispatch("paid", {"order_id": 7})
    till.errors += [Retry(), Retry(), Retry("the last one")]
    with pytest.raises(Retry, match="the last one"):
        app.run_jobs(raising=True)
    assert [job.attempt for job in app.failed] == [3]


def test_an_exception_of_a_callback_changes_nothing_but_is_told(
    app: TestRouter, till: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app.dispatch("broken", {})
    till.errors.append(Retry())
    report = app.run_jobs()
    assert "asked for a retry; its callback raised KeyError: 'callback'" in str(report)
    (logged,) = (record for record in caplog.records if record.exc_info)
    assert (logged.levelname, logged.getMessage()[:27]) == ("ERROR", "onRetry of till:one raised ")
    assert [(ran.outcome, type(ran.callback_error)) for ran in report] == [
        ("retrying", KeyError),
        ("succeeded", type(None)),
    ]
    app.dispatch("broken", {})
    till.errors.append(Retry())
    with pytest.raises(KeyError, match="callback"):
        app.run_jobs(raising=True)


def test_what_is_meant_for_the_test_runner_passes_through_and_the_job_waits_again(app: TestRouter, till: Any) -> None:
    app.dispatch("paid", {"order_id": 7})
    till.errors.append(pytest.fail.Exception("must not run"))
    with pytest.raises(pytest.fail.Exception):
        app.run_jobs()
    assert app.assert_queued("till:one").attempt == 1
    till.errors.append(SystemExit(3))
    assert [ran.outcome for ran in app.run_jobs()] == ["retrying", "succeeded"]


def test_a_handler_that_a_test_replaces_is_replaced(app: TestRouter, monkeypatch: pytest.MonkeyPatch) -> None:
    app.dispatch("paid", {"order_id": 7})
    app.run_jobs()
    seen: list[Any] = []
    monkeypatch.setattr("till.one", seen.append)
    app.dispatch("paid", {"order_id": 8})
    app.run_jobs()
    assert [event.order_id for event in seen] == [8]


@pytest.mark.parametrize("way", ["dispatch", "adispatch", "dispatch_many"])
def test_a_synchronous_handler_that_a_test_replaces_is_replaced(
    app: TestRouter, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    ways: dict[str, Callable[[], Any]] = {
        "dispatch": lambda: app.dispatch("plain", {}),
        "adispatch": lambda: asyncio.run(app.adispatch("plain", {})),
        "dispatch_many": lambda: app.dispatch_many([("plain", {})])[0],
    }
    assert ways[way]().results == {"till:sync": "sync"}
    with monkeypatch.context() as patch:
        patch.setattr("till.sync", lambda event: "replaced")
        assert ways[way]().results == {"till:sync": "replaced"}
    assert ways[way]().results == {"till:sync": "sync"}


def test_async_handlers_run_from_plain_code_and_from_asyncio_code(app: TestRouter, till: Any) -> None:
    app.dispatch("async", {"n": 1})
    assert len(app.run_jobs().succeeded) == 1

    async def test() -> None:
        await app.adispatch("async", {"n": 2})
        with pytest.raises(RouterError, match="await arun_jobs"):
            app.run_jobs()
        assert len(app.queued) == 1
        assert len((await app.arun_jobs(raising=True)).succeeded) == 1

    asyncio.run(test())
    assert till.calls == [("awaited", {"n": 1}), ("awaited", {"n": 2})]


def test_an_async_handler_that_raises_is_retried_like_any_other(
    app: TestRouter, till: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def raises(event: Any) -> None:
        await asyncio.sleep(0)
        raise ValueError("awaited")

    monkeypatch.setattr("till.awaited", raises)
    app.dispatch("async", {})
    outcomes = ["retrying", "retrying", "failed"]
    assert [ran.outcome for ran in app.run_jobs()] == outcomes
    assert app.failed[0].history[0].error.count("File ") == 1
    app.dispatch("async", {})
    assert [ran.outcome for ran in asyncio.run(app.arun_jobs())] == outcomes


def test_an_async_def_behind_a_plain_decorator_is_no_success(app: TestRouter, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was: what it returned was thrown away, and nothing of it had run."""

    def plain(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(event: Any) -> Any:
            return function(event)

        return call

    @plain
    async def never(event: Any) -> None: ...

    monkeypatch.setattr("till.awaited", never)
    app.dispatch("async", {})
    ran = app.run_jobs()
    assert [one.outcome for one in ran] == ["retrying", "retrying", "failed"]
    assert "never is an `async def` behind something that is none" in app.failed[0].history[0].error


def generator(event: Any) -> Iterator[None]:
    yield


async def async_generator(event: Any) -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize("found", [generator, async_generator])
def test_a_generator_is_no_handler(app: TestRouter, monkeypatch: pytest.MonkeyPatch, found: Any) -> None:
    monkeypatch.setattr("till.sync", found)
    with pytest.raises(router.HandlerImportError, match="it has a `yield`, so that nothing of it runs"):
        app.dispatch("plain", {})
    with pytest.raises(router.RegistrationError, match="`yield`"):
        app.register("plain", found)


@pytest.mark.parametrize("handler", ["hangs", "blocks"])
def test_after_an_adispatch_that_was_cancelled_the_test_leaves_nothing_behind(
    tmp_path: Path, till: Any, monkeypatch: pytest.MonkeyPatch, handler: str
) -> None:
    """The traceback of the cancellation keeps the dispatch alive: another test had this one's router."""
    begun, over = threading.Event(), threading.Event()

    async def hangs(event: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    def blocks(event: Any) -> None:
        begun.set()
        assert over.wait(20)

    async def test(app: TestRouter) -> None:
        dispatching = asyncio.create_task(app.adispatch("plain", {}))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        dispatching.cancel()
        try:
            await dispatching
        finally:
            over.set()

    before = default._default
    monkeypatch.setattr("till.sync", {"hangs": hangs, "blocks": blocks}[handler])
    with TestRouter("extensions.yaml") as app, pytest.raises(asyncio.CancelledError) as cancelled:
        asyncio.run(test(app))
    assert default._default is before
    assert cancelled.value.__traceback__ is not None
    assert isinstance(app.dispatched[0].error, asyncio.CancelledError)


def test_cancelling_a_test_cancels_its_jobs_handler_and_the_job_waits_again(
    app: TestRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hangs(event: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("till.awaited", hangs)
    app.dispatch("async", {})

    async def test() -> None:
        running = asyncio.create_task(app.arun_jobs())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(test())
    assert [job.attempt for job in app.queued] == [1]


def test_jobs_that_dispatch_each_other_for_ever_end_with_an_error(app: TestRouter) -> None:
    app.dispatch("endless", {})
    with pytest.raises(EndlessJobs, match=r"^20 attempts ran.* till:again of endless \(20 times\)") as caught:
        app.run_jobs(max_jobs=20)
    assert len(caught.value.report) == 20
    assert len(app.run_jobs(until="5s")) == 5


def test_run_jobs_inside_a_job_is_refused(app: TestRouter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("till.one", lambda event: app.run_jobs())
    app.dispatch("paid", {"order_id": 7})
    with pytest.raises(RouterError, match="by a job that it runs"):
        app.run_jobs(raising=True)


def test_a_report_reads_well(app: TestRouter) -> None:
    app.dispatch("retried", {"n": 1})
    lines = str(app.run_jobs()).splitlines()
    assert lines[0].endswith("  stubborn (retried) {'n': 1}, attempt 1 of 3: retrying in 10s: ValueError: attempt 1")
    assert lines[2].endswith("attempt 3 of 3: failed: ValueError: attempt 3")
    assert str(app.run_jobs()) == "no job was due"


def test_a_job_that_a_test_lets_expire_fails_unrun(app: TestRouter, till: Any) -> None:
    app.dispatch("expiring", {"n": 1})
    app.advance("70s")
    app.dispatch("expiring", {"n": 2})
    app.advance("1s")
    report = app.run_jobs()
    assert [(ran.outcome, ran.payload["n"]) for ran in report] == [("failed", 1), ("succeeded", 2)]
    (failed,) = app.failed
    assert (failed.reason, type(failed.error)) == ("expired", router.JobExpired)
    assert str(failed.error).startswith("no attempt could be started in time")
    assert till.calls == [("given up", failed.error, {"n": 1}), ("one", {"n": 2})]


def test_exceptions_that_a_route_does_not_retry_fail_its_job_at_once(app: TestRouter, till: Any) -> None:
    app.dispatch("choosy", {})
    till.errors += [ValueError("again"), KeyError("enough")]
    report = app.run_jobs()
    assert [(ran.outcome, ran.retry_in) for ran in report] == [("retrying", 10.0), ("failed", None)]
    assert [job.reason for job in app.failed] == ["fail"]


def test_a_job_that_is_unique_until_it_starts_may_queue_another(app: TestRouter, till: Any) -> None:
    app.dispatch("started", {"n": 1})
    assert app.dispatch("started", {"n": 1}).duplicates
    assert [ran.outcome for ran in app.run_jobs()] == ["succeeded", "succeeded"]


# -- unique jobs, unknown routes, registered ones ------------------------------------------------------------------


def test_a_unique_job_is_queued_once_until_it_has_ended(app: TestRouter, till: Any) -> None:
    first = app.dispatch("single", {"key": 1, "more": 1})
    second = app.dispatch("single", {"key": 1, "more": 2})
    assert (list(second.jobs), second.duplicates) == ([], (("till:single", first.jobs["till:single"]),))
    assert app.dispatched[1].duplicates == second.duplicates
    app.dispatch("single", {"key": 2})
    first_key, other_key = (job.unique_key for job in app.queued)
    assert first_key != other_key
    till.errors.append(ValueError("once more"))
    app.run_jobs(until=0)
    assert not app.dispatch("single", {"key": 1}).jobs, "between two attempts it still holds its lock"
    app.run_jobs()
    assert app.dispatch("single", {"key": 1}).jobs


def test_a_unique_job_that_failed_gives_up_its_lock(app: TestRouter, till: Any) -> None:
    app.dispatch("single", {"key": 1})
    till.errors.append(Fail("no"))
    app.run_jobs()
    assert app.dispatch("single", {"key": 1}).jobs


def test_locks_run_out_in_virtual_time_and_a_late_job_ends_as_a_duplicate(app: TestRouter) -> None:
    app.dispatch("single", {"key": 1})
    app.advance("61m")
    assert app.dispatch("single", {"key": 1}).jobs
    report = app.run_jobs(raising=True)
    assert [ran.outcome for ran in report] == ["duplicate", "succeeded"]


def test_a_file_for_rabbitmq_without_locks_refuses_unique_routes_as_it_does_in_production(
    till: Any, tmp_path: Path
) -> None:
    (tmp_path / "bare.yaml").write_text('version: 1\nbroker: {url: "amqp://broker.invalid/"}\n')
    app = TestRouter("bare.yaml")
    with pytest.warns(match="workers"), pytest.raises(router.RegistrationError, match=r"locks\.url"):
        app.register_async("p", "till:one", uniqueJob=True)


def test_a_job_of_an_unknown_route_waits_then_fails_in_plain_sight(app: TestRouter, tmp_path: Path) -> None:
    app.dispatch("retried", {})
    (tmp_path / "extensions.yaml").write_text(FILE.replace("id: stubborn", "id: renamed"))
    app.reload()
    assert app.assert_queued("stubborn").options is None
    report = app.run_jobs()
    assert [ran.outcome for ran in report] == ["waiting", "failed"]
    assert report.runs[1].at - report.runs[0].at == timedelta(seconds=30)
    assert [(job.reason, str(job.error)) for job in app.failed] == [
        ("unknown_route", "retried has no async route 'stubborn' here")
    ]


def test_a_job_whose_route_comes_back_runs(app: TestRouter, tmp_path: Path) -> None:
    app.dispatch("paid", {"order_id": 7})
    (tmp_path / "extensions.yaml").write_text("version: 1\n")
    app.reload()
    assert [ran.outcome for ran in app.run_jobs(until="10s")] == ["waiting"]
    (tmp_path / "extensions.yaml").write_text(FILE)
    app.reload()
    assert [(ran.outcome, ran.attempt) for ran in app.run_jobs(until="20s")] == [("succeeded", 1)]


def test_a_reload_keeps_to_memory(app: TestRouter, tmp_path: Path) -> None:
    (tmp_path / "extensions.yaml").write_text(FILE.replace("broker.invalid", "other.invalid"))
    app.reload()
    app.close()
    app.dispatch("single", {"key": 1})
    assert len(app.run_jobs().succeeded) == 1


def test_an_event_that_does_not_survive_the_wire_is_found(app: TestRouter, till: Any) -> None:
    app.dispatch(till.Narrow(1))
    till.closed = True
    with pytest.raises(InvalidPayload, match="closed"):
        app.run_jobs(raising=True)
    assert [ran.outcome for ran in app.run_jobs()] == ["waiting", "failed"]
    assert app.failed[0].reason == "unknown_route"


def test_a_handler_that_cannot_be_imported_is_an_error_as_it_ends_a_worker(
    app: TestRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.dispatch("paid", {"order_id": 7})
    monkeypatch.delattr("till.one")
    with pytest.raises(router.HandlerImportError, match="till has no 'one'"):
        app.run_jobs()
    assert [job.attempt for job in app.queued] == [1]


def test_registered_routes_run(app: TestRouter, till: Any) -> None:
    app.register("new", lambda event: "at once", id="sync")
    with pytest.warns(UserWarning, match="workers won't know"):
        app.register_async("new", "till:one", delay=30)
    assert app.dispatch("new", {}).results == {"sync": "at once"}
    assert app.assert_queued("till:one", delay=30)
    assert len(app.run_jobs().succeeded) == 1


# -- the functions of the package ----------------------------------------------------------------------------------


def test_jobs_and_handlers_dispatch_by_the_router_under_test(
    till: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(default, "_default", None)
    app = TestRouter("extensions.yaml")
    done = app.dispatch("outer", {})
    app.run_jobs(raising=True)
    _, by_handler, by_job = app.dispatched
    assert (by_handler.event, by_handler.caused_by) == ({"from": "sync"}, None)
    assert (by_job.event, by_job.caused_by) == ({"from": "job"}, done.jobs["till:dispatches"])
    assert default._default is None, "another router is not left in charge"


def test_correlation_and_causation_go_along_with_what_jobs_dispatch(
    app: TestRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("till.dispatches", lambda event: app.dispatch("ordered", {}))
    done = app.dispatch("outer", {})
    app.run_jobs(until=0, max_jobs=3)
    (late,) = app.queued
    assert (late.correlation_id, late.caused_by) == (done.event_id, done.jobs["till:dispatches"])


def test_the_default_router_comes_back_after_the_last_of_nested_uses(till: Any) -> None:
    before = default._default, default.Router
    outer, inner = TestRouter("extensions.yaml"), TestRouter("extensions.yaml")
    with outer:
        with inner:
            inner.dispatch("ordered", {})
            inner.run_jobs()
            assert default._default is inner
        assert default._default is outer
    assert (default._default, default.Router) == before


def test_an_application_that_configures_itself_stays_with_the_test(app: TestRouter) -> None:
    assert router.configure("config/production.yaml") is app
    router.dispatch("plain", {})
    assert [one.point for one in app.dispatched] == ["plain"]


def test_pytest_does_not_take_it_for_tests(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("from router.testing import TestRouter\ndef test(): pass")
    pytester.runpytest_inprocess("-W", "error").assert_outcomes(passed=1)


# -- the plugin ----------------------------------------------------------------------------------------------------

PROJECT = """
version: 1
broker: {url: "amqp://nobody@broker.invalid/"}
extensions:
  order.placed:
    handlers: [{handler: "mail:send", async: {delay: 60}}]
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project with a file in a default place."""
    for name in ("ROUTER_CONFIG", "ROUTER_ENV"):
        monkeypatch.delenv(name, raising=False)
    pytester.makefile(".yaml", extensions=PROJECT)
    pytester.makepyfile(mail="sent = []\ndef send(event): sent.append(event)")
    return pytester


def test_the_fixture_is_the_projects_router_and_the_packages_too(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import mail
        from router import dispatch

        def test_queued(router):
            dispatch("order.placed", {"order_id": 7})
            router.assert_queued("mail:send", {"order_id": 7}, delay="1m")
            assert mail.sent == []

        def test_run(router):
            assert not router.queued
            dispatch("order.placed", {"order_id": 8})
            router.run_jobs(raising=True)
            assert mail.sent == [{"order_id": 8}]

        def test_after():
            from router.app import default
            assert default._default is None
        """
    )
    project.runpytest_subprocess("-W", "error").assert_outcomes(passed=3)


def test_the_fixture_finds_file_and_modules_from_a_folder_below_the_root(project: pytest.Pytester) -> None:
    project.makeini("[pytest]")
    folder = project.mkdir("tests")
    (folder / "test_below.py").write_text(
        "def test(router):\n    router.dispatch('order.placed', {})\n    router.run_jobs(raising=True)\n"
    )
    done = project.run(sys.executable, "-c", f"import os, pytest; os.chdir({str(folder)!r}); pytest.main([])")
    done.assert_outcomes(passed=1)


def test_the_settings_name_the_file_and_its_overlay(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTER_ENV", "production")  # a developer's own, for which this file has no overlay
    (project.path / "conf").mkdir()
    (project.path / "extensions.yaml").rename(project.path / "conf" / "events.yaml")
    (project.path / "conf" / "events.test.yaml").write_text("async: {tries: 9}\n")
    project.makeini("[pytest]\nrouter_config = conf/events.yaml\nrouter_env = test")
    project.makepyfile(
        "def test(router):\n    router.dispatch('order.placed')\n    assert router.queued[0].max_attempts == 9\n"
    )
    project.runpytest_inprocess().assert_outcomes(passed=1)


def test_a_file_that_is_missing_or_wrong_is_told_without_a_traceback(project: pytest.Pytester) -> None:
    project.makepyfile("def test(router): pass")
    (project.path / "extensions.yaml").write_text(PROJECT.replace("handlers:", "hanlders:"))
    done = project.runpytest_inprocess("-rN")  # no summary: where $CI is set, pytest repeats whole messages there
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["*extensions.yaml:6:5: error: unknown key `hanlders`*", "*did you mean `handlers`?"])
    done.stdout.no_fnmatch_line("*raise *")
    assert str(done.stdout).count("did you mean") == 1
    (project.path / "extensions.yaml").write_text(PROJECT + "bootstrap: mail:set_up\n")
    done = project.runpytest_inprocess()
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["*mail:set_up: module mail has no 'set_up'*"])
    done.stdout.no_fnmatch_line("*raise *")
    (project.path / "extensions.yaml").unlink()
    done = project.runpytest_inprocess()
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["*there is neither extensions.yaml nor config/extensions.yaml in *", "*router_config*"])


def test_a_project_with_a_fixture_of_that_name_keeps_its_own(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("import pytest\n@pytest.fixture\ndef router(): return 'theirs'")
    pytester.makepyfile("def test(router): assert router == 'theirs'")
    pytester.runpytest_inprocess("--strict-config", "-W", "error").assert_outcomes(passed=1)


def test_the_plugin_imports_nothing_of_a_router_for_tests_that_do_not_use_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys
        def test():
            heavy = ("router.testing", "router.worker", "router.brokers.memory", "jsonschema", "unittest.mock")
            assert [name for name in heavy if name in sys.modules] == []
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)
