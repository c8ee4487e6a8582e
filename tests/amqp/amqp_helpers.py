"""Small helpers to talk to a broker, to look behind it, and to wait for events with a deadline."""

from __future__ import annotations

import itertools
import select
import time
from collections.abc import Callable, Mapping
from typing import Any

from router.brokers.amqp import AmqpBroker
from router.brokers.amqp.names import Names
from router.brokers.base import Consumer, Delivery, FailedJob, Outgoing, Topology
from router.locks.base import Claim, Locks
from tests.servers.shared import RabbitPlace

DEADLINE = 15.0

_numbers = itertools.count(1)


def job(
    queue: str = "a",
    *,
    id: str | None = None,
    delay: float = 0.0,
    body: bytes | None = None,
    key: str | None = None,
    attempt: int = 1,
) -> Outgoing:
    """A job whose body is its id."""
    id = id or f"job-{next(_numbers):06}"
    claim = Claim(key, id, 1, attempt) if key else None
    return Outgoing(id, "order.placed", queue, body if body is not None else id.encode(), delay, claim, 100.0)


def failed(id: str, *, at: float, queue: str = "a", error: str = "broken") -> FailedJob:
    return FailedJob(id, queue, "order.placed", "shop:mail", "attempts", error, at, id.encode())


def ids(deliveries: list[Delivery]) -> list[str]:
    return [delivery.body.decode() for delivery in deliveries]


def until(condition: Callable[[], object], what: str, seconds: float = DEADLINE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.01)


def turn(consumer: Consumer, room: Mapping[str, int], longest: float = 0.1, limit: int | None = None) -> list[Delivery]:
    """One turn of a worker's loop: wait for something to do, then poll."""
    select.select(list(consumer.wait_on()), [], [], min(longest, consumer.patience()))
    started = time.monotonic()
    taken = consumer.poll(room, limit)
    assert time.monotonic() - started < 0.5, "poll blocked"
    return taken


def take(consumer: Consumer, count: int, queue: str = "a", seconds: float = DEADLINE) -> list[Delivery]:
    """Exactly ``count`` jobs of ``queue``."""
    taken: list[Delivery] = []
    deadline = time.monotonic() + seconds
    while len(taken) < count:
        assert time.monotonic() < deadline, f"{len(taken)} of {count} jobs came within {seconds:g} s: {ids(taken)[:5]}"
        taken += turn(consumer, {queue: count - len(taken)})
    return taken


def spin(consumer: Consumer, condition: Callable[[], object], what: str, seconds: float = DEADLINE) -> None:
    """Turn the loop, taking nothing, until ``condition``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        assert turn(consumer, {}) == []


class Setup:
    """Brokers and consumers of a place, closed at the end."""

    def __init__(self, place: RabbitPlace) -> None:
        self.place = place
        self.names = Names(place.namespace)
        self._things: list[Any] = []

    def broker(
        self,
        *,
        url: str | None = None,
        queues: tuple[str, ...] | None = ("a", "b"),
        delays: tuple[float, ...] = (),
        locks: Locks | None = None,
    ) -> AmqpBroker:
        """A broker with these queues declared (None: nothing)."""
        broker = AmqpBroker(url or self.place.url, self.place.namespace, locks)
        self._things.append(broker)
        if queues is not None:
            broker.declare(Topology(frozenset(queues), frozenset(delays)))
        return broker

    def consumer(self, broker: AmqpBroker, name: str = "w") -> Consumer:
        consumer = broker.consumer(name)
        self._things.insert(0, consumer)
        return consumer

    def close(self) -> None:
        for thing in self._things:
            thing.close()
