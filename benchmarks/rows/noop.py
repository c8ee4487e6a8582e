"""No-op jobs, one worker with one child, acked after they ran."""

from __future__ import annotations

import json
import sys
from functools import partial

from benchmarks import raw
from benchmarks.bench import Bench
from benchmarks.producers import Sender
from benchmarks.results import Goal, Table
from benchmarks.systems import QUEUES, Name
from benchmarks.work import FOLDER

JOBS: dict[Sender, int] = {"router": 16_000, "celery": 5_000, "dramatiq": 8_000, "taskiq": 4_000, "raw": 20_000}
"""How many each runs in a quick round, so that each takes about as long."""


def measure(bench: Bench) -> list[Table]:
    """Jobs a second, from a full queue."""

    def drain(name: Name) -> dict[str, float]:
        return bench.drain(bench.system(name), "noop", bench.pick(2, 1) * JOBS[name], 1, "short")

    measures = {name: partial(drain, name) for name in QUEUES}
    found = bench.alternate_all({**measures, "raw": partial(limit, bench)}, bench.pick(3, 2))
    goals = [Goal(4, ("celery",)), Goal(2, ("dramatiq",)), Goal(0.5, ("raw",))]
    return [
        Table("noop", "No-op jobs, one child", "jobs/s", found["jobs/s"], goals),
        Table("noop", "CPU time of the worker for one of them", "µs", found["CPU"], more=False),
    ]


def limit(bench: Bench) -> dict[str, float]:
    """py-amqp alone: consume a job of ours, call the handler, ack."""
    system, count = bench.system("router"), bench.pick(2, 1) * JOBS["raw"]
    queue = system.queue()
    queue.purge()
    queue.close()
    raw.fill(system.url, bench.template(system), count)
    words = [sys.executable, "-m", "benchmarks.consumer", str(count)]
    with bench.process("raw", words, {**system.environment, FOLDER: str(bench.folder)}) as running:
        running.until(lambda: running.process.poll() is not None, step=0.05)
        return {"jobs/s": count / float(json.loads(running.log.read_text()))}
