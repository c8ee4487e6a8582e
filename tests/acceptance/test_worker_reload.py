"""Hot reload, signals, and workers that can't start."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.app import App, sqlite_url

WORK = """
import os, time

from journal import write

def first(event):
    write("VERSION")

def second(event):
    write("second")

def slow(event):
    write("slow.start")
    until = time.monotonic() + 60
    while not os.path.exists("go") and time.monotonic() < until:
        time.sleep(0.01)
    write("slow.end")
"""

FILE = """
version: 1
pythonpath: ["."]
broker: {url: "${ROUTER_BROKER_URL}", namespace: "${ROUTER_NAMESPACE}"}
extensions:
  raised: {handlers: [{handler: "work:first", async: true}]}
  slow: {handlers: [{handler: "work:slow", async: true}]}
"""
WITH_SECOND = FILE.replace(
    '"work:first", async: true}',
    '"work:first", async: true}, {handler: "work:second", async: {queue: new, delay: 300ms}}',
)


@pytest.fixture
def app(make_app: Callable[..., App], tmp_path: Path) -> App:
    (tmp_path / "work.py").write_text(WORK.replace("VERSION", "first"))
    return make_app(FILE)


def last_error(app: App) -> str | None:
    workers = app.router("status", "--format", "json").json()["workers"]
    return workers[0]["last_error"] if workers else None


def test_an_edited_file_is_in_force_without_a_restart(app: App) -> None:
    worker = app.start_worker("--concurrency", "1")
    app.router("dispatch", "raised")
    app.wait_for("first")
    app.config.write_text(WITH_SECOND)
    app.wait_until(lambda: "generation 2 is in force" in worker.log())
    assert "added work:second of raised" in worker.log()
    app.router("dispatch", "raised")
    app.wait_for("second")


def test_a_queue_that_left_the_file_is_served_until_the_worker_restarts(app: App, tmp_path: Path) -> None:
    before = FILE.replace('work:first", async: true', 'work:first", async: {queue: old}')
    app.config.write_text(before)
    worker = app.start_worker("--concurrency", "1")
    app.wait_until(lambda: "1 children" in worker.log())
    app.config.write_text(FILE)
    app.wait_until(lambda: "generation 2 is in force" in worker.log())
    (tmp_path / "before.yaml").write_text(before)
    app.router("dispatch", "raised", "-c", "before.yaml")
    app.wait_for("first")


def test_a_broken_edit_leaves_the_last_good_table_in_force_and_says_why(app: App) -> None:
    worker = app.start_worker("--concurrency", "1")
    app.wait_until(lambda: app.router("status", "--format", "json").json()["workers"])
    app.config.write_text(FILE.replace("work:slow", "work:slwo"))
    # A worker that doesn't answer in time isn't listed: what it said once counts.
    assert "did you mean 'slow'" in (app.wait_until(lambda: last_error(app)) or "")
    assert "generation 1 stays in force" in worker.log()
    app.config.write_text(FILE)
    app.wait_until(lambda: "generation 2 is in force" in worker.log())
    app.wait_until(lambda: last_error(app) is None)
    app.router("dispatch", "raised")
    app.wait_for("first")


def test_sighup_puts_edited_handler_code_in_force(app: App) -> None:
    worker = app.start_worker("--concurrency", "1")
    app.router("dispatch", "raised")
    app.wait_for("first")
    (app.folder / "work.py").write_text(WORK.replace("VERSION", "edited"))
    os.kill(worker.pid, signal.SIGHUP)
    app.wait_until(lambda: "generation 2 is in force" in worker.log())
    app.router("dispatch", "raised")
    app.wait_for("edited")


def test_sigterm_lets_the_running_job_finish_and_gives_the_others_back(app: App) -> None:
    app.router("dispatch", "slow")
    app.router("dispatch", "slow")
    worker = app.start_worker("--concurrency", "1")
    app.wait_for("slow.start")
    worker.process.terminate()
    app.wait_until(lambda: "stopping (SIGTERM)" in worker.log())
    (app.folder / "go").touch()
    assert worker.wait() == 0
    assert len(app.journal("slow.start")) == len(app.journal("slow.end")) == 1
    assert app.status()["queues"]["default"]["ready"] == 1


def test_a_second_signal_ends_it_now_and_the_job_pays_no_attempt(app: App) -> None:
    app.router("dispatch", "slow")
    worker = app.start_worker("--concurrency", "1")
    app.wait_for("slow.start")
    worker.process.terminate()
    app.wait_until(lambda: "stopping (SIGTERM)" in worker.log())
    worker.process.terminate()
    assert worker.wait() == 0
    assert not app.journal("slow.end")
    assert app.status()["queues"]["default"]["ready"] == 1
    (app.folder / "go").touch()
    again = app.start_worker("--concurrency", "1", "--stop-when-empty")
    assert again.wait() == 0
    assert "attempt 1 of 3 in " in again.log()


def test_a_file_that_is_wrong_starts_nothing(app: App) -> None:
    app.config.write_text(FILE.replace("work:slow", "wrok:slow"))
    done = app.router("run-worker", code=1)
    assert "there is no module 'wrok'" in done.stderr
    assert "Traceback" not in done.stderr


BLOCKS = """
import asyncio, os, sys, time
from journal import write

in_a_child = "router.worker.child" in sys.modules["__main__"].__spec__.name  # not the process that checks the file
if in_a_child:
    write("imports")

SYNC_OR_NOT
    try:
        asyncio.get_running_loop()
        write("in a loop")
    except RuntimeError:
        write("by itself")
"""
FIRST_PASSES = """
if in_a_child:
    try:
        os.close(os.open("first", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        write("second imports")
        deadline = time.monotonic() + 30
        while not os.path.exists("go") and time.monotonic() < deadline:
            time.sleep(0.01)
"""


def test_while_a_reload_is_prepared_handlers_run_as_the_code_that_has_them_says(tmp_path: Path) -> None:
    """A handler that became `async def` in the new code ran on an event loop in the old, where it is still a `def`."""
    file = FILE.replace("work:first", "blocks:handler") + "queues: {default: {asyncConcurrency: 5}}\n"
    (tmp_path / "work.py").write_text(WORK)
    (tmp_path / "blocks.py").write_text(BLOCKS.replace("SYNC_OR_NOT", "def handler(event):"))
    with App(tmp_path, file, sqlite_url(tmp_path)) as app:
        worker = app.start_worker("--concurrency", "2")
        app.router("dispatch", "raised")
        app.wait_for("by itself")
        app.wait_for("imports", 2)
        # The first of the new children gets ready, the second is still importing.
        (tmp_path / "blocks.py").write_text(BLOCKS.replace("SYNC_OR_NOT", f"{FIRST_PASSES}\nasync def handler(event):"))
        worker.process.send_signal(signal.SIGHUP)
        app.wait_for("second imports")
        for _ in range(5):
            app.router("dispatch", "raised")
        app.wait_for("by itself", 6)
        (tmp_path / "go").touch()
        app.wait_until(lambda: "generation 2 is in force" in worker.log())
        app.router("dispatch", "raised")
        app.wait_for("in a loop")
        assert len(app.journal("by itself")) == 6
