"""Plain py-amqp: the limit, and what the benchmarks look at and fill queues with."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import amqp
from amqp import spec

WINDOW = 1000
"""How many publications may be unconfirmed at a time."""

_UUID = re.compile(rb"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")


def connect(url: str, *, confirm: bool = False) -> Any:
    """A connection. ``confirm``: each publication waits for its own."""
    parts = urlsplit(url)
    connection = amqp.Connection(
        f"{parts.hostname}:{parts.port}",
        parts.username,
        parts.password,
        virtual_host=unquote(parts.path[1:]),
        confirm_publish=confirm,
    )
    connection.connect()
    return connection


@dataclass(frozen=True)
class Template:
    """One message that a system published, to make others of."""

    exchange: str
    key: str
    body: bytes
    properties: dict[str, Any]

    def message(self) -> amqp.Message:
        """The same once more."""
        return amqp.Message(self.body, **self.properties)

    def copies(self, count: int) -> Iterator[amqp.Message]:
        """Messages that are others: every UUID in them is replaced by a fresh one."""
        found = {match.decode() for match in _UUID.findall(repr((self.body, self.properties)).encode())}
        for _ in range(count):
            fresh = {}
            for old in found:
                new = uuid.uuid4()
                fresh[old] = str(new) if "-" in old else new.hex
            body = self.body
            for old, new in fresh.items():
                body = body.replace(old.encode(), new.encode())
            yield amqp.Message(body, **_replaced(self.properties, fresh))


def _replaced(value: Any, fresh: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _replaced(each, fresh) for key, each in value.items()}
    if isinstance(value, str):
        for old, new in fresh.items():
            value = value.replace(old, new)
    return value


class Queue:
    """A queue of a system, seen from behind."""

    def __init__(self, url: str, name: str) -> None:
        self.connection = connect(url)
        self.channel = self.connection.channel()
        self.name = name

    def purge(self) -> None:
        """Forget what is ready."""
        self.channel.queue_purge(self.name)

    def ready(self) -> int:
        """How many messages are ready."""
        return int(self.channel.queue_declare(self.name, passive=True).message_count)

    def take(self) -> Template:
        """The message at its head, which is gone then."""
        message = self.channel.basic_get(self.name, no_ack=True)
        if message is None:
            raise LookupError(f"{self.name} is empty")
        info, properties, body = message.delivery_info, dict(message.properties), message.body
        headers = properties.get("application_headers", {})
        properties["application_headers"] = {name: headers[name] for name in headers if not name.startswith("x-")}
        body = body.encode() if isinstance(body, str) else bytes(body)
        return Template(info["exchange"], info["routing_key"], body, properties)

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


class Pipeline:
    """Publishes with up to WINDOW confirms outstanding."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._channel = connection.channel()
        self._channel.confirm_select()
        self._channel.events["basic_ack"].add(self._acked)
        self._sent = 0
        self._below = 1
        self._single: set[int] = set()

    def _acked(self, tag: int, multiple: bool) -> None:
        if multiple:
            self._below = max(self._below, tag + 1)
            self._single = {one for one in self._single if one > tag}
        else:
            self._single.add(tag)

    @property
    def _open(self) -> int:
        return self._sent + 1 - self._below - len(self._single)

    def publish(self, messages: Iterable[amqp.Message], exchange: str, key: str) -> None:
        """Publish them all; returns when all are confirmed."""
        # Not basic_publish, which looks for incoming frames before each message and is a third slower by that.
        send, drain = self._channel.send_method, self._connection.drain_events
        for message in messages:
            while self._open >= WINDOW:
                drain(timeout=30)
            send(spec.Basic.Publish, "Bssbb", (0, exchange, key, True, False), message)
            self._sent += 1
        while self._open:
            drain(timeout=30)


def fill(url: str, template: Template, count: int) -> None:
    """Publish so many copies."""
    with connect(url) as connection:
        Pipeline(connection).publish(template.copies(count), template.exchange, template.key)


def consume(url: str, queue: str, count: int, handle: Any, prefetch: int = 1000) -> None:
    """Consume so many messages, acking each after ``handle``."""
    with connect(url) as connection:
        channel = connection.channel()
        channel.basic_qos(0, prefetch, a_global=False)
        done = 0

        def one(message: Any) -> None:
            nonlocal done
            handle(message)
            channel.basic_ack(message.delivery_tag)
            done += 1

        channel.basic_consume(queue, callback=one)
        while done < count:
            connection.drain_events(timeout=30)
        channel.close()  # answered after the acks before it
