"""The steps around a lock store that shares no transaction with the broker, and what a crash between them leaves."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from broker_harness import BrokenLocks, Clock, failed, ids, job, settled, take
from harnesses import LEASE

from router.brokers import locking
from router.brokers.base import PUBLISH_LEASE, Broker, Bury, Done, Forget, Forward, Outgoing, Receipt
from router.brokers.memory import MemoryBroker
from router.brokers.sqlite import SqliteBroker
from router.errors import BrokerRefused, BrokerUnavailable, LocksUnavailable
from router.locks.memory import MemoryLocks
from router.storage.sqlite import Database

ROOM = {"a": 100}


@pytest.fixture
def store(clock: Clock) -> BrokenLocks:
    return BrokenLocks(MemoryLocks(clock))


@pytest.fixture(params=["memory", "sqlite"])
def broker(request: pytest.FixtureRequest, tmp_path: Path, store: BrokenLocks, clock: Clock) -> Broker:
    if request.param == "memory":
        return MemoryBroker("test", store, clock)
    return SqliteBroker(Database(tmp_path / "router.db"), "test", store, clock)


def test_publishing_takes_a_short_lock_first_and_lengthens_it_after(broker: Broker, store: BrokenLocks) -> None:
    out = job(key="k", delay=5, lease=100)
    broker.publish([out])
    assert store.log == [("hold", out.claim, PUBLISH_LEASE), ("extend", out.claim, 105)]


def test_no_lock_store_no_unique_job(tmp_path: Path) -> None:
    for broker in (MemoryBroker("test", None), SqliteBroker(Database(tmp_path / "x.db"), "test", None)):
        assert broker.locks is None
        assert broker.publish([job()]).confirmed
        with pytest.raises(BrokerRefused, match=r"locks\.url"):
            broker.publish([job(key="k")])


def test_a_lock_store_out_of_reach_publishes_nothing(broker: Broker, store: BrokenLocks) -> None:
    store.fail = LocksUnavailable("gone")
    with pytest.raises(LocksUnavailable):
        broker.publish([job(), job(key="k")], deadline=0.1)
    assert broker.counts(["a"]).queues["a"].ready == 0


def test_a_lock_store_that_comes_back_in_time_is_waited_for(
    broker: Broker, store: BrokenLocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.fail = LocksUnavailable("gone")

    def come_back(seconds: float) -> None:
        store.fail = None

    monkeypatch.setattr(time, "sleep", come_back)
    assert broker.publish([job(key="k")]).confirmed


def test_what_is_not_confirmed_gives_its_lock_up(store: BrokenLocks) -> None:
    good, bad = job(key="good"), job(key="bad")

    def publish(batch: Sequence[Outgoing]) -> Receipt:
        return Receipt((good.id,), unconfirmed={bad.id: "no confirm"})

    receipt = locking.publish_locked(store, [good, bad], publish, 1.0)
    assert receipt == Receipt((good.id,), {}, {bad.id: "no confirm"})
    assert store.holder("good") == good.claim
    assert store.holder("bad") is None


def test_a_publish_that_was_not_tried_gives_all_locks_up(store: BrokenLocks) -> None:
    def publish(batch: Sequence[Outgoing]) -> Receipt:
        raise BrokerUnavailable("gone")

    with pytest.raises(BrokerUnavailable):
        locking.publish_locked(store, [job(key="k")], publish, 1.0)
    assert store.holder("k") is None


def test_a_lock_freed_before_the_lengthening_stays_free(store: BrokenLocks) -> None:
    """A fast worker may have finished the job before its publisher has seen the confirm."""
    out = job(key="k")

    def publish(batch: Sequence[Outgoing]) -> Receipt:
        assert out.claim is not None
        store.free(out.claim)
        return Receipt((out.id,))

    locking.publish_locked(store, [out], publish, 1.0)
    assert store.holder("k") is None


def test_settlements_wait_in_order_for_the_lock_store(
    broker: Broker, store: BrokenLocks, caplog: pytest.LogCaptureFixture
) -> None:
    outs = [job(key="k"), job(), job(key="l")]
    broker.publish(outs)
    consumer = broker.consumer("w")
    deliveries = take(consumer, ROOM, 3)
    store.fail = LocksUnavailable("gone")
    consumer.settle(
        [
            Done(deliveries[1]),
            Done(deliveries[0], free=outs[0].claim),
            Bury(deliveries[2], failed(outs[2], at=1.0), free=outs[2].claim),
        ]
    )
    late = job()
    broker.publish([late])
    assert ids(take(consumer, ROOM, 1)) == [late.id]  # new work goes on
    for _ in range(5):
        consumer.poll(ROOM)
    assert consumer.unsettled == 2
    assert broker.failed() == []
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1
    store.fail = None
    assert settled(consumer)
    assert [entry.id for entry in broker.failed()] == [outs[2].id]
    assert (store.holder("k"), store.holder("l")) == (None, None)
    assert consumer.take_lost() == []


def test_a_job_lost_while_it_waits_for_the_lock_store_is_left_alone(
    broker: Broker, store: BrokenLocks, clock: Clock
) -> None:
    outs = [job(key="k"), job(key="l"), job(key="m")]
    broker.publish(outs)
    first, second = broker.consumer("w1"), broker.consumer("w2")
    deliveries = take(first, ROOM, 3)
    store.fail = LocksUnavailable("gone")
    # The one that is lost is not the first to be settled.
    first.settle([Done(deliveries[number], free=outs[number].claim) for number in (2, 0, 1)])
    clock.advance(LEASE + 1)  # it stood still
    (again,) = second.poll({"a": 1})
    assert ids([again]) == [outs[0].id]
    first.poll({})
    assert first.take_lost() == [deliveries[0]]
    assert first.unsettled == 2
    store.fail = None
    assert settled(first)
    assert first.take_lost() == []
    assert store.holder("k") == outs[0].claim
    second.settle([Done(again, free=outs[0].claim)])
    assert [store.holder(key) for key in "klm"] == [None, None, None]
    assert broker.counts(["a"]).queues["a"].ready == 0


def test_a_raise_that_fails_leaves_a_successor_that_can_start(broker: Broker, store: BrokenLocks) -> None:
    out = job(key="k")
    broker.publish([out])
    consumer = broker.consumer("w")
    (delivery,) = take(consumer, ROOM, 1)
    successor = job("b", id=out.id, key="k", attempt=2)
    store.fail = LocksUnavailable("gone")
    consumer.settle([Forward(delivery, successor)])
    assert ids(take(consumer, {"b": 1}, 1)) == [out.id]  # delivered though the lock could not be raised
    assert store.holder("k") == out.claim
    assert consumer.unsettled == 1
    store.fail = None
    assert settled(consumer)
    assert store.holder("k") == successor.claim


def test_a_failed_job_stays_until_its_lock_could_be_freed(broker: Broker, store: BrokenLocks) -> None:
    """Freed first: killed in between, the job is there still, and can be forgotten again."""
    out = job(key="k")
    broker.restore([failed(out, at=1.0)])
    assert out.claim is not None
    store.hold(out.claim, 100)
    store.fail = LocksUnavailable("gone")
    with pytest.raises(LocksUnavailable):
        broker.sweep(lambda entry: Forget(free=out.claim))
    assert [entry.id for entry in broker.failed()] == [out.id]
    store.fail = None
    assert broker.sweep(lambda entry: Forget(free=out.claim)).forgotten == (out.id,)
    assert store.holder("k") is None


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("step", ["hold", "extend"])
def test_a_crash_while_publishing_blocks_the_key_briefly(tmp_path: Path, step: str) -> None:
    clock = Clock()
    store = BrokenLocks(MemoryLocks(clock))
    broker = SqliteBroker(Database(tmp_path / "router.db"), "test", store, clock)
    out = job(key="k", lease=3600)
    kill_after(store, step == "hold")
    with pytest.raises(Killed):
        broker.publish([out])
    clock.time += PUBLISH_LEASE
    assert store.holder("k") is None
    # After the confirm the job is there and can start, before it nobody needs to.
    assert (broker.counts(["a"]).queues["a"].ready or 0) == (step == "extend")


def kill_after(store: BrokenLocks, after_hold: bool) -> None:
    """Let the lock store's next `hold` succeed and then end the process, or end it at the next `extend`."""
    hold: Callable[..., object] = store.hold

    def hold_and_die(*arguments: object) -> None:
        hold(*arguments)
        raise Killed

    def die(*arguments: object) -> bool:
        raise Killed

    if after_hold:
        store.hold = hold_and_die  # type: ignore[method-assign]
    else:
        store.extend = die  # type: ignore[method-assign]
