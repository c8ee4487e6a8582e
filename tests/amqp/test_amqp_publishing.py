"""Publishing: everything confirmed or named, whatever happens on the way."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from amqp import Message
from amqp_helpers import Setup, ids, job, take, until
from typer.testing import CliRunner

from router.brokers.amqp import AmqpBroker, declare
from router.brokers.amqp.confirms import Confirms
from router.brokers.amqp.link import Address, connect
from router.brokers.amqp.messages import Publication, publish_job
from router.brokers.amqp.wire import Channel
from router.brokers.base import Done, Outgoing, Receipt, Topology
from router.cli.main import app as cli
from router.errors import BrokerRefused, BrokerUnavailable, LocksUnavailable
from router.locks.memory import MemoryLocks
from tests.servers.proxy import Proxy, through
from tests.servers.rabbitmq import MAX_MESSAGE
from tests.servers.raw import Raw
from tests.servers.shared import rabbit_node


def all_ids(raw: Raw, queue: str) -> list[str]:
    found = []
    while (message := raw.get(queue)) is not None:
        found.append(message.properties["message_id"])
    return found


def test_a_batch_keeps_its_order_and_says_what_it_is(setup: Setup, raw: Raw) -> None:
    broker = setup.broker()
    batch = [job("ab"[number % 2]) for number in range(3000)]
    receipt = broker.publish(batch)
    assert receipt.confirmed == tuple(each.id for each in batch)
    assert (receipt.unconfirmed, receipt.duplicates) == ({}, {})
    message = raw.get(setup.names.queue("a"))
    assert message.properties["message_id"] == batch[0].id
    assert message.properties["type"] == "order.placed"
    assert message.properties["content_type"] == "application/json"
    assert message.properties["delivery_mode"] == 2
    assert abs(message.properties["timestamp"] - time.time()) < 60
    assert message.headers.pop("x-delivery-count", 0) == 0  # RabbitMQ's own
    assert message.headers == {"queue": "a"}
    assert all_ids(raw, setup.names.queue("a")) == [each.id for each in batch[2::2]]


def test_several_who_find_a_queue_missing_are_all_served(setup: Setup, raw: Raw) -> None:
    broker = setup.broker()
    broker.publish([job("b") for _ in range(2)])
    raw.channel.queue_delete(setup.names.queue("a"))
    jobs = [job() for _ in range(6)]
    receipts: list[Receipt] = []
    threads = [threading.Thread(target=lambda one=one: receipts.append(broker.publish([one]))) for one in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert {id for receipt in receipts for id in receipt.confirmed} == {one.id for one in jobs}


def test_what_came_back_twice_is_not_confirmed_by_the_second_ack() -> None:
    """Two publications of one id on a channel, both returned, then acked as one."""
    channel = SimpleNamespace(confirm_select=lambda **_: None, publish=lambda *_: None)
    link = SimpleNamespace(channel=lambda: channel, sending=nullcontext, blocked=None, unsent=0)
    confirms: Confirms[str] = Confirms(link)
    publication = Publication("x", "e", "k", b"", b"", "q")
    confirms.send("first", publication)
    confirms.send("second", publication)
    message = SimpleNamespace(properties={"message_id": "x"})
    channel.on_return(312, "NO_ROUTE", message)
    channel.on_return(312, "NO_ROUTE", message)
    channel.on_ack(2, True)
    assert [(outcome.key, outcome.what) for outcome in confirms.take()] == [
        ("first", "returned"),
        ("second", "returned"),
    ]


def test_a_timeout_beyond_the_servers_own_is_objected_to(setup: Setup) -> None:
    broker = setup.broker(queues=None)
    assert broker.objections(1799) == []
    objections = broker.objections(3600)
    if broker.server_version() >= (3, 12):
        assert objections == []
    else:
        (objection,) = objections
        assert "`consumer_timeout = 4200000`" in objection


def test_a_large_body_goes_in_several_frames(setup: Setup, raw: Raw) -> None:
    broker = setup.broker()
    bodies = [os.urandom(size) for size in (0, 1, 131_064, 131_065, 1_000_000)]
    broker.publish([job(body=body) for body in bodies])
    consumer = setup.consumer(broker)
    assert [delivery.body for delivery in take(consumer, len(bodies))] == bodies


def test_a_queue_that_nobody_has_is_named(setup: Setup) -> None:
    broker = setup.broker()
    batch = [job() for _ in range(500)] + [job("nope", id="lost")] + [job() for _ in range(500)]
    receipt = broker.publish(batch)
    assert len(receipt.confirmed) == 1000
    assert receipt.unconfirmed == {"lost": f"no queue takes it: {setup.names.queue('nope')} is missing, or not bound"}


@pytest.mark.skipif(bool(os.environ.get("ROUTER_TEST_AMQP_URL")), reason="the server's own size limit is unknown")
def test_the_culprit_in_a_batch_of_a_thousand_is_named_and_the_others_pass(setup: Setup, raw: Raw) -> None:
    broker = setup.broker()
    batch = [job() for _ in range(1000)]
    batch[500] = job(id="too large", body=b"x" * (MAX_MESSAGE + 1))
    receipt = broker.publish(batch)
    assert list(receipt.unconfirmed) == ["too large"]
    assert "larger than configured max size" in receipt.unconfirmed["too large"]
    assert len(receipt.confirmed) == 999
    assert set(all_ids(raw, setup.names.queue("a"))) == set(receipt.confirmed)


def test_a_queue_without_a_leader_is_named_and_the_others_pass(setup: Setup, raw: Raw) -> None:
    node = rabbit_node()
    if node is None:
        pytest.skip("the server of ROUTER_TEST_AMQP_URL is not ours to break")
    broker = setup.broker()
    node.evaluate(
        f'ra:stop_server(quorum_queues, {{list_to_atom("{broker.address.vhost}_{setup.names.queue("b")}"), node()}}).'
    )
    batch = [job("ab"[number % 2]) for number in range(100)]
    started = time.monotonic()
    receipt = broker.publish(batch, deadline=9.0)
    assert time.monotonic() - started < 10
    assert receipt.confirmed == tuple(each.id for each in batch if each.queue == "a")
    assert set(receipt.unconfirmed) == {each.id for each in batch if each.queue == "b"}
    reasons = set(receipt.unconfirmed.values())
    # RabbitMQ nacks at once or falls silent, depending on what is left of the queue; either way the culprit is named.
    assert all(setup.names.queue("b") in why for why in reasons), reasons


def test_a_queue_that_is_slow_to_confirm_gets_the_time_there_is(
    setup: Setup, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = rabbit_node()
    if node is None:
        pytest.skip("the server of ROUTER_TEST_AMQP_URL is not ours to break")
    broker = setup.broker()
    server = f'list_to_atom("{broker.address.vhost}_{setup.names.queue("a")}")'
    node.evaluate(f"sys:suspend({server}).")
    assert list(broker.publish([job(id="hurried")], deadline=1.0).unconfirmed) == ["hurried"]
    monkeypatch.setattr("router.brokers.amqp.publisher.STALL_SECONDS", 0.3)
    monkeypatch.setattr("router.brokers.amqp.publisher.ALONE_STALL_SECONDS", 0.1)
    batch = [job(id=f"{number}") for number in range(5)]
    with ThreadPoolExecutor(1) as executor:
        publishing = executor.submit(broker.publish, batch, deadline=30)
        node.evaluate(f"timer:sleep(1000), sys:resume({server}).")
        assert publishing.result(30).confirmed == tuple(each.id for each in batch)
    copies = Counter(all_ids(raw, setup.names.queue("a")))
    assert copies.pop("hurried") == 1
    assert set(copies) == {each.id for each in batch}
    assert max(copies.values()) <= 2


def test_out_of_reach_is_said_within_the_deadline_and_gets_better_by_itself(setup: Setup, proxy: Proxy) -> None:
    broker = setup.broker(url=through(setup.place.url, proxy.port))
    proxy.refuse()
    proxy.cut()
    batch = [job() for _ in range(10)]
    started = time.monotonic()
    receipt = broker.publish(batch, deadline=0.7)
    assert 0.6 < time.monotonic() - started < 1.7
    assert receipt.confirmed == ()
    assert list(receipt.unconfirmed) == [each.id for each in batch]
    proxy.refuse(False)
    assert broker.publish(batch).confirmed == tuple(each.id for each in batch)


def test_nobody_listening(setup: Setup) -> None:
    broker = setup.broker(url="amqp://guest:s3cret@127.0.0.1:1/", queues=None)
    receipt = broker.publish([job(id="x")], deadline=0.5)
    assert "Connection refused" in receipt.unconfirmed["x"]
    with pytest.raises(BrokerUnavailable) as caught:
        broker.failed()
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_localhost_is_every_address_of_that_name(setup: Setup, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    look_up = socket.getaddrinfo

    def both(name: str, *arguments: Any) -> list[Any]:
        names = ("::1", "127.0.0.1") if name == "localhost" else (name,)
        return [entry for each in names for entry in look_up(each, *arguments)]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    try:
        proxy = Proxy(Address.parse(setup.place.url).port, host)
    except OSError as error:
        pytest.skip(f"no {host} here: {error}")
    url = through(setup.place.url, proxy.port).replace("@127.0.0.1:", "@localhost:")
    try:
        assert setup.broker(url=url).publish([job(id="x")]).confirmed == ("x",)
    finally:
        proxy.close()


def test_a_silent_server_costs_no_more_than_the_deadline(setup: Setup, proxy: Proxy) -> None:
    broker = setup.broker(url=through(setup.place.url, proxy.port))
    broker.publish([job()])
    proxy.stall()
    started = time.monotonic()
    receipt = broker.publish([job(id="x"), job(id="y")], deadline=1.5)
    assert time.monotonic() - started < 2.5
    assert set(receipt.unconfirmed) == {"x", "y"}
    proxy.resume()
    assert broker.publish([job(id="z")]).confirmed == ("z",)


@pytest.mark.parametrize("size", [1, 5_000, 100_003, 250_000])
def test_cut_in_the_middle_of_a_frame(setup: Setup, proxy: Proxy, raw: Raw, size: int) -> None:
    broker = setup.broker(url=through(setup.place.url, proxy.port))
    broker.publish([job("b")])
    proxy.cut_after(size)
    batch = [job() for _ in range(2000)]
    receipt = broker.publish(batch)
    assert receipt.confirmed == tuple(each.id for each in batch)
    assert set(all_ids(raw, setup.names.queue("a"))) == {each.id for each in batch}


def test_confirms_lost_on_the_way_are_asked_for_again(setup: Setup, proxy: Proxy, raw: Raw) -> None:
    broker = setup.broker(url=through(setup.place.url, proxy.port))
    broker.publish([job("b")])
    proxy.stall("to_client")
    threading.Timer(0.5, lambda: (proxy.cut(), proxy.resume())).start()
    receipt = broker.publish([job(id="x")])
    assert receipt.confirmed == ("x",)
    assert set(all_ids(raw, setup.names.queue("a"))) == {"x"}


def test_an_idle_connection_that_the_server_closed(setup: Setup, proxy: Proxy) -> None:
    broker = setup.broker(url=through(setup.place.url, proxy.port))
    assert broker.publish([job(id="x")]).confirmed == ("x",)
    proxy.cut()
    assert broker.publish([job(id="y")]).confirmed == ("y",)


def test_what_was_deleted_is_declared_again(setup: Setup, raw: Raw) -> None:
    broker = setup.broker()
    raw.channel.queue_delete(setup.names.queue("a"))
    assert broker.publish([job(id="x")]).confirmed == ("x",)
    raw.channel.exchange_delete(setup.names.jobs)
    assert broker.publish([job(id="y")]).confirmed == ("y",)
    raw.channel.queue_delete(setup.names.delay_queue(1000))
    assert broker.publish([job(id="z", delay=1.0)]).confirmed == ("z",)


def test_many_threads(setup: Setup, raw: Raw) -> None:
    broker = setup.broker()
    wrong: list[object] = []

    def work() -> None:
        for _ in range(30):
            batch = [job(), job()]
            receipt = broker.publish(batch)
            if receipt.confirmed != tuple(each.id for each in batch):
                wrong.append(receipt)

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    found = all_ids(raw, setup.names.queue("a"))
    assert len(found) == len(set(found)) == 12 * 30 * 2


def test_after_a_fork_each_side_has_its_own_connection(setup: Setup, raw: Raw) -> None:
    broker = setup.broker()
    broker.publish([job(id="before")])
    child = os.fork()
    if child == 0:
        try:
            confirmed = broker.publish([job(id=f"child-{number}") for number in range(50)]).confirmed
            os._exit(0 if len(confirmed) == 50 else 1)
        finally:
            os._exit(2)
    for number in range(50):
        assert broker.publish([job(id=f"parent-{number}")]).confirmed
    assert os.waitpid(child, 0)[1] == 0
    assert broker.publish([job(id="after")]).confirmed == ("after",)
    found = all_ids(raw, setup.names.queue("a"))
    assert len(found) == len(set(found)) == 102


def test_a_blocked_server_is_waited_for(setup: Setup, raw: Raw) -> None:
    node = rabbit_node()
    if node is None:
        pytest.skip("the server of ROUTER_TEST_AMQP_URL is not ours to block")
    broker = setup.broker()
    broker.publish([job("b")])
    node.ctl("set_vm_memory_high_watermark", "0.00001")
    try:
        for _ in range(3):
            receipt = broker.publish([job(id="x")], deadline=0.5)
            assert "blocks publishers" in receipt.unconfirmed["x"]
        waiting = threading.Thread(target=lambda: late.append(broker.publish([job(id="y")], deadline=30)))
        late: list[object] = []
        waiting.start()
    finally:
        node.ctl("set_vm_memory_high_watermark", "absolute", "1GB")
    waiting.join(30)
    assert getattr(late[0], "confirmed", None) == ("y",)
    found = all_ids(raw, setup.names.queue("a"))
    assert found.count("x") <= 1, "each try stored another copy"
    assert found.count("y") == 1


def test_under_an_alarm_status_tells_so_and_does_not_take_the_workers_for_dead(setup: Setup, tmp_path: Path) -> None:
    node = rabbit_node()
    if node is None:
        pytest.skip("the server of ROUTER_TEST_AMQP_URL is not ours to block")
    setup.broker().publish([job("a")])
    file = tmp_path / "extensions.yaml"
    broker = {"url": setup.place.url, "namespace": setup.names.namespace}
    file.write_text(json.dumps({"version": 1, "broker": broker, "async": {"default_queue": "a"}}))
    told = {}
    node.ctl("set_vm_memory_high_watermark", "0.00001")
    try:
        for form in ("text", "json"):
            told[form] = CliRunner().invoke(cli, ["status", "--config", str(file), "--format", form])
    finally:
        node.ctl("set_vm_memory_high_watermark", "absolute", "1GB")
    for result in told.values():
        assert result.exit_code == 1
        assert "RabbitMQ blocks publishers (low on memory), so that the workers can't be asked" in result.stderr
    assert "in all: 0 delayed, 0 failed" in told["text"].stdout
    assert "no worker is alive" not in told["text"].stdout
    data = json.loads(told["json"].stdout)
    assert data["workers"] is None
    assert data["counts"]["queues"]["a"]["ready"] == 1


def test_a_connection_that_is_full_outlives_an_alarm(setup: Setup, raw: Raw) -> None:
    """RabbitMQ stops reading then; the kernel must not take that for silence."""
    node = rabbit_node()
    if node is None:
        pytest.skip("the server of ROUTER_TEST_AMQP_URL is not ours to block")
    setup.broker()
    address = Address.parse(f"{setup.place.url}?heartbeat=1")
    body = b"x" * 100_000
    node.ctl("set_vm_memory_high_watermark", "0.00001")
    try:
        link = connect(address, "testing", 5.0)
        confirms: Confirms[int] = Confirms(link)
        for number in range(200):
            confirms.send(number, publish_job(setup.names, job(body=body), frozenset(), time.time()))
        ends = time.monotonic() + 2 * 2 * address.heartbeat  # twice as long as silence is borne
        while time.monotonic() < ends:
            link.wait(ends)
        assert link.blocked
        assert link.unsent, "not enough to fill the kernel's buffers"
    finally:
        unblocking = threading.Thread(target=node.ctl, args=("set_vm_memory_high_watermark", "absolute", "1GB"))
        unblocking.start()
    confirmed: list[int] = []
    deadline = time.monotonic() + 15
    while len(confirmed) < 200:
        if unblocking.is_alive():
            deadline = time.monotonic() + 15  # the command takes as long as it takes
        assert time.monotonic() < deadline
        link.wait(time.monotonic() + 0.1)
        confirmed += [outcome.key for outcome in confirms.take()]
    unblocking.join(30)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        kept = socket.socket(fileno=os.dup(link.fileno()))
        assert kept.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 2000, "silence counts again"
        kept.close()
    link.close()
    assert raw.ready(setup.names.queue("a")) == 200


@pytest.mark.parametrize("wrong", ["password", "vhost"])
def test_a_wrong_set_up_is_refused(setup: Setup, wrong: str) -> None:
    address = setup.broker(queues=None).address
    user, vhost = ("guest:s3cret", address.vhost) if wrong == "password" else ("guest:guest", "no-such-vhost")
    broker = AmqpBroker(f"amqp://{user}@{address.host}:{address.port}/{vhost}", "router", None)
    with pytest.raises(BrokerRefused) as caught:
        broker.publish([job()])
    assert "s3cret" not in str(caught.value)
    assert "guest" in str(caught.value)


def test_closing_a_broker_closes_its_lock_store(setup: Setup) -> None:
    closed = []

    class Locks(MemoryLocks):
        def close(self) -> None:
            closed.append(self)

    broker = setup.broker(locks=Locks())
    broker.close()
    assert len(closed) == 1


@pytest.mark.parametrize(
    "url", ["amqp://u:s3cret@host:port/", "amqp://u:s3cret@h/?heartbeat=0", "amqp://u:s3cret@h/?x=1"]
)
def test_a_wrong_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(BrokerRefused) as caught:
        AmqpBroker(url, "router", None)
    assert "s3cret" not in str(caught.value)


def test_a_name_that_cannot_be_routed_is_refused(setup: Setup) -> None:
    broker = setup.broker()
    with pytest.raises(BrokerRefused):
        broker.publish([job("a.#")])


class TestUnique:
    def test_duplicates_and_unconfirmed(self, setup: Setup) -> None:
        locks = MemoryLocks()
        broker = setup.broker(locks=locks)
        receipt = broker.publish([job(id="one", key="k"), job(id="two", key="k"), job("nope", id="three", key="l")])
        assert receipt.confirmed == ("one",)
        assert receipt.duplicates == {"two": "one"}
        assert list(receipt.unconfirmed) == ["three"]
        assert locks.holder("l") is None
        consumer = setup.consumer(broker)
        (delivery,) = take(consumer, 1)
        consumer.settle([Done(delivery, unique("one", "k").claim)])
        until(lambda: consumer.poll({}) == [] and consumer.unsettled == 0, "settled")
        assert locks.holder("k") is None

    def test_no_lock_store(self, setup: Setup) -> None:
        broker = setup.broker()
        with pytest.raises(BrokerRefused):
            broker.publish([job(key="k")])

    def test_lock_store_away(self, setup: Setup) -> None:
        class Away(MemoryLocks):
            def hold(self, claim, lease):  # type: ignore[no-untyped-def]
                raise LocksUnavailable("away")

        broker = setup.broker(locks=Away())
        with pytest.raises(LocksUnavailable):
            broker.publish([job(), job(key="k")], deadline=0.3)
        consumer = setup.consumer(broker)
        broker.publish([job(id="x")])
        assert ids(take(consumer, 1)) == ["x"]


def unique(id: str, key: str) -> Outgoing:
    return job(id=id, key=key)


def test_no_job_is_dispatched_into_a_queue_that_is_about_to_be_pruned(
    setup: Setup, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An application that has the queue in its file still binds it again when its first job comes back."""
    application, operator = setup.broker(queues=("gone",)), setup.broker(queues=("a",))
    drain, delete = declare._drain, Channel.queue_delete
    came_back: list[object] = []
    raw.channel.events["basic_return"].add(lambda *returned: came_back.append(returned))
    raw.channel.confirm_select()

    def drain_while_it_is_bound_again(*arguments: Any) -> int:
        if not application.publish([job("gone")]).confirmed:
            raise AssertionError("not confirmed")
        return drain(*arguments)

    def delete_as_the_next_job_comes(channel: Channel, queue: str, **options: Any) -> Any:
        message = Message(b"next", delivery_mode=2)
        raw.channel.basic_publish_confirm(message, setup.names.jobs, "gone", mandatory=True)
        return delete(channel, queue, **options)

    monkeypatch.setattr(declare, "_drain", drain_while_it_is_bound_again)
    monkeypatch.setattr(Channel, "queue_delete", delete_as_the_next_job_comes)
    (pruned,) = operator.prune(Topology(frozenset("a")), ["gone"])
    assert (pruned.deleted, pruned.moved) == (True, 1)
    assert came_back
