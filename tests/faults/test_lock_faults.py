"""The lock store fails while unique jobs are dispatched and run: never two jobs of a key, never a lost one."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator

import msgspec
import pytest
from redis import Redis
from storm import BOTH, Storm

from router.brokers import connect
from router.brokers.base import Outgoing
from router.config.settings import Unique
from router.jobs.job import decode
from router.jobs.unique import lock_key
from router.locks import open_locks
from router.locks.base import Claim, Held
from tests.servers.redis import RedisServer

WORK = """
import time

from journal import write

def once(event, context):
    write("start", key=event["key"], attempt=context.attempt)
    time.sleep(event.get("seconds", 0.02))
    if context.attempt <= event.get("fails", 0):
        raise ValueError("fails")
    write("end", key=event["key"], attempt=context.attempt)
"""

FILE = """
version: 1
pythonpath: ["."]
broker: {url: "${ROUTER_BROKER_URL}", namespace: "${ROUTER_NAMESPACE}", publishTimeout: 3s}
locks: {url: "${ROUTER_LOCKS_URL}"}
async: {backoff: 1s, backoff_strategy: fixed, tries: 3}
extensions:
  keyed: {handlers: [{handler: "work:once", async: {uniqueJob: true, uniqueBy: [key], uniqueLockTimeout: 6s}}]}
"""


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(params=BOTH)
def storm(request: pytest.FixtureRequest, redis: RedisServer, make_storm: Callable[..., Storm]) -> Storm:
    storm = make_storm(request.param, FILE, ROUTER_LOCKS_URL=redis.url())
    (storm.folder / "work.py").write_text(WORK)
    return storm


def dispatch(storm: Storm, key: int, code: int = 0, **details: object) -> str:
    """Dispatch by the command line; what it said."""
    payload = json.dumps({"key": key, **details})
    done = storm.app.router("dispatch", "keyed", "-p", payload, code=code)
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def forget_all(redis: RedisServer) -> None:
    """As a restart does where nothing is kept on disk."""
    client = Redis.from_url(redis.url())
    client.flushall()
    client.close()


def held(storm: Storm, key: int) -> Claim | None:
    """Who holds the lock of that key."""
    name = lock_key(
        storm.app.env["ROUTER_NAMESPACE"], "keyed", "work:once", Unique(by=("key",)), json.dumps({"key": key}).encode()
    )
    locks = open_locks(storm.app.env["ROUTER_LOCKS_URL"])
    try:
        return locks.holder(name)
    finally:
        locks.close()


def test_out_of_reach_dispatch_refuses_and_what_waits_runs_when_it_is_back(storm: Storm, redis: RedisServer) -> None:
    assert "queued" in dispatch(storm, 1)
    redis.kill()
    said = dispatch(storm, 2, code=1)
    assert "nothing was queued" in said
    assert "Redis" in said
    assert storm.app.status()["queues"]["default"]["ready"] == 1  # nothing was queued without its lock
    worker = storm.start_worker("--concurrency", "1")
    storm.app.wait_until(lambda: "unique jobs wait" in worker.log())
    assert storm.app.journal("start") == []
    redis.start()
    back_at = time.time()
    (start,) = storm.app.wait_for("start")
    assert start["at"] - back_at < 10
    storm.app.wait_for("end")
    dispatch(storm, 2)
    storm.app.wait_for("end", key=2)
    storm.app.wait_until(lambda: held(storm, 1) is None and held(storm, 2) is None)


@pytest.mark.full
def test_restarted_and_empty_while_jobs_wait_and_run_nothing_is_lost_and_no_lock_is_left(
    storm: Storm, redis: RedisServer
) -> None:
    """A Redis that keeps nothing on disk forgets all locks. A start takes its lock again."""
    storm.start_worker("--concurrency", "2")
    with storm.app.application() as router:
        for key in range(20):
            router.dispatch("keyed", {"key": key, "seconds": 0.3})
            if key == 9:
                redis.kill()
                redis.start()
                forget_all(redis)
    storm.app.wait_for("end", 20)
    assert Counter(line["key"] for line in storm.app.journal("end")) == dict.fromkeys(range(20), 1)
    storm.app.wait_until(lambda: all(held(storm, key) is None for key in range(20)))


@pytest.mark.full
def test_a_lease_lost_while_the_job_runs_is_told_and_the_job_goes_on(storm: Storm, redis: RedisServer) -> None:
    worker = storm.start_worker("--concurrency", "1")
    dispatch(storm, 1, seconds=6)
    storm.app.wait_for("start")
    forget_all(redis)
    locks = open_locks(redis.url())
    taken = lock_key(
        storm.app.env["ROUTER_NAMESPACE"], "keyed", "work:once", Unique(by=("key",)), json.dumps({"key": 1}).encode()
    )
    assert locks.hold(Claim(taken, "another job", 1, 1), 60) == Held()
    locks.close()
    storm.app.wait_for("end")
    assert "another job" in worker.log()
    storm.app.wait_until(lambda: "succeeded" in worker.log())
    holder = held(storm, 1)
    assert holder is not None
    assert holder.job == "another job"


@pytest.mark.full
def test_a_stale_copy_of_a_unique_job_is_superseded_and_one_chain_goes_on(storm: Storm) -> None:
    """After a lost ack, the attempt that has failed comes again to a worker that knows nothing of it."""
    storm.app.config.write_text(FILE.replace("uniqueLockTimeout: 6s", "uniqueLockTimeout: 60s"))  # a slow machine
    first = storm.start_worker("--concurrency", "1")
    dispatch(storm, 1, fails=1)
    storm.app.wait_for("start")
    # The successor is confirmed, and the lock raised to it.
    storm.app.wait_until(lambda: (held(storm, 1) or Claim("", "", 1, 1)).attempt == 2)
    first.process.kill()
    first.process.wait()
    url = storm.place.url if storm.place else storm.broker_url
    broker = connect(url, storm.app.env["ROUTER_NAMESPACE"], storm.app.env["ROUTER_LOCKS_URL"])
    holder = held(storm, 1)
    assert holder is not None
    assert (holder.attempt, holder.round) == (2, 1)
    # The stale copy, as it was dispatched; SQLite knows the job's id, so it gets its own row by another queue entry.
    stale = msgspec.json.encode(
        {
            "v": 1,
            "job": holder.job,
            "round": 1,
            "attempt": 1,
            "point": "keyed",
            "route": "work:once",
            "event": {"key": 1, "fails": 1},
            "dispatched_at": time.time(),
            "correlation": holder.job,
            "lock": holder.key,
        }
    )
    assert decode(stale).attempt == 1
    assert broker.publish([Outgoing(f"{holder.job}-stale", "keyed", "default", stale)]).confirmed
    broker.close()
    second = storm.start_worker("--concurrency", "1")
    storm.app.wait_for("end")
    storm.app.wait_until(lambda: "a later attempt of it is under way" in second.log())
    storm.app.wait_until(lambda: storm.app.counts().queues["default"].ready == 0)
    storm.app.wait_until(lambda: held(storm, 1) is None)
    assert [line["attempt"] for line in storm.app.journal("start")] == [1, 2]
