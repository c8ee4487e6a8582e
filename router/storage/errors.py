"""What SQLite's errors mean to somebody who has to mend them."""

from __future__ import annotations

import os
import sqlite3

from router.errors import BrokerError, BrokerRefused, BrokerUnavailable


class DatabaseBusy(BrokerUnavailable):
    """Somebody else is writing; nothing was changed, and the same call may succeed in a moment."""


def _is_read_only(path: str) -> bool:
    """Whether the file system of that file is mounted read-only."""
    try:
        return bool(os.statvfs(os.path.dirname(path) or ".").f_flag & os.ST_RDONLY)
    except OSError:
        return False


def explain(error: sqlite3.DatabaseError, path: str) -> BrokerError | None:
    """The router's error for ``error``: what happened, where and how to mend it. None for a mistake of our own."""
    if isinstance(error, (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.NotSupportedError)):
        return None
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    match code:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED | sqlite3.SQLITE_PROTOCOL:
            return DatabaseBusy(f"{path} is busy: another program has been writing to it all the time ({error})")
        case sqlite3.SQLITE_FULL:
            return BrokerUnavailable(f"the disk of {path} is full; make room there")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return BrokerRefused(
                f"{path} can't be written ({error}); the user with id {os.geteuid()} needs write permission for the "
                f"file, for {path}-wal and {path}-shm, and for their folder"
            )
        case sqlite3.SQLITE_CANTOPEN if _is_read_only(path):
            return BrokerRefused(f"{path} is on a read-only file system; name a file that can be written")
        case sqlite3.SQLITE_CANTOPEN:
            return BrokerRefused(
                f"{path} can't be opened ({error}); it must be a file in a folder that the user with id "
                f"{os.geteuid()} may write to"
            )
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            return BrokerRefused(
                f"{path} is not an SQLite database, or is damaged ({error}); name another file, or move this one and "
                f"{path}-wal and {path}-shm away and look into them with the sqlite3 program"
            )
        case sqlite3.SQLITE_IOERR:
            return BrokerUnavailable(f"reading or writing {path} failed ({error}); look at its disk")
        case _:
            return BrokerRefused(f"{path} can't be used: {error}")
