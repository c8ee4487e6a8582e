"""What happens, told to listeners and to the log."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider

from router import LifecycleEvent, RegistrationError, trace_context
from router.app.tracing import current_trace
from router.jobs.following import NAMES, Sentence
from router.testing import TestRouter
from tests.app import ROOT

HANDLERS = """
def placed(event): pass
def stops(event): return False
def flaky(event, context):
    if context.attempt == 1: raise ValueError("once")
"""

FILE = """
version: 1
pythonpath: ["."]
async: {backoff: 10s}
extensions:
  plain: {handlers: [{handler: "followed_handlers:placed"}]}
  flaky: {handlers: [{handler: "followed_handlers:flaky", id: flaky, async: {delay: 1m, uniqueJob: true}}]}
  stopped:
    interruptible: true
    handlers:
      - {handler: "followed_handlers:stops", id: guard}
      - {handler: "followed_handlers:placed", id: later, async: true}
"""

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def app(tmp_path: Path) -> Iterator[TestRouter]:
    (tmp_path / "followed_handlers.py").write_text(HANDLERS)
    path = tmp_path / "extensions.yaml"
    path.write_text(FILE)
    with TestRouter(path) as router:
        yield router


def test_the_log_has_nothing_that_a_terminal_would_obey() -> None:
    event = LifecycleEvent(
        name="failed", at=0.0, point="p", route="r", job="j", error="ValueError: \x1b[2J\rsucceeded\nTraceback"
    )
    assert str(Sentence(event)) == "failed     r (p) job j: ValueError: ␛[2J␍succeeded; see: router failed show j"


def follow(app: TestRouter) -> list[LifecycleEvent]:
    told: list[LifecycleEvent] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is no bootstrap, and this router is its own worker
        for name in NAMES:
            app.on(name, told.append)
    return told


def test_a_job_is_told_of_from_dispatch_to_its_end_in_the_routers_time(app: TestRouter) -> None:
    app.dispatch("plain")
    told = follow(app)
    done = app.dispatch("flaky", {"id": 1})
    app.dispatch("flaky", {"id": 1})
    app.run_jobs()
    assert [event.name for event in told] == [
        "queued",
        "dispatched",
        "duplicate",
        "dispatched",
        "started",
        "retried",
        "started",
        "succeeded",
    ]
    queued, dispatched, duplicate, _, started, retried, again, succeeded = told
    assert (queued.job, queued.wait, queued.queue) == (done.jobs["flaky"], 60.0, "default")
    assert dispatched.event_id == queued.correlation == done.event_id
    assert duplicate.holder == queued.job != duplicate.job
    assert (retried.wait, retried.attempt, again.attempt, succeeded.max_attempts) == (10.0, 1, 2, 3)
    assert (started.at - queued.at, again.at - started.at) == pytest.approx((60.0, 10.0))
    assert "ValueError: once" in (retried.error or "")


def test_a_stopped_event_skips_its_jobs_and_one_without_any_is_told_of_too(app: TestRouter) -> None:
    told = follow(app)
    app.dispatch("stopped")
    app.dispatch("plain")
    assert [(event.name, event.point, event.route, event.reason) for event in told] == [
        ("dispatched", "stopped", None, None),
        ("skipped", "stopped", "later", "guard has stopped the event"),
        ("dispatched", "plain", None, None),
    ]


def test_the_log_says_the_same_in_words_and_fields(app: TestRouter, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "router.app")
    done = app.dispatch("flaky", {"id": 1})
    app.run_jobs()
    lines = [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "router.app"]
    job = f"flaky (flaky) job {done.jobs['flaky']}"
    assert lines == [
        ("DEBUG", f"queued     {job} attempt 1 in queue default, to start in 1m"),
        ("DEBUG", f"dispatched flaky event {done.event_id}"),
        ("INFO", f"started    {job} attempt 1 of 3"),
        ("WARNING", f"retried    {job} attempt 1 of 3 after 0 ms: next in 10s; ValueError: once"),
        ("INFO", f"started    {job} attempt 2 of 3"),
        ("INFO", f"succeeded  {job} attempt 2 of 3 in 0 ms"),
    ]
    (retried,) = [record for record in caplog.records if getattr(record, "event", None) == "job.retried"]
    assert (retried.__dict__["job"], retried.__dict__["wait"]) == (done.jobs["flaky"], 10.0)


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
def test_what_a_listener_raises_is_logged_and_the_next_one_is_told(
    app: TestRouter, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    def raises(event: LifecycleEvent) -> None:
        raise error

    told: list[LifecycleEvent] = []
    app.on("queued", raises)
    app.on("queued", told.append)
    assert app.dispatch("flaky").jobs
    assert len(told) == 1
    assert "a listener of 'queued' raised" in caplog.text


def test_what_can_never_be_told_is_refused_at_once(app: TestRouter) -> None:
    async def listener(event: LifecycleEvent) -> None: ...

    class Listener:
        async def __call__(self, event: LifecycleEvent) -> None: ...

    with pytest.raises(RegistrationError, match=r"called 'fail'; did you mean .failed."):
        app.on("fail", print)  # type: ignore[arg-type]
    with pytest.raises(RegistrationError, match="nobody awaits an `async def` here; a listener is a plain function"):
        app.on("failed", listener)
    with pytest.raises(RegistrationError, match="nobody awaits an `async def` here"):
        app.on("failed", Listener())
    with pytest.raises(RegistrationError, match=r"listener\(\): .*; it is called with one argument, the event"):
        app.on("failed", lambda: None)  # type: ignore[arg-type, misc]
    with pytest.raises(RegistrationError, match=r"listener\(error, event\): .*; it is called with one argument"):
        app.on("failed", lambda error, event: None)  # type: ignore[arg-type, misc]
    with pytest.raises(RegistrationError, match="it has a `yield`"):
        app.on("failed", lambda event: (yield event))
    with pytest.warns(UserWarning, match="it happens in workers"):
        app.on("failed", print)
    with pytest.raises(RegistrationError, match="a listener is a function"):
        app.on("failed", "shop:listen")  # type: ignore[arg-type]


def test_the_page_has_every_name_and_every_field() -> None:
    page = (ROOT / "docs" / "following.md").read_text()
    first = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", page, re.MULTILINE)
    known = {name for cell in first for name in re.findall(r"`(\w+)`", cell)}
    assert known == {*NAMES, *LifecycleEvent.__struct_fields__}


@pytest.mark.parametrize("header", [None, "", "00-zz-1", f"ff{TRACEPARENT[2:]}", f"00-{'0' * 32}-00f067aa0ba902b7-01"])
def test_a_malformed_traceparent_is_ignored(header: str | None) -> None:
    with trace_context(header):
        assert current_trace() is None


def test_a_trace_goes_along_to_handlers_and_to_what_they_dispatch(app: TestRouter) -> None:
    with trace_context(TRACEPARENT, "vendor=1"):
        app.dispatch("flaky")
        assert current_trace() == {"traceparent": TRACEPARENT, "tracestate": "vendor=1"}
    assert current_trace() is None
    told = follow(app)
    app.run_jobs()
    assert {event.traceparent for event in told} == {TRACEPARENT}


def test_the_span_of_opentelemetry_is_the_trace_and_handlers_run_in_it(app: TestRouter) -> None:
    tracer = TracerProvider().get_tracer("test")
    seen = []
    with pytest.warns(UserWarning, match="outside `bootstrap`"):
        app.register_async("traced", "followed_handlers:placed", id="inner")
    app.register("plain", lambda event: app.dispatch("traced"), id="outer")
    app.on("queued", lambda event: seen.append(event.traceparent))
    with tracer.start_as_current_span("request") as span:
        app.dispatch("plain")
    context = span.get_span_context()
    assert seen == [f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"]
    spans = []

    def handler(event: object) -> None:
        with tracer.start_as_current_span("inside") as inner:
            spans.append(inner)

    import followed_handlers  # type: ignore[import-not-found]

    followed_handlers.placed = handler
    app.run_jobs()
    assert [(inner.get_span_context().trace_id, inner.parent.span_id) for inner in spans] == [
        (context.trace_id, context.span_id)
    ]
