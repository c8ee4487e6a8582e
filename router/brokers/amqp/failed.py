"""Reading the queue of failed jobs on plain RabbitMQ: take everything without acking, and close the channel.

Closing gives back what was not acked, in the same order, so nothing is lost wherever the process is killed. Two who do
this would each see a part: an exclusive queue, which goes with its connection, says that somebody is at it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

from amqp.exceptions import ChannelError

from router.brokers.amqp.declare import LOCKED, NOT_FOUND, Admin
from router.brokers.amqp.link import Link, LinkDown, describe
from router.brokers.amqp.messages import read_failed
from router.brokers.amqp.names import Names
from router.brokers.amqp.wire import Channel
from router.brokers.base import Decision, FailedJob, Forget, Receipt, Requeue, Sweep, together
from router.errors import BrokerRefused, BrokerUnavailable
from router.locks.base import Claim

log = logging.getLogger(__name__)

PAGE = 2_000
"""Jobs in memory at a time, held by a channel of their own: for each ack RabbitMQ searches what its channel holds."""

BATCH = 500
"""Failed jobs that are decided about, and requeued, together."""

PATIENCE = 10.0
"""Seconds without a job although some are there."""

OTHERS = 60.0
"""Seconds for which somebody else who browses is waited for."""

CLOSE_SECONDS = 10.0
"""How long RabbitMQ may take to carry out the last acks."""

TOLD_AFTER = 1.5
"""Seconds of that after which it is told."""

_LOOK_EVERY = 0.1
_HEARTBEAT_EVERY = 0.1
_TAG = "browser"

BROWSING = "someone is browsing the failed jobs of this namespace"


@dataclass(frozen=True, slots=True)
class _Look:
    """Ready jobs, and consumers, those included that were cancelled but hold jobs."""

    ready: int
    consumers: int


@dataclass(frozen=True, slots=True)
class Browsed:
    """A failed job and how to ack it."""

    job: FailedJob
    channel: Channel
    number: int


class Browser:
    """Holds the failed jobs while it is open; a context manager. Raises BrokerUnavailable and BrokerRefused."""

    def __init__(self, link: Link, names: Names) -> None:
        self._link = link
        self._names = names
        self._admin = Admin(link)
        self._channels: list[Channel] = []
        self._arrivals: list[Browsed] = []
        self._ours = False
        self._removed = False

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._give_back()
        except (LinkDown, ChannelError, BrokerRefused) as problem:
            if self._removed:
                log.warning("failed jobs that were retried or forgotten just now may be there still: %s", problem)
        finally:
            self._link.close()

    def _give_back(self) -> None:
        """What is kept goes back, and every ack is carried out.

        RabbitMQ forgets acks that come just before the end of a channel: beyond 32 that its queue hasn't carried out
        yet it puts them aside. But a cancelled consumer counts until all that it held is acked or back.
        """
        with self._link.sending():
            for channel in self._channels:
                channel.basic_cancel(_TAG, nowait=True)  # the last one may be consuming still, and would get all again
                channel.nack(0, multiple=True)
        until = time.monotonic() + CLOSE_SECONDS
        while self._channels and self._look().consumers:
            if time.monotonic() > until:
                raise LinkDown(f"RabbitMQ did not say so within {CLOSE_SECONDS:g} s")
            self._wait(0.01)

    def _wait(self, seconds: float = 0.02) -> None:
        with self._explained():
            self._link.wait(time.monotonic() + seconds)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except ChannelError as error:
            raise BrokerRefused(f"{self._names.failed} can't be browsed: {describe(error)}") from error

    def pages(self) -> Iterator[list[Browsed]]:
        """Every job that is a failed one now, in lists of at most `PAGE`. All stay held until the browser is closed."""
        self._wait_for_others()
        missing = self._look().ready
        while missing > 0:
            page = self._page(min(missing, PAGE))
            missing -= len(page)
            yield page

    def _page(self, wanted: int) -> list[Browsed]:
        """The next so many. They hold their channel; the one after them is for those that come then."""
        channel = self._consume(wanted)
        progress_at = time.monotonic()
        while len(self._arrivals) < wanted:
            before = len(self._arrivals)
            self._wait()
            # That none is ready any more wouldn't say that all have come: what was sent may take its time.
            if len(self._arrivals) > before:
                progress_at = time.monotonic()
            elif time.monotonic() - progress_at > PATIENCE:
                raise BrokerUnavailable("RabbitMQ stopped handing out failed jobs; nothing is lost, try again")
        with self._link.sending():
            channel.basic_cancel(_TAG, nowait=True)
        page, self._arrivals = self._arrivals, []
        return page

    def remove(self, browsed: Browsed) -> None:
        """Ack it: it is gone from the failed jobs, by the end of the browser at the latest."""
        self._removed = True
        with self._link.sending():
            browsed.channel.basic_ack(browsed.number)

    def keep_alive(self) -> None:
        """Heartbeats, and acks on their way."""
        with self._explained():
            self._link.pump()

    def _look(self) -> _Look:
        counts = self._admin.count(self._names.failed)
        return _Look(0, 0) if counts is None else _Look(*counts)

    def _wait_for_others(self) -> None:
        """Whoever browses holds all the jobs, so to us there would seem to be none."""
        began, told = time.monotonic(), False
        while not self._alone():
            waited = time.monotonic() - began
            if waited > OTHERS:
                raise BrokerUnavailable(f"{BROWSING}, for more than {OTHERS:g} s; try again when they have finished")
            if waited > TOLD_AFTER and not told:
                log.warning("%s; waiting, for %g s at most", BROWSING, OTHERS)
                told = True
            self._wait(_LOOK_EVERY)

    def _alone(self) -> bool:
        """Whether nobody else browses, from now on. Jobs that another one held may be on their way back yet."""
        if not self._ours:
            try:
                self._admin.ask(lambda channel: channel.queue_declare(self._names.browsing, exclusive=True))
            except ChannelError as error:
                if error.reply_code == LOCKED:
                    return False
                raise BrokerRefused(f"{self._names.browsing}: {describe(error)}") from error
            self._ours = True
        return not self._look().consumers

    def _consume(self, count: int) -> Channel:
        channel = self._link.channel()
        channel.on_deliver = partial(self._arrived, channel)
        try:
            with self._link.within(PATIENCE):
                channel.send_qos(count)
                channel.basic_consume(self._names.failed, consumer_tag=_TAG)
        except ChannelError as error:
            if error.reply_code == NOT_FOUND:
                raise BrokerUnavailable(f"{self._names.failed} has just gone; try again") from error
            raise BrokerRefused(f"{self._names.failed}: {describe(error)}") from error
        self._channels.append(channel)
        return channel

    def _arrived(self, channel: Channel, _: str, number: int, routing_key: str, message: Any) -> None:
        self._arrivals.append(Browsed(read_failed(message, routing_key, time.time()), channel, number))


def by_age(page: Sequence[Browsed]) -> list[Browsed]:
    """Oldest failure first."""
    return sorted(page, key=lambda browsed: browsed.job.failed_at)


class Sweeper:
    """Does with failed jobs as ``decide`` says. ``publish`` returns once the successors are confirmed, or not; it runs
    in a thread, since it may take longer than a heartbeat.

    A failed job is acked only after its successor is confirmed; killed in between, it is in both places.
    """

    def __init__(
        self,
        browser: Browser,
        decide: Callable[[FailedJob], Decision],
        publish: Callable[[Sequence[Requeue]], Receipt],
        free: Callable[[Claim], object],
    ) -> None:
        self._browser = browser
        self._decide = decide
        self._publish = publish
        self._free = free
        self._aside: ThreadPoolExecutor
        self._unconfirmed: dict[str, str] = {}

    def run(self, report: Callable[[Sweep], None] | None) -> Sweep:
        """Every failed job, `BATCH` at a time. Raises BrokerUnavailable, after everything else is done, where
        successors were not confirmed; those jobs stay failed."""
        steps: list[Sweep] = []
        with self._browser, ThreadPoolExecutor(1, "router-amqp-requeue") as self._aside:
            for page in self._browser.pages():
                page = by_age(page)
                for start in range(0, len(page), BATCH):
                    steps.append(self._step(page[start : start + BATCH]))
                    if report is not None:
                        report(steps[-1])
        if self._unconfirmed:
            identity, why = next(iter(self._unconfirmed.items()))
            count = len(self._unconfirmed)
            raise BrokerUnavailable(f"{count} failed jobs could not be requeued, and stay; {identity}: {why}")
        return together(steps)

    def _step(self, batch: Sequence[Browsed]) -> Sweep:
        decisions = []
        for browsed in batch:
            decisions.append((browsed, self._decide(browsed.job)))
            self._browser.keep_alive()
        forgotten = []
        for browsed, decision in decisions:
            if isinstance(decision, Forget):
                if decision.free is not None:
                    self._free(decision.free)
                    self._browser.keep_alive()
                self._browser.remove(browsed)
                forgotten.append(browsed.job.id)
        again = [(browsed, decision) for browsed, decision in decisions if isinstance(decision, Requeue)]
        requeued, duplicates = self._requeue(again) if again else ((), {})
        self._browser.keep_alive()
        return Sweep(tuple(requeued), tuple(forgotten), duplicates)

    def _requeue(self, again: Sequence[tuple[Browsed, Requeue]]) -> tuple[Sequence[str], dict[str, str]]:
        receipt = self._publish_aside([requeue for _, requeue in again])
        confirmed = set(receipt.confirmed)
        requeued: list[str] = []
        duplicates: dict[str, str] = {}
        for browsed, requeue in again:
            successor = requeue.successor.id
            if successor in confirmed:
                self._browser.remove(browsed)
                requeued.append(browsed.job.id)
            elif successor in receipt.duplicates:
                duplicates[browsed.job.id] = receipt.duplicates[successor]
            else:
                self._unconfirmed[browsed.job.id] = receipt.unconfirmed.get(successor, "not confirmed")
        return requeued, duplicates

    def _publish_aside(self, requeues: Sequence[Requeue]) -> Receipt:
        published = self._aside.submit(self._publish, requeues)
        while not wait([published], _HEARTBEAT_EVERY).done:
            self._browser.keep_alive()
        return published.result()
