"""Failed jobs on plain RabbitMQ: list, retry, forget, and none lost."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec
import pytest
from amqp import Message
from amqp_helpers import Setup, failed, ids, job, spin, take, until
from hypothesis import given
from hypothesis import strategies as st

from router.brokers.amqp import AmqpBroker
from router.brokers.amqp import failed as failed_module
from router.brokers.amqp.messages import DELIVERY_COUNT, NOT_BEFORE, delivery_count, park, read_failed
from router.brokers.amqp.names import Names
from router.brokers.amqp.wire import Delivered
from router.brokers.base import Bury, Decision, FailedJob, Forget, Keep, Requeue
from router.errors import BrokerUnavailable
from router.locks.base import Claim, Verdict
from router.locks.memory import MemoryLocks
from tests.servers.raw import Raw


def fill(setup: Setup, broker: AmqpBroker, count: int) -> list[FailedJob]:
    """``count`` failed jobs, in this order of failure but another order in the queue."""
    broker.publish([job() for _ in range(count)])
    consumer = setup.consumer(broker)
    taken = take(consumer, count)
    made = [
        failed(delivery.body.decode(), at=1000.0 + (number * 7919) % count) for number, delivery in enumerate(taken)
    ]
    consumer.settle([Bury(delivery, one) for delivery, one in zip(taken, made, strict=True)])
    spin(consumer, lambda: not consumer.unsettled, "buried")
    consumer.close()
    return sorted(made, key=lambda one: one.failed_at)


def test_list_is_complete_ordered_and_changes_nothing(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failed_module, "PAGE", 100)
    broker = setup.broker()
    assert broker.failed() == []
    made = fill(setup, broker, 450)
    for _ in range(3):
        assert broker.failed() == made
    assert broker.counts([]).failed == 450


def test_strange_contents(setup: Setup) -> None:
    broker = setup.broker()
    broker.publish([job(id="x", body=bytes(range(256)) * 2000)])
    consumer = setup.consumer(broker)
    (delivery,) = take(consumer, 1)
    one = FailedJob("x", "a", "", "", "undecodable", "ü" * 4000, 1.25, delivery.body)
    consumer.settle([Bury(delivery, one)])
    spin(consumer, lambda: not consumer.unsettled, "buried")
    (read,) = broker.failed()
    assert (read.id, read.reason, read.failed_at, read.body) == ("x", "undecodable", 1.25, delivery.body)
    assert read.error == "ü" * 2048, "cut to 4 KiB"


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(st.characters())
    | st.decimals(-(2**20), 2**20, places=2)
    | st.datetimes(datetime(1970, 1, 1)),
    lambda deeper: st.lists(deeper, max_size=2) | st.dictionaries(st.text(max_size=5), deeper, max_size=2),
    max_leaves=4,
)
OURS = st.fixed_dictionaries(
    {},
    optional={
        name: st.sampled_from(["attempts", "undecodable", 1e308]) | ANYTHING
        for name in ("queue", "route", "reason", "error", "failed_at", "x-death", NOT_BEFORE, DELIVERY_COUNT)
    },
)


@given(
    headers=OURS,
    id=st.text(st.characters(), max_size=20),
    at=st.integers(0, 2**64 - 1),
    key=st.binary(max_size=20),
)
def test_whatever_headers_properties_and_keys_say_it_can_be_read(
    headers: dict[str, Any], id: str, at: int, key: bytes
) -> None:
    properties = Message(application_headers=headers, message_id=id, type=id, timestamp=at)._serialize_properties()
    message = Delivered(b"\0\0\0\0\3tag" + struct.pack(">QBBB", 1, 0, 0, len(key)) + key)
    assert message.take(2, struct.pack(">HHQ", 60, 0, 0) + properties)
    one = read_failed(message, message.delivery()[2], 5.0)
    assert msgspec.json.encode(one)
    assert time.localtime(one.failed_at)
    assert delivery_count(message) is not None
    assert park(Names("n"), "a", message, 5.0).body == b""


def test_keep_forget_requeue(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failed_module, "PAGE", 50)
    monkeypatch.setattr(failed_module, "BATCH", 20)
    locks = MemoryLocks()
    broker = setup.broker(locks=locks)
    made = fill(setup, broker, 120)
    locks.hold(job(id="holder", key="k").claim, 100)  # type: ignore[arg-type]

    def decide(one: FailedJob) -> Decision:
        number = made.index(one)
        if number == 119:
            return Requeue(job("b", id=one.id, key="k"))
        return (Keep(), Forget(), Requeue(job("b", id=one.id)))[number % 3]

    sweep = broker.sweep(decide)
    assert set(sweep.forgotten) == {one.id for one in made[1::3]}
    assert set(sweep.requeued) == {one.id for one in made[2:119:3]}
    assert sweep.duplicates == {made[119].id: "holder"}
    assert broker.failed() == [*made[0::3], made[119]]
    consumer = setup.consumer(broker)
    assert set(ids(take(consumer, 39, "b"))) == set(sweep.requeued)


@pytest.mark.parametrize("kept", [0, 3])
def test_what_was_removed_at_the_very_end_is_gone(setup: Setup, kept: int) -> None:
    """RabbitMQ drops acks that come just before the end of a channel, all but the first 33."""
    broker = setup.broker()
    made = fill(setup, broker, 200)
    sweep = broker.sweep(lambda one: Keep() if one in made[:kept] else Forget())
    assert len(sweep.forgotten) == 200 - kept
    assert broker.counts([]).failed == kept
    assert broker.failed() == made[:kept]


def test_a_retry_whose_lock_is_taken_stays_failed(setup: Setup) -> None:
    locks = MemoryLocks()
    broker = setup.broker(locks=locks)
    (one,) = fill(setup, broker, 1)
    holder = job(id="holder", key="k").claim
    assert holder is not None
    locks.hold(holder, 100)
    sweep = broker.sweep(lambda failed: Requeue(job(id=failed.id, key="k")))
    assert (sweep.requeued, sweep.duplicates) == ((), {one.id: "holder"})
    assert broker.failed() == [one]


def test_an_error_on_the_way_loses_nothing(setup: Setup) -> None:
    broker = setup.broker()
    made = fill(setup, broker, 10)

    def decide(one: FailedJob) -> Decision:
        if one == made[5]:
            raise ZeroDivisionError
        return Forget() if one == made[0] else Keep()

    with pytest.raises(ZeroDivisionError):
        broker.sweep(decide)
    assert broker.failed() == made, "of a step that didn't come to its end nothing is done"


def test_successors_that_cannot_be_published_stay_failed(setup: Setup) -> None:
    broker = setup.broker()
    made = fill(setup, broker, 3)
    with pytest.raises(BrokerUnavailable, match="3 failed jobs could not be requeued"):
        broker.sweep(lambda one: Requeue(job("nope", id=one.id)))
    assert broker.failed() == made


def test_a_requeue_that_takes_longer_than_heartbeats_doubles_nothing(setup: Setup, raw: Raw) -> None:
    class Slow(MemoryLocks):
        def hold_many(self, claims: Sequence[Claim], lease: float) -> list[Verdict]:
            time.sleep(3.5)  # a server with a heartbeat of 1 s gives up a silent client after 3 s
            return super().hold_many(claims, lease)

    broker = setup.broker(url=f"{setup.place.url}?heartbeat=1", locks=Slow())
    made = [failed("one", at=1.0), failed("two", at=2.0)]
    broker.restore(made)
    sweep = broker.sweep(lambda one: Requeue(job(id=one.id, key=one.id)))
    assert sweep.requeued == ("one", "two")
    assert broker.failed() == []
    assert raw.ready(setup.names.queue("a")) == 2


@pytest.fixture
def first_browser(setup: Setup) -> Iterator[tuple[AmqpBroker, threading.Event]]:
    """Somebody who browses until the event is set."""
    broker = setup.broker()
    fill(setup, broker, 5)
    inside, leave = threading.Event(), threading.Event()

    def decide(_: FailedJob) -> Decision:
        inside.set()
        assert leave.wait(30)
        return Keep()

    first = threading.Thread(target=lambda: broker.sweep(decide))
    first.start()
    assert inside.wait(10)
    yield broker, leave
    leave.set()
    first.join(20)


def test_a_second_browser_is_told_and_gets_on_when_the_first_has_finished(
    first_browser: tuple[AmqpBroker, threading.Event], caplog: pytest.LogCaptureFixture
) -> None:
    broker, leave = first_browser
    found: list[FailedJob] = []
    second = threading.Thread(target=lambda: found.extend(broker.failed()))
    second.start()
    until(lambda: "someone is browsing the failed jobs of this namespace; waiting" in caplog.text, "told")
    assert second.is_alive()
    leave.set()
    second.join(20)
    assert len(found) == 5


def test_a_second_browser_gives_up_after_a_while(
    first_browser: tuple[AmqpBroker, threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failed_module, "OTHERS", 1.0)
    broker, leave = first_browser
    with pytest.raises(BrokerUnavailable, match="someone is browsing the failed jobs"):
        broker.failed()
    leave.set()
    assert len(broker.failed()) == 5


def test_browsers_that_begin_at_the_same_moment_each_see_all(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failed_module, "PAGE", 20)  # several pages, between which another one could get in
    broker = setup.broker()
    made = fill(setup, broker, 100)
    start = threading.Barrier(4)
    seen: list[list[FailedJob]] = []

    def browse() -> None:
        start.wait()
        seen.append(broker.failed())

    browsers = [threading.Thread(target=browse) for _ in range(4)]
    for each in browsers:
        each.start()
    for each in browsers:
        each.join(60)
    assert seen == [made] * 4


def test_interrupted_while_jobs_come_all_go_back_at_once(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = setup.broker()
    made = fill(setup, broker, 50)
    wait = failed_module.Browser._wait

    def interrupted(browser: failed_module.Browser, seconds: float = 0.02) -> None:
        wait(browser, seconds)
        if browser._arrivals:
            monkeypatch.setattr(failed_module.Browser, "_wait", wait)
            raise KeyboardInterrupt

    monkeypatch.setattr(failed_module.Browser, "_wait", interrupted)
    monkeypatch.setattr(failed_module, "CLOSE_SECONDS", 1000.0)
    with pytest.raises(KeyboardInterrupt):
        broker.failed()
    assert broker.failed() == made


SWEEPER = textwrap.dedent(
    """
    import itertools, signal, sys
    from router.brokers.amqp import AmqpBroker
    from router.brokers.base import Outgoing, Requeue, Topology
    broker = AmqpBroker(sys.argv[1], sys.argv[2], None)
    publish, batches = broker.publish, itertools.count(1)
    def killed_in_between(batch, **options):
        receipt = publish(batch, **options)
        if next(batches) == 8:
            print("published", flush=True)
            signal.pause()
        return receipt
    broker.publish = killed_in_between
    import router.brokers.amqp.failed as failed
    failed.BATCH = 5
    broker.sweep(lambda one: Requeue(Outgoing(one.id, one.point, "b", one.body)))
    """
)


def test_killed_in_the_middle_of_a_sweep_nothing_is_lost(setup: Setup, raw: Raw) -> None:
    broker = setup.broker()
    made = {one.id for one in fill(setup, broker, 100)}
    command = [sys.executable, "-c", SWEEPER, setup.place.url, setup.place.namespace]
    sweeper = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert sweeper.stdout is not None
    assert sweeper.stdout.readline()
    os.kill(sweeper.pid, signal.SIGKILL)
    sweeper.wait(10)
    sweeper.stdout.close()
    left = {one.id for one in broker.failed()}
    count = raw.ready(setup.names.queue("b"))
    assert count
    consumer = setup.consumer(broker)
    requeued = set(ids(take(consumer, count, "b")))
    assert left | requeued == made
    assert len(left & requeued) <= 10, "in both only what was between confirm and ack"
    assert 0 < len(left) < 100


def test_listing_a_lot_is_quick(setup: Setup, raw: Raw) -> None:
    broker = setup.broker()
    for number in range(3):
        assert not broker._publisher.publish(
            [failed_module_publication(setup, failed(f"f-{number}-{each}", at=float(each))) for each in range(5000)],
            20,
        )
    started = time.monotonic()
    assert len(broker.failed()) == 15_000
    assert time.monotonic() - started < 10
    until(lambda: raw.ready(setup.names.failed) == 15_000, "all back")


def failed_module_publication(setup: Setup, one: FailedJob):  # type: ignore[no-untyped-def]
    from router.brokers.amqp.messages import publish_failed

    return publish_failed(setup.names, one)
