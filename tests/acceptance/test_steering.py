"""What is retried, when, how long a job may wait, who is told: options that steer a job's life."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from router import Dispatch
from tests.app import App

WORK = """
import time

from journal import write

class Flaky(ConnectionError):
    pass

class Broken(Flaky):
    pass

def raises(event, context):
    write("raises", name=event["name"], attempt=context.attempt)
    raise {"Flaky": Flaky, "Broken": Broken, "ValueError": ValueError}[event["name"]](event["name"])

def times_out(event):
    write("times_out")
    time.sleep(30)

def slow(event):
    write("slow.start", which=event.get("which"))
    time.sleep(event.get("seconds", 3))
    write("slow.end")

def late(event):
    write("late")

def failed(error, event):
    write("failed", error=type(error).__name__)

def failed_point(error, event):
    write("failed_point", error=type(error).__name__)

def failed_file(error, event):
    write("failed_file", error=type(error).__name__)

def retried(attempt, error):
    write("retried", attempt=attempt)
"""

FILE = """
version: 1
pythonpath: ["."]
async: {backoff: 100ms, backoff_strategy: fixed, onFailure: "work:failed_file", onRetry: "work:retried"}
extensions:
  raises:
    handlers:
      - handler: work:raises
        async: {retryOn: ["builtins:ConnectionError"], dontRetryOn: ["work:Broken"], jitter: 0.5,
                onFailure: "work:failed"}
  times_out:
    onFailure: work:failed_point
    handlers:
      - {handler: "work:times_out", async: {timeout: 500ms, dontRetryOn: ["router:JobTimeout"]}}
  slow: {handlers: [{handler: "work:slow", async: {queue: narrow}}]}
  late: {handlers: [{handler: "work:late", async: {queue: narrow, expires: 500ms}}]}
  once: {handlers: [{handler: "work:slow", async: {uniqueJob: true, uniqueBy: [key], uniqueUntil: start}}]}
"""


@pytest.fixture
def app(make_app: Callable[..., App], tmp_path: Path) -> App:
    (tmp_path / "work.py").write_text(WORK)
    return make_app(FILE)


def test_exceptions_decide_whether_a_job_is_retried(app: App) -> None:
    app.start_worker("--concurrency", "1")
    for name in ("Flaky", "Broken", "ValueError"):
        app.router("dispatch", "raises", "-p", f'{{"name": "{name}"}}')
    app.router("dispatch", "times_out")
    app.wait_for("failed", 3)
    app.wait_for("failed_point")
    attempts = {name: len(app.journal("raises", name=name)) for name in ("Flaky", "Broken", "ValueError")}
    assert attempts == {"Flaky": 3, "Broken": 1, "ValueError": 1}
    assert len(app.journal("times_out")) == 1
    (told,) = app.journal("failed_point")
    assert told["error"] == "JobTimeout"
    assert len(app.journal("retried")) == 2
    assert not app.journal("failed_file")
    app.wait_until(lambda: len(app.failed()) == 4)
    assert sorted(job["reason"] for job in app.failed()) == ["attempts", "fail", "fail", "fail"]


def test_a_job_that_could_not_start_in_time_fails_as_expired_and_says_so(app: App) -> None:
    app.router("dispatch", "slow")
    app.router("dispatch", "late")
    app.start_worker("--concurrency", "1", "--queue", "narrow")
    app.wait_for("failed_file", error="JobExpired")
    assert not app.journal("late")
    (job,) = app.wait_until(app.failed)
    assert job["reason"] == "expired"
    app.router("failed", "retry", "--all")
    app.wait_for("late")


def test_a_job_that_is_unique_until_it_starts_lets_one_more_wait_while_it_runs(app: App) -> None:
    with app.application() as application:

        def dispatch(seconds: float) -> Dispatch:
            return application.dispatch("once", {"key": 1, "seconds": seconds})

        first = dispatch(10)
        assert dispatch(0).duplicates == (("work:slow", first.jobs["work:slow"]),)
        app.start_worker("--concurrency", "1")
        app.wait_for("slow.start")
        second = app.wait_until(lambda: (done := dispatch(0)).jobs and done)
        assert dispatch(0).duplicates == (("work:slow", second.jobs["work:slow"]),)
    app.wait_for("slow.end", 2)
    assert len(app.journal("slow.start")) == 2


def test_a_job_that_is_unique_until_it_starts_is_no_duplicate_after_its_worker_was_killed(app: App) -> None:
    """It had given up its lock, which another one has by now; it was dropped as that one's duplicate."""
    with app.application() as application:
        application.dispatch("once", {"key": 1, "which": "interrupted", "seconds": 3})
        worker = app.start_worker("--concurrency", "1")
        app.wait_for("slow.start")
        app.wait_until(lambda: application.dispatch("once", {"key": 1, "which": "waiting", "seconds": 0}).jobs)
    worker.process.kill()
    app.start_worker("--concurrency", "1")
    app.wait_for("slow.end", 2)
    assert sorted(line["which"] for line in app.journal("slow.start")) == ["interrupted", "interrupted", "waiting"]


def test_locks_can_be_seen_and_one_whose_job_is_gone_can_be_given_up(app: App) -> None:
    def dispatch(key: int) -> dict[str, object]:
        return app.router("dispatch", "once", "-p", f'{{"key": {key}}}', "--format", "json").json()

    assert app.router("locks", "list", "--format", "json").json() == []
    first, _ = dispatch(1), dispatch(2)
    held = app.router("locks", "list", "--format", "json").json()
    assert {(lock["point"], lock["route"]) for lock in held} == {("once", "work:slow")}
    assert len(held) == 2
    job = first["jobs"]["work:slow"]
    assert job in app.router("locks", "list").stdout
    (digest,) = (lock["lock"] for lock in held if lock["job"] == job)
    assert "is free" in app.router("locks", "release", digest[:12]).stdout
    assert dispatch(1)["jobs"]
    assert "no lock is held that begins with 'nonsense'" in app.router("locks", "release", "nonsense", code=2).stderr
