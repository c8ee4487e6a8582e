"""Consuming: delivery, settling, prefetch, and coming back after whatever happens to the connection."""

from __future__ import annotations

import select
import struct
import time
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace

import msgspec
import pytest
from amqp_helpers import Setup, failed, ids, job, spin, take, turn, until
from msgspec.structs import replace

from router.brokers.amqp.line import Line
from router.brokers.amqp.link import CLOSE_SECONDS, Address, connect
from router.brokers.amqp.messages import publish_arguments
from router.brokers.base import Bury, Consumer, Delivery, Done, Forward, Return
from router.brokers.wake import Wake
from router.errors import BrokerRefused, BrokerUnavailable
from router.jobs.job import AttemptRecord, Job, decode, encode
from router.locks.memory import MemoryLocks
from tests.servers.proxy import Proxy, through
from tests.servers.rabbitmq import MAX_MESSAGE
from tests.servers.raw import Raw
from tests.servers.shared import rabbit_node


def test_jobs_come_in_order_and_are_gone_after_done(setup: Setup, raw: Raw) -> None:
    broker = setup.broker()
    batch = [job() for _ in range(50)]
    assert broker.publish(batch).confirmed == tuple(each.id for each in batch)
    consumer = setup.consumer(broker)
    taken = take(consumer, 50)
    assert ids(taken) == [each.id for each in batch]
    assert [delivery.count for delivery in taken] == [1] * 50
    consumer.settle([Done(delivery) for delivery in taken])
    assert consumer.unsettled == 0
    consumer.close()
    until(lambda: raw.ready(setup.names.queue("a")) == 0, "nothing left")
    assert consumer.take_lost() == []


def test_room_is_kept_and_the_first_queue_comes_first(setup: Setup) -> None:
    broker = setup.broker()
    broker.publish([job("b") for _ in range(5)] + [job("a") for _ in range(5)])
    consumer = setup.consumer(broker)
    taken: list[str] = []
    seen: list[int] = []

    def enough() -> bool:
        got = turn_with()
        taken.extend(delivery.queue for delivery in got)
        seen.append(len(got))
        return len(taken) >= 5

    def turn_with() -> list:  # type: ignore[type-arg]
        return turn(consumer, {"a": 2 - taken.count("a"), "b": 3 - taken.count("b")})

    until(enough, "five jobs")
    assert sorted(taken) == ["a", "a", "b", "b", "b"]
    assert turn(consumer, {}) == []


def test_forward_bury_and_return(setup: Setup, raw: Raw) -> None:
    broker = setup.broker()
    broker.publish([job(id="retry"), job(id="bad"), job(id="back")])
    consumer = setup.consumer(broker)
    one, two, three = take(consumer, 3)
    consumer.settle(
        [Forward(one, job("b", id="retry")), Bury(two, failed("bad", at=1234.5)), Return(three)],
    )
    spin(consumer, lambda: consumer.unsettled == 0, "settled")
    (again,) = take(consumer, 1)
    assert (ids([again]), again.count) == (["back"], 2)
    consumer.settle([Done(again)])
    (retried,) = take(consumer, 1, "b")
    assert ids([retried]) == ["retry"]
    consumer.settle([Done(retried)])
    assert broker.failed() == [failed("bad", at=1234.5)]


def test_a_job_that_comes_while_others_are_settled_need_not_wait_for_the_next_event(setup: Setup) -> None:
    broker = setup.broker()
    consumer = setup.consumer(broker)
    broker.publish([job(id="first")])
    room = {"a": 2}
    taken: list[Delivery] = []
    until(lambda: taken.extend(turn(consumer, room)) or taken, "the first job")
    consumer.poll(room)
    broker.publish([job(id="second")])
    assert select.select(list(consumer.wait_on()), [], [], 5)[0]
    consumer.settle([Done(delivery) for delivery in taken])
    assert consumer.patience() == 0
    assert ids(consumer.poll(room)) == ["second"]
    assert consumer.patience() > 0


def test_a_queue_that_is_deleted_just_before_closing_costs_no_acks_of_another(setup: Setup, raw: Raw) -> None:
    broker = setup.broker()
    broker.publish([job(queue) for _ in range(100) for queue in ("a", "b")])
    consumer = setup.consumer(broker)
    taken: list[Delivery] = []
    until(lambda: taken.extend(turn(consumer, {"a": 100, "b": 100})) or len(taken) == 200, "all jobs")
    unsettled = Counter(delivery.queue for delivery in taken[:10])
    consumer.settle([Done(delivery) for delivery in taken[10:]])
    raw.channel.queue_delete(setup.names.queue("a"))
    started = time.monotonic()
    consumer.close()
    assert time.monotonic() - started < 2
    until(lambda: raw.ready(setup.names.queue("b")) == unsettled["b"], "what was not settled, and nothing else")


def test_what_is_not_settled_goes_back_when_closing(setup: Setup) -> None:
    broker = setup.broker()
    broker.publish([job(id="x"), job(id="y")])
    first = setup.consumer(broker)
    x, y = take(first, 2)
    first.settle([Done(x)])
    first.close()
    assert first.take_lost() == [y]
    second = setup.consumer(broker, "w2")
    (again,) = take(second, 1)
    assert (ids([again]), again.count) == (["y"], 2)


@pytest.mark.parametrize("waiting", [None, 0, 5], ids=["alone", "beside an idle worker", "beside a busy worker"])
def test_what_was_settled_in_any_order_just_before_closing_stays_settled(
    setup: Setup, raw: Raw, waiting: int | None
) -> None:
    """RabbitMQ forgets acks that come in quick succession just before the end of a channel."""
    queue = setup.names.queue("a")
    broker = setup.broker()
    broker.publish([job() for _ in range(500)])
    first = setup.consumer(broker)
    running, *done = take(first, 500)
    expected = ids([running])
    if waiting is not None:
        second = setup.consumer(broker, "w2")
        broker.publish([job() for _ in range(1 + waiting)])
        expected += ids(take(second, 1))
        expected += [f"job-{int(expected[-1][4:]) + number:06}" for number in range(1, 1 + waiting)]
    first.settle([Done(delivery) for delivery in done])
    first.close()
    if waiting is not None:
        spin(second, lambda: consumers(raw, queue) == 1, "nothing is the first one's any more")
        second.close()
    until(lambda: consumers(raw, queue) == 0, "all is back that was not settled")
    back = [message.body.decode() for message in iter(lambda: raw.get(queue), None)]
    assert sorted(back) == expected


@pytest.mark.parametrize("directions", [(), ("to_client",)], ids=["both", "to client"])
def test_closing_just_after_settling_does_not_wait_for_a_broker_that_is_silent(
    setup: Setup, proxy: Proxy, directions: tuple[str, ...]
) -> None:
    broker = setup.broker(url=through(setup.place.url, proxy.port))
    broker.publish([job() for _ in range(50)])
    consumer = setup.consumer(broker)
    running, *done = take(consumer, 50)
    proxy.stall(*directions)
    consumer.settle([Done(delivery) for delivery in done])
    began = time.monotonic()
    consumer.close()
    assert time.monotonic() - began < 3 * CLOSE_SECONDS + 0.5, "that much for each of its connections"
    assert consumer.take_lost() == [running]


def consumers(raw: Raw, queue: str) -> int:
    """How many consumers RabbitMQ counts, those that were cancelled included as long as they hold jobs."""
    return int(raw.channel.queue_declare(queue, passive=True).consumer_count)


def test_prefetch_follows_room(setup: Setup, raw: Raw) -> None:
    broker = setup.broker()
    broker.publish([job() for _ in range(100)])
    consumer = setup.consumer(broker)
    first = take(consumer, 2)
    spin(consumer, lambda: raw.ready(setup.names.queue("a")) == 98, "only two were taken")
    more = take(consumer, 20)
    assert len(set(ids(first + more))) == 22
    until(lambda: raw.ready(setup.names.queue("a")) == 78, "as many as there is room for")
    # Nothing is hoarded: without room, what lies in the buffer goes back.
    broker.publish([job() for _ in range(3)])
    spin(consumer, lambda: raw.ready(setup.names.queue("a")) == 81, "what there is no room for is left to others")


def test_acks_at_the_front_are_one_frame(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    from router.brokers.amqp.wire import Channel

    acks: list[tuple[int, bool]] = []
    plain = Channel.basic_ack

    def counting(self: Channel, tag: int, multiple: bool = False) -> None:
        acks.append((tag, multiple))
        plain(self, tag, multiple)

    monkeypatch.setattr(Channel, "basic_ack", counting)
    broker = setup.broker()
    broker.publish([job() for _ in range(10)])
    consumer = setup.consumer(broker)
    taken = take(consumer, 10)
    consumer.settle([Done(delivery) for delivery in (*taken[:5], taken[8])])
    assert acks == [(5, True), (9, False)]
    consumer.settle([Done(delivery) for delivery in (*taken[5:8], taken[9])])
    assert acks[2:] == [(10, True)]


def test_a_deleted_queue_comes_back(setup: Setup, raw: Raw) -> None:
    broker = setup.broker()
    broker.publish([job(id="lost with its queue")])
    consumer = setup.consumer(broker)
    (delivery,) = take(consumer, 1)
    raw.channel.queue_delete(setup.names.queue("a"))
    spin_room(consumer, lambda: consumer.take_lost() == [delivery], "the delivery is lost")
    spin_room(consumer, lambda: raw.ready(setup.names.queue("a")) is not None, "declared again")
    until(lambda: broker.publish([job(id="new")]).confirmed, "it can be published to")
    assert ids(take(consumer, 1)) == ["new"]


def spin_room(consumer, condition, what: str) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline, what
        assert turn(consumer, {"a": 1}) == []


def test_a_settlement_of_a_lost_delivery_does_nothing(setup: Setup, proxy: Proxy) -> None:
    broker = setup.broker(url=through(setup.place.url, proxy.port, heartbeat=2))
    broker.publish([job(id="x")])
    consumer = setup.consumer(broker)
    (delivery,) = take(consumer, 1)
    proxy.cut()
    spin(consumer, lambda: consumer.take_lost() == [delivery], "lost")
    consumer.settle([Forward(delivery, job("b", id="x"))])
    assert consumer.unsettled == 0
    (again,) = take(consumer, 1)
    assert (ids([again]), again.count) == (["x"], 2)
    assert broker.counts(["a", "b"]).queues["b"].ready == 0
    consumer.settle([Done(again)])


@pytest.mark.parametrize("directions", [(), ("to_server",), ("to_client",)], ids=["both", "to server", "to client"])
def test_a_connection_that_falls_silent_is_noticed(setup: Setup, proxy: Proxy, directions: tuple[str, ...]) -> None:
    broker = setup.broker(url=through(setup.place.url, proxy.port, heartbeat=1, connection_timeout=1000))
    broker.publish([job(id="x")])
    consumer = setup.consumer(broker)
    (delivery,) = take(consumer, 1)
    proxy.stall(*directions)
    spin(consumer, lambda: consumer.take_lost() == [delivery], "noticed by heartbeat", seconds=10)
    proxy.cut()
    proxy.resume()
    started = time.monotonic()
    (again,) = take(consumer, 1)
    assert ids([again]) == ["x"]
    assert time.monotonic() - started < 10


def test_a_cut_between_successor_and_ack_loses_nothing(setup: Setup, proxy: Proxy) -> None:
    broker = setup.broker(url=through(setup.place.url, proxy.port, heartbeat=2))
    batch = [job() for _ in range(200)]
    broker.publish(batch)
    consumer = setup.consumer(broker)
    seen_b: set[str] = set()
    cuts = 0
    deadline = time.monotonic() + 30
    while len(seen_b) < len(batch):
        assert time.monotonic() < deadline, f"{len(seen_b)} of {len(batch)}"
        for delivery in turn(consumer, {"a": 20, "b": 20}, 0.02):
            if delivery.queue == "a":
                consumer.settle([Forward(delivery, job("b", id=delivery.body.decode()))])
            else:
                seen_b.add(delivery.body.decode())
                consumer.settle([Done(delivery)])
        consumer.take_lost()
        if cuts < 5 and len(seen_b) > cuts * 30:
            cuts += 1
            proxy.cut_after(700)
    assert seen_b == {each.id for each in batch}


def short(text: bytes) -> bytes:
    """An AMQP short string."""
    return bytes([len(text)]) + text


def only_headers(*items: bytes) -> bytes:
    """The bytes of properties that are only headers."""
    table = b"".join(items)
    return struct.pack(">HI", 1 << 13, len(table)) + table


def nested(depth: int) -> bytes:
    """A header that is a table in a table in a table."""
    table = b""
    for _ in range(depth):
        table = short(b"n") + b"F" + struct.pack(">I", len(table)) + table
    return table


POISON = {
    "content type that is no UTF-8": b"\x80\x00\x03\xff\xfe\xfd",
    "a time out of range": only_headers(short(b"t") + b"T" + struct.pack(">Q", 2**63)),
    "tables in tables": only_headers(nested(3000)),
}


def test_poison_properties_are_survived(setup: Setup, raw: Raw) -> None:
    """What py-amqp can't read would else end the connection, or the worker, at each delivery, for ever."""
    broker = setup.broker()
    raw.publish(setup.names.jobs, "a", b"\xff\xfe not ours", content_encoding="utf-8")
    link = connect(broker.address, "test", 5)
    channel = link.channel()
    key = b"\xff.a"
    unreadable = {
        exchange: b"\x00\x00" + short(exchange.encode()) + short(key) + b"\x01"
        for exchange in (setup.names.due, setup.names.unrouted)
    }
    with link.within(5):
        for name, properties in POISON.items():
            channel.publish(publish_arguments(setup.names.jobs, "a"), properties, name.encode())
        for arguments in unreadable.values():
            channel.publish(arguments, b"\x00\x00", key)
        channel.queue_declare(setup.names.queue("a"), passive=True)
    link.close()
    consumer = setup.consumer(broker)
    taken = take(consumer, 2 + len(POISON))
    assert [delivery.body for delivery in taken] == [b"\xff\xfe not ours", *(name.encode() for name in POISON), key]
    until(lambda: [each.body for each in broker.failed()] == [key], "it is among the failed jobs")
    consumer.settle([Done(delivery) for delivery in taken])
    broker.publish([job(id="fine")])
    assert ids(take(consumer, 1)) == ["fine"]


def close_connections(names: str) -> None:
    """Have RabbitMQ close the connections whose names contain that, with a good-bye."""
    node = rabbit_node()
    if node is None:
        pytest.skip("the connections of ROUTER_TEST_AMQP_URL are not ours to close")
    node.evaluate(
        '[rabbit_networking:close_connection(P, <<"maintenance">>) || P <- rabbit_networking:connections(), '
        "begin [{client_properties, C}] = rabbit_networking:connection_info(P, [client_properties]), "
        '{_, _, N} = lists:keyfind(<<"connection_name">>, 1, C), '
        f'binary:match(N, <<"{names}">>) =/= nomatch end].'
    )


def test_a_confirm_that_comes_just_before_the_connection_ends_counts(setup: Setup) -> None:
    broker = setup.broker(delays=(60.0,))
    consumer = setup.consumer(broker)
    broker.publish([job(id="x")])
    (delivery,) = take(consumer, 1)
    consumer.settle([Forward(delivery, job(id="x", delay=60.0))])
    outbox = consumer._outbox  # type: ignore[attr-defined]
    until(lambda: turn(consumer, {}, 0.01) or (outbox._confirms and outbox._confirms.unconfirmed), "it was published")
    # The loop is held up for a moment, in which the confirm arrives, and behind it the end.
    until(lambda: broker.counts(["a"]).delayed == 1, "it has arrived")
    close_connections("consumer's publisher")
    spin(consumer, lambda: consumer.unsettled == 0, "it was settled")
    assert broker.counts(["a"]).delayed == 1
    assert consumer.take_lost() == []


ROOM_FOR_BOTH = {"a": 1, "b": 1}


def take_one(consumer: Consumer) -> Delivery:
    """The next job of either queue, as a worker takes it that runs one at a time."""
    taken: list[Delivery] = []
    until(lambda: taken.extend(turn(consumer, ROOM_FOR_BOTH, limit=1)) or taken, "a job comes")
    (delivery,) = taken
    return delivery


def test_the_jobs_of_a_starved_queue_are_not_counted_again_and_again(setup: Setup) -> None:
    broker = setup.broker()
    broker.publish([job("a") for _ in range(4)])
    broker.publish([job("b", id="patient")])
    consumer = setup.consumer(broker)
    for _ in range(4):
        delivery = take_one(consumer)
        assert delivery.queue == "a"
        busy_until = time.monotonic() + 1.2
        spin(consumer, lambda busy_until=busy_until: time.monotonic() > busy_until, "the job has run")
        consumer.settle([Done(delivery)])
    (patient,) = take(consumer, 1, "b")
    assert patient.count <= 2


def test_a_slow_answer_of_the_first_queue_does_not_let_the_other_ones_job_come_to_be_given_back(
    setup: Setup, proxy: Proxy
) -> None:
    setup.broker().publish([job("a", id=f"{number}") for number in range(4)] + [job("b", id="patient")])
    consumer = setup.consumer(setup.broker(url=through(setup.place.url, proxy.port), queues=None))
    for number in range(4):
        slow_until = time.monotonic() + 0.2
        while number and time.monotonic() < slow_until:
            assert turn(consumer, ROOM_FOR_BOTH, 0.02, limit=1) == []
        proxy.resume()
        delivery = take_one(consumer)
        assert ids([delivery]) == [f"{number}"]
        busy_until = time.monotonic() + 1.2
        spin(consumer, lambda busy_until=busy_until: time.monotonic() > busy_until, "the job has run")
        proxy.stall("to_client")
        consumer.settle([Done(delivery)])
    proxy.resume()
    (patient,) = take(consumer, 1, "b")
    assert patient.count <= 2


def test_a_busy_queue_that_is_gone_keeps_no_other_one_waiting(setup: Setup, raw: Raw) -> None:
    setup.broker().publish([job("a"), *(job("b", id=f"{number}") for number in range(3))])
    consumer = setup.consumer(setup.broker(queues=None))  # it declares nothing again
    delivery = take_one(consumer)
    assert delivery.queue == "a"
    raw.channel.queue_delete(setup.names.queue("a"))
    for number in range(3):
        delivery = take_one(consumer)
        assert ids([delivery]) == [f"{number}"]
        busy_until = time.monotonic() + 0.4
        spin(consumer, lambda busy_until=busy_until: time.monotonic() > busy_until, "the job has run")
        consumer.settle([Done(delivery)])


def test_pauses_leave_nothing_behind(setup: Setup) -> None:
    broker = setup.broker()
    broker.publish([job() for _ in range(3)])
    consumer = setup.consumer(broker)
    for _ in range(3):
        (delivery,) = take(consumer, 1)
        busy_until = time.monotonic() + 0.4
        spin(consumer, lambda busy_until=busy_until: time.monotonic() > busy_until, "the job has run")
        consumer.settle([Done(delivery)])
    callbacks = consumer._readers["a"]._channel.callbacks  # type: ignore[attr-defined]
    assert len(callbacks) <= 1


def test_a_successor_that_no_queue_takes_disturbs_no_other(setup: Setup) -> None:
    """It is tried again on a connection of its own; the queue stays silent, and the others' confirms come at once."""
    node = rabbit_node()
    if node is None:
        pytest.skip("the server of ROUTER_TEST_AMQP_URL is not ours to break")
    broker = setup.broker()
    consumer = setup.consumer(broker)
    broker.publish([job(id=f"{number}") for number in range(12)])
    stuck, *others = take(consumer, 12)
    name = f"{broker.address.vhost}_{setup.names.queue('b')}"
    node.evaluate(f'ra:stop_server(quorum_queues, {{list_to_atom("{name}"), node()}}).')
    consumer.settle([Forward(stuck, job("b", id="0"))])
    slow = consumer._slow_outbox  # type: ignore[attr-defined]
    spin(consumer, lambda: len(slow._wanted) == 1, "it was put off", 30)
    for number, delivery in enumerate(others, 1):
        settled_by = time.monotonic() + 1.0
        consumer.settle([Forward(delivery, job(id=f"{number}"))])
        spin(consumer, lambda: consumer.unsettled == 1, "settled", settled_by - time.monotonic())
    node.evaluate(f'ra:restart_server(quorum_queues, {{list_to_atom("{name}"), node()}}).')
    spin(consumer, lambda: consumer.unsettled == 0, "it was taken at last", 40)
    # A queue that has just got its leader back counts late.
    spin(consumer, lambda: broker.counts(["b"]).queues["b"].ready == 1, "it is there", 20)


SMALL = 100_000


@pytest.fixture
def small_messages() -> Iterator[None]:
    """The server takes none beyond `SMALL` bytes, from where RabbitMQ 3 or 4 keeps that."""
    node = rabbit_node()
    if node is None:
        pytest.skip("the server of ROUTER_TEST_AMQP_URL is not ours to set up")
    limit = "application:set_env(rabbit, max_message_size, {0}), persistent_term:put(max_message_size, {0})."
    node.evaluate(limit.format(SMALL))
    yield
    node.evaluate(limit.format(MAX_MESSAGE))


@pytest.mark.usefixtures("small_messages")
def test_what_is_refused_for_good_goes_on_smaller_or_fails(setup: Setup) -> None:
    """It is too large with its history, or whatever one leaves out; the others pass, and nothing is tried for ever."""
    locks = MemoryLocks()
    broker = setup.broker(locks=locks)
    consumer = setup.consumer(broker)
    came = {id: encoded(id) for id in ("history", "failed", "event", "bytes", "good")}
    large = job("b", id="event", key="k", attempt=2, body=encoded("event", event="x" * SMALL, error="y"))
    assert large.claim is not None
    locks.hold(replace(large.claim, attempt=1), 100)
    broker.publish([job(id=id, body=body) for id, body in came.items()])
    record = replace(failed("failed", at=1.0), body=encoded("failed", error="x" * SMALL))
    first, second, third, fourth, fifth = take(consumer, 5)
    consumer.settle(
        [
            Forward(first, job("b", id="history", body=encoded("history", error="x" * SMALL))),
            Bury(second, record),
            Forward(third, large),
            Bury(fourth, replace(record, id="bytes", body=b"x" * (SMALL + 1))),
            Forward(fifth, job("b", id="good", body=came["good"])),
        ]
    )
    spin(consumer, lambda: not consumer.unsettled, "settled", 40)
    went_on = {decode(delivery.body).job: decode(delivery.body) for delivery in take(consumer, 2, "b")}
    assert went_on.keys() == {"history", "good"}
    assert went_on["history"].history == ()
    found = {one.id: one for one in broker.failed()}
    assert found.keys() == {"failed", "event", "bytes"}
    assert (found["failed"].error, decode(found["failed"].body).history) == (record.error, ())
    assert (found["event"].body, found["event"].route, found["event"].queue) == (came["event"], "shop:mail", "a")
    assert "larger than configured max size" in found["event"].error
    assert found["bytes"].body == came["bytes"]
    assert locks.holder("k") is None


def encoded(id: str, *, event: str = "", error: str = "") -> bytes:
    """A job with that event, and an attempt that failed with that error."""
    record = AttemptRecord(1, 1, 1.0, "raised", error)
    payload = msgspec.Raw(msgspec.json.encode(event))
    history = (record,) if error else ()
    names = {"point": "order.placed", "route": "shop:mail", "correlation": id}
    return encode(Job(v=1, job=id, event=payload, dispatched_at=1.0, history=history, **names))


@pytest.mark.parametrize("with_a_job_in_hand", [False, True])
def test_a_consumer_that_the_server_forgot_is_made_anew(setup: Setup, with_a_job_in_hand: bool) -> None:
    """As happens where a queue is deleted, and declared again, at the very moment at which it is consumed."""
    broker = setup.broker()
    consumer = setup.consumer(broker)
    broker.publish([job(id="before")])
    (before,) = take(consumer, 1)
    if not with_a_job_in_hand:
        consumer.settle([Done(before)])
    reader = consumer._readers["a"]  # type: ignore[attr-defined]
    until(lambda: turn(consumer, {"a": 1}) or reader._tag, "it consumes again")
    reader._channel.basic_cancel(reader._tag, nowait=True)
    broker.publish([job(id="after")])
    (after,) = take(consumer, 1)
    assert ids([after]) == ["after"]
    consumer.settle([Done(after), Done(before)])
    spin(consumer, lambda: consumer.unsettled == 0, "settled")
    assert consumer.take_lost() == []
    assert broker.counts(["a"]).queues["a"].ready == 0


def test_asking_a_queue_again_that_was_empty_for_long_keeps_no_other_one_waiting(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.brokers.amqp.reader.ASK_AGAIN", 0.3)
    consumer = setup.consumer(setup.broker())
    assert turn(consumer, {"a": 1}) == []
    reader = consumer._readers["a"]  # type: ignore[attr-defined]
    until(lambda: turn(consumer, {"a": 1}) or reader._tag, "it is consumed")
    first = reader._tag
    assert reader.expects(reader._asked_at)

    def again() -> bool:
        assert turn(consumer, {"a": 1}) == []
        return reader._tag not in (None, first)

    until(again, "it is asked again")
    assert not reader.expects(reader._asked_at)


def test_a_queue_without_a_leader_is_named_and_asked_less_and_less(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """RabbitMQ ends the connection of whoever consumes it, and all that was delivered on that goes back."""
    node = rabbit_node()
    if node is None:
        pytest.skip("the server of ROUTER_TEST_AMQP_URL is not ours to break")
    monkeypatch.setattr("router.brokers.amqp.reader.ASK_AGAIN", 0.3)
    broker = setup.broker()
    consumer = setup.consumer(broker)
    broker.publish([job(id="held")])
    (held,) = take(consumer, 1)
    server = f'{{list_to_atom("{broker.address.vhost}_{setup.names.queue("b")}"), node()}}'
    node.evaluate(f"ra:stop_server(quorum_queues, {server}).")
    counts = [held.count]

    def times(what: str) -> int:
        return sum(what in record.getMessage() for record in caplog.records)

    def named(number: int) -> bool:
        counts.extend(delivery.count for delivery in turn(consumer, {"a": 5, "b": 5}))
        return times(f"{setup.names.queue('b')}: the connection broke {number} times") > 0

    until(lambda: named(4), "it is named")
    assert times("lost its connection") <= 6, "what is asked less often breaks less often"
    broker.publish([job(id="meanwhile")])
    until(lambda: named(0) or max(counts) > 1, "the other queue's jobs come")
    assert max(counts) <= 7
    assert times(f"queue {setup.names.queue('a')}:") == 0
    node.evaluate(f"ra:restart_server(quorum_queues, {server}).")
    broker.publish([job("b", id="late")], deadline=20)
    taken: list[Delivery] = []
    until(lambda: taken.extend(turn(consumer, {"b": 1})) or taken, "it is consumed again", 20)
    assert ids(taken) == ["late"]


def test_a_queue_that_is_slow_to_confirm_is_given_more_time_with_each_try(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It stores another copy with each."""
    node = rabbit_node()
    if node is None:
        pytest.skip("the server of ROUTER_TEST_AMQP_URL is not ours to break")
    monkeypatch.setattr("router.brokers.amqp.outbox.STALL_SECONDS", 0.3)
    monkeypatch.setattr("router.brokers.amqp.outbox.FIRST_PUT_OFF", 0.05)
    broker = setup.broker()
    consumer = setup.consumer(broker)
    broker.publish([job(id="x")])
    (delivery,) = take(consumer, 1)
    server = f'list_to_atom("{broker.address.vhost}_{setup.names.queue("b")}")'
    node.evaluate(f"sys:suspend({server}).")
    consumer.settle([Forward(delivery, job("b", id="x"))])

    def given_up() -> list[float]:
        return [record.created for record in caplog.records if "second publisher lost" in record.getMessage()]

    spin(consumer, lambda: len(given_up()) == 2, "it was tried twice apart from the others")
    first, second = given_up()
    assert second - first > 1.2
    node.evaluate(f"sys:resume({server}).")
    spin(consumer, lambda: consumer.unsettled == 0, "it was taken at last")


def test_why_there_is_no_connection_is_said_when_it_changes_and_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    away, refused = BrokerUnavailable("reset by peer"), BrokerRefused("403")
    now = 0.0
    tries: list[Exception] = []

    def result() -> None:
        raise tries[-1]

    monkeypatch.setattr("router.brokers.amqp.line.Dialing", lambda *_: SimpleNamespace(finished=True, result=result))
    line = Line(Address.parse("amqp://"), "consumer", Wake())
    for error, seconds in ((away, 20.0), (refused, 100.0), (away, 20.0)):
        until_then = now + seconds
        while now < until_then:
            tries.append(error)
            line.step(now)
            line.step(now)
            now = line.next_step() or now
    said = [(record.levelname, record.getMessage().partition("(")[2][:3]) for record in caplog.records]
    assert said == [("WARNING", "res"), ("ERROR", "403"), ("ERROR", "403"), ("WARNING", "res")]
    assert len(tries) > 20
