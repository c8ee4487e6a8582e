"""Which queue is next, and how many jobs to ask for. Pure but for the counters it keeps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping

AHEAD_SECONDS = 0.05
"""How much work, measured in time, may wait inside a busy child."""
AHEAD_MOST = 500
REMEMBERED = 200
"""Jobs after a slow one, for which its queue counts as slow: one in ten that is slow holds up those sent after it."""
_SAMPLES = 10
_WEIGHT = 0.1


class Durations:
    """How long the jobs of each queue take: a moving mean of the short ones, and how long ago there was a slow one."""

    def __init__(self) -> None:
        self._mean: dict[str, float] = {}
        self._until_believed: dict[str, int] = defaultdict(lambda: _SAMPLES)
        """Short jobs to be seen before that queue's are taken to be short."""

    def note(self, queue: str, seconds: float) -> None:
        """A job of that queue took so long."""
        if seconds > AHEAD_SECONDS:
            self._until_believed[queue] = REMEMBERED
            return
        mean = self._mean.get(queue, seconds)
        self._mean[queue] = mean + _WEIGHT * (seconds - mean)
        self._until_believed[queue] -= self._until_believed[queue] > 0

    def ahead(self, queue: str) -> int:
        """How many jobs of that queue may be sent to a child beside the one it runs; 0 until known as short."""
        if self._until_believed[queue] > 0:
            return 0
        return min(AHEAD_MOST, int(AHEAD_SECONDS / max(self._mean[queue], 1e-6)))


class Turns:
    """The order in which queues are asked: as named by the user, else in turn."""

    def __init__(self, named: Iterable[str] = ()) -> None:
        self._named = tuple(dict.fromkeys(named))
        self._starts = 0
        self._started: dict[str, int] = {}
        """By queue: which of the starts was its last."""

    def order(self, queues: Iterable[str]) -> list[str]:
        """Those of ``queues`` that this worker serves, the next one first."""
        if self._named:
            queues = set(queues)
            return [queue for queue in self._named if queue in queues]
        return sorted(queues, key=lambda queue: self._started.get(queue, 0))

    def advance(self, queue: str) -> None:
        """A job of that queue was started: the turn of those that have waited for longer."""
        self._starts += 1
        self._started[queue] = self._starts

    def outranks(self, queue: str, other: str) -> bool:
        """Whether that queue goes first, since it was named first."""
        return bool(self._named) and self._named.index(queue) < self._named.index(other)


def room(
    order: Iterable[str],
    free: int,
    ahead: Mapping[str, int],
    shared: Mapping[str, int],
    limits: Mapping[str, int],
    in_hand: Mapping[str, int],
    wanted: Container[str] = (),
) -> dict[str, int]:
    """How many more jobs of each queue this worker can take, in the given order.

    ``free``: children with nothing to do, less the jobs that wait for one; ``ahead``: what may be sent ahead, by queue;
    ``shared``: what can be run beside others, of the queues where that is allowed;
    ``limits``: the queues' ``concurrency``; ``in_hand``: jobs of each queue here, started or not; ``wanted``: the
    queues of which one may be taken although there is no place for it. A queue with a limit gets nothing sent ahead:
    one child runs one of its jobs.
    """
    found = {}
    for queue in order:
        limit = limits.get(queue)
        count = shared[queue] if queue in shared else max(free, 0) + (ahead.get(queue, 0) if limit is None else 0)
        count = max(count, int(queue in wanted))
        found[queue] = count if limit is None else min(count, limit - in_hand.get(queue, 0))
    return {queue: count for queue, count in found.items() if count > 0}
