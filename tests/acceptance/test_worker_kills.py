"""Real kills in the middle of a thousand jobs, hard timeouts, and unique jobs under contention."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from router.config.settings import Unique
from router.jobs.unique import lock_key
from router.locks import open_locks
from tests.app import App

JOBS = 1000

WORK = """
import re, time

from journal import write

def count(event):
    write("start", number=event["number"])
    time.sleep(0.002)
    write("end", number=event["number"])

def run_wild(event):
    write("wild")
    re.match(r"(a+)+$", "a" * 40 + "b")

def sleep_long(event):
    write("asleep")
    time.sleep(60)

def on_failure(error, event):
    write("failed", error=type(error).__name__, text=str(error))

def one_at_a_time(event):
    write("start", key=event["key"])
    time.sleep(0.005)
    write("end", key=event["key"])
"""

FILE = """
version: 1
pythonpath: ["."]

extensions:
  numbered: {handlers: [{handler: "work:count", async: true}]}
  wild: {handlers: [{handler: "work:run_wild", async: {timeout: 1, retries: 1, onFailure: "work:on_failure"}}]}
  asleep: {handlers: [{handler: "work:sleep_long", async: {timeout: 1, retries: 1, onFailure: "work:on_failure"}}]}
  keyed:
    handlers: [{handler: "work:one_at_a_time", async: {uniqueJob: true, uniqueBy: [key]}}]
"""


@pytest.fixture
def app(make_app: Callable[..., App], tmp_path: Path) -> App:
    (tmp_path / "work.py").write_text(WORK)
    return make_app(FILE)


def dispatch_numbers(app: App, count: int = JOBS) -> None:
    source = app.folder / "events.jsonl"
    source.write_text("".join(json.dumps({"point": "numbered", "payload": {"number": n}}) + "\n" for n in range(count)))
    app.router("dispatch", "--from", str(source))


def check_ledger(app: App, killed_at: float) -> None:
    """Every job has run to its end; those that ran twice were in the worker's hands when it was killed."""
    assert {line["number"] for line in app.journal("end")} == set(range(JOBS))
    starts = Counter(line["number"] for line in app.journal("start"))
    twice = {number for number, count in starts.items() if count > 1}
    firsts: dict[int, float] = {}
    for line in app.journal("start"):
        firsts.setdefault(line["number"], line["at"])
    assert all(killed_at - 2.0 < firsts[number] <= killed_at + 0.1 for number in twice)
    assert max(starts.values()) <= 2
    counts = app.status()
    assert all(not (queue["ready"] or queue["running"] or queue["failed"]) for queue in counts["queues"].values())


def test_a_killed_child_costs_at_most_the_job_it_ran(app: App) -> None:
    dispatch_numbers(app)
    worker = app.start_worker("--concurrency", "2", "--stop-when-empty")
    app.wait_until(lambda: len(app.journal("end")) > JOBS / 3)
    victim = app.journal("end")[-1]["pid"]
    os.kill(victim, signal.SIGKILL)
    killed_at = time.time()
    # The job that ran there pays an attempt and waits 10 s for its next one; nothing else is touched.
    assert worker.wait() == 0
    check_ledger(app, killed_at)
    starts = Counter(line["number"] for line in app.journal("start"))
    assert sum(count - 1 for count in starts.values()) <= 1


@pytest.mark.parametrize("whole_group", [False, True], ids=["parent alone", "whole group"])
def test_a_killed_worker_loses_no_job_and_leaves_no_process(app: App, whole_group: bool) -> None:
    dispatch_numbers(app)
    worker = app.start_worker("--concurrency", "2")
    app.wait_until(lambda: len(app.journal("end")) > JOBS / 3)
    family = worker.children()
    assert len(family) == 2
    if whole_group:
        for process in family:
            process.kill()
    worker.process.kill()
    killed_at = time.time()
    worker.process.wait(5)
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive
    app.start_worker("--concurrency", "2")  # gets what the dead one held when its leases have run out
    app.wait_until(lambda: {line["number"] for line in app.journal("end")} == set(range(JOBS)))
    app.wait_until(lambda: not app.counts().queues["default"].running)
    check_ledger(app, killed_at)


@pytest.mark.parametrize("point", ["wild", "asleep"])
def test_a_handler_stuck_in_c_code_is_stopped_and_the_others_go_on_meanwhile(app: App, point: str) -> None:
    app.start_worker("--concurrency", "2")
    app.router("dispatch", point)
    (stuck,) = app.wait_for(point)
    dispatch_numbers(app, 50)
    (failed,) = app.wait_for("failed")
    app.wait_for("end", 50)
    assert failed["error"] == "JobTimeout"
    (job,) = app.wait_until(app.failed)
    assert 1.0 <= job["failed_at"] - stuck["at"] < 10
    record = job["history"][-1]
    assert record["outcome"] == "timeout"
    assert record["at"] - stuck["at"] < 2.0
    app.wait_until(lambda: not psutil.pid_exists(stuck["pid"]))


DISPATCHER = """
import sys, router
router.configure(sys.argv[1])
jobs = duplicates = 0
for number in range(125):
    done = router.dispatch("keyed", {"key": number % 10})
    jobs += len(done.jobs)
    duplicates += len(done.duplicates)
print(jobs, duplicates)
"""


def test_of_a_unique_key_at_most_one_job_is_alive_and_no_lock_is_left(app: App) -> None:
    worker = app.start_worker("--concurrency", "2")
    command = [sys.executable, "-c", DISPATCHER, str(app.config)]
    dispatchers = [
        subprocess.Popen(command, env={**os.environ, **app.env}, cwd=app.folder, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    numbers = [tuple(map(int, process.communicate(timeout=60)[0].split())) for process in dispatchers]
    jobs, duplicates = (sum(column) for column in zip(*numbers, strict=True))
    assert jobs + duplicates == 500
    app.wait_until(lambda: len(app.journal("end")) >= jobs)
    app.wait_until(lambda: not any(queue.running or queue.ready for queue in app.counts().queues.values()))
    alive: Counter[int] = Counter()
    for line in app.journal():
        alive[line["key"]] += 1 if line["what"] == "start" else -1
        assert alive[line["key"]] in (0, 1)
    assert len(app.journal("end")) == jobs
    worker.end()
    locks = open_locks(app.env["ROUTER_LOCKS_URL"])
    unique, namespace = Unique(by=("key",)), app.env["ROUTER_NAMESPACE"]
    for key in range(10):
        held = lock_key(namespace, "keyed", "work:one_at_a_time", unique, json.dumps({"key": key}).encode())
        assert locks.holder(held) is None
    locks.close()
