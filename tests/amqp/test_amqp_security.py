"""amqps, and users who may do only what the documentation asks for."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from amqp_helpers import failed, ids, job, spin, take

from router.brokers.amqp import AmqpBroker
from router.brokers.base import Bury, Done, Forward, Topology
from router.errors import BrokerRefused, BrokerUnavailable
from tests.servers.process import free_ports
from tests.servers.rabbitmq import RabbitNode
from tests.servers.shared import RabbitPlace, rabbit_node

TOPOLOGY = Topology(frozenset({"a"}), frozenset({0.3}))


@dataclass(frozen=True)
class Secured:
    """A node that speaks only to those with a certificate of ``ca``."""

    url: str
    wrong_name_url: str
    ca: Path
    other_ca: Path
    certificate: Path
    key: Path

    def options(self, **changed: Path | None) -> str:
        files = {"cacertfile": self.ca, "certfile": self.certificate, "keyfile": self.key, **changed}
        return "?" + "&".join(f"{name}={path}" for name, path in files.items() if path is not None)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("tls")
    ca, other = trustme.CA(), trustme.CA()
    server, client = ca.issue_cert("localhost"), ca.issue_cert("client@example.org")
    files = {name: folder / f"{name}.pem" for name in ("ca", "other", "server", "server-key", "client", "client-key")}
    ca.cert_pem.write_to_path(files["ca"])
    other.cert_pem.write_to_path(files["other"])
    server.cert_chain_pems[0].write_to_path(files["server"])
    server.private_key_pem.write_to_path(files["server-key"])
    client.cert_chain_pems[0].write_to_path(files["client"])
    client.private_key_pem.write_to_path(files["client-key"])
    (port,) = free_ports(1)
    node = RabbitNode(
        f"listeners.ssl.1 = 127.0.0.1:{port}\n"
        f"ssl_options.cacertfile = {files['ca']}\n"
        f"ssl_options.certfile = {files['server']}\n"
        f"ssl_options.keyfile = {files['server-key']}\n"
        "ssl_options.verify = verify_peer\n"
        "ssl_options.fail_if_no_peer_cert = true"
    )
    try:
        node.start()
        yield Secured(
            f"amqps://guest:guest@localhost:{port}/",
            f"amqps://guest:guest@127.0.0.1:{port}/",
            files["ca"],
            files["other"],
            files["client"],
            files["client-key"],
        )
    finally:
        node.close()


def test_with_ca_and_client_certificate_everything_goes_as_without(secured: Secured) -> None:
    broker = AmqpBroker(secured.url + secured.options(), "tls", None)
    broker.declare(TOPOLOGY)
    big = job(body=b"x" * 1_000_000)
    batch = [*(job() for _ in range(300)), big]
    assert broker.publish(batch).confirmed == tuple(each.id for each in batch)
    consumer = broker.consumer("w")
    taken = take(consumer, 301)
    assert taken[-1].body == big.body
    consumer.settle([Forward(delivery, job(id=f"again-{number}")) for number, delivery in enumerate(taken)])
    assert len(take(consumer, 301)) == 301
    consumer.close()
    broker.close()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("another CA", "certificate verify failed"),
        ("no CA", "certificate verify failed"),
        ("another host name", "IP address mismatch|Hostname mismatch|doesn't match"),
        ("no client certificate", "RabbitMQ at localhost"),
        ("a missing file", r"`cacertfile` .*nix\.pem can't be read: No such file"),
        ("no certificate", r"`certfile` .*ca\.\w+ or `keyfile` .* can't be read: "),
    ],
)
def test_what_is_not_secure_is_refused(secured: Secured, wrong: str, said: str) -> None:
    url, options = secured.url, secured.options()
    match wrong:
        case "another CA":
            options = secured.options(cacertfile=secured.other_ca)
        case "no CA":
            options = secured.options(cacertfile=None)
        case "another host name":
            url = secured.wrong_name_url
        case "no client certificate":
            options = secured.options(certfile=None, keyfile=None)
        case "a missing file":
            options = secured.options(cacertfile=secured.ca.with_name("nix.pem"))
        case "no certificate":
            options = secured.options(certfile=secured.ca)
    broker = AmqpBroker(url + options, "tls", None)
    with pytest.raises((BrokerRefused, BrokerUnavailable)) as refused:
        broker.declare(TOPOLOGY, deadline=1.0)
    assert re.search(said, str(refused.value))


# -- permissions, as in docs/rabbitmq.md

PERMISSIONS = {
    "everything": (r"^router\.", r"^router\.", r"^router\."),
    "workers": (r"^router\.(ask|answer)\.", r"^router\.", r"^router\."),
    "applications": (r"^$", r"^router\.(jobs|delay)$", r"^$"),
}


def test_the_permissions_are_those_of_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "rabbitmq.md").read_text().replace("\\|", "|")
    for configure, write, read in PERMISSIONS.values():
        assert f"| `{configure}` | `{write}` | `{read}` |" in text


def as_user(place: RabbitPlace, node: RabbitNode, who: str) -> str:
    """A URL of a user of the vhost with just those permissions."""
    vhost = place.url.rpartition("/")[2]
    name = f"{who}-{vhost}"
    node.make_user(name, vhost, PERMISSIONS[who])
    return place.url.replace("guest:guest@", f"{name}:secret@")


def test_users_with_just_the_documented_permissions(place: RabbitPlace) -> None:
    node = rabbit_node()
    if node is None:
        pytest.skip("users of ROUTER_TEST_AMQP_URL are not ours to make")
    owner = AmqpBroker(as_user(place, node, "everything"), "router", None)
    owner.declare(TOPOLOGY)

    application = AmqpBroker(as_user(place, node, "applications"), "router", None)
    application.declare(TOPOLOGY)  # as it does at its first dispatch
    batch = [job(), job(delay=0.3), job(delay=0.7)]
    assert application.publish(batch).confirmed == tuple(each.id for each in batch)

    worker = AmqpBroker(as_user(place, node, "workers"), "router", None, declare=False)
    worker.declare(TOPOLOGY)
    consumer = worker.consumer("w")
    taken = take(consumer, 3)
    assert set(ids(taken)) == {each.id for each in batch}
    consumer.settle(
        [
            Forward(taken[0], job(id="later", delay=60)),
            Bury(taken[1], failed("one", at=1.0)),
            Bury(taken[2], failed("two", at=2.0)),
        ]
    )
    spin(consumer, lambda: consumer.unsettled == 0, "settled")
    consumer.close()
    assert worker.counts(["a"]).delayed == 1
    assert [each.id for each in owner.failed()] == ["one", "two"]
    for broker in (owner, application, worker):
        broker.close()


def test_a_job_beyond_the_servers_consumer_timeout_costs_only_itself(own_node: RabbitNode) -> None:
    """The server takes back what is on the late job's channel; another queue's jobs never notice."""
    own_node.evaluate("application:set_env(rabbit, channel_tick_interval, 1000).")
    own_node.evaluate("application:set_env(rabbit, consumer_timeout, 2000).")
    broker = AmqpBroker(own_node.url(), "late", None)
    broker.declare(Topology(frozenset({"slow", "quick"})))
    consumer = broker.consumer("w")
    broker.publish([job("slow", id="late")])
    (late,) = take(consumer, 1, "slow")
    lost: list[str] = []
    until = time.monotonic() + (30 if broker.server_version() < (3, 12) else 6)
    while not lost and time.monotonic() < until:
        broker.publish([job("quick")])
        (neighbour,) = take(consumer, 1, "quick")
        consumer.settle([Done(neighbour)])
        spin(consumer, lambda: consumer.unsettled == 0, "settled")
        lost += ids(consumer.take_lost())
    if broker.server_version() < (3, 12):
        assert lost == ["late"]
        (again,) = take(consumer, 1, "slow")  # to be settled by what its run comes to
        assert (again.body, again.count) == (late.body, 2)
    else:
        assert lost == []
    assert broker.counts(["quick"]).queues["quick"].ready == 0
    consumer.close()
    broker.close()
