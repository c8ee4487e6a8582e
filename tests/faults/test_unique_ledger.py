"""Unique jobs from the ledger: however many dispatch at once, and whoever is killed, one job of a key at a time.

A job is certainly alive from when its dispatch returned, or its handler started, until the handler's end. What a killed
worker had not settled runs again, even where its handler had come to its end: each such run counts as alive for itself.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from router import Router
from tests.app import App, WorkerProcess, amqp_url, in_process, redis_url

SECONDS = 300.0
PROCESSES = 8
WORKERS = 2

WORK = '''
import time

import journal

def write(what, **details):
    """By a clock that nobody sets, the same for all processes."""
    journal.write(what, at=time.monotonic(), **details)

def once(event, context):
    """Every tenth fails once."""
    run = {"key": event["key"], "job": context.job_id, "attempt": context.attempt}
    write("start", **run)
    time.sleep(0.01)
    if event["number"] % 10 == 9 and context.attempt == 1:
        write("raise", **run)
        raise ValueError("fails once")
    write("end", **run)
'''

FILE = """
version: 1
pythonpath: ["."]
broker: {url: "${ROUTER_BROKER_URL}", namespace: "${ROUTER_NAMESPACE}"}
locks: {url: "${ROUTER_LOCKS_URL}"}
async: {backoff: 200ms, backoff_strategy: fixed, tries: 3}
extensions:
  keyed: {handlers: [{handler: "work:once", async: {uniqueJob: true, uniqueBy: [key]}}]}
"""

DISPATCHERS = '''
import itertools, os, random, sys, time, router
from router import DispatchError
from work import write

processes, dispatches, keys, seconds = map(int, sys.argv[1:])
count = dispatches // processes
app = router.Router()

def dispatch(event):
    """The job that is queued now, or the one that holds the lock; again and again where the broker is too busy."""
    try:
        said = app.dispatch("keyed", event)
        return said.jobs.values(), [holder for _, holder in said.duplicates]
    except DispatchError as error:
        left = error.unconfirmed
    while True:
        try:
            receipt = app.resend(left)
            return receipt.confirmed, receipt.duplicates.values()
        except DispatchError as error:
            left = error.unconfirmed

def dispatch_all(process):
    chosen = random.Random(process)
    for number in itertools.count():
        if number >= count and os.path.exists("enough"):
            break
        key = chosen.randrange(keys)
        queued, holders = dispatch({"key": key, "number": number})
        for job in queued:
            write("dispatched", key=key, job=job)
        for holder in holders:
            write("duplicate", key=key, job=holder)
        time.sleep(chosen.uniform(0, 2 * seconds / count))

children = []
for process in range(processes):
    child = os.fork()
    if not child:
        dispatch_all(process)
        os._exit(0)
    children.append(child)
sys.exit(sum(os.waitpid(child, 0)[1] for child in children) != 0)
'''


@dataclass
class Life:
    """What the ledger knows of a job; times are monotonic. ``runs``: from each start to its end, if there was one."""

    key: int
    dispatched: float | None = None
    runs: list[tuple[float, float | None]] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)

    def alive(self) -> Iterator[tuple[float, float]]:
        """When it was alive for certain."""
        if self.dispatched is not None:
            yield min(self.dispatched, self.runs[0][0]), min(self.ended)
        for start, end in self.runs:
            yield start, end or start


def read(ledger: list[dict[str, Any]]) -> dict[str, Life]:
    """The jobs by id."""
    lives: dict[str, Life] = {}
    under_way: dict[int, tuple[str, int]] = {}
    for line in sorted(ledger, key=lambda line: line["at"]):
        if line["what"] == "duplicate":
            continue
        life = lives.setdefault(line["job"], Life(line["key"]))
        assert life.key == line["key"]
        match line["what"]:
            case "dispatched":
                life.dispatched = line["at"]
            case "start":
                under_way[line["pid"]] = line["job"], len(life.runs)
                life.runs.append((line["at"], None))
            case what:
                job, run = under_way.pop(line["pid"])
                assert job == line["job"]
                life.runs[run] = life.runs[run][0], line["at"]
                if what == "end":
                    life.ended.append(line["at"])
    return lives


def check(ledger: list[dict[str, Any]]) -> str:
    """Never two jobs of a key; each was dispatched and has ended; each duplicate named one. What there was."""
    lives = read(ledger)
    unknown = {job for job, life in lives.items() if life.dispatched is None}
    assert not unknown, "each was reported to who dispatched it"
    assert {job for job, life in lives.items() if not life.ended} == set(), "each has ended"
    duplicates = [line for line in ledger if line["what"] == "duplicate"]
    named = [line for line in duplicates if line["job"] not in lives or lives[line["job"]].key != line["key"]]
    assert named == [], "a duplicate names a job of its key"
    together = []
    for key in {life.key for life in lives.values()}:
        alive = [(*span, job) for job, life in lives.items() if life.key == key for span in life.alive()]
        until, holder = 0.0, ""
        for begin, end, job in sorted(alive):
            if begin < until and job != holder:
                together.append((key, holder, job, until - begin))
            until, holder = max((until, holder), (end, job))
    assert together == [], "never two jobs of a key"
    again = sum(len(life.ended) > 1 for life in lives.values())
    return f"{len(lives)} jobs, {len(duplicates)} duplicates; {again} jobs came to their end more than once"


class Crowd:
    """Processes that dispatch, all at once, and workers that are killed and replaced."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.workers = [self._worker() for _ in range(WORKERS)]
        self._dispatchers: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        if self._dispatchers is not None and self._dispatchers.poll() is None:
            for process in psutil.Process(self._dispatchers.pid).children():
                process.kill()
            self._dispatchers.wait()

    def dispatch(self, dispatches: int, keys: int, seconds: int) -> None:
        """Begin to dispatch, spread over so many seconds, and go on until there is a file ``enough``."""
        command = [sys.executable, "-c", DISPATCHERS, *map(str, (PROCESSES, dispatches, keys, seconds))]
        self._dispatchers = subprocess.Popen(command, env=self._app._environ(), cwd=self._app.folder)

    def worked(self, jobs: int) -> None:
        """Wait until so many more jobs have started."""
        until = self._started() + jobs
        self._app.wait_until(lambda: self._started() >= until, SECONDS)

    def kill_one(self, chosen: random.Random) -> None:
        """Kill -9 for one of the workers, its children with it every second time; another takes its place."""
        worker = self.workers.pop(chosen.randrange(len(self.workers)))
        family = worker.children() if chosen.random() < 0.5 else []
        worker.process.kill()
        for child in family:
            child.kill()
        worker.process.wait()
        self.workers.append(self._worker())

    def finish(self, router: Router) -> None:
        """Wait until all is dispatched and done, and end the workers."""
        assert self._dispatchers is not None
        assert self._dispatchers.wait(SECONDS) == 0
        self._app.wait_until(lambda: quiet(self._app, router), SECONDS)
        for worker in self.workers:
            worker.end()

    def _started(self) -> int:
        return self._app.journal_path.read_bytes().count(b'"start"') if self._app.journal_path.exists() else 0

    def _worker(self) -> WorkerProcess:
        return self._app.start_worker("--concurrency", "2")


BROKERS = ["amqp", pytest.param("amqp, locks in SQLite", marks=pytest.mark.full), "sqlite"]


def start(broker: str, folder: Path) -> App:
    """The application on that broker, with the locks that belong to it."""
    url = amqp_url(folder) if broker.startswith("amqp") else f"sqlite:///{folder}/router.db"
    locks = redis_url() if broker == "amqp" else f"sqlite:///{folder}/{'locks' if broker != 'sqlite' else 'router'}.db"
    app = App(folder, FILE, url, ROUTER_LOCKS_URL=locks)
    (folder / "work.py").write_text(WORK)
    return app


def quiet(app: App, router: Router) -> bool:
    """Whether each job that was dispatched has ended, and no queue has one."""
    ledger = app.journal()
    dispatched = {line["job"] for line in ledger if line["what"] == "dispatched"}
    if not dispatched <= {line["job"] for line in ledger if line["what"] == "end"}:
        return False
    counts = router.broker.counts(router.table.queues(), router.table.waits())
    return not counts.delayed and not any(queue.ready or queue.running for queue in counts.queues.values())


SIZES = [
    pytest.param(800, 20, 5, 2, id="800 dispatches"),
    pytest.param(10_000, 100, 60, 20, id="10000 dispatches", marks=[pytest.mark.full, pytest.mark.timeout(900)]),
]


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize(("dispatches", "keys", "seconds", "kills"), SIZES)
def test_one_job_of_a_key_at_a_time_however_many_dispatch_and_whoever_is_killed(
    tmp_path: Path, broker: str, dispatches: int, keys: int, seconds: int, kills: int
) -> None:
    """At least so many ``dispatches``, spread over so many ``seconds``, and ``kills``."""
    seed = random.randrange(1 << 32)
    chosen = random.Random(seed)
    with start(broker, tmp_path) as app, app.application() as router, Crowd(app) as crowd:
        crowd.dispatch(dispatches, keys, seconds)
        for _ in range(kills):
            crowd.worked(chosen.randrange(2 * keys))
            crowd.kill_one(chosen)
        (tmp_path / "enough").touch()
        crowd.finish(router)
        assert app.start_worker("--stop-when-empty", "--concurrency", "1").wait() == 0
        print(f"{broker}, seed {seed}: {kills} workers killed; {check(app.journal())}")
        assert quiet(app, router)
        assert in_process(tmp_path, app.env, "locks", "list", "--format", "json").json() == []
        assert in_process(tmp_path, app.env, "failed", "list", "--format", "json").json() == []
