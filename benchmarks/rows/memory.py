"""How much the worker's parent grows over many jobs, and over many reloads."""

from __future__ import annotations

import json
import signal

import psutil

from benchmarks import raw
from benchmarks.bench import Bench, Running
from benchmarks.results import OURS, Goal, Table

CHUNK = 20_000
MEGABYTE = 1 << 20
FLAT = 3.0
"""Megabytes of growth after the warm-up that still count as flat: what an allocator keeps."""


def measure(bench: Bench) -> list[Table]:
    """Megabytes over the second half; the first is the warm-up."""
    jobs, reloads = bench.pick(1_000_000, 40_000), bench.pick(1_000, 20)
    goals = [Goal(FLAT, at_least=False)]
    return [
        Table(
            "memory",
            f"The parent grows over the second half of {what} by",
            "MB",
            {OURS: [found[-1] - found[4]]},
            goals,
            more=False,
            notes=[f"After each tenth: {', '.join(f'{value:.1f}' for value in found)} MB."],
        )
        for what, found in (
            (f"{jobs:,} jobs", _over_jobs(bench, jobs)),
            (f"{reloads:,} reloads", _over_reloads(bench, reloads)),
        )
    ]


def _size(running: Running) -> float:
    return float(psutil.Process(running.process.pid).memory_info().rss) / MEGABYTE


def _over_jobs(bench: Bench, count: int) -> list[float]:
    """The size after each tenth, the first included."""
    system, template = bench.system("router"), bench.template(bench.system("router"))
    bench.purge(system)
    sizes, published = [], 0
    with bench.worker(system, 1, "short") as (running, counters):
        for tenth in range(1, 11):
            wanted = tenth * count // 10
            while published < wanted:
                chunk = min(CHUNK, wanted - published)
                raw.fill(system.url, template, chunk)
                published += chunk
                running.until(lambda: counters.total() >= published, step=0.01)  # noqa: B023 - called at once
            sizes.append(_size(running))
    return sizes


def _over_reloads(bench: Bench, count: int) -> list[float]:
    system = bench.system("router")
    command = system.worker(1, "short")
    words = [command.words[0], "--log-format", "json", "--log-level", "info", *command.words[3:], "--no-reload"]
    sizes = []
    with bench.process("reloads", words, {**system.environment, "BENCH_FOLDER": str(bench.folder)}) as running:
        running.until(lambda: b"worker.started" in running.log.read_bytes(), step=0.05)
        for number in range(1, count + 1):
            # A text that differs: the same file again would be no new table.
            text = json.loads(system.file.read_text())
            text["extensions"]["bench.noop"]["description"] = f"Edition {number}."
            system.file.write_text(json.dumps(text))
            running.process.send_signal(signal.SIGHUP)
            running.until(lambda: running.log.read_bytes().count(b'"reload.done"') >= number, step=0.05)  # noqa: B023
            if number % max(count // 10, 1) == 0:
                sizes.append(_size(running))
    return sizes
