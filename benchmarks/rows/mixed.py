"""90% of jobs that take 1 ms and 10% that take 200 ms on one queue: how long the short ones wait."""

from __future__ import annotations

import itertools
import random
from functools import partial

from benchmarks.bench import Bench
from benchmarks.producers import Order
from benchmarks.results import Goal, Table, percentile
from benchmarks.systems import QUEUES, Name

PROCESSES = 4
SHORT, LONG = 0.001, 0.2
BUSY = 0.5
"""The share of their time in which the processes have a job; so that what waits waits for the system's own reasons."""


def measure(bench: Bench) -> list[Table]:
    """Milliseconds from dispatch to the start of a short job."""
    # Each system gets the same jobs at the same times, and others in the next round.
    seeds = {name: itertools.count(1) for name in QUEUES}

    def run(name: Name) -> dict[str, float]:
        short = _waits(bench, name, schedule(bench.pick(15.0, 5.0), seed=next(seeds[name])))
        return {share: 1000 * percentile(short, int(share[1:]) / 100) for share in ("p99", "p50")}

    waits = bench.alternate_all({name: partial(run, name) for name in QUEUES}, bench.pick(3, 1))
    peers: tuple[Name, ...] = ("celery", "dramatiq", "taskiq")
    goals = {"p99": [Goal(1, peers, at_least=False)]}
    title = f"Mixed load, {PROCESSES} processes: wait of the 1 ms jobs, "
    return [
        Table("mixed", title + share, "ms", found, goals.get(share, ()), more=False) for share, found in waits.items()
    ]


def schedule(seconds: float, seed: int) -> list[tuple[float, float]]:
    """When each job comes and how long it takes: at random, as from many customers."""
    chance, now, jobs = random.Random(seed), 1.0, []
    mean = (0.9 * SHORT + 0.1 * LONG) / (PROCESSES * BUSY)
    while now < 1.0 + seconds:
        now += chance.expovariate(1 / mean)
        jobs.append((now, LONG if chance.random() < 0.1 else SHORT))
    return jobs


def _waits(bench: Bench, name: Name, times: list[tuple[float, float]]) -> list[float]:
    system, warm_up = bench.system(name), schedule(2.0, seed=0)
    bench.purge(system)
    with bench.worker(system, PROCESSES, "mixed") as (running, counters):
        for jobs in (warm_up, times):
            before = len(counters.stamps())
            bench.produce(system, Order(sender=name, times=jobs))
            running.until(lambda: len(counters.stamps()) >= before + len(jobs), step=0.05)  # noqa: B023 - called at once
        measured = counters.stamps()[len(warm_up) :]
    return [wait for seconds, wait in measured if seconds == SHORT]
