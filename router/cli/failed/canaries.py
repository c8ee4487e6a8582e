"""``router failed retry --canary``: a few first, the others only if those succeed.

RabbitMQ can't be asked what has become of a job. But a job that holds a lock keeps it until it is done, or has failed
for good: so a canary gets one, under a key of its own where it is not unique, or only until it starts. Without a lock
store it counts as done when its queue is empty, nothing of that queue runs and no more is delayed than before it was
sent (it may have been put aside, to be looked at again), for a while.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from router.app.router import Router
from router.brokers.base import FailedJob, Outgoing
from router.cli.failed.selecting import decoded
from router.cli.failed.sweeping import browse
from router.config.settings import AsyncOptions
from router.errors import BrokerUnavailable
from router.jobs.following import headline
from router.jobs.job import Job
from router.jobs.unique import canary_key, is_canary, until_start
from router.locks.base import Locks

LOOK_EVERY = 0.2

LOOK_AGAIN = 1.0
"""Seconds after which one that seems to be done is looked at again: its failed copy may come a moment later."""

NO_WORKER_AFTER = 3.0
"""Seconds after which somebody may have forgotten to start one."""


def as_canary(job: Job, options: AsyncOptions | None, namespace: str, locks: Locks | None) -> Job:
    """The next round of a job, with one attempt, so that it tells soon, and a lock by which it can be watched."""
    attempt = options.max_attempts if options else job.attempt
    lock = job.lock
    if locks is not None and (lock is None or until_start(lock, options)):
        lock = canary_key(namespace, job.job)
    return msgspec.structs.replace(job, attempt=attempt, lock=lock)


def without_mark(job: Job) -> Job:
    """The job as it was before it was a canary."""
    return msgspec.structs.replace(job, lock=None) if is_canary(job.lock) else job


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the canaries, by job id: ``failed`` again and why, or not ``done`` in time."""

    failed: Mapping[str, str]
    waiting: frozenset[str]
    inferred: bool


def delayed(router: Router) -> int:
    """How many jobs of the namespace are delayed."""
    return router.broker.counts([], router.table.waits()).delayed or 0


class Watch:
    """Waits for canaries. ``sent``: as they were published; ``before``: what was `delayed` then; ``left``: what Ctrl-C
    leaves, in words."""

    def __init__(
        self, router: Router, sent: Mapping[str, Outgoing], rounds: Mapping[str, int], before: int, left: str
    ) -> None:
        self._router = router
        self._broker = router.broker
        self._left = left
        self._sent = sent
        self._rounds = rounds
        self._delayed_before = before
        self._gone_since: dict[str, float] = {}

    def until(self, deadline: float, no_worker: Callable[[], None]) -> Verdict:
        """Until each is done, the first has failed again, or it is ``deadline`` (monotonic). ``no_worker`` is called
        where none runs."""
        waiting = set(self._sent)
        look_for_workers: float | None = min(time.monotonic() + NO_WORKER_AFTER, deadline)
        inferred = self._broker.locks is None
        while True:
            done = self._done(waiting)
            if done:
                failed = self._failed(waiting)
                waiting -= done
                if failed or not waiting:
                    return Verdict(failed, frozenset(waiting - failed.keys()), inferred)
            if look_for_workers is not None and time.monotonic() >= look_for_workers:
                look_for_workers = None
                with suppress(BrokerUnavailable):  # under a memory alarm nobody can tell
                    if not self._broker.workers():
                        no_worker()
            if time.monotonic() >= deadline:
                failed = self._failed(waiting)
                return Verdict(failed, frozenset(waiting - failed.keys()), inferred)
            time.sleep(LOOK_EVERY)

    def _done(self, waiting: set[str]) -> set[str]:
        """Those that are neither queued nor running any more, for `LOOK_AGAIN` now."""
        now = time.monotonic()
        locks = self._broker.locks
        gone = self._unlocked(waiting, locks) if locks is not None else self._drained(waiting)
        self._gone_since = {job: self._gone_since.get(job, now) for job in gone}
        return {job for job, since in self._gone_since.items() if now - since >= LOOK_AGAIN}

    def _unlocked(self, waiting: set[str], locks: Locks) -> set[str]:
        gone = set()
        for job in waiting:
            claim = self._sent[job].claim
            holder = locks.holder(claim.key) if claim is not None else None
            if holder is None or holder.job != job:
                gone.add(job)
        return gone

    def _drained(self, waiting: set[str]) -> set[str]:
        if delayed(self._router) > self._delayed_before:
            return set()
        queues = {self._sent[job].queue for job in waiting}
        counts = self._broker.counts(sorted(queues)).queues
        busy = {queue for state in self._broker.workers() for queue, *_ in state.running}
        idle = {queue for queue in queues - busy if not counts[queue].ready}
        return {job for job in waiting if self._sent[job].queue in idle}

    def _failed(self, waiting: set[str]) -> dict[str, str]:
        """Which have failed again, and why."""
        found: dict[str, str] = {}

        def visit(failed: FailedJob) -> None:
            if failed.id in waiting:
                job = decoded(failed)
                if job is not None and job.round >= self._rounds[failed.id]:
                    found[failed.id] = headline(failed.error)

        browse(self._broker, visit, self._left)
        return found


def lengthened(outgoing: Outgoing, within: float) -> Outgoing:
    """With a lock that doesn't run out while it is watched."""
    if outgoing.claim is None:
        return outgoing
    return msgspec.structs.replace(outgoing, lease=max(outgoing.lease, within + 60.0))
