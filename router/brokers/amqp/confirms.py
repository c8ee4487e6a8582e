"""Publishing on one channel, with the broker's confirms counted.

RabbitMQ numbers what is published on a channel from 1 and answers with acks and nacks for one number or for all up to
it, in any order; what it could not route it sends back before it acks it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import msgspec
from amqp.exceptions import AMQPError

from router.brokers.amqp.link import Link, LinkDown, describe
from router.brokers.amqp.messages import Publication

WINDOW = 1000
"""How many publications may be unconfirmed on a channel at a time."""

MAX_UNSENT = 1024 * 1024
"""Bytes in the send buffer above which nothing is added to it."""

PERMANENT = frozenset({311, 403, 404, 406})
"""Codes that say no for good: too large, not allowed, no such exchange, a precondition failed."""

TOO_LARGE = frozenset({311, 406})
"""Those of them that are about the publication alone, and that a smaller one need not meet."""

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The server closed the channel. It says why, but not because of which publication."""

    code: int
    text: str

    @property
    def permanent(self) -> bool:
        """Whether the same publication would be refused again."""
        return self.code in PERMANENT


class Outcome(msgspec.Struct, Generic[Key], frozen=True):
    """What became of one publication."""

    key: Key
    publication: Publication
    what: Literal["confirmed", "returned", "nacked"]


class Confirms(Generic[Key]):
    """A confirming channel on ``link``. ``key`` is the caller's own name for each publication."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.refusal: Refusal | None = None
        self.progress_at = time.monotonic()
        self._sequence = 0
        self._unsent = 0
        self._in_flight: dict[int, tuple[Key, Publication]] = {}
        self._returned: Counter[str] = Counter()
        self._outcomes: list[Outcome[Key]] = []
        self._channel = link.channel()
        self._channel.on_ack = self._acked
        self._channel.on_nack = self._nacked
        self._channel.on_return = self._came_back
        self._channel.on_gone = self._gone
        with link.sending():
            self._channel.confirm_select(nowait=True)

    @property
    def unconfirmed(self) -> int:
        """How many publications are under way."""
        return len(self._in_flight)

    def room(self, window: int = WINDOW) -> bool:
        """Whether one more may be sent now."""
        return (
            len(self._in_flight) < window
            and self.refusal is None
            and self.link.blocked is None
            and self.link.unsent < MAX_UNSENT
        )

    def send(self, key: Key, publication: Publication) -> None:
        """Publish. Raises LinkDown; `under_way` then still has it."""
        if not self._in_flight:
            self.progress_at = time.monotonic()
        self._sequence += 1
        self._in_flight[self._sequence] = (key, publication)
        if self.refusal is not None:
            raise LinkDown(f"the channel is closed: {self.refusal.text}")
        with self.link.sending():
            self._channel.publish(publication.arguments, publication.properties, publication.body)

    def take(self) -> list[Outcome[Key]]:
        """What was decided since the last call."""
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def under_way(self) -> list[tuple[Key, Publication]]:
        """What is not decided yet, in the order in which it was sent."""
        return list(self._in_flight.values())

    def stalled(self, seconds: float) -> bool:
        """Whether nothing was confirmed, or sent, for this long although the server could. Being blocked is a wait."""
        unsent = self.link.unsent
        if self.link.blocked is not None or not self._in_flight or unsent < self._unsent:
            self.progress_at = time.monotonic()
        self._unsent = unsent
        return time.monotonic() - self.progress_at > seconds

    def _acked(self, tag: int, multiple: bool) -> None:
        self._decide(tag, multiple, "confirmed")

    def _nacked(self, tag: int, multiple: bool) -> None:
        self._decide(tag, multiple, "nacked")

    def _decide(self, tag: int, multiple: bool, what: Literal["confirmed", "nacked"]) -> None:
        self.progress_at = time.monotonic()
        in_flight = self._in_flight
        if multiple:
            numbers = []
            for number in in_flight:  # in the order of sending, so sorted
                if number > tag:
                    break
                numbers.append(number)
        else:
            numbers = [tag] if tag in in_flight else []
        for number in numbers:
            key, publication = in_flight.pop(number)
            if self._returned and self._returned[publication.id]:
                self._returned[publication.id] -= 1
                self._outcomes.append(Outcome(key, publication, "returned"))
            else:
                self._outcomes.append(Outcome(key, publication, what))

    def _came_back(self, code: int, text: str, message: Any) -> None:
        self._returned[str(message.properties.get("message_id", ""))] += 1

    def _gone(self, error: AMQPError) -> None:
        self.refusal = Refusal(int(error.reply_code or 0), describe(error))
