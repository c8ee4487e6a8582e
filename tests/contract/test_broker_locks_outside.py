"""The steps around a lock store that shares no transaction with the broker, and what a crash between them leaves."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from broker_harness import BrokenLocks, Clock, failed, ids, job, settled, take
from harnesses import LEASE

from router.brokers import locking
from router.brokers.base import PUBLISH_LEASE, Broker, Bury, Done, Forget, Forward, Outgoing, Receipt
from router.brokers.memory import MemoryBroker
from router.brokers.sqlite import SqliteBroker
from router.errors import BrokerRefused, BrokerUnavailable, LocksUnavailable
from router.locks.base import Claim, Verdict
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


class SlowLocks(MemoryLocks):
    """``seconds`` pass on each call, whatever it is about."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__(clock)
        self._clock = clock
        self._seconds = seconds
        self.calls = 0

    def _answer_slowly(self) -> None:
        self.calls += 1
        self._clock.time += self._seconds

    def hold(self, claim: Claim, lease: float) -> Verdict:
        self._answer_slowly()
        return super().hold(claim, lease)

    def hold_many(self, claims: Sequence[Claim], lease: float) -> list[Verdict]:
        self._answer_slowly()
        return [MemoryLocks.hold(self, claim, lease) for claim in claims]

    def extend_many(self, claims: Sequence[tuple[Claim, float]]) -> list[bool]:
        self._answer_slowly()
        return super().extend_many(claims)

    def free_many(self, claims: Sequence[Claim]) -> list[bool]:
        self._answer_slowly()
        return super().free_many(claims)


@pytest.fixture
def ticking(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What publishing takes for the time, too."""
    monkeypatch.setattr(locking, "time", SimpleNamespace(monotonic=clock))
    return clock


def test_a_thousand_unique_jobs_don_t_wait_a_thousand_times_for_the_lock_store(ticking: Clock) -> None:
    slow = SlowLocks(ticking, 0.02)
    batch = [job(key=f"k{number}") for number in range(1000)]
    began = ticking()
    receipt = locking.publish_locked(slow, batch, all_confirmed, 10.0)
    assert len(receipt.confirmed) == 1000
    assert ticking() - began < 0.5
    assert slow.calls <= 10


def test_a_lock_store_that_is_too_slow_leaves_time_for_what_is_held_and_is_named(ticking: Clock) -> None:
    slow = SlowLocks(ticking, 4.0)
    batch = [job(), *(job(key=f"k{number}") for number in range(3 * locking.AT_ONCE)), job()]
    left: list[float] = []
    until = ticking() + 10.0

    def publish(admitted: Sequence[Outgoing]) -> Receipt:
        left.append(until - ticking())
        return all_confirmed(admitted)

    receipt = locking.publish_locked(slow, batch, publish, 10.0)
    assert left == [2.0]
    held = batch[: 2 * locking.AT_ONCE + 1]
    assert list(receipt.confirmed) == [each.id for each in (*held, batch[-1])]
    assert list(receipt.unconfirmed) == [each.id for each in batch[len(held) : -1]]
    assert set(receipt.unconfirmed.values()) == {"the lock store took 8.0 s for 1000 of 1500 locks"}
    assert slow.holder("k0") == batch[1].claim
    assert slow.holder("k1400") is None


def all_confirmed(batch: Sequence[Outgoing]) -> Receipt:
    return Receipt(tuple(each.id for each in batch))


def test_two_jobs_of_a_key_in_one_batch(broker: Broker, store: BrokenLocks) -> None:
    first, second = job(key="k"), job(key="k")
    assert broker.publish([first, job(), second]).duplicates == {second.id: first.id}
    assert store.holder("k") == first.claim


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


def test_closing_without_the_lock_store_gives_back_what_was_not_settled_at_once(
    tmp_path: Path, store: BrokenLocks, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    broker = SqliteBroker(Database(tmp_path / "router.db"), "test", store, clock)
    outs = [job(key="k"), job()]
    broker.publish(outs)
    consumer = broker.consumer("w")
    done, _ = take(consumer, ROOM, 2)
    store.fail = LocksUnavailable("gone")
    consumer.settle([Done(done, free=outs[0].claim)])
    caplog.clear()
    consumer.close()
    assert "could not settle 1 jobs" in caplog.text
    assert ids(broker.consumer("next").poll(ROOM)) == [outs[1].id]


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
    for _ in range(3):  # it stood still, the other one went on
        clock.advance(LEASE / 2 - 0.5)
        second.poll({})
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
