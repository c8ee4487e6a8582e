"""One dispatch after another, each confirmed before it returns."""

from __future__ import annotations

from functools import partial

from benchmarks.bench import Bench
from benchmarks.producers import Order, Sender
from benchmarks.results import Goal, Table

SENDERS: tuple[Sender, ...] = ("router", "celery", "dramatiq", "taskiq", "raw")


def measure(bench: Bench) -> list[Table]:
    """Jobs a second."""

    def dispatch(sender: Sender) -> float:
        system = bench.system("router" if sender == "raw" else sender)
        bench.purge(system)
        return bench.produce(system, Order(sender=sender, count=50_000, budget=bench.pick(3.0, 1.0), warm_up=100))

    values = bench.alternate({name: partial(dispatch, name) for name in SENDERS}, bench.pick(5, 2))
    goals = [Goal(0.9, ("raw",)), Goal(1.5, ("celery",))]
    return [Table("single_dispatch", "One dispatch after another, each confirmed", "jobs/s", values, goals)]
