"""The statements of the SQLite broker, one function each, inside a transaction that the caller has begun.

``now`` and all other times are in seconds since the epoch. A tag is (row id, claim number, owner): one hand-out of one
job. The owner is in it since a file that was put back from a copy gives out the other two again, for other jobs.
"""

from __future__ import annotations

import logging
import math
import sqlite3
from collections.abc import Iterable, Sequence

import msgspec

from router.brokers.base import Delivery, FailedJob, Outgoing, QueueCounts, WorkerState

log = logging.getLogger(__name__)

Tag = tuple[int, int, str]

_FAILED_COLUMNS = "job, queue, point, route, reason, error, failed_at, body"
_INTO_FAILED = f"INTO failed (namespace, {_FAILED_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"


def add_jobs(cursor: sqlite3.Cursor, namespace: str, batch: Iterable[Outgoing], now: float) -> None:
    """Queue ``batch`` in its order; a job that is there already stays as it is."""
    cursor.executemany(
        """
        INSERT INTO jobs (namespace, queue, job, point, body, available_at) VALUES (?, ?, ?, ?, ?, ?)
        ON CONFLICT (namespace, job) DO NOTHING
        """,
        [(namespace, out.queue, out.id, out.point, out.body, now + out.delay) for out in batch],
    )


def claimable(cursor: sqlite3.Cursor, namespace: str, queue: str, now: float) -> bool:
    """Whether `claim` would find a job."""
    return (
        cursor.execute(
            """
            SELECT 1 FROM jobs WHERE namespace = ? AND queue = ? AND available_at <= ? AND lease_until <= ? LIMIT 1
            """,
            (namespace, queue, now, now),
        ).fetchone()
        is not None
    )


def next_due(cursor: sqlite3.Cursor, namespace: str, queue: str, now: float) -> float:
    """When the next job of a queue without claimable ones becomes claimable if nobody writes; infinity for never."""
    row = cursor.execute(
        """
        SELECT (SELECT min(available_at) FROM jobs
                WHERE namespace = :namespace AND queue = :queue AND available_at > :now),
               (SELECT min(lease_until) FROM jobs
                WHERE namespace = :namespace AND queue = :queue AND available_at <= :now AND lease_until > :now)
        """,
        {"namespace": namespace, "queue": queue, "now": now},
    ).fetchone()
    return min((time for time in row if time is not None), default=math.inf)


def claim(
    cursor: sqlite3.Cursor,
    namespace: str,
    queue: str,
    limit: int,
    owner: str,
    now: float,
    until: float,
    expired: float,
) -> list[Delivery]:
    """Hand out up to ``limit`` due jobs of ``queue`` to ``owner``, the longest due first; of those that were handed out
    before, only where the lease ran out at ``expired`` or earlier."""
    rows = cursor.execute(
        """
        UPDATE jobs SET lease_until = :until, lease_owner = :owner, claim = claim + 1
        WHERE id IN (
            SELECT id FROM jobs
            WHERE namespace = :namespace AND queue = :queue AND available_at <= :now AND lease_until <= :expired
            ORDER BY available_at, id LIMIT :limit
        )
        RETURNING available_at, id, claim, body
        """,
        {
            "namespace": namespace,
            "queue": queue,
            "limit": limit,
            "owner": owner,
            "now": now,
            "until": until,
            "expired": expired,
        },
    ).fetchall()
    rows.sort(key=lambda row: (row[0], row[1]))  # the order of RETURNING is undefined
    return [Delivery(queue, body, count, (row_id, count, owner)) for _, row_id, count, body in rows]


def is_ours(cursor: sqlite3.Cursor, tag: Tag) -> bool:
    return (
        cursor.execute("SELECT 1 FROM jobs WHERE id = ? AND claim = ? AND lease_owner = ?", tag).fetchone() is not None
    )


def renew(cursor: sqlite3.Cursor, tag: Tag, until: float) -> bool:
    """Lengthen a lease; False if the hand-out is no longer the job's latest. So the next two."""
    cursor.execute("UPDATE jobs SET lease_until = ? WHERE id = ? AND claim = ? AND lease_owner = ?", (until, *tag))
    return cursor.rowcount > 0


def give_back(cursor: sqlite3.Cursor, tag: Tag) -> bool:
    cursor.execute(
        "UPDATE jobs SET lease_until = 0, lease_owner = NULL WHERE id = ? AND claim = ? AND lease_owner = ?", tag
    )
    return cursor.rowcount > 0


def remove(cursor: sqlite3.Cursor, tag: Tag) -> bool:
    cursor.execute("DELETE FROM jobs WHERE id = ? AND claim = ? AND lease_owner = ?", tag)
    return cursor.rowcount > 0


def add_failed(cursor: sqlite3.Cursor, namespace: str, failed: FailedJob) -> None:
    """Keep a failed job; it takes the place of an earlier copy of the same job."""
    cursor.execute(f"INSERT OR REPLACE {_INTO_FAILED}", _failed_values(namespace, failed))


def restore_failed(cursor: sqlite3.Cursor, namespace: str, batch: Iterable[FailedJob]) -> None:
    """Put these among the failed jobs; one that is there already stays as it is."""
    cursor.executemany(f"INSERT OR IGNORE {_INTO_FAILED}", [_failed_values(namespace, failed) for failed in batch])


def _failed_values(namespace: str, failed: FailedJob) -> tuple[object, ...]:
    return (
        namespace,
        failed.id,
        failed.queue,
        failed.point,
        failed.route,
        failed.reason,
        failed.error,
        failed.failed_at,
        failed.body,
    )


def all_failed(cursor: sqlite3.Cursor, namespace: str) -> list[FailedJob]:
    cursor.execute(
        f"SELECT {_FAILED_COLUMNS} FROM failed WHERE namespace = ? ORDER BY failed_at, id",
        (namespace,),
    )
    return [FailedJob(*row) for row in cursor]


def newest_failed(cursor: sqlite3.Cursor) -> int:
    """The highest row id so far."""
    return int(cursor.execute("SELECT coalesce(max(id), 0) FROM failed").fetchone()[0])


def failed_page(
    cursor: sqlite3.Cursor, namespace: str, after: tuple[float, int], newest: int, rows: int, size: int
) -> list[tuple[int, FailedJob]]:
    """The next failed jobs after (failed_at, row id), oldest first: ``rows``, or fewer once they are ``size`` bytes."""
    cursor.execute(
        f"""
        SELECT id, {_FAILED_COLUMNS} FROM failed
        WHERE namespace = ? AND (failed_at, id) > (?, ?) AND id <= ? ORDER BY failed_at, id LIMIT ?
        """,
        (namespace, *after, newest, rows),
    )
    page: list[tuple[int, FailedJob]] = []
    for row_id, *fields in cursor:
        page.append((row_id, FailedJob(*fields)))
        size -= len(page[-1][1].body)
        if size <= 0:
            break
    return page


def remove_failed(cursor: sqlite3.Cursor, row_id: int) -> bool:
    cursor.execute("DELETE FROM failed WHERE id = ?", (row_id,))
    return cursor.rowcount > 0


def has_failed(cursor: sqlite3.Cursor, row_id: int) -> bool:
    return cursor.execute("SELECT 1 FROM failed WHERE id = ?", (row_id,)).fetchone() is not None


def count(cursor: sqlite3.Cursor, namespace: str, queues: Sequence[str], now: float) -> dict[str, QueueCounts]:
    """The numbers of ``queues`` and of every queue that holds something."""
    jobs = cursor.execute(
        """
        SELECT queue,
               sum(available_at <= :now AND lease_until <= :now),
               sum(available_at > :now AND lease_until <= :now),
               sum(lease_until > :now),
               min(iif(available_at <= :now AND lease_until <= :now, available_at, NULL))
        FROM jobs WHERE namespace = :namespace GROUP BY queue
        """,
        {"namespace": namespace, "now": now},
    ).fetchall()
    by_queue = {queue: numbers for queue, *numbers in jobs}
    failed: dict[str, int] = dict(
        cursor.execute("SELECT queue, count(*) FROM failed WHERE namespace = ? GROUP BY queue", (namespace,)).fetchall()
    )
    names = dict.fromkeys([*queues, *sorted(by_queue), *sorted(failed)])
    counts = {}
    for name in names:
        ready, delayed, running, oldest = by_queue.get(name, (0, 0, 0, None))
        counts[name] = QueueCounts(ready, delayed, running, failed.get(name, 0), oldest)
    return counts


def save_worker(cursor: sqlite3.Cursor, namespace: str, state: WorkerState, now: float) -> None:
    cursor.execute(
        "INSERT OR REPLACE INTO workers (namespace, name, state, seen_at) VALUES (?, ?, ?, ?)",
        (namespace, state.name, msgspec.json.encode(state), now),
    )


def remove_worker(cursor: sqlite3.Cursor, namespace: str, name: str) -> None:
    cursor.execute("DELETE FROM workers WHERE namespace = ? AND name = ?", (namespace, name))


def forget_workers(cursor: sqlite3.Cursor, namespace: str, seen_before: float) -> None:
    cursor.execute("DELETE FROM workers WHERE namespace = ? AND seen_at < ?", (namespace, seen_before))


def live_workers(cursor: sqlite3.Cursor, namespace: str, seen_since: float) -> list[WorkerState]:
    cursor.execute(
        "SELECT name, state, seen_at FROM workers WHERE namespace = ? AND seen_at >= ? ORDER BY name",
        (namespace, seen_since),
    )
    found = []
    for name, raw, seen_at in cursor:
        try:
            state = msgspec.json.decode(raw, type=WorkerState)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("worker %s is of another version; what it says of itself can't be read: %s", name, error)
        else:
            found.append(msgspec.structs.replace(state, seen_at=seen_at))
    return found
