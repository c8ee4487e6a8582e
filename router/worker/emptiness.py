"""Whether a worker that is to stop when nothing is left to do may stop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future

from router.brokers.base import Broker, Counts
from router.errors import BrokerError
from router.worker.aside import aside

EMPTY_FOR = 1.0


class Emptiness:
    """Nothing ready in our queues, nothing delayed: seen twice, a second apart. ``now`` is the worker's clock."""

    def __init__(self, broker: Broker, wake: Callable[[], None]) -> None:
        self._broker = broker
        self._wake = wake
        self._looking: Future[Counts] | None = None
        self._since: float | None = None

    def busy(self) -> None:
        """Something is in hand: what was seen before counts for nothing."""
        self._since = self._looking = None

    def seen(self, queues: list[str], waits: Iterable[float], now: float) -> bool:
        """Whether it was, at the second look; looks aside. ``waits``: the delays of the table, in seconds."""
        if self._since is not None and now - self._since < EMPTY_FOR:
            return False
        if self._looking is None:
            self._looking = aside(lambda: self._broker.counts(queues, waits), self._wake)
        if not self._looking.done():
            return False
        looking, self._looking = self._looking, None
        try:
            counts = looking.result()
        except BrokerError:
            return False
        numbers = [counts.queues.get(queue) for queue in queues]  # None: a reload has brought that queue meanwhile
        if counts.delayed != 0 or any(of is None or of.ready != 0 for of in numbers):
            self._since = None
            return False
        if self._since is None:
            self._since = now
            return False
        return True
