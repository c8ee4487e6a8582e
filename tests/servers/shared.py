"""One private server for the whole run of tests, started when it is first asked for, and places in it for each test."""

from __future__ import annotations

import atexit
import os
import uuid
from dataclasses import dataclass
from functools import cache

from .rabbitmq import RabbitNode
from .redis import RedisServer

VHOSTS_AT_A_TIME = 50


@dataclass(frozen=True)
class RabbitPlace:
    """Where a test may do as it likes: an own vhost of the private node, or an own namespace on a given server."""

    url: str
    namespace: str


@cache
def rabbit_node() -> RabbitNode | None:
    """The private node, running; None if ROUTER_TEST_AMQP_URL names a server to be used instead."""
    if os.environ.get("ROUTER_TEST_AMQP_URL"):
        return None
    node = RabbitNode()
    atexit.register(node.close)
    node.start()
    return node


_vhosts: list[str] = []


def rabbit_place() -> RabbitPlace:
    """A fresh place."""
    node = rabbit_node()
    if node is None:
        return RabbitPlace(os.environ["ROUTER_TEST_AMQP_URL"], f"t{uuid.uuid4().hex[:12]}")
    if not _vhosts:
        _vhosts.extend(f"v{uuid.uuid4().hex[:8]}" for _ in range(VHOSTS_AT_A_TIME))
        node.make_vhosts(_vhosts)
    return RabbitPlace(node.url(_vhosts.pop()), "router")


@cache
def redis_server() -> RedisServer | None:
    """The private server, running; None if ROUTER_TEST_REDIS_URL names a server to be used instead."""
    if os.environ.get("ROUTER_TEST_REDIS_URL"):
        return None
    server = RedisServer()
    atexit.register(server.close)
    server.start()
    return server


def redis_url() -> str:
    """A Redis to use. Its keys are shared by all tests, so that they need names of their own."""
    server = redis_server()
    return os.environ["ROUTER_TEST_REDIS_URL"] if server is None else server.url()
