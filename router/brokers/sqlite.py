"""The embedded broker: jobs, failed jobs, workers and, by default, locks in one SQLite file."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from router.brokers import sqlite_rows as rows
from router.brokers.base import (
    PUBLISH_DEADLINE,
    Counts,
    Decision,
    FailedJob,
    Forget,
    Outgoing,
    Receipt,
    Requeue,
    Sweep,
    Topology,
    WorkerState,
    together,
)
from router.brokers.locking import needs_locks, publish_locked
from router.brokers.sqlite_consumer import LEASE, SqliteConsumer
from router.errors import BrokerUnavailable
from router.locks import sqlite as sqlite_locks
from router.locks.base import Claim, Held, Locks, Superseded, Taken
from router.locks.sqlite import SqliteLocks
from router.storage.sqlite import Database, patiently

PAGE_ROWS = 500
PAGE_BYTES = 16 * 1024 * 1024


class SqliteBroker:
    """The contract of `Broker` in the file of ``database``.

    With `SqliteLocks` of the same file, lock and job change in one transaction; another lock store goes through the
    steps of `router.brokers.locking`. ``now`` tells the time in seconds since the epoch.
    """

    def __init__(
        self, database: Database, namespace: str, locks: Locks | None, now: Callable[[], float] = time.time
    ) -> None:
        self.database = database
        self.namespace = namespace
        self._locks = locks
        inside = isinstance(locks, SqliteLocks) and locks.database.same_file(database)
        self._locks_outside = None if inside else locks
        self._now = now

    @property
    def locks(self) -> Locks | None:
        return self._locks

    def declare(self, topology: Topology, *, deadline: float = PUBLISH_DEADLINE) -> None:
        """Makes the file; queues and delays need nothing of their own."""
        patiently(lambda _: self.database.version(), deadline)

    def objections(self, longest: float) -> list[str]:
        """None: jobs may run for as long as they like."""
        return []

    def publish(self, batch: Sequence[Outgoing], *, deadline: float = PUBLISH_DEADLINE) -> Receipt:
        until = time.monotonic() + deadline
        if needs_locks(batch, self._locks) and self._locks_outside is not None:
            return publish_locked(self._locks_outside, batch, lambda admitted: self._publish(admitted, until), deadline)
        return self._publish(batch, until)

    def _publish(self, batch: Sequence[Outgoing], until: float) -> Receipt:
        if not batch:
            return Receipt(())
        try:
            return patiently(lambda wait: self._publish_once(batch, wait), until - time.monotonic())
        except BrokerUnavailable as error:
            return Receipt((), unconfirmed={outgoing.id: str(error) for outgoing in batch})

    def _publish_once(self, batch: Sequence[Outgoing], wait: float) -> Receipt:
        confirmed: dict[str, None] = {}
        duplicates: dict[str, str] = {}
        admitted: list[Outgoing] = []
        with self.database.transaction(wait) as cursor:
            now = self._now()
            for outgoing in batch:
                holder = self._take(cursor, outgoing, now)
                if holder is None:
                    admitted.append(outgoing)
                elif holder != outgoing.id:
                    duplicates[outgoing.id] = holder
                    continue
                confirmed[outgoing.id] = None
            rows.add_jobs(cursor, self.namespace, admitted, now)
        return Receipt(tuple(confirmed), duplicates)

    def _take(self, cursor: sqlite3.Cursor, outgoing: Outgoing, now: float) -> str | None:
        """Take the job's lock if it is in this file; None if it may be queued, else the job that holds the lock: the
        job itself where a later attempt of it is under way."""
        if outgoing.claim is None or self._locks_outside is not None:
            return None
        match sqlite_locks.hold(cursor, outgoing.claim, outgoing.delay + outgoing.lease, now):
            case Held():
                return None
            case Superseded():
                return outgoing.id
            case Taken(holder):
                return holder

    def consumer(self, name: str) -> SqliteConsumer:
        patiently(lambda _: self.database.version(), PUBLISH_DEADLINE)
        return SqliteConsumer(self.database, self.namespace, name, self._locks_outside, self._now)

    def counts(self, queues: Sequence[str], delays: Iterable[float] = ()) -> Counts:
        with self.database.reading() as cursor:
            by_queue = rows.count(cursor, self.namespace, queues, self._now())
        return Counts(
            by_queue,
            delayed=sum(numbers.delayed or 0 for numbers in by_queue.values()),
            failed=sum(numbers.failed or 0 for numbers in by_queue.values()),
        )

    def workers(self) -> list[WorkerState]:
        with self.database.reading() as cursor:
            return rows.live_workers(cursor, self.namespace, self._now() - LEASE)

    def failed(self) -> list[FailedJob]:
        with self.database.reading() as cursor:
            return rows.all_failed(cursor, self.namespace)

    def sweep(self, decide: Callable[[FailedJob], Decision], report: Callable[[Sweep], None] | None = None) -> Sweep:
        """As the contract says, in pages of one transaction each; jobs that fail meanwhile are not asked about."""
        swept: list[Sweep] = []
        with self.database.reading() as cursor:
            newest = rows.newest_failed(cursor)
        after = (float("-inf"), 0)
        while True:
            with self.database.reading() as cursor:
                page = rows.failed_page(cursor, self.namespace, after, newest, PAGE_ROWS, PAGE_BYTES)
            if not page:
                return together(swept)
            row_id, last = page[-1]
            after = (last.failed_at, row_id)
            decisions = [(row_id, failed, decide(failed)) for row_id, failed in page]
            gone = [(row_id, failed.id, each.free) for row_id, failed, each in decisions if isinstance(each, Forget)]
            forgotten = self._forget(gone)
            again = [
                (row_id, failed.id, each.successor) for row_id, failed, each in decisions if isinstance(each, Requeue)
            ]
            moved, held = self._requeue(again)
            swept.append(Sweep(tuple(moved), tuple(forgotten), held))
            if report is not None:
                report(swept[-1])

    def _forget(self, failed: Sequence[tuple[int, str, Claim | None]]) -> list[str]:
        def once(wait: float) -> list[str]:
            gone = []
            with self.database.transaction(wait) as cursor:
                now = self._now()
                for row_id, job, claim in failed:
                    if not rows.remove_failed(cursor, row_id):
                        continue
                    gone.append(job)
                    if claim is not None and self._locks_outside is None:
                        sqlite_locks.free(cursor, claim, now)
            return gone

        if self._locks_outside is not None:
            for _, _, claim in failed:
                if claim is not None:
                    self._locks_outside.free(claim)
        return patiently(once, PUBLISH_DEADLINE) if failed else []

    def restore(self, batch: Sequence[FailedJob], *, deadline: float = PUBLISH_DEADLINE) -> None:
        def once(wait: float) -> None:
            with self.database.transaction(wait) as cursor:
                rows.restore_failed(cursor, self.namespace, batch)

        patiently(once, deadline)

    def _requeue(self, again: Sequence[tuple[int, str, Outgoing]]) -> tuple[list[str], dict[str, str]]:
        """Put successors in the place of failed rows: the ids of those that moved, and of those whose lock is held."""
        if not again:
            return [], {}
        source = {successor.id: (row_id, job) for row_id, job, successor in again}
        batch = [successor for _, _, successor in again]
        moved: list[str] = []

        def move(admitted: Sequence[Outgoing]) -> Receipt:
            receipt = patiently(lambda wait: self._move_once(admitted, source, wait), PUBLISH_DEADLINE)
            moved.extend(source[job][1] for job in receipt.confirmed)
            return receipt

        if needs_locks(batch, self._locks) and self._locks_outside is not None:
            receipt = publish_locked(self._locks_outside, batch, move, PUBLISH_DEADLINE)
        else:
            receipt = move(batch)
        held = {source[job][1]: holder for job, holder in receipt.duplicates.items()}
        for job in receipt.confirmed:
            if source[job][1] not in moved:  # superseded: a later copy of it is under way
                held[source[job][1]] = job
        return moved, held

    def _move_once(self, batch: Sequence[Outgoing], source: Mapping[str, tuple[int, str]], wait: float) -> Receipt:
        moved: list[str] = []
        duplicates: dict[str, str] = {}
        gone: dict[str, str] = {}
        with self.database.transaction(wait) as cursor:
            now = self._now()
            for successor in batch:
                row_id, _ = source[successor.id]
                if not rows.has_failed(cursor, row_id):
                    gone[successor.id] = "somebody else has retried or forgotten it"
                    continue
                holder = self._take(cursor, successor, now)
                if holder is not None:
                    duplicates[successor.id] = holder
                    continue
                rows.remove_failed(cursor, row_id)
                rows.add_jobs(cursor, self.namespace, (successor,), now)
                moved.append(successor.id)
        return Receipt(tuple(moved), duplicates, gone)

    def close(self) -> None:
        self.database.close()
        if self._locks_outside is not None:
            self._locks_outside.close()
