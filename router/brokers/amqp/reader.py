"""One queue on a channel of its own: what was delivered, how much more may come, acks and returns.

A channel of its own, because some errors (a consumer that was slow to ack, above all) close the channel, and all that
was delivered on it goes back.
"""

from __future__ import annotations

import heapq
import logging
import random
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from amqp.exceptions import AMQPError

from router.brokers.amqp.link import Link, describe
from router.brokers.amqp.messages import body_of, delivery_count, not_before
from router.brokers.amqp.names import HELD_BELOW
from router.brokers.amqp.wire import Channel
from router.brokers.base import Delivery
from router.pauses import doubled

log = logging.getLogger(__name__)

MAX_PREFETCH = 5_000

ADJUST_AGAIN = 1.0
"""Seconds: the prefetch is raised exactly; where that is needed again so soon, by as much as is in hand besides."""

IDLE_BEFORE_CANCEL = 0.25
"""Seconds without room after which nothing more may come, because another worker could have it."""

ON_ITS_WAY = 0.03
"""Seconds: what a queue has ready arrives so soon after it was asked for, and has answered."""

ANSWERS_WITHIN = 1.0
"""Seconds that a queue's answer is waited for, before the queues behind it are asked without it."""

ASK_AGAIN = 4.0
"""Seconds without a job after which a consumer is made anew: where a queue was deleted, and declared again, at the very
moment at which it was consumed, RabbitMQ says nothing, and delivers nothing."""

SURPLUS_BEFORE_RETURN = 1.0
"""Seconds after which buffered jobs for which there is no room go back. Each return raises a job's count."""

FEW = 8
RECENTLY = 5.0
"""So many acks and returns within so many seconds may not be carried out yet. RabbitMQ puts aside what comes while 32
are not, and forgets it where the channel ends then."""

PAUSE_AFTER_RETURN = 0.1
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 5.0
LONGEST_PAUSE_FORBIDDEN = 30.0
LONGEST_PAUSE_LEADERLESS = 30.0
UP_FOR = 10.0
"""Seconds of consuming after which earlier failures don't count any more."""


@dataclass(slots=True, eq=False)
class Held:
    """A message that was delivered and is neither acked nor given back. ``live``: it can still be acked."""

    reader: QueueReader
    number: int
    tag: str
    message: Any
    state: Literal["buffered", "early", "parking", "handed", "settling"]
    live: bool = True
    delivery: Delivery | None = None


class QueueReader:
    """Reads ``queue``. ``early`` is called with what came long before it is due; ``missing`` when the queue is gone."""

    def __init__(self, queue: str, physical: str, early: Callable[[Held], None], missing: Callable[[], None]) -> None:
        self.queue = queue
        self._physical = physical
        self._on_early = early
        self._on_missing = missing
        self._link: Link | None = None
        self._channel: Channel | None = None
        self._tag: str | None = None
        self._prefetch = 0
        self._tag_held = 0
        self._held: dict[int, Held] = {}
        self._buffer: deque[Held] = deque()
        self.delivered = 0
        """How many jobs have come so far."""
        self._early: list[tuple[float, int, Held]] = []
        self._acked: set[int] = set()
        self._sent_at: deque[float] = deque(maxlen=FEW)
        """When the last acks and returns were sent."""
        self._lost: list[Held] = []
        self._unanswered: str | None = None
        """The tag of the last consumer, until RabbitMQ has said that it is one."""
        self._breaks = 0
        """How many connections in a row broke while that was awaited."""
        self._retry_at = 0.0
        self._failures = 0
        self._consuming_since = 0.0
        self._raised_at = 0.0
        self._asked_at = 0.0
        self._filled = False
        self._leaving: str | None = None
        """The tag of the consumer that was cancelled to know whether more is on its way, until RabbitMQ answered."""
        self._sure = False
        """No job came since it was cancelled for that."""
        self._was_empty = False
        """Nothing had come for long when it was asked for again: nobody need wait for an answer."""
        self._no_room_since: float | None = None
        self._surplus_since: float | None = None

    def attach(self, link: Link | None) -> None:
        """From now on on this link; what was delivered on the one before is lost."""
        self._lose_all()
        self._link = link
        if link is None:
            return
        if self._unanswered is not None:
            self._blame()
        elif not self._breaks:
            self._retry_at = 0.0

    def take_lost(self) -> list[Held]:
        """What stopped being ours since the last call."""
        lost, self._lost = self._lost, []
        return lost

    def take(self, room: int) -> list[Delivery]:
        """At most ``room`` jobs that are due."""
        now = time.time()
        while self._early and self._early[0][0] <= now:
            held = heapq.heappop(self._early)[2]
            if held.live:
                held.state = "buffered"
                self._buffer.append(held)
        out: list[Delivery] = []
        while self._buffer and len(out) < room:
            held = self._buffer.popleft()
            held.state = "handed"
            message = held.message
            held.delivery = Delivery(self.queue, body_of(message), delivery_count(message), held)
            out.append(held.delivery)
        return out

    def expects(self, now: float) -> bool:
        """Whether a job may be on its way here: it was asked for a moment ago. ``now`` is monotonic."""
        asked = self._tag is not None or self._leaving is not None
        return asked and not self._buffer and not self._was_empty and now < self._expected_until

    def busy(self, now: float, *, make_sure: bool = False) -> bool:
        """Whether the queue probably has more: all that was asked for last came, or may still come. ``make_sure``: have
        RabbitMQ say that no more is on its way before it isn't busy. ``now`` is monotonic. Raises LinkDown."""
        wanting = self._tag is not None and self._tag_held < self._prefetch and not self._buffer
        if self._filled and wanting and not self.expects(now):
            if make_sure and not self._sure:
                self._leave(now)
            else:
                self._filled = False
        return self._filled or bool(self._buffer)

    def _leave(self, now: float) -> None:
        # The answer comes behind what was delivered. So does a new consumer's, but that would take one job more.
        assert self._channel is not None
        assert self._link is not None
        assert self._tag is not None
        self._leaving, self._sure = self._tag, True
        self._tag, self._tag_held = None, 0
        self._asked_at = now
        with self._link.sending():
            self._channel.cancel_soon(self._leaving)

    @property
    def _expected_until(self) -> float:
        answered = self._leaving is None and self._unanswered is None
        return self._asked_at + (ON_ITS_WAY if answered else ANSWERS_WITHIN)

    def next_due(self) -> float | None:
        """When the next job held here is due, in seconds since the epoch."""
        return self._early[0][0] if self._early else None

    def next_step(self, room: int) -> float | None:
        """When `adjust` wants to be called, monotonic."""
        times = [self._surplus_since + SURPLUS_BEFORE_RETURN] if self._surplus_since is not None else []
        if self._no_room_since is not None and self._tag is not None:
            times.append(self._no_room_since + IDLE_BEFORE_CANCEL)
        if self._leaving is not None:
            times.append(self._expected_until)
        elif room and self._tag is None:
            times.append(self._retry_at)
        elif room and self.expects(time.monotonic()):
            times.append(self._expected_until)
        return min(times, default=None)

    def adjust(self, room: int, now: float) -> None:
        """Let come what there is room for. ``now`` is monotonic. Raises LinkDown."""
        if self._link is None:
            return
        buffered = len(self._buffer)
        if self._leaving is not None and now >= self._expected_until:
            self._leaving, self._filled = None, False
        if self._leaving is not None:
            pass  # what is on its way to that consumer comes first
        elif self._tag is None:
            if room > buffered and now >= self._retry_at:
                self._consume(room - buffered, now)
        elif room > buffered and now >= self._asked_at + ASK_AGAIN:
            self._ask_again(room - buffered, now)
        elif room > buffered:
            if self._tag_held >= self._prefetch:
                besides = len(self._held) - buffered if now - self._raised_at < ADJUST_AGAIN else 0
                self._raised_at = now
                self._cancel()
                self._consume(room - buffered + besides, now)
            elif self._failures and now - self._consuming_since > UP_FOR:
                self._failures = 0
        self._give_back_surplus(room, now)

    def done(self, held: Held) -> None:
        """Ack it, with the next `flush`."""
        if held.live:
            self._acked.add(held.number)

    def flush(self) -> None:
        """Send the acks, those at the front as one. Raises LinkDown."""
        if not self._acked or self._channel is None or self._link is None:
            return
        front: list[int] = []
        for number in self._held:  # in the order of delivery, so sorted
            if number not in self._acked:
                break
            front.append(number)
        rest = sorted(self._acked.difference(front))
        with self._link.sending():
            if front:
                # Safe: all lower numbers of this channel came before, and each is acked or given back already.
                self._channel.basic_ack(front[-1], multiple=len(front) > 1)
            for number in rest:
                self._channel.basic_ack(number)
        self._sent(bool(front) + len(rest))
        if self._tag_held >= self._prefetch:
            self._asked_at = time.monotonic()
        for number in (*front, *rest):
            self._remove(self._held[number])
        self._acked.clear()

    def give_back(self, jobs: Iterable[Held], now: float) -> None:
        """Return these to the queue; consuming pauses, or the server would hand them to us again. Raises LinkDown."""
        live = [held for held in jobs if held.live]
        if not live or self._channel is None or self._link is None:
            return
        self._cancel()
        self._retry_at = max(self._retry_at, now + PAUSE_AFTER_RETURN)
        with self._link.sending():
            for held in live:
                self._channel.nack(held.number)
        self._sent(len(live))
        for held in live:
            self._remove(held)

    def stop(self) -> None:
        """Let nothing more come. Raises LinkDown."""
        self._cancel()

    def hurried(self, now: float) -> bool:
        """Whether acks could be forgotten if the channel were closed now. ``now`` is monotonic."""
        return self._channel is not None and len(self._sent_at) == FEW and self._sent_at[0] > now - RECENTLY

    def carried_out(self, until: float) -> bool:
        """Give back all that is not acked, and look whether each ack is carried out. To be called when stopped, until
        it says so. Raises LinkDown, also where no answer comes until then (monotonic)."""
        if self._channel is None or self._link is None:
            return True
        self._channel.on_deliver = lambda *_: None  # what comes yet goes back with the next call
        with self._link.sending():
            self._channel.nack(0, multiple=True)
        ready, consumers = self._look(until)
        if not consumers:  # a cancelled one counts until all that it held is acked or back
            return True
        if ready:
            return False
        # Other workers consume it too. The channel handles nothing after a new consumer before the queue has carried
        # out all that was sent to it before. It gets nothing, as nothing is ready: that would raise a job's count.
        self._consume(1, time.monotonic())
        self._cancel()
        self._look(until)
        return True

    def _look(self, until: float) -> tuple[int, int]:
        """How many jobs are ready, and how many consumers there are."""
        assert self._channel is not None
        assert self._link is not None
        with self._link.within(until - time.monotonic()):
            answer = self._channel.queue_declare(self._physical, passive=True, auto_delete=False)
        return int(answer.message_count), int(answer.consumer_count)

    def _sent(self, count: int) -> None:
        self._sent_at.extend([time.monotonic()] * min(count, FEW))

    def _consume(self, prefetch: int, now: float) -> None:
        assert self._link is not None
        if self._channel is None:
            self._channel = channel = self._link.channel()
            channel.on_deliver = self._delivered
            channel.on_cancel = lambda tag: self._broken("the server cancelled the consumer; is the queue gone?", 404)
            channel.on_gone = self._gone
            channel.on_consuming = self._consuming
            channel.on_cancelled = self._cancelled
        self._prefetch = max(1, min(prefetch, MAX_PREFETCH))
        # A fresh tag each time: with the same one RabbitMQ 3.10 ends the connection.
        self._tag = self._unanswered = f"router.{uuid.uuid4().hex[:16]}"
        self._tag_held = 0
        self._was_empty = False
        self._consuming_since = self._asked_at = now
        with self._link.sending():
            self._channel.send_qos(self._prefetch)
            self._channel.consume_soon(self._physical, self._tag)

    def _ask_again(self, prefetch: int, now: float) -> None:
        self._cancel()
        free = not self._held and not self.hurried(now)
        if free and self._channel is not None and self._link is not None:
            channel, self._channel = self._channel, None
            with self._link.sending():
                channel.let_go()
        self._consume(prefetch, now)
        self._was_empty = True

    def _cancel(self) -> None:
        if self._tag is not None and self._channel is not None and self._link is not None:
            tag, self._tag = self._tag, None
            self._tag_held = 0
            with self._link.sending():
                self._channel.basic_cancel(tag, nowait=True)

    def _give_back_surplus(self, room: int, now: float) -> None:
        if room:
            self._no_room_since = None
        elif self._no_room_since is None:
            self._no_room_since = now
        elif self._tag is not None and now - self._no_room_since >= IDLE_BEFORE_CANCEL:
            self._cancel()
        if len(self._buffer) <= room:
            self._surplus_since = None
        elif self._surplus_since is None:
            self._surplus_since = now
        elif now - self._surplus_since >= SURPLUS_BEFORE_RETURN:
            surplus = [self._buffer.pop() for _ in range(len(self._buffer) - room)]
            self._surplus_since = None
            self.give_back(surplus, now)

    def _consuming(self, tag: str) -> None:
        if tag == self._unanswered:
            self._unanswered, self._breaks = None, 0
        if tag == self._tag and not self._was_empty:
            self._asked_at = time.monotonic()

    def _cancelled(self, tag: str) -> None:
        if tag == self._leaving:
            self._leaving = None

    def _delivered(self, tag: str, number: int, routing_key: str, message: Any) -> None:
        held = Held(self, number, tag, message, "buffered")
        self._held[number] = held
        self.delivered += 1
        self._sure = False
        if tag == self._tag:
            self._tag_held += 1
            self._was_empty = False
            self._asked_at = time.monotonic()
            self._filled = self._tag_held >= self._prefetch
        due = not_before(message)
        left = 0.0 if due is None else due - time.time()
        if due is None or left <= 0:
            self._buffer.append(held)
        elif left < HELD_BELOW:
            held.state = "early"
            heapq.heappush(self._early, (due, number, held))
        else:
            held.state = "parking"
            self._on_early(held)

    def _remove(self, held: Held) -> None:
        held.live = False
        if self._held.pop(held.number, None) is not None and held.tag == self._tag:
            self._tag_held -= 1

    def _gone(self, error: AMQPError) -> None:
        self._broken(describe(error), int(error.reply_code or 0))

    def _broken(self, why: str, code: int) -> None:
        """The channel is of no use any more; what it held goes back by itself."""
        self._failures += 1
        self._unanswered = None
        pause = _pause(self._failures, LONGEST_PAUSE_FORBIDDEN if code == 403 else LONGEST_PAUSE)
        self._retry_at = time.monotonic() + pause
        level = logging.WARNING if self._failures == 1 else logging.ERROR
        log.log(level, "queue %s: %s; consuming again in %.1f s", self._physical, why, pause)
        self._lose_all()
        if code == 404:
            self._on_missing()

    def _blame(self) -> None:
        """The connection broke before this queue could be consumed. Where it has no leader, RabbitMQ ends the whole
        connection each time, and the jobs of all queues go back: it is asked less and less often."""
        self._unanswered = None
        self._breaks += 1
        pause = _pause(self._breaks, LONGEST_PAUSE_LEADERLESS)
        self._retry_at = time.monotonic() + pause
        if self._breaks > 1:  # once may be the network
            log.error(
                "queue %s: the connection broke %d times when it was to be consumed; it may have no leader; "
                "consuming again in %.1f s",
                self._physical,
                self._breaks,
                pause,
            )

    def _lose_all(self) -> None:
        channel, self._channel = self._channel, None
        for held in self._held.values():
            held.live = False
            self._lost.append(held)
        self._held.clear()
        self._buffer.clear()
        self._early.clear()
        self._acked.clear()
        self._sent_at.clear()
        self._tag = None
        self._tag_held = 0
        self._leaving = None
        self._filled = self._sure = False
        self._surplus_since = None
        if channel is not None and self._link is not None and self._link.alive:
            with self._link.sending():
                channel.let_go()


def _pause(times: int, most: float) -> float:
    return random.uniform(0.5, 1.0) * doubled(FIRST_PAUSE, times, most)
