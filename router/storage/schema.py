"""The tables of a router database, and whether a file is one.

One schema serves broker and lock store, so that any file can be both. ``PRAGMA application_id`` marks our files,
``PRAGMA user_version`` counts the versions of the schema.
"""

from __future__ import annotations

import sqlite3
import time

from router.errors import BrokerRefused

APPLICATION_ID = 0x526F7574  # "Rout"
SCHEMA_VERSION = 1

TABLES = (
    # AUTOINCREMENT: an id that is never used twice makes (id, claim) a name for one hand-out, for ever.
    """
    CREATE TABLE jobs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        namespace TEXT NOT NULL,
        queue TEXT NOT NULL,
        job TEXT NOT NULL,
        point TEXT NOT NULL,
        body BLOB NOT NULL,
        available_at REAL NOT NULL,
        lease_until REAL NOT NULL DEFAULT 0,  -- 0: handed out to nobody
        lease_owner TEXT,
        claim INTEGER NOT NULL DEFAULT 0      -- how often it has been handed out
    )
    """,
    "CREATE UNIQUE INDEX jobs_by_job ON jobs (namespace, job)",
    "CREATE INDEX jobs_by_due ON jobs (namespace, queue, available_at, id, lease_until)",
    """
    CREATE TABLE failed (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        namespace TEXT NOT NULL,
        queue TEXT NOT NULL,
        job TEXT NOT NULL,
        point TEXT NOT NULL,
        route TEXT NOT NULL,
        reason TEXT NOT NULL,
        error TEXT NOT NULL,
        failed_at REAL NOT NULL,
        body BLOB NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX failed_by_job ON failed (namespace, job)",
    "CREATE INDEX failed_by_time ON failed (namespace, failed_at, id)",
    """
    CREATE TABLE locks (
        key TEXT PRIMARY KEY,
        job TEXT NOT NULL,
        round INTEGER NOT NULL,
        attempt INTEGER NOT NULL,
        expires_at REAL NOT NULL
    ) WITHOUT ROWID
    """,
    "CREATE INDEX locks_by_expiry ON locks (expires_at)",
    """
    CREATE TABLE workers (
        namespace TEXT NOT NULL,
        name TEXT NOT NULL,
        state BLOB NOT NULL,
        seen_at REAL NOT NULL,
        PRIMARY KEY (namespace, name)
    ) WITHOUT ROWID
    """,
)


def is_current(connection: sqlite3.Connection, path: str) -> bool:
    """True if the file has this version's tables, False if it is empty.

    Raises BrokerRefused for a file of a newer version and for another program's database.
    """
    # The mark comes last: whoever makes the rest makes it in the same transaction, so that it is there by then.
    tables = connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if application == APPLICATION_ID:
        if version > SCHEMA_VERSION:
            raise BrokerRefused(
                f"{path} was made by a newer version of the router (schema {version}, this one knows "
                f"{SCHEMA_VERSION}); update this installation, or name another file"
            )
        return True
    if application or version or tables:
        raise BrokerRefused(f"{path} is another program's database; name a file of its own for the router")
    return False


def create(cursor: sqlite3.Cursor) -> None:
    """Make the tables; ``cursor`` is inside a transaction on an empty file."""
    for statement in TABLES:
        cursor.execute(statement)
    # A file that takes the place of a deleted one must not repeat its ids: a worker may still hold some of those.
    cursor.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('jobs', ?)", (time.time_ns() // 1000,))
    cursor.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    cursor.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
