"""What a handler knows of its own call."""

from __future__ import annotations

import json
import logging
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from router import Context, Retry
from router.logs import set_up_logging

CONTEXT = Context("order.placed", "confirmation", "c1", 1.0, "j1", "mail", 2, 5)


def test_each_record_of_the_logger_carries_what_the_call_belongs_to(caplog: pytest.LogCaptureFixture) -> None:
    CONTEXT.logger.warning("sent %d", 3, extra={"recipient": "you", "queue": "its own"})
    (record,) = caplog.records
    assert (record.name, record.getMessage()) == ("router.handlers.confirmation", "sent 3")
    fields = {name: getattr(record, name) for name in ("job", "point", "route", "attempt", "correlation", "recipient")}
    assert fields == {
        "job": "j1",
        "point": "order.placed",
        "route": "confirmation",
        "attempt": 2,
        "correlation": "c1",
        "recipient": "you",
    }
    assert record.queue == "its own"  # type: ignore[attr-defined]


def test_the_json_log_has_the_fields(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    set_up_logging("info", "json")
    CONTEXT.logger.info("sent")
    line = json.loads(capsys.readouterr().err)
    assert (line["message"], line["job"], line["correlation"]) == ("sent", "j1", "c1")


@pytest.mark.parametrize("delay", [5, 5.0, Decimal(5), timedelta(seconds=5), "5s", "5"])
def test_a_retry_takes_a_time_of_whatever_type_it_is(delay: Any) -> None:
    """A Decimal, as a database's column has it, ended the worker: its parent could not read what it was sent."""
    found = Retry(delay=delay).delay
    assert (found, type(found)) == (5.0, float)
    assert Retry().delay is None


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), "soon", "-5s", object(), 10**400])
def test_a_retry_refuses_what_is_no_time(delay: Any) -> None:
    with pytest.raises(ValueError, match=r"number of seconds|must not be negative"):
        Retry(delay=delay)


def test_a_retry_of_an_own_class_that_forgets_its_parent_has_the_delay_of_the_route() -> None:
    class Later(Retry):
        def __init__(self) -> None:
            pass

    assert Later().delay is None
