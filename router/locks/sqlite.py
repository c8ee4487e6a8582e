"""Locks of unique jobs in a SQLite file, for the processes of one host.

The functions work inside a transaction that their caller has begun, so that a broker in the same file changes lock and
job in one; `SqliteLocks` gives each a transaction of its own. ``now`` is in seconds since the epoch.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from router.errors import BrokerError, LocksUnavailable
from router.locks.base import Claim, Held, Lease, Superseded, Taken, Verdict
from router.storage.sqlite import Database


def hold(cursor: sqlite3.Cursor, claim: Claim, lease: float, now: float) -> Verdict:
    """`Locks.hold` inside the transaction of ``cursor``."""
    cursor.execute("DELETE FROM locks WHERE expires_at <= ?", (now,))
    row = cursor.execute("SELECT job, round, attempt FROM locks WHERE key = ?", (claim.key,)).fetchone()
    if row is not None and row[0] != claim.job:
        return Taken(row[0])
    if row is not None and (row[1], row[2]) > (claim.round, claim.attempt):
        return Superseded()
    cursor.execute(
        "INSERT OR REPLACE INTO locks (key, job, round, attempt, expires_at) VALUES (?, ?, ?, ?, ?)",
        (claim.key, claim.job, claim.round, claim.attempt, now + lease),
    )
    return Held()


def extend(cursor: sqlite3.Cursor, claim: Claim, lease: float, now: float) -> bool:
    """`Locks.extend` inside the transaction of ``cursor``."""
    cursor.execute(
        """
        UPDATE locks SET round = :round, attempt = :attempt, expires_at = :expires_at
        WHERE key = :key AND job = :job AND (round, attempt) <= (:round, :attempt) AND expires_at > :now
        """,
        {**_parameters(claim), "expires_at": now + lease, "now": now},
    )
    return cursor.rowcount > 0


def free(cursor: sqlite3.Cursor, claim: Claim, now: float) -> bool:
    """`Locks.free` inside the transaction of ``cursor``."""
    cursor.execute(
        """
        DELETE FROM locks
        WHERE key = :key AND job = :job AND (round, attempt) <= (:round, :attempt) AND expires_at > :now
        """,
        {**_parameters(claim), "now": now},
    )
    return cursor.rowcount > 0


def holder(cursor: sqlite3.Cursor, key: str, now: float) -> Claim | None:
    """`Locks.holder` inside the transaction of ``cursor``."""
    row = cursor.execute(
        "SELECT key, job, round, attempt FROM locks WHERE key = ? AND expires_at > ?", (key, now)
    ).fetchone()
    return None if row is None else Claim(*row)


def held(cursor: sqlite3.Cursor, prefix: str, now: float) -> list[Lease]:
    """`Locks.held` inside the transaction of ``cursor``."""
    rows = cursor.execute(
        """
        SELECT key, job, round, attempt, expires_at FROM locks
        WHERE substr(key, 1, length(:prefix)) = :prefix AND expires_at > :now ORDER BY key
        """,
        {"prefix": prefix, "now": now},
    )
    return [Lease(Claim(key, job, round_, attempt), expires_at - now) for key, job, round_, attempt, expires_at in rows]


def _parameters(claim: Claim) -> dict[str, object]:
    return {"key": claim.key, "job": claim.job, "round": claim.round, "attempt": claim.attempt}


class SqliteLocks:
    """The contract of `Locks` in the file of ``database``. A call waits at most 0.5 s for others who write."""

    def __init__(self, database: Database, now: Callable[[], float] = time.time) -> None:
        self.database = database
        self._now = now

    def hold(self, claim: Claim, lease: float) -> Verdict:
        return self.hold_many([claim], lease)[0]

    def hold_many(self, claims: Sequence[Claim], lease: float) -> list[Verdict]:
        with _locks_unavailable(), self.database.transaction() as cursor:
            return [hold(cursor, claim, lease, self._now()) for claim in claims]

    def extend(self, claim: Claim, lease: float) -> bool:
        return self.extend_many([(claim, lease)])[0]

    def extend_many(self, claims: Sequence[tuple[Claim, float]]) -> list[bool]:
        with _locks_unavailable(), self.database.transaction() as cursor:
            return [extend(cursor, claim, lease, self._now()) for claim, lease in claims]

    def free(self, claim: Claim) -> bool:
        return self.free_many([claim])[0]

    def free_many(self, claims: Sequence[Claim]) -> list[bool]:
        with _locks_unavailable(), self.database.transaction() as cursor:
            return [free(cursor, claim, self._now()) for claim in claims]

    def holder(self, key: str) -> Claim | None:
        with _locks_unavailable(), self.database.reading() as cursor:
            return holder(cursor, key, self._now())

    def held(self, prefix: str) -> list[Lease]:
        with _locks_unavailable(), self.database.reading() as cursor:
            return held(cursor, prefix, self._now())

    def close(self) -> None:
        self.database.close()


@contextmanager
def _locks_unavailable() -> Iterator[None]:
    try:
        yield
    except BrokerError as error:
        raise LocksUnavailable(f"the lock store is out of reach: {error}") from error
