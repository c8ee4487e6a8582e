"""Many events in one call, every job confirmed, on a quorum queue."""

from __future__ import annotations

from functools import partial

from benchmarks.bench import Bench
from benchmarks.producers import Order, Sender
from benchmarks.results import Goal, Table

BATCHES: dict[Sender, int] = {"router": 10_000, "celery": 100, "dramatiq": 100, "taskiq": 1_000, "raw": 10_000}
"""How many each is given at a time; a second or more is measured."""


def measure(bench: Bench) -> list[Table]:
    """Jobs a second."""

    def dispatch(sender: Sender) -> float:
        system = bench.system("router" if sender == "raw" else sender)
        bench.purge(system)
        budget = bench.pick(3.0, 1.0)
        return bench.produce(
            system, Order(sender=sender, count=200_000, budget=budget, batch=BATCHES[sender], warm_up=200)
        )

    values = bench.alternate({name: partial(dispatch, name) for name in BATCHES}, bench.pick(5, 2))
    goals = [Goal(15, ("celery",)), Goal(0.7, ("raw",))]
    notes = [
        "router: `dispatch_many`; celery: a loop of `delay`; dramatiq: a loop of `send`.",
        "taskiq: `asyncio.gather` of 1,000 `kiq` at a time; raw: messages of ours, up to 1,000 of them unconfirmed.",
    ]
    return [Table("bulk_dispatch", "Bulk dispatch, confirmed", "jobs/s", values, goals, notes=notes)]
