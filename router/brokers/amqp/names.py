"""Names on the broker, and which delay queue a job waits in. Pure.

Delays are whole milliseconds here, rounded up, so that nothing is due too early.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

LADDER: tuple[int, ...] = tuple(250 << step for step in range(20))
"""Steps of the delay ladder in milliseconds: 0.25 s to 131,072 s (36 hours), each twice the one before."""

HELD_BELOW = LADDER[0] / 1000
"""Seconds: a rest shorter than the first step is waited for in the consumer."""

MAX_EXACT = 64
"""How many delays of the file have a queue of their own; the shortest."""

MAX_TTL = 4_294_967_295
"""Longest ``x-message-ttl`` that RabbitMQ takes; longer delays go by the ladder."""

MAX_QUEUE_NAME = 180
"""Bytes of a logical queue name: AMQP's short strings have 255, and prefixes and delays need some."""


@dataclass(frozen=True, slots=True)
class Names:
    """The physical names of a namespace."""

    namespace: str

    @property
    def jobs(self) -> str:
        """Direct exchange: a job for a queue, now."""
        return f"{self.namespace}.jobs"

    @property
    def delay(self) -> str:
        """Topic exchange: a job for later; routing key ``<ms>.<queue>``."""
        return f"{self.namespace}.delay"

    @property
    def due(self) -> str:
        """Topic exchange: where delay queues send jobs that are due."""
        return f"{self.namespace}.due"

    @property
    def unrouted(self) -> str:
        """Fanout exchange in front of the failed jobs."""
        return f"{self.namespace}.unrouted"

    @property
    def failed(self) -> str:
        """Queue of the failed jobs."""
        return f"{self.namespace}.failed"

    @property
    def browsing(self) -> str:
        """Exclusive queue of whoever is browsing the failed jobs; always empty."""
        return f"{self.namespace}.browsing"

    @property
    def ask(self) -> str:
        """Fanout exchange: a question to all workers."""
        return f"{self.namespace}.ask"

    @property
    def answer(self) -> str:
        """Direct exchange: their answers, by the name of the asker's queue."""
        return f"{self.namespace}.answer"

    def queue(self, name: str) -> str:
        """The physical queue of a logical one. ValueError for a name that can't be routed."""
        check_queue_name(name)
        return f"{self.namespace}.queue.{name}"

    def delay_queue(self, milliseconds: int) -> str:
        """The queue in which jobs wait for this long."""
        return f"{self.namespace}.delay.{milliseconds}"


@lru_cache(maxsize=1024)
def check_queue_name(name: str) -> None:
    """ValueError if RabbitMQ's topic exchanges would misread this queue name, or if it is too long."""
    if not name or any(word in ("*", "#") for word in name.split(".")):
        raise ValueError(f"queue {name!r}: a name can't be empty, nor have `*` or `#` as a word")
    if len(name.encode()) > MAX_QUEUE_NAME:
        raise ValueError(f"queue {name!r}: longer than {MAX_QUEUE_NAME} bytes")


def milliseconds(seconds: float) -> int:
    """Whole milliseconds, rounded up (but 0.1 s + 0.2 s is 300 ms, not 301); never negative."""
    return max(0, math.ceil(seconds * 1000 - 1e-4))


def exact_delays(delays: Iterable[float]) -> frozenset[int]:
    """Which of these delays (seconds) get an own queue, in milliseconds. Those on the ladder have one anyway."""
    wanted = {milliseconds(each) for each in delays} - set(LADDER)
    return frozenset(sorted(each for each in wanted if 0 < each <= MAX_TTL)[:MAX_EXACT])


def wait_for(seconds: float, exact: frozenset[int] = frozenset()) -> int:
    """The delay queue, in milliseconds, for a job due in ``seconds``: its own, else the largest step of the ladder.

    0: none.
    """
    wanted = milliseconds(seconds)
    return wanted if wanted in exact else max((each for each in LADDER if each <= wanted), default=0)
