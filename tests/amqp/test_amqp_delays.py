"""Delays: never early, hardly late, by an exact queue or by the ladder."""

from __future__ import annotations

import time

import pytest
from amqp_helpers import Setup, ids, job, spin, take, turn, until
from hypothesis import given
from hypothesis import strategies as st

from router.brokers.amqp.messages import publish_job
from router.brokers.amqp.names import HELD_BELOW, LADDER, MAX_EXACT, exact_delays, milliseconds, wait_for
from router.brokers.base import Delivery, Done, Forward
from tests.servers.raw import Raw
from tests.servers.shared import rabbit_node

LATE = 5.0
"""Seconds that a job may be late on a busy machine."""


@given(st.floats(min_value=0, max_value=365 * 86400))
def test_the_ladder_gets_there_in_few_steps_and_never_too_far(seconds: float) -> None:
    left, steps = seconds, 0
    while left >= HELD_BELOW:
        step = wait_for(left)
        assert 0 < step <= milliseconds(left)
        left -= step / 1000
        steps += 1
    assert steps <= 300
    assert steps <= 20 or seconds > LADDER[-1] / 1000


def test_exact_delays_are_bounded_and_the_shortest() -> None:
    many = exact_delays([each + 0.001 for each in range(1000)])
    assert len(many) == MAX_EXACT
    assert max(many) == 63_001
    assert exact_delays([1.0, 0.3, 0.1 + 0.2]) == {300}, "1 s is on the ladder"
    assert exact_delays([365 * 86400]) == frozenset(), "too long for a TTL"


@pytest.mark.parametrize("delay", [0.1, 0.25, 0.7, 1.3, 1.9])
def test_any_delay_is_kept(setup: Setup, delay: float) -> None:
    broker = setup.broker(delays=(0.7,))
    consumer = setup.consumer(broker)
    assert consumer.poll({"a": 1}) == []
    published_at = time.time()
    broker.publish([job(id="x", delay=delay)])
    (delivery,) = take(consumer, 1)
    waited = time.time() - published_at
    assert delay <= waited < delay + LATE
    consumer.settle([Done(delivery)])
    assert delivery.count == 1


def test_a_policy_that_shortens_a_wait_makes_nothing_early(setup: Setup) -> None:
    node = rabbit_node()
    if node is None:
        pytest.skip("the server of ROUTER_TEST_AMQP_URL is not ours to set policies on")
    broker = setup.broker(delays=(1.1,))
    vhost, queue = broker.address.vhost, setup.names.delay_queue(1100).replace(".", r"\.")
    node.ctl("set_policy", "-p", vhost, "short", f"^{queue}$", '{"message-ttl": 10}', "--apply-to", "queues")
    consumer = setup.consumer(broker)
    published_at = time.time()
    broker.publish([job(id="x", delay=1.1)])
    take(consumer, 1)
    assert 1.1 <= time.time() - published_at < 1.1 + LATE


def test_what_is_due_a_moment_early_is_held_and_not_moved_again(setup: Setup, raw: Raw) -> None:
    """As where the dispatcher's clock is ahead of the worker's."""
    broker = setup.broker(delays=(0.3,))
    consumer = setup.consumer(broker)
    started = time.time()
    publication = publish_job(setup.names, job(id="x", delay=0.3), frozenset({300}), started + 0.2)
    assert broker._publisher.publish([publication], 10.0) == {}
    take(consumer, 1)
    assert time.time() - started >= 0.5
    consumer.close()
    headers = raw.get(setup.names.queue("a")).headers
    assert [death["queue"] for death in headers["x-death"]] == [setup.names.delay_queue(300)], "no ladder"


def test_a_delayed_successor_carries_none_of_rabbitmqs_headers(setup: Setup, raw: Raw) -> None:
    broker = setup.broker(delays=(0.3,))
    consumer = setup.consumer(broker)
    broker.publish([job(id="x", delay=0.3)])
    for delay in (0.3, 0.6):
        (delivery,) = take(consumer, 1)
        consumer.settle([Forward(delivery, job(id="x", delay=delay))])
        until(lambda: consumer.poll({}) == [] and not consumer.unsettled, "settled")
    consumer.close()
    until(lambda: raw.ready(setup.names.queue("a")) == 1, "due")
    headers = raw.get(setup.names.queue("a")).headers
    assert len(headers["x-death"]) == 1, "of its last wait only"
    assert headers["x-death"][0]["count"] == 1


def test_a_stop_just_while_early_jobs_move_on_doubles_none(setup: Setup, raw: Raw) -> None:
    broker = setup.broker()
    published = [job(delay=1.4) for _ in range(20)]
    broker.publish(published)
    first = setup.consumer(broker)
    outbox = first._outbox  # type: ignore[attr-defined]

    def moving() -> object:
        return turn(first, {"a": 100}) or (outbox._confirms and outbox._confirms.unconfirmed)

    until(moving, "some came early, and are published again")
    spin(first, lambda: first.unsettled == 0, "settled, so that it may be closed")
    first.close()
    second = setup.consumer(broker, "w2")
    taken: list[Delivery] = []
    until(lambda: taken.extend(turn(second, {"a": 100})) or len(taken) >= 20, "all jobs")
    until(lambda: taken.extend(turn(second, {"a": 100})) or broker.counts(["a"]).delayed == 0, "none is delayed")
    second.close()
    until(lambda: raw.ready(setup.names.queue("a")) == 20, "given back")
    assert sorted(ids(taken)) == [each.id for each in published]


def test_counts_tell_what_is_delayed(setup: Setup) -> None:
    broker = setup.broker(delays=(100.0,))
    broker.publish([job(), job(delay=100.0), job("b", delay=77.0)])
    counts = broker.counts(["a", "b"])
    assert counts.delayed == 2
    assert counts.failed == 0
    assert [counts.queues[queue].ready for queue in "ab"] == [1, 0]
    assert counts.queues["a"].delayed is None


def test_jobs_due_for_a_queue_that_is_gone_fail_and_hold_nobody_up(setup: Setup, raw: Raw) -> None:
    broker = setup.broker(delays=(0.5,))
    raw.channel.queue_delete(setup.names.queue("b"))  # before anything can be due in it
    orphans = [job("b", delay=0.5) for _ in range(40)]
    broker.publish(orphans)
    broker.publish([job(id="good", delay=0.5)])
    consumer = setup.consumer(broker)
    started = time.time()
    assert ids(take(consumer, 1)) == ["good"]
    assert time.time() - started < 0.5 + LATE
    until(lambda: raw.ready(setup.names.failed) == 40, "failed")
    failed = broker.failed()
    assert {each.id for each in failed} == {each.id for each in orphans}
    assert {(each.queue, each.point) for each in failed} == {("b", "order.placed")}
    assert all("no queue 'b'" in each.error and abs(each.failed_at - time.time()) < 60 for each in failed)
