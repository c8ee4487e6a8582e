"""Every implementation that the contract suites run over."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from broker_harness import Clock, Harness

from router.brokers.amqp import AmqpBroker
from router.brokers.base import Broker
from router.brokers.memory import MemoryBroker
from router.brokers.sqlite import SqliteBroker
from router.locks.base import Locks
from router.locks.memory import MemoryLocks
from router.locks.redis import RedisLocks
from router.locks.sqlite import SqliteLocks
from router.storage.sqlite import Database
from tests.servers.shared import rabbit_place, redis_url


def memory(path: Path) -> Harness:
    clock = Clock()
    brokers: dict[str, Broker] = {}
    locks = MemoryLocks(clock)

    def make(namespace: str) -> Broker:
        return brokers.setdefault(namespace, MemoryBroker(namespace, locks, clock))

    return Harness("memory", make, _advance(clock), clock)


def sqlite(path: Path) -> Harness:
    """Locks in the same file: one transaction."""
    clock = Clock()
    database = Database(path / "router.db")
    return Harness(
        "sqlite",
        lambda namespace: SqliteBroker(database, namespace, SqliteLocks(database, clock), clock),
        _advance(clock),
        clock,
        url=f"sqlite:///{path}/router.db",
    )


def sqlite_locks_outside(path: Path) -> Harness:
    """Locks in another file: step by step."""
    clock = Clock()
    database = Database(path / "router.db")
    locks: Locks = SqliteLocks(Database(path / "locks.db"), clock)
    return Harness(
        "sqlite-locks-outside",
        lambda namespace: SqliteBroker(database, namespace, locks, clock),
        _advance(clock),
        clock,
    )


def amqp(path: Path) -> Harness:
    """On a real RabbitMQ, in a place of its own; time passes by waiting."""
    place = rabbit_place()
    locks = MemoryLocks()
    return Harness(
        "amqp",
        lambda namespace: AmqpBroker(place.url, f"{place.namespace}-{namespace}", locks),
        time.sleep,
        time.time,
        url=place.url,
        delayed_per_queue=False,
        running_known=False,
    )


def _advance(clock: Clock) -> Callable[[float], None]:
    def advance(seconds: float) -> None:
        clock.time += seconds

    return advance


HARNESSES = {"amqp": amqp, "memory": memory, "sqlite": sqlite, "sqlite-locks-outside": sqlite_locks_outside}


SHARED = ["sqlite"]
"""Those that several processes can use at once."""


@pytest.fixture(params=sorted(HARNESSES))
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Harness:
    return HARNESSES[request.param](tmp_path)


@pytest.fixture(params=SHARED)
def shared_harness(request: pytest.FixtureRequest, tmp_path: Path) -> Harness:
    return HARNESSES[request.param](tmp_path)


def locks_in_memory(path: Path, clock: Clock) -> Locks:
    return MemoryLocks(clock)


def locks_in_sqlite(path: Path, clock: Clock) -> Locks:
    return SqliteLocks(Database(path / "locks.db"), clock)


def locks_in_redis(path: Path, clock: Clock) -> Locks:
    return RedisLocks(redis_url())


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=[locks_in_memory, locks_in_sqlite], ids=["memory", "sqlite"])
def locks(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Locks:
    made: Locks = request.param(tmp_path, clock)
    return made
