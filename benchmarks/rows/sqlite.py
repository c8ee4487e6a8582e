"""The embedded broker: dispatching no-op jobs and running them, on one SQLite file with synchronous FULL."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.producers import Order, Sender
from benchmarks.results import Goal, Table
from benchmarks.systems import BIN, Command, router_file
from benchmarks.work import FOLDER, Counters

BATCH = 100
BODY = b"x" * 300


def measure(bench: Bench) -> list[Table]:
    """Jobs a second: dispatched one by one, in bulk, run, and both together."""
    count = bench.pick(3_000, 600)

    def huey() -> dict[str, float]:
        folder = _folder(bench)
        dispatched, ran = _dispatch(bench, "huey", folder, count), _run(bench, _huey(), folder, count)
        return _rates(count, both=dispatched + ran, bulk=dispatched, single=dispatched, run=ran)

    def router() -> dict[str, float]:
        single, folder = _dispatch(bench, "router", _folder(bench), count), _folder(bench)
        bulk = _dispatch(bench, "router", folder, count, bulk=True)
        ran = _run(bench, _router(folder), folder, count)
        return _rates(count, both=bulk + ran, bulk=bulk, single=single, run=ran)

    def limit() -> dict[str, float]:
        return _rates(count, **_raw(_folder(bench) / "raw.db", count))

    found = bench.alternate_all({"router": router, "huey": huey, "raw": limit}, bench.pick(3, 2))
    titles = {
        "both": "SQLite: dispatching in bulk and then running",
        "bulk": "SQLite: dispatching, in bulk where that can be done",
        "single": "SQLite: dispatching one by one",
        "run": "SQLite: running, one child",
    }
    goals = {"both": [Goal(3, ("huey",))]}
    notes = [
        "huey has no bulk dispatch, and it deletes a task before it runs it; ours keeps a job until it ran.",
        f"raw sqlite3 inserts, claims and deletes {BATCH} rows a transaction (one, where one by one).",
    ]
    return [
        Table("sqlite", title, "jobs/s", found[what], goals.get(what, ()), notes=notes if what == "both" else ())
        for what, title in titles.items()
    ]


def _rates(count: int, **seconds: float) -> dict[str, float]:
    return {what: count / each for what, each in seconds.items()}


def _folder(bench: Bench) -> Path:
    return Path(tempfile.mkdtemp(prefix="sqlite-", dir=bench.folder))


def _environment(folder: Path) -> dict[str, str]:
    return {FOLDER: str(folder), "ROUTER_CONFIG": str(folder / "bench.yaml")}


def _dispatch(bench: Bench, name: Sender, folder: Path, count: int, *, bulk: bool = False) -> float:
    (folder / "bench.yaml").write_text(router_file("sqlite:///bench.db"))
    order = Order(sender=name, count=count, batch=count if bulk else 0, budget=110.0)
    return count / bench.produce_in(_environment(folder), order)


def _router(folder: Path) -> Command:
    return Command([str(BIN / "router"), "--log-level", "warning", "run-worker", "--concurrency", "1"])


def _huey() -> Command:
    # The shortest delays: it polls.
    options = ["--workers", "1", "--worker-type", "thread", "--delay", "0.001", "--max-delay", "0.01", "--no-periodic"]
    return Command([str(BIN / "huey_consumer"), "benchmarks.apps.huey_app.huey", *options, "--quiet"])


def _run(bench: Bench, command: Command, folder: Path, count: int) -> float:
    """Seconds to run them all, reckoned from the rate after the first tenth."""
    counters = Counters(folder)
    with bench.process("sqlite", command.words, {**command.environment, **_environment(folder)}) as running:
        running.until(lambda: counters.total() >= count // 10)
        start, before = time.perf_counter(), counters.total()
        running.until(lambda: counters.total() >= count)
        return (time.perf_counter() - start) * count / (count - before)


def _raw(path: Path, count: int) -> dict[str, float]:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE jobs (id INTEGER PRIMARY KEY, claimed INTEGER NOT NULL DEFAULT 0, body BLOB)")

    def one() -> None:
        connection.execute("INSERT INTO jobs (body) VALUES (?)", (BODY,))

    def batch() -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO jobs (body) VALUES (?)", [(BODY,)] * BATCH)
        connection.execute("COMMIT")

    def run() -> None:
        free = f"SELECT id FROM jobs WHERE claimed = 0 ORDER BY id LIMIT {BATCH}"
        claim = f"UPDATE jobs SET claimed = 1 WHERE id IN ({free}) RETURNING id"
        claimed = connection.execute(claim).fetchall()
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("DELETE FROM jobs WHERE id = ?", claimed)
        connection.execute("COMMIT")

    single = _repeat(one, count)
    connection.execute("DELETE FROM jobs")
    bulk, ran = _repeat(batch, count // BATCH), _repeat(run, count // BATCH)
    connection.close()
    os.unlink(path)
    return {"single": single, "bulk": bulk, "run": ran, "both": bulk + ran}


def _repeat(step: Callable[[], None], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        step()
    return time.perf_counter() - start
