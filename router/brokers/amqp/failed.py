"""Reading the queue of failed jobs on plain RabbitMQ: take everything without acking, and close the channel.

Closing gives back what was not acked, in the same order, so nothing is lost wherever the process is killed. The queue
has a single active consumer, so that two who do this can't each see one half.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from amqp.exceptions import ChannelError

from router.brokers.amqp.declare import NOT_FOUND, Admin
from router.brokers.amqp.link import Link, describe
from router.brokers.amqp.messages import read_failed
from router.brokers.amqp.names import Names
from router.brokers.base import Decision, FailedJob, Forget, Keep, Receipt, Requeue, Sweep
from router.errors import BrokerRefused, BrokerUnavailable

PAGE = 20_000
"""Jobs that are held at a time in memory, by one consumer tag (65,535 is the most that RabbitMQ allows)."""

BATCH = 500
"""Requeued jobs that are published together."""

PATIENCE = 5.0
"""Seconds without a job although some are there: somebody else holds them."""

_LOOK_EVERY = 0.1


SOMEBODY_ELSE = "somebody else is browsing the failed jobs at the moment; try again when they have finished"


@dataclass(frozen=True, slots=True)
class _Look:
    """Ready jobs, and consumers, those included that were cancelled but hold jobs."""

    ready: int
    consumers: int


@dataclass(frozen=True, slots=True)
class Browsed:
    """A failed job and how to ack it."""

    job: FailedJob
    number: int


class Browser:
    """Holds the failed jobs while it is open; a context manager. Raises BrokerUnavailable and BrokerRefused."""

    def __init__(self, link: Link, names: Names) -> None:
        self._link = link
        self._names = names
        self._admin = Admin(link)
        self._channel = link.channel()
        self._channel.on_deliver = self._arrived
        self._arrivals: list[Browsed] = []
        self._tag = 0
        self._in_tag = 0

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # In good order, so that the acks are carried out and what is kept is back in the queue.
        self._link.close()

    def _wait(self, seconds: float = 0.02) -> None:
        try:
            self._link.wait(time.monotonic() + seconds)
        except ChannelError as error:
            raise BrokerRefused(f"{self._names.failed} can't be browsed: {describe(error)}") from error

    def pages(self) -> Iterator[list[Browsed]]:
        """Every failed job, in lists of at most `PAGE`. All stay held until the browser is closed."""
        self._wait_for_others()
        expected = self._look().ready
        if not expected:
            return
        self._consume()
        progress_at = looked_at = time.monotonic()
        seen = 0
        while True:
            before = len(self._arrivals)
            self._wait()
            now = time.monotonic()
            if len(self._arrivals) > before:
                progress_at = now
            if len(self._arrivals) >= PAGE:
                page, self._arrivals = self._arrivals, []
                seen += len(page)
                yield page
                progress_at = time.monotonic()
                self._consume()
                continue
            if len(self._arrivals) > before or now - looked_at < (_LOOK_EVERY if seen + before < expected else 0.0):
                continue
            looked_at = now
            got_some = bool(seen or self._arrivals)
            look = self._look()
            if not look.ready and (got_some or look.consumers <= 1):
                # None is left, and who gets jobs is the only one who does; a last look for what was on its way.
                self._wait()
                if self._arrivals:
                    yield self._arrivals
                    self._arrivals = []
                return
            if now - progress_at > PATIENCE:
                if got_some:
                    raise BrokerUnavailable("RabbitMQ stopped handing out failed jobs; nothing is lost, try again")
                raise BrokerUnavailable(SOMEBODY_ELSE)

    def remove(self, browsed: Browsed) -> None:
        """Ack it: it is gone from the failed jobs."""
        with self._link.sending():
            self._channel.basic_ack(browsed.number)

    def keep_alive(self) -> None:
        """Between pages: heartbeats, and acks on their way."""
        self._link.pump()

    def _look(self) -> _Look:
        counts = self._admin.count(self._names.failed)
        return _Look(0, 0) if counts is None else _Look(*counts)

    def _wait_for_others(self) -> None:
        """Whoever browses holds all the jobs, so to us there would seem to be none."""
        until = time.monotonic() + PATIENCE
        while self._look().consumers:
            if time.monotonic() > until:
                raise BrokerUnavailable(SOMEBODY_ELSE)
            self._wait(_LOOK_EVERY)

    def _consume(self) -> None:
        """A fresh tag reads on; what the tags before got stays with us."""
        try:
            with self._link.within(PATIENCE):
                if self._tag:
                    self._channel.basic_cancel(str(self._tag), nowait=True)
                self._tag += 1
                self._channel.send_qos(PAGE)
                self._channel.basic_consume(self._names.failed, consumer_tag=str(self._tag))
        except ChannelError as error:
            if error.reply_code == NOT_FOUND:
                raise BrokerUnavailable(f"{self._names.failed} has just gone; try again") from error
            raise BrokerRefused(f"{self._names.failed}: {describe(error)}") from error

    def _arrived(self, _: str, number: int, routing_key: str, message: Any) -> None:
        self._arrivals.append(Browsed(read_failed(message, routing_key, time.time()), number))


def by_age(page: Sequence[Browsed]) -> list[Browsed]:
    """Oldest failure first."""
    return sorted(page, key=lambda browsed: browsed.job.failed_at)


def sweep(
    browser: Browser, decide: Callable[[FailedJob], Decision], publish: Callable[[Sequence[Requeue]], Receipt]
) -> Sweep:
    """Do with every failed job as ``decide`` says. ``publish`` returns once the successors are confirmed, or not.

    A failed job is acked only after its successor is confirmed; killed in between, it is in both places. Raises
    BrokerUnavailable, after everything else is done, where successors were not confirmed; those jobs stay failed.
    """
    requeued: list[str] = []
    forgotten: list[str] = []
    duplicates: dict[str, str] = {}
    unconfirmed: dict[str, str] = {}
    with browser:
        for page in browser.pages():
            waiting: list[tuple[Browsed, Requeue]] = []
            for browsed in by_age(page):
                match decide(browsed.job):
                    case Keep():
                        pass
                    case Forget():
                        browser.remove(browsed)
                        forgotten.append(browsed.job.id)
                    case Requeue() as requeue:
                        waiting.append((browsed, requeue))
                browser.keep_alive()
            for start in range(0, len(waiting), BATCH):
                batch = waiting[start : start + BATCH]
                receipt = publish([requeue for _, requeue in batch])
                confirmed = set(receipt.confirmed)
                for browsed, requeue in batch:
                    successor = requeue.successor.id
                    if successor in confirmed:
                        browser.remove(browsed)
                        requeued.append(browsed.job.id)
                    elif successor in receipt.duplicates:
                        duplicates[browsed.job.id] = receipt.duplicates[successor]
                    else:
                        unconfirmed[browsed.job.id] = receipt.unconfirmed.get(successor, "not confirmed")
                browser.keep_alive()
    if unconfirmed:
        identity, why = next(iter(unconfirmed.items()))
        raise BrokerUnavailable(f"{len(unconfirmed)} failed jobs could not be requeued, and stay; {identity}: {why}")
    return Sweep(tuple(requeued), tuple(forgotten), duplicates)
