"""What the SQLite broker promises beyond the contract: one transaction, busy files, deleted files."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from broker_harness import Clock, failed, ids, job, settled, take, worker_state

from router.brokers import connect, sqlite_rows
from router.brokers.amqp import AmqpBroker
from router.brokers.base import Broker, Bury, Done, FailedJob, Forget, Forward, Requeue, Return
from router.brokers.memory import MemoryBroker
from router.brokers.sqlite import SqliteBroker
from router.errors import BrokerRefused, BrokerUnavailable
from router.locks.redis import RedisLocks
from router.locks.sqlite import SqliteLocks
from router.storage.sqlite import Database

ROOM = {"a": 100}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "router.db"


@pytest.fixture
def broker(path: Path) -> SqliteBroker:
    database = Database(path)
    return SqliteBroker(database, "test", SqliteLocks(database))


@contextmanager
def busy(path: Path) -> Iterator[None]:
    """Somebody else holds the file's write lock."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def test_a_busy_file_delays_settlements_and_loses_none(
    broker: SqliteBroker, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outs = [job(key=f"key-{n}") for n in range(4)]
    broker.publish(outs)
    consumer = broker.consumer("w")
    deliveries = take(consumer, ROOM, 4)
    with busy(path):
        with within(0.9):
            consumer.settle([Done(deliveries[0], free=outs[0].claim)])
        with within(0.9):
            consumer.settle(
                [
                    Forward(deliveries[1], job(id=outs[1].id, key="key-1", attempt=2)),
                    Bury(deliveries[2], failed(outs[2], at=1.0), free=outs[2].claim),
                    Return(deliveries[3]),
                ]
            )
        assert consumer.unsettled == 4
        assert 0 < consumer.patience() <= 0.5
        with within(0.9):
            assert consumer.poll(ROOM) == []
        with within(0.9):
            consumer.report(worker_state("w"))
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1
    assert settled(consumer)
    assert sorted(ids(take(consumer, ROOM, 2))) == [outs[1].id, outs[3].id]
    assert [entry.id for entry in broker.failed()] == [outs[2].id]
    assert [state.name for state in broker.workers()] == ["w"]
    assert broker.locks is not None
    assert [broker.locks.holder(f"key-{n}") is not None for n in range(4)] == [False, True, False, True]


def test_a_file_that_was_busy_for_longer_than_a_lease_takes_no_job_from_its_worker(path: Path) -> None:
    clock = Clock()
    broker = SqliteBroker(Database(path), "test", None, clock)
    consumer, other = broker.consumer("w"), broker.consumer("other")
    broker.publish([job(), job()])
    (running,) = consumer.poll(ROOM, 1)
    (returned,) = other.poll(ROOM, 1)
    with busy(path):
        for _ in range(3):
            assert consumer.poll({}) == other.poll({}) == []
            clock.time += 3
    other.settle([Return(returned)])
    assert ids(other.poll(ROOM)) == ids([returned]), "what waits is handed out"
    assert consumer.poll({}) == []
    clock.time += 2.5
    assert other.poll(ROOM) == []
    assert consumer.take_lost() == []
    clock.time += 2.5
    assert other.poll(ROOM) == []
    clock.time += 2.5
    assert ids(other.poll(ROOM)) == ids([running]), "a dead worker still has heirs"


def test_a_host_that_stood_still_takes_no_job_from_a_worker_that_goes_on(path: Path) -> None:
    """As a laptop that slept, or a virtual machine that was moved: every worker's lease is over by the clock."""
    clock = Clock()
    broker = SqliteBroker(Database(path), "test", None, clock)
    consumer, other = broker.consumer("w"), broker.consumer("other")
    for each in (consumer, other):
        each.report(worker_state("w"))
    broker.publish([job()])
    (running,) = consumer.poll(ROOM)
    clock.time += 3600
    broker.publish([job()])
    assert len(other.poll(ROOM)) == 1, "what waits is handed out"
    assert other.poll(ROOM) == consumer.poll({}) == []
    clock.time += 2.5
    assert other.poll(ROOM) == []
    consumer.settle([Done(running)])
    assert consumer.take_lost() == []


def test_publishing_to_a_busy_file_waits_as_long_as_it_may(broker: SqliteBroker, path: Path) -> None:
    broker.publish([])
    broker.consumer("w")
    out = job(key="k")
    with busy(path):
        began = time.monotonic()
        receipt = broker.publish([out], deadline=0.8)
        assert 0.7 < time.monotonic() - began < 1.5
    assert receipt.confirmed == ()
    assert list(receipt.unconfirmed) == [out.id]
    assert str(path) in receipt.unconfirmed[out.id]
    assert broker.locks is not None
    assert broker.locks.holder("k") is None
    assert broker.publish([out]).confirmed == (out.id,)


def test_closing_at_a_busy_file_gives_up_in_time(broker: SqliteBroker, path: Path) -> None:
    broker.publish([job()])
    consumer = broker.consumer("w")
    take(consumer, ROOM, 1)
    with busy(path), within(0.9):
        consumer.close()


def test_a_deleted_file_takes_no_confirmed_job_with_it(broker: SqliteBroker, path: Path) -> None:
    broker.publish([job()])
    consumer = broker.consumer("w")
    lost = take(consumer, ROOM, 1)
    delete(path)
    out = job()
    assert broker.publish([out]).confirmed == (out.id,)
    assert ids(take(connect(f"sqlite:///{path}", "test").consumer("other"), ROOM, 1)) == [out.id]
    consumer.settle([Done(lost[0])])
    assert consumer.unsettled == 0
    assert consumer.take_lost() == lost
    assert broker.counts(["a"]).queues["a"].running == 1


def test_a_file_deleted_while_publishing(broker: SqliteBroker, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broker.publish([job()])
    add_jobs = sqlite_rows.add_jobs

    def delete_and_add(*arguments: object) -> None:
        add_jobs(*arguments)  # type: ignore[arg-type]
        monkeypatch.undo()
        delete(path)

    monkeypatch.setattr(sqlite_rows, "add_jobs", delete_and_add)
    out = job()
    assert broker.publish([out]).confirmed == (out.id,)
    assert ids(take(connect(f"sqlite:///{path}", "test").consumer("w"), ROOM, 1)) == [out.id]


def test_a_file_put_back_from_a_copy_keeps_jobs_whose_numbers_a_worker_holds_from_before(
    broker: SqliteBroker, path: Path
) -> None:
    broker.publish([])
    before, after = broker.consumer("before"), broker.consumer("after")
    copy = path.with_suffix(".copy")
    source, target = sqlite3.connect(path), sqlite3.connect(copy)
    source.backup(target)
    source.close()
    target.close()
    broker.publish([job()])
    (lost,) = take(before, ROOM, 1)
    delete(path)
    copy.rename(path)
    broker.publish([job()])
    (delivery,) = take(after, ROOM, 1)
    assert delivery.tag[:2] == lost.tag[:2], "otherwise this tests nothing"
    before.settle([Done(lost)])
    assert before.take_lost() == [lost]
    assert broker.counts(["a"]).queues["a"].running == 1
    after.settle([Done(delivery)])
    assert after.take_lost() == []


def delete(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


class Killed(BaseException):
    """The process ends here."""


def state_of(path: Path) -> list[list[tuple[object, ...]]]:
    with sqlite3.connect(path) as connection:
        return [
            connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in ("jobs", "failed", "locks")
        ]


@pytest.mark.parametrize("what", ["publish", "done", "forward", "bury", "requeue", "forget"])
def test_lock_and_job_change_together_or_not_at_all(broker: SqliteBroker, path: Path, what: str) -> None:
    """Whatever statement of a change is the last before the process ends, nothing has changed."""
    out, dead = job(key="k"), job(key="dead")
    broker.publish([out, dead])
    consumer = broker.consumer("w")
    delivery, doomed = take(consumer, ROOM, 2)
    consumer.settle([Bury(doomed, failed(dead, at=1.0), free=dead.claim)])

    def requeue(entry: FailedJob) -> Requeue:
        return Requeue(job(id=entry.id, key="dead", round=2))

    changes: dict[str, Callable[[], object]] = {
        "publish": lambda: broker.publish([job(key="new"), job()]),
        "done": lambda: consumer.settle([Done(delivery, free=out.claim)]),
        "forward": lambda: consumer.settle([Forward(delivery, job(id=out.id, key="k", attempt=2))]),
        "bury": lambda: consumer.settle([Bury(delivery, failed(out, at=2.0), free=out.claim)]),
        "requeue": lambda: broker.sweep(requeue),
        "forget": lambda: broker.sweep(lambda entry: Forget(free=out.claim)),  # any lock that is held will do
    }
    before = state_of(path)
    changed = broker.database.transaction
    cuts = 0
    for statements in range(1, 20):
        broker.database.transaction = lambda *a, n=statements: cut_after(changed, n, *a)  # type: ignore
        try:
            changes[what]()
        except Killed:
            cuts += 1
            assert state_of(path) == before
            if consumer.unsettled:
                consumer._pending.clear()
        else:
            break
    assert cuts >= 2
    assert state_of(path) != before


@contextmanager
def cut_after(transaction: Callable[..., object], statements: int, *arguments: object) -> Iterator[object]:
    with transaction(*arguments) as cursor:  # type: ignore[attr-defined]
        yield CutCursor(cursor, statements)


class CutCursor:
    """A cursor that ends the process after so many statements that change something."""

    def __init__(self, cursor: sqlite3.Cursor, left: int) -> None:
        self._cursor = cursor
        self._left = left

    def execute(self, sql: str, *arguments: object) -> sqlite3.Cursor:
        result = self._cursor.execute(sql, *arguments)  # type: ignore[arg-type]
        self._count(sql)
        return result

    def executemany(self, sql: str, *arguments: object) -> sqlite3.Cursor:
        result = self._cursor.executemany(sql, *arguments)  # type: ignore[arg-type]
        self._count(sql)
        return result

    def _count(self, sql: str) -> None:
        if not sql.lstrip().startswith("SELECT"):
            self._left -= 1
            if self._left == 0:
                raise Killed

    def __getattr__(self, name: str) -> object:
        return getattr(self._cursor, name)


def test_an_idle_poll_writes_nothing(broker: SqliteBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = broker.consumer("w")
    consumer.poll(ROOM)

    def refuse(*arguments: object) -> None:
        raise AssertionError("an idle poll must not begin a transaction")

    monkeypatch.setattr(broker.database, "transaction", refuse)
    monkeypatch.setattr(broker.database, "reading", refuse)
    for _ in range(100):
        assert consumer.poll({"a": 10}) == []


def test_patience_knows_what_is_due_next(path: Path) -> None:
    clock = Clock()
    broker = SqliteBroker(Database(path), "test", None, clock)
    consumer = broker.consumer("w")
    consumer.poll(ROOM)
    assert consumer.patience() == pytest.approx(0.02)
    broker.publish([job(delay=60)])
    consumer.poll(ROOM)
    clock.time += 59.995
    assert consumer.patience() == pytest.approx(0.005, abs=0.001)
    clock.time += 0.005
    assert len(consumer.poll(ROOM)) == 1
    consumer.poll({})
    assert 1 < consumer.patience() <= 2


def test_leases_are_renewed_although_the_clock_was_set_back(path: Path) -> None:
    clock = Clock()
    broker = SqliteBroker(Database(path), "test", None, clock)
    consumer, other = broker.consumer("w"), broker.consumer("other")
    broker.publish([job()])
    consumer.report(worker_state("w"))
    assert len(consumer.poll(ROOM, 1)) == 1
    clock.time -= 3600
    broker.publish([job()])
    assert len(consumer.poll(ROOM, 1)) == 1
    for _ in range(10):
        assert 0 <= consumer.patience() <= 2
        clock.time += 1
        assert consumer.poll({}) == other.poll(ROOM) == []
    assert [state.seen_at for state in broker.workers()] == [pytest.approx(clock.time, abs=3)]
    del consumer  # killed
    for _ in range(2):
        clock.time += 2.5
        assert other.poll(ROOM) == []
    clock.time += 2.5
    assert len(other.poll(ROOM)) == 1, "the other one is due by the earlier time"


def test_many_failed_jobs_are_swept_in_pages(broker: SqliteBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.brokers.sqlite.PAGE_ROWS", 7)
    with broker.database.transaction() as cursor:
        for number in range(100):
            entry = job(id=f"f{number:03}")
            sqlite_rows.add_failed(cursor, "test", failed(entry, at=float(number % 10)))
    result = broker.sweep(lambda entry: Requeue(job(id=entry.id, round=2)))
    assert sorted(result.requeued) == [f"f{n:03}" for n in range(100)]
    assert broker.failed() == []
    assert broker.counts(["a"]).queues["a"].ready == 100


def test_pages_are_cut_by_size_too(broker: SqliteBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.brokers.sqlite.PAGE_BYTES", 100)
    with broker.database.transaction() as cursor:
        for number in range(20):
            sqlite_rows.add_failed(cursor, "test", failed(job(body=b"x" * 60), at=float(number)))
    assert len(broker.sweep(lambda entry: Requeue(job(id=entry.id, round=2))).requeued) == 20


def test_jobs_that_fail_during_a_sweep_are_left_for_the_next(broker: SqliteBroker) -> None:
    with broker.database.transaction() as cursor:
        sqlite_rows.add_failed(cursor, "test", failed(job(id="one"), at=1.0))

    def decide(entry: FailedJob) -> Requeue:
        with broker.database.transaction() as cursor:
            sqlite_rows.add_failed(cursor, "test", failed(job(id="two"), at=2.0))
        return Requeue(job(id=entry.id))

    assert broker.sweep(decide).requeued == ("one",)
    assert [entry.id for entry in broker.failed()] == ["two"]


def test_connect_chooses_by_scheme(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/router.db"
    same, spelled, apart = (
        connect(url, "n"),
        connect(url, "n", url),
        connect(url, "n", f"sqlite:///{tmp_path}/locks.db"),
    )
    for broker, together in ((same, True), (spelled, True), (apart, False)):
        assert isinstance(broker, SqliteBroker)
        assert isinstance(broker.locks, SqliteLocks)
        assert (broker.locks.database is broker.database) is together
    assert isinstance(connect("memory://", "n"), MemoryBroker)
    assert isinstance(connect("amqp://guest:secret@host", "n"), AmqpBroker)
    assert isinstance(connect("amqps://host", "n", "redis://host").locks, RedisLocks)
    for bad in ("amqp://guest:secret@host:port", "amqps://x?timeout=3", "kafka://x", "sqlite:///", "nonsense"):
        with pytest.raises(BrokerRefused) as refused:
            connect(bad, "n")
        assert "secret" not in str(refused.value)
    with pytest.raises(BrokerRefused, match=r"kafka"):
        connect(url, "n", "kafka://host")
    assert not (tmp_path / "router.db").exists()  # nothing is opened before it is needed


def test_administering_a_file_that_is_out_of_reach(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    broker: Broker = connect(f"sqlite:///{tmp_path}/file/router.db", "n")
    for call in (broker.failed, broker.workers, lambda: broker.counts([]), lambda: broker.publish([job()])):
        with pytest.raises((BrokerRefused, BrokerUnavailable), match=r"router\.db"):
            call()


def test_a_worker_of_another_version_that_says_something_else_hides_no_other_one(
    broker: SqliteBroker, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    consumer = broker.consumer("w")
    consumer.report(worker_state("w"))
    with sqlite3.connect(path) as raw:
        columns = "namespace, name, state, seen_at"
        raw.execute(f"INSERT INTO workers ({columns}) SELECT namespace, 'newer', '{{\"v\": 9}}', seen_at FROM workers")
        broken = (b'{"name": "\xff"}',)
        raw.execute(
            f"INSERT INTO workers ({columns}) SELECT namespace, 'broken', ?, seen_at FROM workers LIMIT 1", broken
        )
    assert [state.name for state in broker.workers()] == ["w"]
    assert "worker newer is of another version" in caplog.text
    assert "worker broken is of another version" in caplog.text
    consumer.close()
