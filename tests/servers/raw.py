"""RabbitMQ as it is, by plain py-amqp."""

from __future__ import annotations

from typing import Any

import amqp
from amqp.exceptions import NotFound

from router.brokers.amqp.link import Address
from router.brokers.amqp.names import Names

from .shared import RabbitPlace


class Raw:
    """A plain py-amqp channel behind the broker's back."""

    def __init__(self, place: RabbitPlace) -> None:
        self._address = Address.parse(place.url)
        self.names = Names(place.namespace)
        self._connection: Any = None
        self._channel: Any = None

    @property
    def channel(self) -> Any:
        if self._channel is None:
            address = self._address
            self._connection = amqp.Connection(
                f"{address.host}:{address.port}", address.user, address.password, virtual_host=address.vhost
            )
            self._connection.connect()
            self._channel = self._connection.channel()
        return self._channel

    def ready(self, queue: str) -> int | None:
        """How many messages are ready in a physical queue; None: there is no such queue."""
        try:
            return int(self.channel.queue_declare(queue, passive=True).message_count)
        except NotFound:
            self.close()
            return None

    def get(self, queue: str) -> Any:
        return self.channel.basic_get(queue, no_ack=True)

    def publish(self, exchange: str, key: str, body: bytes, **properties: Any) -> None:
        channel = self.channel
        channel.basic_publish_confirm(amqp.Message(body, delivery_mode=2, **properties), exchange, key, mandatory=True)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._channel = None
