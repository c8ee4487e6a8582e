"""A node for the faults, which each process of the tests starts once, and kills as often as it likes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.servers.rabbitmq import RabbitNode

JOBS = int(os.environ.get("ROUTER_FAULT_JOBS", "200"))
ALL = os.environ.get("ROUTER_FAULTS") == "all"


@pytest.fixture(scope="session")
def node() -> Iterator[RabbitNode]:
    node = RabbitNode()
    try:
        node.start()
        yield node
    finally:
        node.close()
