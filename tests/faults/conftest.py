"""A node for the faults, which each process of the tests starts once and kills as often as it likes; storms on it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from storm import FILE, HEARTBEAT, JOBS, Storm

from tests.servers.proxy import Proxy, through
from tests.servers.rabbitmq import RabbitNode
from tests.servers.shared import RabbitPlace


@pytest.fixture(scope="session")
def node() -> Iterator[RabbitNode]:
    node = RabbitNode()
    try:
        node.start()
        yield node
    finally:
        node.close()


@pytest.fixture
def make_storm(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Storm]]:
    """Makes a storm on ``amqp`` or ``sqlite`` (in ``folder``), a place of its own; its processes end with the test."""
    with ExitStack() as stack:

        def make(broker: str, file: str = FILE, folder: Path = tmp_path, **env: str) -> Storm:
            if broker == "sqlite":
                return stack.enter_context(Storm(tmp_path, f"sqlite:///{folder}/router.db", JOBS, file=file, env=env))
            node: RabbitNode = request.getfixturevalue("node")
            node.start()
            vhost = f"v{uuid.uuid4().hex[:8]}"
            node.make_vhosts([vhost])
            proxy = Proxy(node.port)
            stack.callback(proxy.close)
            url = through(node.url(vhost), proxy.port, heartbeat=HEARTBEAT, connection_timeout=2000)
            storm = stack.enter_context(Storm(tmp_path, url, JOBS, node=node, proxy=proxy, file=file, env=env))
            storm.place = RabbitPlace(node.url(vhost), storm.app.env["ROUTER_NAMESPACE"])
            return storm

        yield make
