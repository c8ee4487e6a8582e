"""A place on a real RabbitMQ for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from amqp_helpers import Setup

from tests.servers.proxy import Proxy
from tests.servers.raw import Raw
from tests.servers.shared import RabbitPlace, rabbit_place


@pytest.fixture
def place() -> RabbitPlace:
    return rabbit_place()


@pytest.fixture
def setup(place: RabbitPlace) -> Iterator[Setup]:
    made = Setup(place)
    yield made
    made.close()


@pytest.fixture
def raw(place: RabbitPlace) -> Iterator[Raw]:
    made = Raw(place)
    yield made
    made.close()


@pytest.fixture
def proxy(place: RabbitPlace) -> Iterator[Proxy]:
    from router.brokers.amqp.link import Address

    made = Proxy(Address.parse(place.url).port)
    yield made
    made.close()
