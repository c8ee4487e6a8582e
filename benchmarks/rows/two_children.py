"""No-op jobs, one worker with two children; peers with two processes."""

from __future__ import annotations

from functools import partial

from benchmarks.bench import Bench
from benchmarks.results import Goal, Table
from benchmarks.systems import QUEUES, Name

JOBS: dict[Name, int] = {"router": 20_000, "celery": 7_000, "dramatiq": 12_000, "taskiq": 6_000}
"""How many each runs in a quick round at most."""


def measure(bench: Bench) -> list[Table]:
    """Jobs a second, from a full queue."""

    def drain(name: Name) -> dict[str, float]:
        return bench.drain(bench.system(name), "noop", bench.pick(2, 1) * JOBS[name], 2, "short")

    found = bench.alternate_all({name: partial(drain, name) for name in QUEUES}, bench.pick(3, 1))
    goals = [Goal(1, ("celery", "dramatiq", "taskiq"))]
    return [Table("two_children", "No-op jobs, two children", "jobs/s", found["jobs/s"], goals)]
