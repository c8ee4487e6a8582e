"""The program that dispatches, a process for each measurement: ``python -m benchmarks.producers`` takes an Order.

It prints the jobs a second.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import msgspec

from benchmarks import raw
from benchmarks.systems import Task

Sender = Literal["router", "celery", "dramatiq", "taskiq", "huey", "raw"]
Send = Callable[[Task, dict[str, Any]], object]
SendMany = Callable[[list[dict[str, Any]]], object]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to dispatch, until ``count`` or ``budget`` (seconds) is used up.

    ``batch``: so many at a time, in the way that is fastest for many; 0: one after another. ``times``: instead, jobs
    that tell how long they waited, as pairs of seconds from now and the job's length. ``delays``: ours, so many seconds
    later each, as fast as can be.
    """

    sender: Sender
    count: int = 1
    budget: float = 60.0
    batch: int = 0
    warm_up: int = 0
    task: Task = "noop"
    times: list[tuple[float, float]] = []
    delays: list[float] = []


def _router() -> tuple[Send, SendMany]:
    from router import Router

    app = Router()
    return (
        lambda task, payload: app.dispatch(f"bench.{task}", payload),
        lambda payloads: app.dispatch_many([("bench.noop", payload) for payload in payloads]),
    )


def _celery() -> tuple[Send, SendMany]:
    from benchmarks.apps.celery_app import app

    tasks = {name: app.tasks[name] for name in ("noop", "stamp")}
    noop = tasks["noop"].delay
    return lambda task, payload: tasks[task].delay(payload), lambda payloads: [noop(payload) for payload in payloads]


def _dramatiq() -> tuple[Send, SendMany]:
    from benchmarks.apps.dramatiq_app import broker

    noop = broker.get_actor("noop").send
    return (
        lambda task, payload: broker.get_actor(task).send(payload),
        lambda payloads: [noop(payload) for payload in payloads],
    )


def _taskiq() -> tuple[Send, SendMany]:
    from benchmarks.apps import taskiq_app

    runner = asyncio.Runner()
    runner.run(taskiq_app.broker.startup())

    async def many(payloads: list[dict[str, Any]]) -> None:
        for start in range(0, len(payloads), raw.WINDOW):
            window = payloads[start : start + raw.WINDOW]
            await asyncio.gather(*(taskiq_app.noop.kiq(payload) for payload in window))

    return lambda task, payload: runner.run(getattr(taskiq_app, task).kiq(payload)), lambda all_: runner.run(many(all_))


def _huey() -> tuple[Send, SendMany]:
    from benchmarks.apps.huey_app import noop

    return lambda task, payload: noop(payload), lambda payloads: [noop(payload) for payload in payloads]


def _raw() -> tuple[Send, SendMany]:
    """py-amqp with a message of ours: the same bytes to the same exchange and queue."""
    template: raw.Template = pickle.loads(Path(os.environ["BENCH_TEMPLATE"]).read_bytes())
    channel = raw.connect(os.environ["BENCH_URL"], confirm=True).channel()
    pipeline = raw.Pipeline(raw.connect(os.environ["BENCH_URL"]))

    def send(task: Task, payload: dict[str, Any]) -> None:
        channel.basic_publish(template.message(), template.exchange, template.key, mandatory=True)

    def send_many(payloads: Iterable[dict[str, Any]]) -> None:
        pipeline.publish((template.message() for _ in payloads), template.exchange, template.key)

    return send, send_many


SENDERS: dict[Sender, Callable[[], tuple[Send, SendMany]]] = {
    "router": _router,
    "celery": _celery,
    "dramatiq": _dramatiq,
    "taskiq": _taskiq,
    "huey": _huey,
    "raw": _raw,
}


def each(send: Send, task: Task, count: int, budget: float) -> float:
    """One after the other, each confirmed before the next."""
    start, done = time.perf_counter(), 0
    while done < count and time.perf_counter() - start < budget:
        send(task, {"order_id": done})
        done += 1
    return done / (time.perf_counter() - start)


def bulk(send_many: SendMany, batch: int, count: int, budget: float) -> float:
    """So many in one call, where there is such a call."""
    payloads = [{"order_id": number} for number in range(batch)]
    start, done = time.perf_counter(), 0
    while done < count and time.perf_counter() - start < budget:
        send_many(payloads)
        done += batch
    return done / (time.perf_counter() - start)


def paced(send: Send, times: list[tuple[float, float]]) -> float:
    """Jobs that tell how long they waited, each at its time."""
    start = time.monotonic()
    for offset, seconds in times:
        time.sleep(max(start + offset - time.monotonic(), 0.0))
        send("stamp", {"at": time.monotonic(), "seconds": seconds})
    return len(times) / (time.monotonic() - start)


def delayed(delays: list[float]) -> float:
    """Jobs that tell how late they came."""
    from router import Router

    app, start = Router(), time.monotonic()
    for delay in delays:
        at = time.monotonic() + delay
        due = datetime.now(UTC) + timedelta(seconds=delay)
        app.dispatch("bench.stamp", {"at": at, "seconds": 0.0}, at=due)
    return len(delays) / (time.monotonic() - start)


def main() -> None:
    """Dispatch."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    send, send_many = SENDERS[order.sender]()
    if order.delays:
        found = delayed(order.delays)
    elif order.times:
        found = paced(send, order.times)
    elif order.batch:
        bulk(send_many, order.warm_up, order.warm_up, math.inf) if order.warm_up else None
        found = bulk(send_many, order.batch, order.count, order.budget)
    else:
        each(send, order.task, order.warm_up, math.inf) if order.warm_up else None
        found = each(send, order.task, order.count, order.budget)
    print(json.dumps(found), flush=True)
    # Nothing is left to be done, and some clients take long to say goodbye.
    os._exit(0)


if __name__ == "__main__":
    main()
