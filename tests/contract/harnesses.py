"""Every implementation that the contract suites run over."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from broker_harness import Clock, Harness
from msgspec.structs import replace

from router.brokers.amqp import AmqpBroker
from router.brokers.amqp.link import Address
from router.brokers.base import Broker, Consumer
from router.brokers.memory import MemoryBroker
from router.brokers.sqlite import SqliteBroker
from router.locks.base import Claim, Lease, Locks, Verdict
from router.locks.memory import MemoryLocks
from router.locks.redis import RedisLocks
from router.locks.sqlite import SqliteLocks
from router.storage.sqlite import Database
from tests.servers.proxy import Proxy
from tests.servers.shared import rabbit_place, redis_url

LEASE = 6.0
"""Seconds for which a table lends a job to a worker."""


def memory(path: Path) -> Harness:
    clock = Clock()
    brokers: dict[str, Broker] = {}
    locks = MemoryLocks(clock)

    def make(namespace: str) -> Broker:
        return brokers.setdefault(namespace, MemoryBroker(namespace, locks, clock))

    return _table("memory", make, clock)


def sqlite(path: Path) -> Harness:
    """Locks in the same file: one transaction."""
    clock = Clock()
    database = Database(path / "router.db")
    harness = _table(
        "sqlite", lambda namespace: SqliteBroker(database, namespace, SqliteLocks(database, clock), clock), clock
    )
    harness.url = f"sqlite:///{path}/router.db"
    return harness


def sqlite_locks_outside(path: Path) -> Harness:
    """Locks in another file: step by step."""
    clock = Clock()
    database = Database(path / "router.db")
    locks: Locks = SqliteLocks(Database(path / "locks.db"), clock)
    return _table("sqlite-locks-outside", lambda namespace: SqliteBroker(database, namespace, locks, clock), clock)


def amqp(path: Path) -> Harness:
    """On a real RabbitMQ, where time passes by waiting; each consumer's connection can be broken."""
    place = rabbit_place()
    clock = Clock()
    locks = MemoryLocks(clock)
    proxies: list[tuple[Consumer, Proxy]] = []
    brokers: list[Broker] = []

    class Proxied(AmqpBroker):
        def consumer(self, name: str) -> Consumer:
            proxy = Proxy(self.address.port)
            address = Address.parse(place.url)
            url = place.url.replace(f":{address.port}/", f":{proxy.port}/")
            consumer = AmqpBroker(url, self.names.namespace, locks).consumer(name)
            proxies.append((consumer, proxy))
            return consumer

    def make(namespace: str) -> Broker:
        broker = Proxied(place.url, namespace, locks)
        brokers.append(broker)
        return broker

    def silence(consumer: Consumer) -> None:
        next(proxy for each, proxy in proxies if each is consumer).cut()

    def pass_time(seconds: float) -> None:
        clock.advance(seconds)
        time.sleep(seconds)

    def close() -> None:
        for consumer, proxy in proxies:
            consumer.close()
            proxy.close()
        for broker in brokers:
            broker.close()

    return Harness(
        "amqp",
        make,
        pass_time,
        clock.advance,
        silence,
        time.time,
        url=place.url,
        prefix=f"{place.namespace}-",
        table=False,
        lapse=0.1,
        close=close,
    )


def _table(name: str, make: Callable[[str], Broker], clock: Clock) -> Harness:
    consumers: list[Consumer] = []

    def make_watched(namespace: str) -> Broker:
        broker = make(namespace)
        make_consumer = broker.consumer

        def consumer(name: str) -> Consumer:
            consumers.append(make_consumer(name))
            return consumers[-1]

        broker.consumer = consumer  # type: ignore[method-assign]
        return broker

    def silence(silent: Consumer) -> None:
        """The others go on meanwhile: nobody is taken for dead where all stood still."""
        for _ in range(3):
            clock.advance(LEASE / 2 - 0.5)
            for other in consumers:
                if other is not silent:
                    other.poll({})

    return Harness(name, make_watched, clock.advance, clock.advance, silence, clock)


TABLES = {"memory": memory, "sqlite": sqlite, "sqlite-locks-outside": sqlite_locks_outside}
HARNESSES = {"amqp": amqp, **TABLES}


SHARED = ["amqp", "sqlite"]
"""Those that several processes can use at once."""


def locks_in_memory(path: Path, clock: Clock) -> Locks:
    return MemoryLocks(clock)


def locks_in_sqlite(path: Path, clock: Clock) -> Locks:
    return SqliteLocks(Database(path / "locks.db"), clock)


class AgingRedis(RedisLocks):
    """Keys of its own on the tests' Redis, whose leases get shorter as ``clock`` moves."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(redis_url())
        self._own = uuid.uuid4().hex
        clock.also = self._age

    def hold_many(self, claims: Sequence[Claim], lease: float) -> list[Verdict]:
        return super().hold_many([self._mapped(claim) for claim in claims], lease)

    def extend_many(self, claims: Sequence[tuple[Claim, float]]) -> list[bool]:
        return super().extend_many([(self._mapped(claim), lease) for claim, lease in claims])

    def free_many(self, claims: Sequence[Claim]) -> list[bool]:
        return super().free_many([self._mapped(claim) for claim in claims])

    def holder(self, key: str) -> Claim | None:
        held = super().holder(self._own + key)
        return held and replace(held, key=key)

    def held(self, prefix: str) -> list[Lease]:
        found = super().held(self._own + prefix)
        return [replace(one, claim=replace(one.claim, key=one.claim.key.removeprefix(self._own))) for one in found]

    def _mapped(self, claim: Claim) -> Claim:
        return replace(claim, key=self._own + claim.key)

    def _age(self, seconds: float) -> None:
        for key in self._redis.scan_iter(f"*{self._own}*"):
            self._redis.pexpire(key, max(0, round(self._redis.pttl(key) - seconds * 1000)))


def locks_in_redis(path: Path, clock: Clock) -> Locks:
    return AgingRedis(clock)


LOCKS: dict[str, Callable[[Path, Clock], Locks]] = {
    "memory": locks_in_memory,
    "redis": locks_in_redis,
    "sqlite": locks_in_sqlite,
}
