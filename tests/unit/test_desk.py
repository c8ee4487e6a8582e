"""A job that is suspected of taking workers down starts alone, is not given back for that, and blames nobody."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import msgspec

from router.brokers.base import Delivery, Return
from router.config.settings import AsyncOptions, Backoff, Point, Route, Settings
from router.jobs.job import Job, encode
from router.routing.table import compile_table
from router.worker.desk import Desk

OPTIONS = AsyncOptions(queue="first", delay=0, max_attempts=3, backoff=Backoff("fixed", (1.0,)), timeout=5)
TABLE = compile_table(
    Settings(
        path="x", hash="x", points=(Point("p", (Route("r", "p", "m:f", options=OPTIONS),)),), concurrency={"second": 9}
    )
)


def delivery(name: str, count: int = 1, queue: str = "first") -> Delivery:
    job = Job(v=1, job=name, point="p", route="r", event=msgspec.Raw(b"{}"), dispatched_at=0.0, correlation="c")
    return Delivery(queue, encode(job), count, None)


def pool(*children: Any) -> Any:
    return SimpleNamespace(usable=lambda: list(children))


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


def test_a_worker_that_stops_gives_suspects_back() -> None:
    desk = Desk(TABLE, (), None)
    desk.take([delivery("one", 25), delivery("two", 30)], 0.0)
    desk.return_all("stopping", 0.0)
    assert len(desk.take_settlements()) == 2
    assert desk.in_hand == 0
