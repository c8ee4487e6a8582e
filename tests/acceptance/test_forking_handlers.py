"""Handlers that fork: the copy of the child is nobody's child. Nothing here depends on the broker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.app import App, sqlite_url

WORK = """
import ctypes, multiprocessing, os, threading, time

from journal import write

def quick(event):
    write("quick")

def returns_twice(event):
    os.fork()
    write("returned")

async def returns_twice_async(event):
    os.fork()
    write("returned")

def raises_in_copy(event):
    if os.fork() == 0:
        raise ValueError("of the copy")
    time.sleep(1)
    write("returned")

def returns_twice_unnoticed(event):
    ctypes.CDLL(None).fork()
    write("returned")
    time.sleep(0.2)

def terminates_of_thread(event):
    thread = threading.Thread(target=terminates, args=(event,))
    thread.start()
    thread.join()

def terminates(event):
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()
    process.terminate()
    process.join()
    write("terminated", code=process.exitcode)
"""

FILE = """
version: 1
pythonpath: ["."]
async: {tries: 1, timeout: 5s}
queues: {many: {asyncConcurrency: 8}}
extensions:
  quick: {handlers: [{handler: "work:quick", async: true}]}
  returns: {handlers: [{handler: "work:returns_twice", async: true}]}
  returns.async: {handlers: [{handler: "work:returns_twice_async", async: true}]}
  returns.shared: {handlers: [{handler: "work:returns_twice_async", async: {queue: many}}]}
  returns.unnoticed: {handlers: [{handler: "work:returns_twice_unnoticed", async: true}]}
  raises: {handlers: [{handler: "work:raises_in_copy", async: true}]}
  terminates: {handlers: [{handler: "work:terminates", async: true}]}
  terminates.thread: {handlers: [{handler: "work:terminates_of_thread", async: true}]}
"""


LEFT = {"raises": "has left the handler (ValueError: of the copy)"}


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    (tmp_path / "work.py").write_text(WORK)
    with App(tmp_path, FILE, sqlite_url(tmp_path)) as app:
        yield app


def run(app: App, *points: str) -> str:
    with app.application() as application:
        application.dispatch_many([(point, {}) for point in points])
    worker = app.start_worker("--concurrency", "1", "--stop-when-empty")
    assert worker.wait() == 0, worker.log()
    return worker.log()


@pytest.mark.parametrize("point", ["returns", "returns.async", "returns.shared", "raises"])
def test_a_copy_of_the_child_that_leaves_the_handler_ends_and_says_nothing_for_it(app: App, point: str) -> None:
    log = run(app, point, "quick", "quick")
    assert "3 succeeded, 0 to be retried, 0 failed" in log
    assert log.count(LEFT.get(point, "has left the handler (it returned)")) == 1
    assert "Traceback" not in log
    assert len(list(app.journal("quick"))) == 2


def test_a_child_that_says_the_same_twice_is_replaced_and_the_worker_goes_on(app: App) -> None:
    """Forked behind Python's back."""
    log = run(app, "returns.unnoticed", *["quick"] * 3)
    assert "Traceback" not in log
    assert len(list(app.journal("quick"))) >= 3


def test_a_process_that_a_handler_has_forked_can_be_terminated(app: App) -> None:
    assert "2 succeeded" in run(app, "terminates", "terminates.thread")
    assert [line["code"] for line in app.journal("terminated")] == [-15, -15]
