"""Every implementation that the contract suites run over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from broker_harness import Clock, Harness

from router.brokers.base import Broker
from router.brokers.memory import MemoryBroker
from router.brokers.sqlite import SqliteBroker
from router.locks.base import Locks
from router.locks.memory import MemoryLocks
from router.locks.sqlite import SqliteLocks
from router.storage.sqlite import Database


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


def _advance(clock: Clock) -> Callable[[float], None]:
    def advance(seconds: float) -> None:
        clock.time += seconds

    return advance


HARNESSES = {"memory": memory, "sqlite": sqlite, "sqlite-locks-outside": sqlite_locks_outside}


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


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=[locks_in_memory, locks_in_sqlite], ids=["memory", "sqlite"])
def locks(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Locks:
    made: Locks = request.param(tmp_path, clock)
    return made
