"""A SQLite file that several processes share: connections, transactions, and errors that say how to mend them."""

from __future__ import annotations

import itertools
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from router.errors import BrokerRefused
from router.forks import in_forked_children
from router.storage import schema
from router.storage.errors import DatabaseBusy, explain
from router.storage.forking import gate
from router.storage.mounts import network_file_system

log = logging.getLogger(__name__)

BUSY_TIMEOUT = 0.5
"""Seconds that one call waits for others who write."""

JOURNAL_LIMIT = 64 * 1024 * 1024
OLDEST_SQLITE = (3, 35, 0)
SCHEME = "sqlite:///"

T = TypeVar("T")
Version = tuple[int, int, int]
"""Equal to an earlier one if nobody has written in between; see `Database.version`."""

_serials = itertools.count(1)
_abandoned: list[sqlite3.Connection] = []


class _Connection:
    """One thread's connection. Closed when its thread ends, left alone in a process that isn't its own."""

    def __init__(self, raw: sqlite3.Connection, path: str) -> None:
        self.raw: sqlite3.Connection | None = raw
        self._pid = os.getpid()
        self.cursor = raw.cursor()
        self.serial = next(_serials)
        self.writes = 0
        self.file = _file_id(path)
        self.timeout = BUSY_TIMEOUT

    def is_at(self, path: str) -> bool:
        """Whether ``path`` is still the file that this connection writes to."""
        return self.file is not None and self.file == _file_id(path)

    def wait_at_most(self, seconds: float) -> None:
        if seconds != self.timeout:
            self.cursor.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")
            self.timeout = seconds

    def close(self) -> None:
        raw, self.raw = self.raw, None
        if raw is None:
            return
        if self._pid == os.getpid():
            raw.close()
        else:
            _abandoned.append(raw)

    def __del__(self) -> None:
        self.close()


class Database:
    """The file at ``path``, made with its folders when first needed. Safe to use from many threads and after a fork.

    Each thread has a connection of its own. A file that was deleted or replaced while open is noticed at the next
    call, and opened, or made, anew: nothing is confirmed into a file that nobody else can find. Every method raises
    BrokerRefused for a file that can't be used, and BrokerUnavailable (DatabaseBusy: somebody else is writing).
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(path)
        self._announced = False
        self._renew()
        in_forked_children(self, Database._renew)

    def _renew(self) -> None:
        self._local = threading.local()
        # Threads of one process queue up here, woken at once, instead of sleeping in SQLite's busy handler.
        self._writing = threading.Lock()

    def __repr__(self) -> str:
        return f"Database({self.path!r})"

    def same_file(self, other: Database) -> bool:
        """True if both names lead to one file."""
        return os.path.realpath(self.path) == os.path.realpath(other.path)

    @contextmanager
    def transaction(self, wait: float = BUSY_TIMEOUT) -> Iterator[sqlite3.Cursor]:
        """A write transaction: committed at the end of the block, rolled back on any exception.

        Waits at most ``wait`` seconds for others who write, then raises DatabaseBusy. Not to be nested.
        """
        with gate, self._explained():
            until = time.monotonic() + wait
            if not self._writing.acquire(timeout=wait):
                raise DatabaseBusy(f"{self.path} is busy: other threads of this process are writing to it")
            try:
                connection = self._connection()
                connection.wait_at_most(min(wait, round(max(0.0, until - time.monotonic()), 2)))
                cursor = connection.cursor
                cursor.execute("BEGIN IMMEDIATE")
                try:
                    yield cursor
                    cursor.execute("COMMIT")
                except BaseException:
                    if cursor.connection.in_transaction:
                        cursor.execute("ROLLBACK")
                    raise
                connection.writes += 1
                if not connection.is_at(self.path):
                    raise DatabaseBusy(f"{self.path} was deleted or replaced while it was written to")
            finally:
                self._writing.release()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Cursor]:
        """A consistent look at the file; never waits for those who write."""
        with gate, self._explained():
            connection = self._connection()  # held on to: let go of by another thread's `close`, it would close
            cursor = connection.cursor
            cursor.execute("BEGIN")
            try:
                yield cursor
            finally:
                if cursor.connection.in_transaction:
                    cursor.execute("ROLLBACK")

    def version(self) -> Version:
        """A value that changes whenever anybody, this thread included, has written to the file. Takes microseconds."""
        with gate, self._explained():
            connection = self._connection()
            data = connection.cursor.execute("PRAGMA data_version").fetchone()[0]
            return (connection.serial, data, connection.writes)

    def close(self) -> None:
        """Close the connections of all threads, each as soon as it isn't in use; the next call opens one anew."""
        self._local = threading.local()

    def _connection(self) -> _Connection:
        connection: _Connection | None = getattr(self._local, "connection", None)
        if connection is not None and connection.raw is not None:
            if connection.is_at(self.path):
                return connection
            log.warning("%s was deleted or replaced while it was open; opening it anew", self.path)
            connection.close()
        connection = self._local.connection = self._open()
        return connection

    def _open(self) -> _Connection:
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise BrokerRefused(
                f"this Python's SQLite is {sqlite3.sqlite_version}; {'.'.join(map(str, OLDEST_SQLITE))} is the oldest "
                "that works; use another Python, or another broker"
            )
        _refuse_network(self.path)
        try:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
        except OSError as error:
            raise BrokerRefused(f"the folder of {self.path} can't be made: {error}") from error
        # Not only its own thread touches it: a fork closes it, and the end of the thread.
        raw = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
        try:
            _prepare(raw, self.path)
            connection = _Connection(raw, self.path)
        except BaseException:
            raw.close()
            raise
        gate.opened(connection)
        if not self._announced:
            self._announced = True
            log.info("opened SQLite database %s", self.path)
        return connection

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            explained = explain(error, self.path)
            if explained is None:
                raise
            connection = getattr(self._local, "connection", None)
            if connection is not None and not isinstance(explained, DatabaseBusy):
                connection.close()  # whatever is broken, a fresh start may find it mended
            raise explained from error


def patiently(call: Callable[[float], T], seconds: float) -> T:
    """``call(wait)``, again while it raises DatabaseBusy, for ``seconds`` at most; ``wait`` is for this call."""
    end = time.monotonic() + seconds
    while True:
        try:
            return call(min(BUSY_TIMEOUT, max(0.0, end - time.monotonic())))
        except DatabaseBusy:
            if time.monotonic() >= end:
                raise


def open_database(url: str) -> Database:
    """The database of ``sqlite:////absolute/path`` or ``sqlite:///path/from/the/current/directory``.

    Opens nothing yet. Raises BrokerRefused if ``url`` names no file.
    """
    path = url.removeprefix(SCHEME)
    if path == url or not path:
        raise BrokerRefused(f"{url} names no SQLite file; write sqlite:////absolute/path or sqlite:///relative/path")
    return Database(path)


def _file_id(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _refuse_network(path: str) -> None:
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            mountinfo = file.read()
    except OSError:  # not Linux
        return
    kind = network_file_system(os.path.realpath(path), mountinfo)
    if kind is not None:
        raise BrokerRefused(
            f"{path} is on a network file system ({kind}), where SQLite can't keep jobs safe; "
            "use a local disk, or RabbitMQ"
        )


def _prepare(raw: sqlite3.Connection, path: str) -> None:
    current = schema.is_current(raw, path)
    mode = raw.execute("PRAGMA journal_mode").fetchone()[0]
    if mode != "wal":
        mode = _until_not_busy(lambda: raw.execute("PRAGMA journal_mode = WAL").fetchone()[0])
    if mode != "wal":
        raise BrokerRefused(
            f"{path} can't use SQLite's write-ahead log (its journal mode stays {mode}); use a local disk"
        )
    raw.execute("PRAGMA synchronous = FULL")
    raw.execute("PRAGMA fullfsync = ON")  # without it macOS keeps what was written in the disk's cache
    raw.execute(f"PRAGMA journal_size_limit = {JOURNAL_LIMIT}")
    if current:
        return
    cursor = raw.cursor()
    cursor.execute("BEGIN IMMEDIATE")
    try:
        if not schema.is_current(raw, path):  # another process may have been faster
            schema.create(cursor)
        cursor.execute("COMMIT")
    except BaseException:
        if raw.in_transaction:
            cursor.execute("ROLLBACK")
        raise


def _until_not_busy(call: Callable[[], str]) -> str:
    """Several processes that open a new file at once: SQLite refuses the change of mode without waiting."""
    end = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            return call()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= end:
                raise
            time.sleep(0.005)
