"""``asyncConcurrency``: `async def` handlers run many at a time in one child, and each pays only for itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.app import App, sqlite_url

WORK = """
import asyncio, os, time

from router import Fail, Retry
from journal import write

running = 0
all_there = asyncio.Event()

async def gathers(event):
    global running
    running += 1
    write("start", running=running)
    if running == 50:
        all_there.set()
    await all_there.wait()
    await asyncio.sleep(0.1)  # one too many would come meanwhile
    running -= 1
    write("end")

async def waits(event, context):
    global running
    running += 1
    write("start", number=event["number"], attempt=context.attempt, running=running)
    try:
        await asyncio.sleep(event["seconds"])
    except asyncio.CancelledError:
        write("cancelled", number=event["number"])
        raise
    finally:
        running -= 1
    write("end", number=event["number"], attempt=context.attempt)

async def stubborn(event):
    write("stubborn")
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

async def in_a_task(event):
    await asyncio.create_task(blocks(event))

async def blocks(event):
    write("blocks")
    await asyncio.sleep(0)
    time.sleep(60)

async def dies(event, context):
    write("dies", attempt=context.attempt)
    await asyncio.sleep(0.01)
    os.kill(os.getpid(), 9)

async def dies_in_a_callback(event, context):
    write("dies", attempt=context.attempt)
    asyncio.get_running_loop().call_later(0.01, os.kill, os.getpid(), 9)
    await asyncio.sleep(60)

def plain(event):
    write("plain")

async def raises(event):
    await asyncio.sleep(0.01)
    raise LookupError("nothing there")

async def unwritable(event):
    write("unwritable")
    raise Fail("no file \\udcff.txt")

async def bad_delay(event, context):
    write("bad_delay", attempt=context.attempt)
    error = Retry()
    error.delay = "soon"
    raise error

async def failed(error, event):
    await asyncio.sleep(0)
    write("failed", error=type(error).__name__, text=str(error))
"""

FILE = """
version: 1
pythonpath: ["."]
async: {backoff: 100ms, backoff_strategy: fixed, tries: 2, onFailure: "work:failed", default_queue: many}
queues: {many: {asyncConcurrency: 50}}
extensions:
  waits: {handlers: [{handler: "work:waits", async: true}]}
  gathers: {handlers: [{handler: "work:gathers", async: true}]}
  late: {handlers: [{handler: "work:waits", async: {timeout: 300ms, retries: 1}}]}
  stubborn: {handlers: [{handler: "work:stubborn", async: {timeout: 300ms, retries: 1}}]}
  blocks: {handlers: [{handler: "work:in_a_task", async: {timeout: 300ms, retries: 1}}]}
  dies: {handlers: [{handler: "work:dies", async: true}]}
  dies.unseen: {handlers: [{handler: "work:dies_in_a_callback", async: true}]}
  plain: {handlers: [{handler: "work:plain", async: true}]}
  plain.alone: {handlers: [{handler: "work:plain", async: {queue: alone}}]}
  raises: {handlers: [{handler: "work:raises", async: {retries: 1}}]}
  unwritable: {handlers: [{handler: "work:unwritable", async: true}]}
  unwritable.alone: {handlers: [{handler: "work:unwritable", async: {queue: alone}}]}
  bad_delay: {handlers: [{handler: "work:bad_delay", async: true}]}
  bad_delay.alone: {handlers: [{handler: "work:bad_delay", async: {queue: alone}}]}
  raises.alone: {handlers: [{handler: "work:raises", async: {retries: 1, queue: alone}}]}
"""


@pytest.fixture
def app(make_app: Callable[..., App], tmp_path: Path) -> App:
    (tmp_path / "work.py").write_text(WORK)
    return make_app(FILE)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[App]:
    """For what has nothing to do with the broker, and takes its time."""
    (tmp_path / "work.py").write_text(WORK)
    with App(tmp_path, FILE, sqlite_url(tmp_path)) as app:
        yield app


def dispatch(app: App, *points: str, neighbours: int = 0, seconds: float = 0.5) -> None:
    with app.application() as application:
        application.dispatch_many(
            [("waits", {"number": number, "seconds": seconds}) for number in range(neighbours)]
            + [(point, {"number": -1, "seconds": 60}) for point in points]
        )


def attempts(app: App) -> Counter[int]:
    return Counter(line["attempt"] for line in app.journal("end"))


def test_handlers_that_wait_run_beside_each_other_in_one_child_up_to_the_limit(app: App) -> None:
    dispatch(app, *["gathers"] * 120, "plain")
    worker = app.start_worker("--concurrency", "1")
    app.wait_for("end", 120)
    app.wait_for("plain")
    most = max(line["running"] for line in app.journal("start"))
    assert most == 50
    assert len({line["pid"] for line in app.journal("start")}) == 1
    worker.end()
    assert not app.failed()


def test_a_job_that_needs_a_child_for_itself_gets_one_however_many_shared_ones_wait(app: App) -> None:
    dispatch(app, neighbours=700, seconds=0.3)
    app.start_worker("--concurrency", "1")
    app.wait_for("end", 10)
    dispatch(app, "plain.alone")
    (plain,) = app.wait_for("plain")
    app.wait_for("end", 700)
    assert any(line["at"] > plain["at"] for line in app.journal("start"))


def test_one_that_is_overdue_is_cancelled_and_nobody_else_notices(app: App) -> None:
    dispatch(app, "late", neighbours=10)
    app.start_worker("--concurrency", "1")
    (failed,) = app.wait_for("failed")
    assert failed["error"] == "JobTimeout"
    assert "ran longer than 0.3 s and was cancelled" in failed["text"]
    assert app.journal("cancelled", number=-1)
    app.wait_for("end", 10)
    assert len({line["pid"] for line in app.journal()}) == 1
    app.wait_until(lambda: len(app.failed()) == 1)
    assert "JobTimeout" in app.failed()[0]["error"]


def test_a_traceback_starts_at_the_handler_whether_it_shares_its_child_or_not(local: App) -> None:
    dispatch(local, "raises", "raises.alone")
    local.start_worker("--concurrency", "1")
    local.wait_until(lambda: len(local.failed()) == 2)
    for job in local.failed():
        first = job["error"].split("Traceback (most recent call last):\n")[1].splitlines()[0]
        assert "work.py" in first, job["error"]
        assert "in raises" in first, job["error"]


@pytest.mark.parametrize("place", ["", ".alone"])
def test_an_exception_whose_text_is_no_unicode_is_a_failure_like_any_other(local: App, place: str) -> None:
    dispatch(local, f"unwritable{place}", neighbours=3, seconds=0.1)
    worker = local.start_worker("--stop-when-empty", "--concurrency", "1")
    assert worker.wait() == 0
    (job,) = local.failed()
    assert (job["reason"], job["error"].splitlines()[0]) == ("fail", r"router.errors.Fail: no file \udcff.txt")
    assert len(local.journal("unwritable")) == 1
    assert len(local.journal("end")) == 3
    assert "child.ended" not in worker.log()


@pytest.mark.parametrize("place", ["", ".alone"])
def test_what_a_child_says_and_nobody_understands_ends_that_child_and_not_the_worker(local: App, place: str) -> None:
    dispatch(local, f"bad_delay{place}", neighbours=3, seconds=0.1)
    worker = local.start_worker("--stop-when-empty", "--concurrency", "1")
    assert worker.wait() == 0
    assert len(local.journal("end")) == 3
    (job,) = local.failed()
    assert "it said what can't be understood" in job["error"]
    # Beside others nobody can say whose words those were: tried once more, alone, before it pays.
    assert list(dict.fromkeys(line["attempt"] for line in local.journal("bad_delay"))) == [1, 2]


@pytest.mark.parametrize(
    ("point", "error"), [("stubborn", "JobTimeout"), ("blocks", "JobTimeout"), ("dies", "ChildDied")]
)
def test_one_that_does_not_give_way_or_kills_the_child_pays_an_attempt_alone(
    local: App, point: str, error: str
) -> None:
    app = local
    dispatch(app, point, neighbours=10, seconds=1 if point == "dies" else 7)
    app.start_worker("--concurrency", "1")
    (failed,) = app.wait_for("failed")
    assert failed["error"] == error
    app.wait_for("end", 10)
    assert attempts(app) == {1: 10}
    assert len({line["pid"] for line in app.journal()}) > 1
    if point == "dies":
        assert [line["attempt"] for line in app.journal("dies")] == [1, 2]
    app.wait_until(lambda: len(app.failed()) == 1)


def test_where_nobody_can_say_who_killed_the_child_each_is_tried_alone_and_the_culprit_pays(local: App) -> None:
    app = local
    dispatch(app, "dies.unseen", neighbours=4, seconds=1)
    app.start_worker("--concurrency", "1")
    (failed,) = app.wait_for("failed")
    assert failed["error"] == "ChildDied"
    app.wait_for("end", 4)
    assert attempts(app) == {1: 4}


def test_a_worker_that_stops_lets_them_end(app: App) -> None:
    dispatch(app, neighbours=5, seconds=1)
    worker = app.start_worker("--concurrency", "1")
    app.wait_for("start", 5)
    worker.end()
    assert len(app.journal("end")) == 5
