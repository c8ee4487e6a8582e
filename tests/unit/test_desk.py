"""What the worker asks for while a job is suspected of taking workers down."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from router.brokers.base import Delivery, Return
from router.worker.desk import Desk


def a_desk(*named: str) -> Desk:
    settings = SimpleNamespace(concurrency={}, unknown_route_for=10.0)
    table: Any = SimpleNamespace(queues=lambda: ("first", "second"), settings=settings)
    return Desk(table, named, None)


@pytest.mark.parametrize("named", [(), ("first", "second")])
def test_a_suspect_of_any_queue_is_asked_for_again_alone(named: tuple[str, ...]) -> None:
    desk = a_desk(*named)
    pool: Any = SimpleNamespace(usable=lambda: [SimpleNamespace(runs=[]), SimpleNamespace(runs=[])])
    assert desk.room(pool) == {"first": 2, "second": 2}
    suspect = Delivery("second", b"{}", 21, None)
    desk.take([suspect], 0.0)
    assert desk.take_settlements() == [Return(suspect)]
    room = desk.room(pool)
    assert room == {"first": 1, "second": 1}
    assert max(room.values()) == 1  # what the consumer is asked for in all
