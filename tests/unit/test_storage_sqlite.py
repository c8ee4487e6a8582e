"""The database file: opening, refusing, threads, forks, and errors that say how to mend them."""

from __future__ import annotations

import gc
import logging
import os
import sqlite3
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from router.errors import BrokerRefused, BrokerUnavailable
from router.storage import forking, schema, sqlite
from router.storage.errors import DatabaseBusy, explain
from router.storage.sqlite import Database, open_database, patiently


def write(database: Database, key: str = "k", wait: float = 0.5) -> None:
    with database.transaction(wait) as cursor:
        cursor.execute("INSERT OR REPLACE INTO locks VALUES (?, 'j', 1, 1, 1)", (key,))


def keys(database: Database) -> list[str]:
    with database.reading() as cursor:
        return [key for (key,) in cursor.execute("SELECT key FROM locks ORDER BY key")]


def test_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_database("sqlite:////var/router.db").path == "/var/router.db"
    assert open_database("sqlite:///var/router.db").path == str(tmp_path / "var" / "router.db")
    for bad in ("sqlite:///", "sqlite://x", "redis://x", "router.db"):
        with pytest.raises(BrokerRefused, match="sqlite:///"):
            open_database(bad)


def test_makes_folders_and_says_once_where(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "router")
    database = Database(tmp_path / "var" / "deep" / "router.db")
    write(database)
    database.close()
    write(database)
    assert [record.getMessage() for record in caplog.records] == [f"opened SQLite database {database.path}"]


def test_is_as_safe_as_it_promises(tmp_path: Path) -> None:
    with Database(tmp_path / "x.db").reading() as cursor:
        assert cursor.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert cursor.execute("PRAGMA synchronous").fetchone() == (2,)
        assert cursor.execute("PRAGMA busy_timeout").fetchone() == (500,)


def test_commit_and_rollback(tmp_path: Path) -> None:
    database = Database(tmp_path / "x.db")
    write(database, "kept")
    with pytest.raises(sqlite3.IntegrityError), database.transaction() as cursor:
        cursor.executemany("INSERT INTO locks VALUES (?, 'j', 1, 1, 1)", [("gone",), (None,)])
    assert keys(database) == ["kept"]


def test_version_changes_with_every_write_of_anybody(tmp_path: Path) -> None:
    one, two = Database(tmp_path / "x.db"), Database(tmp_path / "x.db")
    seen = [one.version()]
    assert one.version() == seen[0]
    for writer in (one, two, one):
        write(writer)
        assert one.version() not in seen
        seen.append(one.version())
    assert one.version() == seen[-1]


def test_many_open_a_new_file_at_once(tmp_path: Path) -> None:
    start = threading.Barrier(8)
    errors: list[BaseException] = []

    def go(number: int) -> None:
        database = Database(tmp_path / "x.db")
        start.wait(10)
        try:
            patiently(lambda wait: write(database, str(number), wait), 20)
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=go, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not errors
    assert keys(Database(tmp_path / "x.db")) == [str(n) for n in range(8)]


@pytest.mark.parametrize("step", range(3))
def test_a_file_that_another_makes_at_this_moment_is_no_strangers(tmp_path: Path, step: int) -> None:
    """The tables appear between two looks at it."""
    path = tmp_path / "x.db"
    ours = sqlite3.connect(path, isolation_level=None)
    looks: list[str] = []

    def execute(statement: str) -> sqlite3.Cursor:
        if len(looks) == step:
            write(Database(path))
        looks.append(statement)
        return ours.execute(statement)

    schema.is_current(SimpleNamespace(execute=execute), str(path))  # type: ignore[arg-type]
    assert schema.is_current(ours, str(path)) is True
    ours.close()


def test_connections_of_ended_threads_are_closed(tmp_path: Path) -> None:
    database = Database(tmp_path / "x.db")
    write(database)
    open_files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    if open_files is None:
        pytest.skip("no /proc")
    for _ in range(20):
        thread = threading.Thread(target=write, args=(database,))
        thread.start()
        thread.join(10)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= open_files + 2


def test_close_reaches_every_thread_and_opens_anew(tmp_path: Path) -> None:
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("no /proc")
    database = Database(tmp_path / "x.db")
    wrote, go_on = threading.Event(), threading.Event()

    def other() -> None:
        write(database, "a")
        wrote.set()
        go_on.wait(10)
        write(database, "b")

    thread = threading.Thread(target=other)
    thread.start()
    wrote.wait(10)
    write(database, "c")
    database.close()
    assert not [fd for fd in os.listdir("/proc/self/fd") if _target(fd).startswith(database.path)]
    go_on.set()
    thread.join(10)
    assert keys(database) == ["a", "b", "c"]


def test_close_waits_for_what_another_thread_reads(tmp_path: Path) -> None:
    database = Database(tmp_path / "x.db")
    write(database, "a")
    reads, closed = threading.Event(), threading.Event()

    def other() -> list[str]:
        with database.reading() as cursor:
            reads.set()
            closed.wait(10)
            return [row[0] for row in cursor.execute("SELECT key FROM locks")]

    with ThreadPoolExecutor(1) as threads:
        read = threads.submit(other)
        reads.wait(10)
        database.close()
        closed.set()
        assert read.result(10) == ["a"]


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def test_waits_for_a_writer_as_long_as_told(tmp_path: Path) -> None:
    database = Database(tmp_path / "x.db")
    write(database)
    other = sqlite3.connect(database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseBusy, match=r"x\.db is busy"):
        write(database, wait=0.05)
    tries = []

    def call(wait: float) -> None:
        tries.append(wait)
        if len(tries) == 2:
            other.execute("ROLLBACK")
        write(database, wait=min(wait, 0.05))

    patiently(call, 10)
    assert len(tries) == 2
    assert keys(database) == ["k"]


def test_the_transaction_of_another_thread_is_waited_for(tmp_path: Path) -> None:
    database = Database(tmp_path / "x.db")
    inside, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with database.transaction():
            inside.set()
            go_on.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(10)
    with pytest.raises(DatabaseBusy, match="busy"):
        write(database, wait=0.05)
    go_on.set()
    write(database, wait=5)
    thread.join(10)


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    database = Database(tmp_path / "x.db")
    write(database)
    with database.transaction() as cursor:
        cursor.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION + 1}")
    with pytest.raises(BrokerRefused, match="newer version"):
        write(Database(database.path))


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE theirs (x)")
    other.commit()
    other.close()
    before = path.read_bytes()
    with pytest.raises(BrokerRefused, match="another program's"):
        write(Database(path))
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"plain text, not a database " * 50, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(content)
    with pytest.raises(BrokerRefused, match=rf"{path}"):
        write(Database(path))
    assert path.read_bytes() == content


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BrokerRefused, match=f"{tmp_path} can't be opened"):
        write(Database(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(BrokerRefused, match=r"folder of .* can't be made"):
        write(Database(tmp_path / "file" / "x.db"))


def test_an_old_sqlite_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(BrokerRefused, match=r"3\.35\.0 is the oldest"):
        write(Database(tmp_path / "x.db"))


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "network_file_system", lambda path, mountinfo: "nfs4")
    if not os.path.exists("/proc/self/mountinfo"):
        pytest.skip("Linux only")
    with pytest.raises(BrokerRefused, match="nfs4"):
        write(Database(tmp_path / "x.db"))
    assert not (tmp_path / "x.db").exists()


def _error(code: int, kind: type[sqlite3.DatabaseError] = sqlite3.OperationalError) -> sqlite3.DatabaseError:
    error = kind("words of SQLite")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (sqlite3.SQLITE_BUSY, DatabaseBusy, "busy"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, DatabaseBusy, "busy"),
        (sqlite3.SQLITE_LOCKED, DatabaseBusy, "busy"),
        (sqlite3.SQLITE_FULL, BrokerUnavailable, "make room"),
        (sqlite3.SQLITE_IOERR_FSYNC, BrokerUnavailable, "look at its disk"),
        (sqlite3.SQLITE_READONLY_DIRECTORY, BrokerRefused, "write permission"),
        (sqlite3.SQLITE_CANTOPEN, BrokerRefused, "folder"),
        (sqlite3.SQLITE_CORRUPT, BrokerRefused, "damaged"),
        (sqlite3.SQLITE_NOTADB, BrokerRefused, "not an SQLite database"),
        (sqlite3.SQLITE_ERROR, BrokerRefused, "words of SQLite"),
    ],
)
def test_errors_say_what_where_and_how_to_mend(code: int, kind: type[Exception], words: str) -> None:
    explained = explain(_error(code), "/var/router.db")
    assert type(explained) is kind
    assert "/var/router.db" in str(explained)
    assert words in str(explained)


def test_our_own_mistakes_are_not_explained_away(tmp_path: Path) -> None:
    assert explain(_error(sqlite3.SQLITE_CONSTRAINT, sqlite3.IntegrityError), "/x") is None
    database = Database(tmp_path / "x.db")
    with pytest.raises(sqlite3.IntegrityError), database.transaction() as cursor:
        cursor.execute("INSERT INTO locks VALUES (NULL, NULL, NULL, NULL, NULL)")
    write(database)


def test_a_deleted_file_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    database = Database(tmp_path / "x.db")
    write(database, "old")
    for suffix in ("", "-wal", "-shm"):
        os.unlink(database.path + suffix)
    write(database, "new")
    assert keys(Database(database.path)) == ["new"]
    assert "deleted or replaced" in caplog.text


def test_a_file_deleted_during_a_transaction_is_not_a_success(tmp_path: Path) -> None:
    database = Database(tmp_path / "x.db")
    write(database)
    with pytest.raises(DatabaseBusy, match="deleted or replaced"), database.transaction():
        os.unlink(database.path)


def test_no_connection_is_open_at_a_fork(tmp_path: Path) -> None:
    database = Database(tmp_path / "x.db")
    write(database, "parent")
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        inherited = [fd for fd in os.listdir("/dev/fd") if _target(fd).startswith(database.path)]
        try:
            write(database, "child")
            os.write(writer, b"none" if not inherited else b"some")
        finally:
            os._exit(0)
    os.close(writer)
    assert os.read(reader, 10) == b"none"
    os.close(reader)
    os.waitpid(pid, 0)
    write(database, "parent again")
    assert keys(database) == ["child", "parent", "parent again"]


def test_a_fork_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that stays in a transaction: its connection is left alone in the child, never closed there."""
    monkeypatch.setattr(forking, "FORK_PATIENCE", 0.1)
    database = Database(tmp_path / "x.db")
    inside, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with database.transaction() as cursor:
            cursor.execute("INSERT INTO locks VALUES ('held', 'j', 1, 1, 1)")
            inside.set()
            go_on.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(10)
    pid = os.fork()
    if pid == 0:
        gc.collect()
        os._exit(0)
    os.waitpid(pid, 0)
    go_on.set()
    thread.join(10)
    assert keys(database) == ["held"]


def test_threads_that_all_come_first_after_a_fork_do_not_trip_over_each_other(tmp_path: Path) -> None:
    """As in a server whose first requests come all at once: one of them failed with "release unlocked lock"."""
    database = Database(tmp_path / "x.db")
    write(database)
    for _ in range(30):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = len(_failures_of_threads(database))
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _failures_of_threads(database: Database) -> list[BaseException]:
    sys.setswitchinterval(1e-6)
    together = threading.Barrier(8)

    def first_call() -> None:
        together.wait(10)
        write(database, wait=10)

    with ThreadPoolExecutor(8) as threads:
        calls = [threads.submit(first_call) for _ in range(8)]
    return [failure for call in calls if (failure := call.exception()) is not None]
