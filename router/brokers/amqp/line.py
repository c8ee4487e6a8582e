"""A connection that comes back: made in the background, and again after each loss, with jitter between the tries."""

from __future__ import annotations

import logging
import random

from router.brokers.amqp.link import Address, Dialing, Link
from router.brokers.wake import Wake
from router.errors import BrokerRefused, BrokerUnavailable
from router.pauses import doubled

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 3.0
LONGEST_PAUSE_REFUSED = 15.0

SAY_AGAIN = 60.0
"""Seconds after which it is said again why there is no connection; at once where that is refused now, or no more."""


class Line:
    """Keeps one link up. ``link`` is None while it is down."""

    def __init__(self, address: Address, purpose: str, wake: Wake) -> None:
        self.link: Link | None = None
        self._address = address
        self._purpose = purpose
        self._wake = wake
        self._dialing: Dialing | None = None
        self._retry_at = 0.0
        self._tries = 0
        self._down_since: float | None = None
        self._said: bool | None = None
        """Whether it was being refused, when that was last said; None: nothing was."""
        self._said_at = 0.0

    def step(self, now: float) -> Link | None:
        """Go on connecting; the link, once, when it has just come up. Never waits. ``now`` is monotonic."""
        if self.link is not None:
            return None
        if self._dialing is None:
            if now >= self._retry_at:
                self._dialing = Dialing(self._address, self._purpose, self._wake.set)
            return None
        if not self._dialing.finished:
            return None
        dialing, self._dialing = self._dialing, None
        try:
            self.link = dialing.result()
        except (BrokerUnavailable, BrokerRefused) as error:
            self._failed(error, now)
            return None
        if self._down_since is not None:
            log.info("%s: %s is back after %.1f s", self._address, self._purpose, now - self._down_since)
        self._down_since = None
        self._tries = 0
        self._said = None
        return self.link

    def down(self, why: str, now: float) -> None:
        """The link is of no use any more: drop it, and connect again soon."""
        if self.link is not None:
            self.link.drop(why)
            self.link = None
            self._down_since = now
            self._retry_at = now + random.uniform(0, FIRST_PAUSE)
            log.warning("%s: the %s lost its connection (%s); connecting again", self._address, self._purpose, why)

    def next_step(self) -> float | None:
        """When `step` wants to be called (monotonic), apart from when `Wake` wakes."""
        return None if self.link is not None or self._dialing is not None else self._retry_at

    def close(self) -> None:
        """Close the link in good order, and stop connecting."""
        if self._dialing is not None:
            self._dialing.give_up()
            self._dialing = None
        if self.link is not None:
            self.link.close()
            self.link = None

    def _failed(self, error: BrokerUnavailable | BrokerRefused, now: float) -> None:
        refused = isinstance(error, BrokerRefused)
        if refused is not self._said or now - self._said_at >= SAY_AGAIN:
            self._said, self._said_at = refused, now
            level = logging.ERROR if refused else logging.WARNING
            log.log(level, "%s: the %s can't connect (%s); trying again", self._address, self._purpose, error)
        if self._down_since is None:
            self._down_since = now
        self._tries += 1
        most = LONGEST_PAUSE_REFUSED if refused else LONGEST_PAUSE
        self._retry_at = now + random.uniform(0.5, 1.0) * doubled(FIRST_PAUSE, self._tries, most)
