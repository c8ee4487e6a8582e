"""The desk: jobs that are suspected of taking workers down start alone; callbacks get a child; lost jobs are let go."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from router.brokers.base import Delivery, Done, Return
from router.config.settings import AsyncOptions, Backoff, Point, Route, Settings, Unique
from router.errors import LocksUnavailable
from router.jobs.job import Job, encode
from router.locks.base import Claim, Verdict
from router.locks.memory import MemoryLocks
from router.routing.table import compile_table
from router.worker.desk import Desk
from router.worker.messages import Call, Called, Raised, Ready, Returned, Started, ToChild
from router.worker.messages import Run as RunMessage
from router.worker.pool import MAX_UNSENT, Child

OPTIONS = AsyncOptions(queue="first", delay=0, max_attempts=3, backoff=Backoff("fixed", (1.0,)), timeout=5)
TABLE = compile_table(
    Settings(
        path="x", hash="x", points=(Point("p", (Route("r", "p", "m:f", options=OPTIONS),)),), concurrency={"second": 9}
    )
)


def delivery(name: str, count: int = 1, queue: str = "first", **changes: Any) -> Delivery:
    job = Job(
        v=1,
        job=name,
        point="p",
        **{"route": "r", "event": msgspec.Raw(b"{}"), **changes},
        dispatched_at=0.0,
        correlation="c",
    )
    return Delivery(queue, encode(job), count, None)


class Children(list[Any]):
    """As a pool."""

    def __init__(self, *children: Any) -> None:
        super().__init__(children)

    def usable(self) -> list[Any]:
        return sorted(self, key=lambda child: len(child.runs))

    def note_job(self, *_: object) -> None:
        pass


def pool(*children: Any) -> Any:
    return Children(*children)


FREE = SimpleNamespace(runs={}, first=None, shares=False, by_queue=Counter())


def test_a_suspect_waits_for_nobody_where_nothing_is_in_hand_and_nobody_else_is_asked_for() -> None:
    desk = Desk(TABLE, (), None)
    suspect = delivery("suspect", 21, "second")
    desk.take([suspect], 0.0)
    assert desk.take_settlements() == []
    assert desk.in_hand == 1
    assert desk.room(pool(FREE, FREE), 0.0) == {}


def test_it_is_kept_while_others_end_and_those_that_have_not_started_go_back() -> None:
    desk = Desk(TABLE, (), None)
    neighbour, suspect = delivery("neighbour"), delivery("suspect", 21)
    desk.take([neighbour, suspect], 0.0)
    assert desk.take_settlements() == [Return(neighbour)]
    assert desk.in_hand == 1
    assert desk.room(pool(FREE, FREE), 0.0) == {}


def test_two_suspects_start_one_after_the_other() -> None:
    desk = Desk(TABLE, (), None)
    one, two = delivery("one", 25), delivery("two", 30)
    desk.take([one, two], 0.0)
    assert desk.take_settlements() == []
    assert desk.in_hand == 2
    desk.lost([one])
    desk.take([], 0.0)
    assert desk.in_hand == 1
    desk.lost([two])
    desk.take([], 0.0)
    assert desk.in_hand == 0
    assert desk.room(pool(FREE, FREE), 0.0) == {"default": 2, "first": 2, "second": 2}


def test_poison_is_failed_without_being_started() -> None:
    desk = Desk(TABLE, (), None)
    desk.take([delivery("poison", 41)], 0.0)
    (settlement,) = desk.take_settlements()
    assert settlement.failed.reason == "poison"  # type: ignore[union-attr]


def test_a_job_that_runs_here_is_neither_poison_nor_a_suspect_however_often_its_connection_broke() -> None:
    desk = Desk(TABLE, (), None)
    only, sent = child()
    long, waiting = delivery("long"), delivery("waiting")
    desk.take([long], 0.0)
    desk.assign(pool(only), 0.0)
    (run,) = only.runs
    desk.take([waiting], 0.0)
    for count in (25, 41):
        desk.lost([long])
        long = delivery("long", count)
        desk.take([long], 0.0)
        assert desk.take_settlements() == [], "nothing is buried, and nothing is returned for its sake"
    assert desk.in_hand == 2
    assert [type(message) for message in sent] == [RunMessage]
    talk = SimpleNamespace(usable=lambda: [only], note_job=lambda *_: None)
    desk.heard(only, Returned(run, 0.1, 1), talk, 1.0)  # type: ignore[arg-type]
    assert desk.take_settlements() == [Done(long)]
    again = delivery("long", 42)
    desk.take([again], 2.0)
    assert desk.take_settlements() == [Done(again)]


def test_a_worker_that_stops_gives_suspects_back() -> None:
    desk = Desk(TABLE, (), None)
    desk.take([delivery("one", 25), delivery("two", 30)], 0.0)
    desk.return_all("stopping", 0.0)
    assert len(desk.take_settlements()) == 2
    assert desk.in_hand == 0


# -- callbacks of jobs whose own child is gone, or that never had one

EXPIRES = msgspec.structs.replace(OPTIONS, on_failure="m:g")
SHARED = compile_table(
    Settings(
        path="x",
        hash="x",
        points=(Point("p", (Route("r", "p", "m:f", options=EXPIRES),)),),
        async_concurrency={"first": 50},
    )
)


class Away(MemoryLocks):
    """A lock store that is out of reach."""

    away = True

    def hold(self, claim: Claim, lease: float) -> Verdict:
        if self.away:
            raise LocksUnavailable("away")
        return super().hold(claim, lease)


def test_a_lock_store_that_is_away_holds_up_only_the_queues_of_unique_jobs() -> None:
    desk = Desk(TABLE, ("second", "first"), Away())
    unique, plain = delivery("unique", queue="second", lock="router:p:r:x"), delivery("plain")
    desk.take([unique], 0.0)
    assert list(desk.room(pool(FREE, FREE), 0.0)) == ["first"], "more of the second would pile up here"
    desk.take([plain], 0.1)
    given, told = child()
    desk.assign(pool(given), 0.1)
    assert [message.body for message in told if isinstance(message, RunMessage)] == [plain.body]
    assert desk.in_hand == 2


def test_the_log_tells_of_a_lock_store_that_is_away_at_times_and_that_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "router.worker")
    store = Away()
    desk = Desk(TABLE, (), store)
    desk.take([delivery("unique", lock="router:p:r:x")], 0.0)
    for now in range(1, 80):
        desk.check_locks(float(now))
    assert [record.getMessage().split(":")[-1] for record in caplog.records] == [" away"] * 3
    store.away = False
    desk.check_locks(80.0)
    desk.check_locks(90.0)
    assert [record.getMessage() for record in caplog.records[3:]] == ["the lock store is back"]


def test_a_lock_store_that_hangs_is_asked_less_often_than_one_that_refuses() -> None:
    asked = []

    class Hangs(Away):
        def hold(self, claim: Claim, lease: float) -> Verdict:
            asked.append(claim)
            time.sleep(0.1)
            return super().hold(claim, lease)

    desk = Desk(TABLE, (), Hangs())
    desk.take([delivery("unique", lock="router:p:r:x")], 0.0)
    desk.check_locks(1.3)
    assert len(asked) == 1, "the other jobs of the worker wait meanwhile"
    desk.check_locks(3.0)
    assert len(asked) == 2


def test_a_slow_lock_store_holds_up_the_other_jobs_for_half_a_second_a_turn_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    elapsed = [100.0]
    monkeypatch.setattr("router.worker.lock_store.time", SimpleNamespace(monotonic=lambda: elapsed[0]))

    class Slow(MemoryLocks):
        def hold(self, claim: Claim, lease: float) -> Verdict:
            elapsed[0] += 0.02
            return super().hold(claim, lease)

    desk = Desk(TABLE, (), Slow())
    desk.take([delivery(f"{number}", lock=f"router:p:r:{number}") for number in range(100)], 1.0)
    for turn in range(1, 10):
        assert elapsed[0] <= 100.0 + 0.52 * turn
        desk.check_locks(1.0 + turn)
    assert elapsed[0] == pytest.approx(102.0), "each was asked for, once"
    assert desk.in_hand == 100


def test_a_lock_that_could_not_be_given_up_when_its_job_started_is_given_up_once_the_store_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = []

    class NoFree(MemoryLocks):
        def free(self, claim: Claim) -> bool:
            asked.append(claim)
            if len(asked) == 1:
                raise LocksUnavailable("away")
            return super().free(claim)

    options = msgspec.structs.replace(OPTIONS, unique=Unique(until="start"))
    points = (Point("p", (Route("r", "p", "m:f", options=options),)),)
    store = NoFree()
    desk = Desk(compile_table(Settings(path="x", hash="x", points=points)), (), store)
    children = Children(*(child()[0] for _ in range(3)))
    desk.take([delivery(f"{number}", lock=f"router:p:r:{number}") for number in range(3)], 1.0)
    desk.assign(children, 1.0)
    for each in children:
        desk.heard(each, Started(each.first.number), children, 1.0)
    assert len(asked) == 1, "where it hangs, each further question would hold up the other jobs"
    desk.check_locks(1.1)
    assert len(asked) == 1
    desk.check_locks(9.0)
    assert [store.holder(f"router:p:r:{number}") for number in range(3)] == [None, None, None]
    assert [record.getMessage().split(":")[-1].strip() for record in caplog.records] == ["away"]


def test_while_a_suspect_waits_for_the_lock_store_nothing_starts_beside_it() -> None:
    desk = Desk(TABLE, (), Away())
    desk.take([delivery("suspect", 21, lock="router:p:r:x")], 0.0)
    assert desk.room(pool(FREE, FREE), 0.0) == {}


def child() -> tuple[Child, list[ToChild]]:
    """One that is ready, and what it was sent."""
    sent: list[ToChild] = []
    pipe = SimpleNamespace(unsent=0, ended=False, post=sent.append, send=sent.append)
    return Child(None, pipe, 1, 0.0, None, ready=Ready()), sent  # type: ignore[arg-type]


def test_callbacks_of_innocent_jobs_are_called_again_where_another_one_has_ended_their_child() -> None:
    desk = Desk(SHARED, (), None)
    desk.rely_on(Ready(sharing=frozenset({("p", "r")})))
    only, sent = child()
    children = SimpleNamespace(usable=lambda: [only], note_job=lambda *_: None)
    desk.take([delivery(name, attempt=3) for name in ("failing", "killing", "working")], 0.0)
    desk.assign(children, 0.0)  # type: ignore[arg-type]
    failing, killing, working = only.runs.values()
    for run in (failing, killing, working):
        desk.heard(only, Started(run.number), children, 1.0)  # type: ignore[arg-type]
    desk.heard(only, Raised(failing.number, 1.0, 1, "ValueError: no\n\nTraceback", None, None), children, 2.0)  # type: ignore[arg-type]
    only.mark = SimpleNamespace(get=lambda: killing.number)  # type: ignore[assignment]
    desk.child_ended(only, "killed by SIGSEGV", 3.0)
    settled = desk.take_settlements()
    assert settled == [], "the callbacks come first"
    another, sent = child()
    for _ in range(3):
        desk.assign(SimpleNamespace(usable=lambda: [another]), 3.0)  # type: ignore[arg-type]
        for run in list(another.runs.values()):
            if run.phase == "calling":
                desk.heard(another, Called(run.number), children, 4.0)  # type: ignore[arg-type]
    calls = [(message.outcome, message.error) for message in sent if isinstance(message, Call)]
    assert calls == [("raised", "ValueError: no\n\nTraceback"), ("died", "ChildDied: killed by SIGSEGV")]
    assert [run.job.job for run in another.runs.values()] == ["working"]


def test_an_expired_job_that_is_lost_before_its_callback_could_be_called_is_let_go_in_peace() -> None:
    desk = Desk(SHARED, (), None)
    expired = delivery("expired", expires_at=1.0)
    desk.take([expired], 0.0)
    desk.assign(pool(), 0.0)
    desk.lost([expired])
    only, sent = child()
    desk.assign(pool(only), 0.0)
    assert [type(message) for message in sent] == [Call]


def test_a_worker_takes_no_more_expired_jobs_than_it_can_call_back_for() -> None:
    desk = Desk(SHARED, (), None)
    desk.rely_on(Ready(sharing=frozenset({("p", "r")})))
    only, _ = child()
    taken = 0
    for turn in range(100):
        for run in list(only.runs.values()):
            desk.heard(only, Called(run.number), pool(only), turn)
        room = desk.room(pool(only), turn).get("first", 0)
        desk.take([delivery(f"{taken + number}", expires_at=1.0) for number in range(room)], turn)
        taken += room
        desk.assign(pool(only), turn)
    assert desk.in_hand <= 50
    assert taken > 90, "and it goes on"


def test_a_shared_job_of_any_size_gets_a_child_that_has_read_what_it_was_sent() -> None:
    desk = Desk(SHARED, (), None)
    desk.rely_on(Ready(sharing=frozenset({("p", "r")})))
    only, _ = child()
    large = msgspec.Raw(b'{"text": "%s"}' % (b"x" * 2 * MAX_UNSENT))
    desk.take([delivery("small"), delivery("large", event=large)], 0.0)
    desk.assign(Children(only), 0.0)
    assert [run.job.job for run in only.runs.values()] == ["small", "large"]
    only.pipe.unsent = len(large)  # type: ignore[misc]
    desk.take([delivery("another", event=large)], 0.0)
    desk.assign(Children(only), 0.0)
    assert len(only.runs) == 2, "what a child hasn't read yet is bounded"


TWO_KINDS = compile_table(
    Settings(
        path="x",
        hash="x",
        points=(
            Point(
                "p",
                (
                    Route("r", "p", "m:f", options=EXPIRES),
                    Route("plain", "p", "m:g", options=msgspec.structs.replace(EXPIRES, queue="second")),
                ),
            ),
        ),
        async_concurrency={"first": 3},
    )
)


@pytest.mark.parametrize("named", [(), ("second", "first"), ("first", "second")])
@pytest.mark.parametrize("children", [1, 2])
@pytest.mark.parametrize("seconds", [3.0, 0.0001], ids=["long", "short"])
def test_jobs_that_share_a_child_and_those_that_do_not_both_get_on(
    named: tuple[str, ...], children: int, seconds: float
) -> None:
    """There are always more of both than places. A shared job takes three turns; plain ones take one, which short ones
    take together."""
    desk = Desk(TWO_KINDS, named, None)
    desk.rely_on(Ready(sharing=frozenset({("p", "r")})))
    pool = Children(*(child()[0] for _ in range(children)))
    ended: Counter[str] = Counter()
    begun: dict[int, int] = {}
    numbers = itertools.count()
    for turn in range(300):
        for each in pool:
            for run in list(each.runs.values())[: 1 if each.first and not each.shares and seconds > 1 else None]:
                began = begun.setdefault(run.number, turn)
                if began == turn:
                    desk.heard(each, Started(run.number), pool, float(turn))
                elif not run.shared or turn - began == 3:
                    desk.heard(each, Returned(run.number, seconds, 1), pool, float(turn))
                    ended["first" if run.shared else "second"] += 1
        room = desk.room(pool, float(turn))
        left = max(room.values(), default=0)
        for queue, count in room.items():
            for _ in range(min(count, left)):
                left -= 1
                route = "r" if queue == "first" else "plain"
                desk.take([delivery(f"{next(numbers)}", queue=queue, route=route)], float(turn))
        desk.assign(pool, float(turn))
    first, last = named or ("first", "second")
    assert ended[first] >= 40
    assert ended[last] >= 40 or named, "which gets what is left where the user has said which goes first"


def test_a_callback_gets_a_child_however_busy_all_of_them_are_kept_with_shared_jobs() -> None:
    desk = Desk(SHARED, (), None)
    desk.rely_on(Ready(sharing=frozenset({("p", "r")})))
    only, sent = child()
    children = SimpleNamespace(usable=lambda: [only], note_job=lambda *_: None)
    for turn in range(200):
        for run in list(only.runs.values())[:-1] or list(only.runs.values()):  # there is always one that still runs
            if run.phase == "calling":
                return
            desk.heard(only, Returned(run.number, 0.1, 1), children, turn)  # type: ignore[arg-type]
        room = desk.room(children, turn).get("first", 0)  # type: ignore[arg-type]
        expired = (turn, 0) if turn == 3 else None
        jobs = [delivery(f"{turn}.{n}", expires_at=1.0 if (turn, n) == expired else None) for n in range(room)]
        desk.take(jobs, turn)
        desk.assign(children, turn)  # type: ignore[arg-type]
    raise AssertionError(f"no callback was called: {sent[-5:]}")
