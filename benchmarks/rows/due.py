"""1,000 jobs due at mixed times on RabbitMQ: how late they start under light load."""

from __future__ import annotations

import random

from benchmarks.bench import Bench
from benchmarks.producers import Order
from benchmarks.results import OURS, Goal, Table, percentile

JOBS = 1_000


def measure(bench: Bench) -> list[Table]:
    """Milliseconds after the time for which each was meant."""
    late: dict[str, list[float]] = {"p99": [], "p50": []}
    for round_ in range(bench.pick(3, 1)):
        found = _late(bench, bench.pick(30.0, 12.0), seed=round_)
        if min(found) < 0:
            raise RuntimeError(f"a job started {-min(found):.3f} s too early")
        for share, values in late.items():
            values.append(1000 * percentile(found, int(share[1:]) / 100))
    goals = {"p99": [Goal(50, at_least=False)]}
    return [
        Table("due", f"Delayed jobs: late by, {share}", "ms", {OURS: values}, goals.get(share, ()), more=False)
        for share, values in late.items()
    ]


def _late(bench: Bench, within: float, seed: int) -> list[float]:
    """Most are dispatched long before they are due; the first second is left for that."""
    system, chance = bench.system("router"), random.Random(seed)
    bench.purge(system)
    delays = [chance.uniform(1.0, within) for _ in range(JOBS)]
    with bench.ready_worker(system, 2, "short") as (running, counters):
        bench.produce(system, Order(sender="router", delays=delays))
        running.until(lambda: len(counters.stamps()) >= JOBS, within + 60, step=0.1)
    return [wait for _, wait in counters.stamps()]
