"""The worker's clock: monotonic seconds in which the worker itself was running."""

from __future__ import annotations

import time

_NOTICEABLE = 2.0


class Clock:
    """Leaves out the time for which this process was stopped (SIGSTOP, a debugger), so that no job times out by that.

    `tick` is called once in each turn of the parent's loop; one that took seconds longer than meant was stopped.
    """

    def __init__(self) -> None:
        self._lost = 0.0
        self._last = time.monotonic()

    def now(self) -> float:
        """Seconds since some point in the past."""
        return time.monotonic() - self._lost

    def tick(self, meant_to_wait: float) -> float:
        """Note that a turn has passed, which meant to wait that long; returns the seconds found to be lost."""
        now = time.monotonic()
        excess = now - self._last - meant_to_wait
        self._last = now
        if excess < _NOTICEABLE:
            return 0.0
        self._lost += excess
        return excess
