"""What has to exist on the broker, as plain values in the order in which to declare it. Pure.

::

    publish ──► NS.jobs (direct) ──────────────────────────────► NS.queue.<queue> ──► worker
       │                                                              ▲
       └─ later ─► NS.delay (topic) ─ <ms>.# ─► NS.delay.<ms> ─ TTL ─► NS.due (topic) ─ *.<queue> ─┘
                                                                            └ no such queue
                                                                              ─► NS.unrouted (fanout) ─► NS.failed
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from router.brokers.amqp.names import LADDER, Names, exact_delays
from router.brokers.base import Topology

NO_DELIVERY_LIMIT = 1_000_000_000
"""-1 would mean 0 on RabbitMQ 3.10: dropped after the first return."""

CONSUMER_TIMEOUT = 604_800_000
"""A week, in milliseconds; RabbitMQ heeds it from 3.12."""

Argument = str | int | bool


@dataclass(frozen=True, slots=True)
class Exchange:
    """A durable exchange."""

    name: str
    type: str
    arguments: Mapping[str, Argument] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"exchange {self.name} ({self.type})"


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable quorum queue."""

    name: str
    arguments: Mapping[str, Argument]

    def __str__(self) -> str:
        return f"queue {self.name}"


@dataclass(frozen=True, slots=True)
class Binding:
    """From an exchange to a queue."""

    exchange: str
    queue: str
    key: str

    def __str__(self) -> str:
        return f"binding {self.exchange} -- {self.key or '(all)'} --> {self.queue}"


Declaration = Exchange | Queue | Binding


def plan(namespace: str, topology: Topology) -> tuple[Declaration, ...]:
    """Everything that ``topology`` needs in ``namespace``; what is pointed at comes before what points at it.

    ValueError for a queue name that can't be routed.
    """
    names = Names(namespace)
    failed = Queue(
        names.failed,
        {"x-queue-type": "quorum", "x-delivery-limit": NO_DELIVERY_LIMIT, "x-single-active-consumer": True},
    )
    out: list[Declaration] = [
        failed,
        Exchange(names.unrouted, "fanout"),
        Binding(names.unrouted, names.failed, ""),
        Exchange(names.due, "topic", {"alternate-exchange": names.unrouted}),
        Exchange(names.jobs, "direct"),
        Exchange(names.ask, "fanout"),
        Exchange(names.answer, "direct"),
    ]
    for queue in sorted(topology.queues):
        physical = names.queue(queue)
        due = Binding(names.due, physical, f"*.{queue}")
        out += [work_queue(names, queue), due, Binding(names.jobs, physical, queue)]
    out.append(Exchange(names.delay, "topic"))
    for delay in sorted({*LADDER, *exact_delays(topology.delays)}):
        out += [delay_queue(names, delay), Binding(names.delay, names.delay_queue(delay), f"{delay}.#")]
    return tuple(out)


def work_queue(names: Names, queue: str) -> Queue:
    """The queue that workers consume."""
    return Queue(
        names.queue(queue),
        {
            "x-queue-type": "quorum",
            "x-delivery-limit": NO_DELIVERY_LIMIT,
            "x-consumer-timeout": CONSUMER_TIMEOUT,
        },
    )


def delay_queue(names: Names, delay: int) -> Queue:
    """The queue in which jobs wait for ``delay`` milliseconds. Nobody consumes it."""
    return Queue(
        names.delay_queue(delay),
        {
            "x-queue-type": "quorum",
            "x-message-ttl": delay,
            "x-dead-letter-exchange": names.due,
            "x-dead-letter-strategy": "at-least-once",
            # Without it `at-least-once` is silently off.
            "x-overflow": "reject-publish",
        },
    )
