"""How long starting takes: importing, the command line, a worker."""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial

from benchmarks import raw
from benchmarks.bench import Bench
from benchmarks.results import Goal, Table
from benchmarks.systems import BIN, QUEUES, ROOT, Name

LIBRARIES = "import kombu, typer, jsonschema, yaml"
COMMANDS = {
    "import router": [sys.executable, "-c", "import router"],
    "router --help": [str(BIN / "router"), "--help"],
    "libraries": [sys.executable, "-c", LIBRARIES],
}


def measure(bench: Bench) -> list[Table]:
    """Seconds, as fresh processes."""
    starts = bench.alternate({name: partial(run, words) for name, words in COMMANDS.items()}, bench.pick(15, 7))
    goals = [
        Goal(0.35, ("libraries",), at_least=False, ours="import router"),
        Goal(1.1, ("libraries",), at_least=False, ours="router --help"),
    ]
    notes = [f"libraries: `{LIBRARIES}`"]
    workers = {name: partial(_ready, bench, name) for name in QUEUES}
    ready = bench.alternate(workers, bench.pick(3, 1))
    return [
        Table("start", "Starting a process", "s", starts, goals, more=False, notes=notes),
        Table(
            "start",
            "From starting a worker until its first job has run",
            "s",
            ready,
            [Goal(1.5, at_least=False)],
            more=False,
            notes=["One child; the job was there before; RabbitMQ."],
        ),
    ]


def run(words: list[str]) -> float:
    """Seconds that a command takes."""
    start = time.perf_counter()
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True, timeout=60)
    return time.perf_counter() - start


def _ready(bench: Bench, name: Name) -> float:
    system = bench.system(name)
    template = bench.template(system)
    bench.purge(system)
    raw.fill(system.url, template, 1)
    start = time.perf_counter()
    with bench.worker(system, 1, "short") as (running, counters):
        running.until(lambda: counters.total() == 1)
        return time.perf_counter() - start
