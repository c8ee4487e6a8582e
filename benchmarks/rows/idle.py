"""An idle worker: how long after its dispatch a job's handler starts."""

from __future__ import annotations

from functools import partial

from benchmarks.bench import Bench
from benchmarks.producers import Order
from benchmarks.results import Goal, Table, percentile
from benchmarks.systems import QUEUES, Name

EVERY = 0.02
ROUNDS = 7
"""In fewer, a 99th percentile is decided by what the disk does at a moment."""


def measure(bench: Bench) -> list[Table]:
    """Milliseconds."""

    def run(name: Name) -> dict[str, float]:
        waits = _waits(bench, name, bench.pick(500, 150))
        return {share: 1000 * percentile(waits, int(share[1:]) / 100) for share in ("p50", "p99")}

    found = bench.alternate_all({name: partial(run, name) for name in QUEUES}, bench.pick(ROUNDS, 1))
    goals = [Goal(1, ("dramatiq",), at_least=False)]
    return [
        Table("idle", f"Idle: dispatch to the handler's start, {share}", "ms", values, goals, more=False)
        for share, values in found.items()
    ]


def _waits(bench: Bench, name: Name, count: int) -> list[float]:
    system = bench.system(name)
    bench.purge(system)
    times = [(1.0 + EVERY * number, 0.0) for number in range(count)]
    with bench.ready_worker(system, 1, "mixed") as (running, counters):
        bench.produce(system, Order(sender=name, times=times))
        running.until(lambda: len(counters.stamps()) >= count, step=0.05)
    return [wait for _, wait in counters.stamps()]
