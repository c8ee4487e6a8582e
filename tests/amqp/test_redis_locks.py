"""Locks in a real Redis: what the contract suite can't see."""

from __future__ import annotations

import os
import threading
import time
import uuid

import pytest

from router.errors import BrokerRefused, LocksUnavailable
from router.locks.base import Claim, Held, Superseded, Taken
from router.locks.redis import RedisLocks
from tests.servers.proxy import Proxy
from tests.servers.redis import RedisServer
from tests.servers.shared import redis_url


def claim(key: str, job: str = "j", round: int = 1, attempt: int = 1) -> Claim:
    return Claim(key, job, round, attempt)


@pytest.fixture
def key() -> str:
    return uuid.uuid4().hex


def test_values_and_leases(key: str) -> None:
    locks = RedisLocks(redis_url())
    assert locks.hold(claim(key), 100) == Held()
    assert locks.hold(claim(key, "other:with:colons", 9, 9), 100) == Taken("j")
    assert locks.hold(claim(key, attempt=10), 100) == Held()
    assert locks.hold(claim(key, attempt=9), 100) == Superseded()
    assert locks.extend(claim(key, round=2), 100) is True
    assert locks.holder(key) == claim(key, round=2)
    assert locks.free(claim(key, attempt=99)) is False
    assert locks.free(claim(key, round=2)) is True
    assert locks.extend(claim(key, round=2), 100) is False
    assert locks.holder(key) is None


def test_a_lease_ends_by_the_servers_clock(key: str) -> None:
    locks = RedisLocks(redis_url())
    locks.hold(claim(key), 0.2)
    deadline = time.monotonic() + 5
    while locks.holder(key) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert locks.extend(claim(key), 10) is False
    assert locks.hold(claim(key, "other"), 10) == Held()


def test_after_a_fork(key: str) -> None:
    locks = RedisLocks(redis_url())
    locks.hold(claim(key), 100)
    child = os.fork()
    if child == 0:
        try:
            right = locks.hold(claim(key, "other"), 100) == Taken("j")
            os._exit(0 if right else 1)
        finally:
            os._exit(2)
    assert locks.holder(key) == claim(key)
    assert os.waitpid(child, 0)[1] == 0
    assert locks.holder(key) == claim(key)


def test_one_winner_among_threads(key: str) -> None:
    locks = RedisLocks(redis_url())
    winners: list[str] = []

    def contend(job: str) -> None:
        if locks.hold(claim(key, job), 100) == Held():
            winners.append(job)

    threads = [threading.Thread(target=contend, args=(f"j{number}",)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(winners) == 1


def test_out_of_reach_is_said_within_five_seconds(key: str) -> None:
    server = RedisServer()
    server.start()
    proxy = Proxy(server.port)
    try:
        locks = RedisLocks(server.url(port=proxy.port))
        assert locks.hold(claim(key), 100) == Held()
        proxy.stall()
        started = time.monotonic()
        for call in (
            lambda: locks.hold(claim(key), 100),
            lambda: locks.hold_many([claim(key), claim(key, attempt=2)], 100),
            lambda: locks.free(claim(key)),
            lambda: locks.holder(key),
        ):
            started = time.monotonic()
            with pytest.raises(LocksUnavailable):
                call()
            assert time.monotonic() - started < 5
        proxy.resume()
        assert locks.holder(key) == claim(key)
        server.kill()
        with pytest.raises(LocksUnavailable):
            locks.holder(key)
        server.start()
        assert locks.holder(key) == claim(key), "appendfsync always"
    finally:
        proxy.close()
        server.close()


def test_secrets_stay_out_of_errors() -> None:
    locks = RedisLocks("redis://:s3cret@127.0.0.1:1/0")
    with pytest.raises(LocksUnavailable) as caught:
        locks.holder("k")
    assert "s3cret" not in str(caught.value)
    with pytest.raises(BrokerRefused) as refused:
        RedisLocks("redis://:s3cret@host/0?socket_timeout=abc")
    assert "s3cret" not in str(refused.value)
