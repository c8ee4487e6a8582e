"""Asking the workers of a namespace what they are doing: a question to all, answers within a second.

The queues are exclusive and vanish with their connections, so a worker that is gone does not answer.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from typing import Any

import msgspec
from amqp import Message
from amqp.exceptions import AMQPError, ChannelError

from router.brokers.amqp.declare import NOT_FOUND
from router.brokers.amqp.link import Address, Link, connect, describe
from router.brokers.amqp.messages import body_of, publish_arguments
from router.brokers.amqp.names import Names
from router.brokers.amqp.wire import Channel
from router.brokers.base import WorkerState
from router.errors import BrokerRefused, BrokerUnavailable

log = logging.getLogger(__name__)

ANSWER_SECONDS = 1.0

RETRY_SECONDS = 10.0
"""After the exchange was found missing."""

_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(WorkerState)


class Answerer:
    """A worker's side, on its consuming link."""

    def __init__(self, address: Address, names: Names) -> None:
        self._address = address
        self._names = names
        self._link: Link | None = None
        self._channel: Channel | None = None
        self._retry_at = 0.0
        self.state: WorkerState | None = None

    def attach(self, link: Link | None) -> None:
        """From now on on this link."""
        self._link, self._channel, self._retry_at = link, None, 0.0

    def step(self, now: float) -> None:
        """Listen, if there is something to say. ``now`` is monotonic. Raises LinkDown."""
        if self._channel is not None or self._link is None or self.state is None or now < self._retry_at:
            return
        self._channel = channel = self._link.channel()
        channel.on_gone = self._gone
        channel.on_deliver = self._asked
        queue = f"{self._names.ask}.{uuid.uuid4().hex}"
        with self._link.sending():
            channel.queue_declare(queue, exclusive=True, auto_delete=True, nowait=True)
            channel.queue_bind(queue, self._names.ask, "", nowait=True)
            channel.basic_consume(queue, consumer_tag="ask", no_ack=True, nowait=True)

    def _asked(self, _: str, __: int, ___: str, question: Any) -> None:
        reply_to = question.properties.get("reply_to")
        if self.state is None or self._channel is None or self._link is None or not isinstance(reply_to, str):
            return
        # On a connection of its own: under a memory or disk alarm RabbitMQ stops reading from one that has published,
        # and this one acknowledges jobs.
        answer = threading.Thread(target=self._answer, args=(reply_to, self.state), name="router-answer", daemon=True)
        answer.start()

    def _answer(self, reply_to: str, state: WorkerState) -> None:
        try:
            link = connect(self._address, "answer", ANSWER_SECONDS)
            channel = link.channel()
            properties = Message(delivery_mode=1)._serialize_properties()
            with link.sending():
                channel.publish(
                    publish_arguments(self._names.answer, reply_to, mandatory=False), properties, _encode(state)
                )
            link.close()
        except (BrokerUnavailable, BrokerRefused, AMQPError) as error:
            log.debug("can't answer `router status`: %s", error)

    def _gone(self, error: AMQPError) -> None:
        log.debug("can't answer `router status`: %s", describe(error))
        self._channel = None
        self._retry_at = time.monotonic() + RETRY_SECONDS


def ask(link: Link, names: Names, seconds: float = ANSWER_SECONDS) -> list[WorkerState]:
    """What the workers say of themselves, by name. Raises LinkDown and BrokerRefused; BrokerUnavailable where none
    could be heard since RabbitMQ takes nothing from publishers, neither the question nor the answers."""
    answers: dict[str, WorkerState] = {}
    channel = link.channel()

    def answered(_: str, __: int, ___: str, answer: Any) -> None:
        try:
            state = _decoder.decode(body_of(answer))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("a worker of another version answered: %s", error)
            return
        answers[state.name] = msgspec.structs.replace(state, seen_at=time.time())

    queue = f"{names.answer}.{uuid.uuid4().hex}"
    channel.on_deliver = answered
    try:
        with link.within(seconds + 4.0):
            channel.queue_declare(queue, exclusive=True, auto_delete=True)
            channel.queue_bind(queue, names.answer, queue)
            channel.basic_consume(queue, consumer_tag="answer", no_ack=True)
            properties = Message(delivery_mode=1, reply_to=queue)._serialize_properties()
            channel.publish(publish_arguments(names.ask, "", mandatory=False), properties, b"")
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            link.wait(until)
    except ChannelError as error:
        if error.reply_code == NOT_FOUND:
            return []  # a worker would have declared it
        raise BrokerRefused(f"{link.address}: can't ask the workers: {describe(error)}") from error
    if link.blocked is not None:
        why = f"{link.address}: RabbitMQ blocks publishers ({link.blocked})"
        if not answers:
            raise BrokerUnavailable(f"{why}, so that the workers can't be asked; they may be alive")
        log.warning("%s, so that other workers than these may not have been able to answer", why)
    return sorted(answers.values(), key=lambda state: state.name)
