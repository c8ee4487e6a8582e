"""docs/following.md: listeners, correlation and traces, from a dispatch to the handlers of its jobs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import router
from tests.app import App, sqlite_url
from tests.pages import write_files

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def app(make_app: Callable[..., App], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> App:
    write_files("following.md", tmp_path)
    monkeypatch.chdir(tmp_path)
    return make_app((tmp_path / "extensions.yaml").read_text())


def followed(app: App) -> list[dict[str, Any]]:
    path = app.folder / "followed.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_listeners_are_told_what_happens_in_the_application_and_in_workers(app: App) -> None:
    with app.application() as application, router.trace_context(TRACEPARENT, "vendor=1"):
        done = application.dispatch("order.placed", {"order_id": 7})
    worker = app.start_worker("--concurrency", "2", "--log-format", "json")
    app.wait_until(lambda: [line["event"] for line in followed(app)].count("job.succeeded") == 2)
    lines = followed(app)
    job = done.jobs["charge"]
    of_job = sorted((line["event"], line["attempt"]) for line in lines if line["job"] == job)
    assert of_job == [
        ("job.queued", 1),
        ("job.retried", 1),
        ("job.started", 1),
        ("job.started", 2),
        ("job.succeeded", 2),
    ]
    booked = [line for line in lines if line["route"] == "book"]
    assert {line["causation"] for line in booked} == {job}
    assert {line["correlation"] for line in lines} == {done.event_id}
    assert {line["traceparent"] for line in lines} == {TRACEPARENT}
    assert Path("traceparent.txt").read_text() == TRACEPARENT
    retried = next(line for line in lines if line["event"] == "job.retried")
    assert retried["error"].startswith("ConnectionError: the bank is busy")
    assert (retried["wait"], retried["max_attempts"]) == (0.1, 3)
    log = [json.loads(line) for line in worker.log().splitlines() if line.startswith("{")]
    charging = [line for line in log if line["message"] == "charging order 7"]
    assert [(line["correlation"], line["traceparent"], line["attempt"]) for line in charging] == [
        (done.event_id, TRACEPARENT, 1),
        (done.event_id, TRACEPARENT, 2),
    ]
    assert {line["event"] for line in lines} - {"job.queued"} <= {line.get("event") for line in log}


LISTENERS = """
import os, pathlib, time

def setup(app):
    app.on("failed", lambda event: 1 / 0)
    app.on("failed", lambda event: pathlib.Path("told.txt").write_text(event.reason))
    app.on("succeeded", lambda event: time.sleep(60))

def dies(event):
    os.kill(os.getpid(), 9)

def returns(event):
    pass
"""

FILE = """
version: 1
bootstrap: listeners:setup
extensions:
  dies: {handlers: [{handler: "listeners:dies", async: {retries: 1}}]}
  returns: {handlers: [{handler: "listeners:returns", async: true}]}
"""


def test_a_listener_is_told_of_a_job_with_which_its_child_and_the_worker_end(tmp_path: Path) -> None:
    (tmp_path / "listeners.py").write_text(LISTENERS.replace("time.sleep(60)", 'pathlib.Path("told.txt").touch()'))
    with App(tmp_path, f'pythonpath: ["."]{FILE}', sqlite_url(tmp_path)) as app:
        app.router("dispatch", "returns")
        worker = app.start_worker("--concurrency", "1", "--max-jobs", "1", "--max-jobs-per-child", "1")
        assert worker.wait() == 0
        assert (tmp_path / "told.txt").exists(), worker.log()


def test_a_listener_that_raises_or_hangs_changes_nothing_and_a_child_that_died_is_told_of_by_another(
    make_app: Callable[..., App], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "listeners.py").write_text(LISTENERS)
    monkeypatch.chdir(tmp_path)
    app = make_app(FILE)
    with app.application() as application:
        application.dispatch("dies")
        worker = app.start_worker("--concurrency", "1")
        app.wait_until(lambda: (tmp_path / "told.txt").exists() and (tmp_path / "told.txt").read_text() == "attempts")
        assert "a listener of 'failed' raised" in worker.log()
        application.dispatch_many([("returns", {})] * 20)
    app.wait_until(lambda: worker.log().count("succeeded  listeners:returns") == 20)
    worker.end()
    assert "listeners were not told of about" in worker.log()
