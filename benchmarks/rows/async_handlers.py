"""64 `async def` handlers at a time, in one child, each of which waits 10 ms: 6,400 a second at most."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.results import Goal, Table
from benchmarks.systems import AT_A_TIME, Name, router_file
from router.config import load
from router.errors import ConfigError

JOBS: dict[Name, int] = {"router": 10_000, "dramatiq": 10_000, "taskiq": 10_000}
PLAIN_JOBS = 500
"""Where ours runs them one by one."""


def measure(bench: Bench) -> list[Table]:
    """Jobs a second, from a full queue."""
    at_a_time, count = _allow(bench), dict(JOBS)
    notes = ["dramatiq: 64 threads and its AsyncIO middleware. Celery has no `async def` tasks."]
    if not at_a_time:
        count["router"] = PLAIN_JOBS
        notes.append("This router has no `asyncConcurrency` yet: it runs them one by one.")

    def drain(name: Name) -> dict[str, float]:
        return bench.drain(bench.system(name), "nap", bench.pick(2, 1) * count[name], 1, "async")

    try:
        found = bench.alternate_all({name: partial(drain, name) for name in JOBS}, bench.pick(3, 1))
    finally:
        bench.system("router").file.write_text(router_file(bench.system("router").url))
    goals = [Goal(1, ("dramatiq", "taskiq"))]
    return [
        Table(
            "async_handlers", "64 `async def` handlers that wait 10 ms", "jobs/s", found["jobs/s"], goals, notes=notes
        )
    ]


def _allow(bench: Bench) -> bool:
    """Have our worker run so many at a time, if its file may say so."""
    system = bench.system("router")
    text = router_file(system.url, {"asyncConcurrency": AT_A_TIME})
    trial = Path(bench.folder, "trial.yaml")
    trial.write_text(text)
    try:
        load(str(trial))
    except ConfigError:
        return False
    system.file.write_text(json.dumps(json.loads(text)))
    return True
