"""Publishing without waiting: successors and failed copies of the jobs that a consumer holds.

What is added is published until it is confirmed or forgotten. The same rules as for `publisher`: any anomaly costs the
connection, what was under way is published again, one by one where it happens again; a publication that is the cause
is put off, so that the others pass, and tried again later. One that is refused for good is replaced by a smaller one.
"""

from __future__ import annotations

import heapq
import itertools
import logging
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from router.brokers.amqp.confirms import TOO_LARGE, WINDOW, Confirms, Outcome
from router.brokers.amqp.line import Line
from router.brokers.amqp.link import LinkDown
from router.brokers.amqp.messages import Publication
from router.pauses import doubled

log = logging.getLogger(__name__)

STALL_SECONDS = 5.0
ALONE_STALL_SECONDS = 2.0
LONGEST_STALL = 60.0
"""Each time that a publication was put off there is twice as much time for its confirm, up to this: a queue that is
only slow stores it again each time."""

FIRST_PUT_OFF = 0.5
LONGEST_PUT_OFF = 30.0

Key = TypeVar("Key", bound=Hashable)


class Outbox(Generic[Key]):
    """``repair`` asks for what is missing on the broker to be declared; it does not wait either. ``smaller`` says what
    to publish instead of what was refused for good, and why; None: nothing. ``slow`` takes over what could not be
    published, so that trying it again disturbs nobody else."""

    def __init__(
        self,
        line: Line,
        repair: Callable[[], None],
        smaller: Callable[[Key, Publication, str], Publication | None],
        slow: Outbox[Key] | None = None,
    ) -> None:
        self._line = line
        self._repair = repair
        self._smaller = smaller
        self._slow = slow
        self._confirms: Confirms[Key] | None = None
        self._wanted: dict[Key, int] = {}
        """Key → how often it was put off."""
        self._waiting: deque[tuple[Key, Publication]] = deque()
        self._put_off: list[tuple[float, int, Key, Publication]] = []
        self._serial = itertools.count()
        self._suspects = 0
        self._faults = 0

    def add(self, key: Key, publication: Publication) -> None:
        """Publish it with the next `step`."""
        self._wanted[key] = 0
        self._waiting.append((key, publication))

    def forget(self, key: Key) -> None:
        """Don't publish it if that has not happened yet; its confirm is not reported."""
        self._wanted.pop(key, None)

    def step(self, now: float) -> list[Key]:
        """Go on; returns what was confirmed. ``now`` is monotonic."""
        if not self._wanted and self._line.link is None:
            return []
        if self._line.step(now) is not None:
            self._confirms = None
        confirmed: list[Key] = []
        link = self._line.link
        if link is None:
            return []
        try:
            if self._confirms is None:
                self._confirms = Confirms(link)
            self._send(self._confirms, now)
            link.pump()
            self._collect(self._confirms, confirmed, now)
            self._send(self._confirms, now)
            self._look_for_faults(self._confirms, now)
        except LinkDown as error:
            if self._confirms is not None:
                self._collect(self._confirms, confirmed, now)  # what came just before the end counts
            self._fault(str(error), now)
        return confirmed

    def next_step(self) -> float | None:
        """When `step` wants to be called (monotonic), apart from when something can be read."""
        times = [self._put_off[0][0]] if self._put_off else []
        line = self._line.next_step() if self._wanted else None
        return min([*times, *([line] if line is not None else [])], default=None)

    def _send(self, confirms: Confirms[Key], now: float) -> None:
        while self._put_off and self._put_off[0][0] <= now:
            _, _, key, publication = heapq.heappop(self._put_off)
            self._waiting.append((key, publication))
        while self._waiting and confirms.room(1 if self._suspects else WINDOW):
            key, publication = self._waiting.popleft()
            if key in self._wanted:
                confirms.send(key, publication)
            elif self._suspects:
                self._suspects -= 1

    def _collect(self, confirms: Confirms[Key], confirmed: list[Key], now: float) -> None:
        for outcome in confirms.take():
            self._suspects = max(0, self._suspects - 1)
            if outcome.key not in self._wanted:
                continue
            if outcome.what == "confirmed":
                self._faults = 0
                del self._wanted[outcome.key]
                confirmed.append(outcome.key)
            else:
                self._came_back(outcome, now)

    def _came_back(self, outcome: Outcome[Key], now: float) -> None:
        if outcome.what == "returned":
            self._repair()
            self._defer(outcome.key, outcome.publication, "no queue takes it", now)
        else:
            self._defer(outcome.key, outcome.publication, "RabbitMQ refused it (nack)", now)

    def _look_for_faults(self, confirms: Confirms[Key], now: float) -> None:
        if confirms.refusal is not None:
            if confirms.refusal.code == 404:
                self._repair()
            self._fault(confirms.refusal.text, now, alone=confirms.refusal.permanent)
        elif self._stalled(confirms):
            self._fault("confirms don't come", now, alone=True)

    def _stalled(self, confirms: Confirms[Key]) -> bool:
        seconds = ALONE_STALL_SECONDS if self._suspects else STALL_SECONDS
        if not confirms.stalled(seconds):
            return False
        times = max((self._wanted.get(key, 0) for key, _ in confirms.under_way()), default=0)
        return confirms.stalled(doubled(seconds, times, LONGEST_STALL))

    def _fault(self, why: str, now: float, *, alone: bool = False) -> None:
        """Drop the connection; what was under way is sent again, with the same ids."""
        confirms, self._confirms = self._confirms, None
        under_way = [each for each in confirms.under_way() if each[0] in self._wanted] if confirms is not None else []
        self._line.down(why, now)
        self._faults += 1
        if (alone or self._faults > 1) and len(under_way) == 1:
            ((key, publication),) = under_way
            refusal = confirms.refusal if confirms is not None else None
            too_large = refusal is not None and refusal.code in TOO_LARGE
            instead = self._smaller(key, publication, why) if too_large else None
            if instead is None:
                self._suspects = max(0, self._suspects - 1)
                self._defer(key, publication, why, now)
            else:
                self._suspects = max(1, self._suspects)
                self._waiting.appendleft((key, instead))
            return
        self._waiting.extendleft(reversed(under_way))
        if alone or self._faults > 1:
            self._suspects = max(len(under_way), self._suspects)

    def _defer(self, key: Key, publication: Publication, why: str, now: float) -> None:
        if key not in self._wanted:
            return
        if self._slow is None:
            self._put_off_again(key, publication, why, now)
        else:
            del self._wanted[key]
            self._slow._put_off_again(key, publication, why, now)

    def _put_off_again(self, key: Key, publication: Publication, why: str, now: float) -> None:
        times = self._wanted.get(key, 0)
        self._wanted[key] = times + 1
        pause = doubled(FIRST_PUT_OFF, times, LONGEST_PUT_OFF)
        level = logging.DEBUG if times == 0 else logging.ERROR
        log.log(
            level,
            "job %s can't be published to %s: %s. Nothing is lost: it stays with this worker, next try in %g s",
            publication.id,
            publication.target,
            why,
            pause,
        )
        heapq.heappush(self._put_off, (now + pause, next(self._serial), key, publication))
