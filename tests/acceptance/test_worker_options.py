"""Options of the worker, callbacks after crashes, and jobs that this worker can't run."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from router.brokers import connect
from router.brokers.base import Outgoing, Topology
from tests.app import App, sqlite_url

WORK = """
import os, sys
import router

from journal import write

def quick(event):
    write("quick")

kept = []

def greedy(event):
    kept.append(bytearray(50_000_000))
    write("greedy")

def dies(event, context):
    write("dies", attempt=context.attempt)
    os._exit(3)

def exits(event):
    sys.exit("enough")

def asks(event, context):
    write("asks", attempt=context.attempt)
    if context.attempt == 1:
        raise router.Retry("not yet", delay=0.2)
    raise router.Fail("no use")

def on_retry(attempt, error):
    write("on_retry", attempt=attempt, error=type(error).__name__)

def on_failure(error, event):
    write("on_failure", error=type(error).__name__, event=event)
    raise RuntimeError("callbacks may fail, too")

def chains(event, context):
    done = router.dispatch("chained", {})
    write("chains", job=context.job_id, correlation=context.correlation_id)

def chained(event, context):
    write("chained", correlation=context.correlation_id)
"""

FILE = """
version: 1
pythonpath: ["."]
unknownRouteFor: 2s
async: {backoff: 100ms, backoff_strategy: fixed}
broker: {url: "${ROUTER_BROKER_URL}", namespace: "${ROUTER_NAMESPACE}"}
extensions:
  quick: {handlers: [{handler: "work:quick", async: true}]}
  greedy: {handlers: [{handler: "work:greedy", async: true}]}
  dies:
    handlers: [{handler: "work:dies", async: {retries: 2, onRetry: "work:on_retry", onFailure: "work:on_failure"}}]
  exits: {handlers: [{handler: "work:exits", async: {retries: 1}}]}
  asks:
    handlers: [{handler: "work:asks", async: {onRetry: "work:on_retry", onFailure: "work:on_failure"}}]
  chains: {handlers: [{handler: "work:chains", async: true}]}
  chained: {handlers: [{handler: "work:chained", async: true}]}
"""


def can_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-pf", "true"], check=False, capture_output=True).returncode == 0


@pytest.fixture
def app(make_app: Callable[..., App], tmp_path: Path) -> App:
    (tmp_path / "work.py").write_text(WORK)
    return make_app(FILE)


def work_off(app: App, *options: str) -> str:
    """Run a worker until nothing is left; what it logged."""
    worker = app.start_worker("--concurrency", "1", "--stop-when-empty", *options)
    assert worker.wait() == 0
    return worker.log()


def test_a_child_is_replaced_after_so_many_jobs(app: App) -> None:
    for _ in range(5):
        app.router("dispatch", "quick")
    work_off(app, "--max-jobs-per-child", "2")
    pids = [line["pid"] for line in app.journal("quick")]
    assert len(set(pids)) == 3
    assert pids == sorted(pids, key=pids.index)


def test_a_child_that_has_used_much_memory_is_replaced(app: App) -> None:
    for _ in range(3):
        app.router("dispatch", "greedy")
    work_off(app, "--max-memory-per-child", "100M")
    assert len({line["pid"] for line in app.journal("greedy")}) >= 2


def test_callbacks_run_after_a_crash_with_what_is_left_of_the_exception(app: App) -> None:
    app.router("dispatch", "dies", "-p", '{"n": 1}')
    log = work_off(app)
    assert [line["attempt"] for line in app.journal("dies")] == [1, 2]
    assert [(line["attempt"], line["error"]) for line in app.journal("on_retry")] == [(1, "ChildDied")]
    (failure,) = app.journal("on_failure")
    assert (failure["error"], failure["event"]) == ("ChildDied", {"n": 1})
    assert "callbacks may fail, too" in log
    (job,) = app.failed()
    assert job["reason"] == "attempts"
    assert "exited with code 3" in job["error"]


def test_retry_and_fail_do_as_they_say(app: App) -> None:
    app.router("dispatch", "asks")
    log = work_off(app)
    assert "next in 200ms" in log
    assert [line["attempt"] for line in app.journal("asks")] == [1, 2]
    assert [line["error"] for line in app.journal("on_retry")] == ["Retry"]
    assert [line["error"] for line in app.journal("on_failure")] == ["Fail"]
    (job,) = app.failed()
    assert (job["reason"], len(job["history"])) == ("fail", 2)


@pytest.mark.parametrize("many", ["", "queues: {default: {asyncConcurrency: 2}}"])
def test_what_a_callback_raises_is_logged_without_the_frames_of_the_worker(
    make_app: Callable[..., App], tmp_path: Path, many: str
) -> None:
    (tmp_path / "work.py").write_text(WORK.replace("def asks", "async def asks"))
    app = make_app(FILE + many)
    app.router("dispatch", "asks")
    _, _, logged = work_off(app).partition("onFailure of work:asks raised")
    assert {line.split('"')[1] for line in logged.splitlines() if line.startswith("  File ")} == {f"{tmp_path}/work.py"}


def test_sys_exit_in_a_handler_is_its_failure_not_the_childs_end(app: App) -> None:
    app.router("dispatch", "exits")
    log = work_off(app)
    assert "SystemExit: enough" in log
    assert "ended: exited" not in log


def test_what_a_handler_dispatches_belongs_to_the_same_correlation(app: App) -> None:
    app.router("dispatch", "chains")
    work_off(app)
    (cause,), (effect,) = app.journal("chains"), app.journal("chained")
    assert cause["correlation"] == effect["correlation"]


def test_the_json_log_has_a_line_for_each_step_of_a_job(app: App) -> None:
    app.router("dispatch", "asks")
    log = work_off(app, "--log-format", "json")
    events = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    steps = [event["event"] for event in events if str(event.get("event", "")).startswith("job.")]
    assert steps == ["job.started", "job.retried", "job.started", "job.failed"]
    retried = next(event for event in events if event.get("event") == "job.retried")
    assert (retried["attempt"], retried["wait"], retried["route"]) == (1, 0.2, "work:asks")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_where_a_standard_stream_is_closed_handlers_can_print_all_the_same(tmp_path: Path, closed: str) -> None:
    (tmp_path / "work.py").write_text(
        "import sys\n\ndef prints(event):\n    print('out')\n    print('err', file=sys.stderr)\n"
    )
    file = (
        "version: 1\npythonpath: ['.']\n"
        "extensions: {prints: {handlers: [{handler: 'work:prints', async: {retries: 1}}]}}\n"
    )
    with App(tmp_path, file, sqlite_url(tmp_path)) as app:
        app.router("dispatch", "prints")
        command = shlex.join(app._command("run-worker", "--concurrency", "1", "--stop-when-empty"))
        subprocess.run(["sh", "-c", f"{command} {closed}"], env=app._environ(), cwd=tmp_path, check=True, timeout=60)
        assert app.failed() == []


SLOW_TO_IMPORT = "import time\n\ntime.sleep(30)\n\ndef slow(event):\n    pass\n"
"""The check lasts until a signal ends it, however late that comes."""


@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.3])
def test_ctrl_c_while_the_file_is_checked_says_nothing_of_ours(tmp_path: Path, seconds: float) -> None:
    """A terminal sends it to the checking process too, which may not have got far."""
    (tmp_path / "work.py").write_text(SLOW_TO_IMPORT)
    file = "version: 1\npythonpath: ['.']\nextensions: {slow: {handlers: [{handler: 'work:slow', async: true}]}}\n"
    with App(tmp_path, file, sqlite_url(tmp_path)) as app:
        command = app._command("run-worker")
        worker = subprocess.Popen(
            command, env=app._environ(), cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        app.wait_until(lambda: psutil.Process(worker.pid).children())
        time.sleep(seconds)
        os.killpg(worker.pid, signal.SIGINT)
        _, said = worker.communicate(timeout=30)
    assert worker.returncode == 130
    assert "Traceback" not in said


@pytest.mark.skipif(not can_unshare(), reason="needs a process namespace")
def test_as_pid_1_it_obeys_sigterm_while_the_file_is_checked(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(SLOW_TO_IMPORT)
    file = "version: 1\npythonpath: ['.']\nextensions: {slow: {handlers: [{handler: 'work:slow', async: true}]}}\n"
    with App(tmp_path, file, sqlite_url(tmp_path)) as app:
        command = ["unshare", "-pf", "--kill-child", *app._command("run-worker", "--max-time", "10s")]
        outside = subprocess.Popen(command, env=app._environ(), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        (worker,) = app.wait_until(lambda: psutil.Process(outside.pid).children())
        app.wait_until(worker.children)
        worker.send_signal(signal.SIGTERM)
        _, said = outside.communicate(timeout=30)
    assert outside.returncode == 143
    assert said == ""


def test_warnings_and_exceptions_of_threads_are_lines_of_the_json_log_too(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(
        "import threading, warnings\n\n"
        "def warns(event):\n"
        "    warnings.warn('look out')\n"
        "    thread = threading.Thread(target=lambda: 1 / 0)\n"
        "    thread.start()\n"
        "    thread.join()\n"
    )
    file = "version: 1\npythonpath: ['.']\nextensions: {warns: {handlers: [{handler: 'work:warns', async: true}]}}\n"
    with App(tmp_path, file, sqlite_url(tmp_path)) as app:
        app.router("dispatch", "warns")
        worker = app.start_worker("--log-format", "json", "--stop-when-empty")
        assert worker.wait() == 0
        lines = [json.loads(line) for line in worker.log().splitlines()]
    (warning,) = (line for line in lines if line["logger"] == "py.warnings")
    assert "look out" in warning["message"]
    (uncaught,) = (line for line in lines if "uncaught" in line["message"])
    assert "ZeroDivisionError" in uncaught["exc_info"]


def test_a_task_that_a_handler_leaves_behind_and_that_exits_costs_no_other_job_an_attempt(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(
        "import asyncio, sys\n\n"
        "tasks = []\n\n"
        "async def leaves(event):\n"
        "    async def exits():\n"
        "        await asyncio.sleep(0.01)\n"
        "        sys.exit(3)\n"
        "    tasks.append(asyncio.create_task(exits()))\n\n"
        "async def waits(event):\n"
        "    await asyncio.sleep(0.2)\n"
    )
    file = "version: 1\npythonpath: ['.']\nasync: {tries: 1}\nextensions:\n" + "".join(
        f"  {name}: {{handlers: [{{handler: 'work:{name}', async: true}}]}}\n" for name in ("leaves", "waits")
    )
    with App(tmp_path, file, sqlite_url(tmp_path)) as app:
        app.router("dispatch", "leaves")
        app.router("dispatch", "waits")
        log = work_off(app)
    assert "2 succeeded, 0 to be retried, 0 failed" in log
    assert "a background task has raised SystemExit: 3" in log


def test_max_time_ends_an_idle_worker(app: App) -> None:
    worker = app.start_worker("--concurrency", "1", "--max-time", "1s")
    assert worker.wait() == 0
    assert "--max-time" in worker.log()


def test_max_time_ends_a_worker_whose_broker_never_comes(tmp_path: Path) -> None:
    with socket.socket() as nobody, App(tmp_path, "version: 1\n", "sqlite:///unused.db") as app:
        nobody.bind(("127.0.0.1", 0))  # and doesn't listen
        app.env["ROUTER_BROKER_URL"] = f"amqp://127.0.0.1:{nobody.getsockname()[1]}"
        worker = app.start_worker("--concurrency", "1", "--max-time", "1s")
        assert worker.wait() == 0
        assert "stopping (--max-time)" in worker.log()


def publish(app: App, *bodies: bytes) -> None:
    broker = connect(app.env["ROUTER_BROKER_URL"], app.env["ROUTER_NAMESPACE"])
    broker.declare(Topology(frozenset({"default"})))
    receipt = broker.publish([Outgoing(f"raw-{number}", "p", "default", body) for number, body in enumerate(bodies)])
    assert len(receipt.confirmed) == len(bodies)
    broker.close()


def test_what_nobody_can_run_waits_and_what_nobody_can_read_fails_at_once(app: App) -> None:
    known = {"v": 1, "point": "quick", "event": {}, "dispatched_at": 1.0, "correlation": "c"}
    publish(
        app,
        b"\xff\x00 no job",
        json.dumps({**known, "job": "newer-route", "route": "work:newer"}).encode(),
        json.dumps({"v": 9, "job": "newer-version", "point": "quick", "route": "work:quick"}).encode(),
    )
    app.router("dispatch", "quick")
    log = work_off(app)
    assert len(app.journal("quick")) == 1
    failed = {job["job"]: job for job in app.failed()}
    assert failed["newer-route"]["reason"] == failed["newer-version"]["reason"] == "unknown_route"
    assert log.count("waiting") >= 2
    (undecodable,) = (job for job in failed.values() if job["reason"] == "undecodable")
    assert "no job" in undecodable["bytes"]
    assert "stopped: 1 succeeded, 0 to be retried, 3 failed" in log


def test_a_job_that_was_handed_out_forty_times_is_poison_and_the_others_go_on(app: App) -> None:
    app.router("dispatch", "chained")
    app.hand_out("default", 39)
    for _ in range(3):
        app.router("dispatch", "quick")
    work_off(app)
    (job,) = app.failed()
    assert (job["reason"], job["point"]) == ("poison", "chained")
    assert len(app.journal("quick")) == 3


def test_a_suspect_job_runs_alone_and_then_everything_goes_on_as_before(app: App) -> None:
    app.router("dispatch", "chained")
    app.hand_out("default", 25)
    for _ in range(3):
        app.router("dispatch", "quick")
    work_off(app)
    assert len(app.journal("quick")) == 3
    assert len(app.journal("chained")) == 1
