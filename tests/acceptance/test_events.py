"""docs/events.md: typed events, references and versions, from a dispatch to a handler in a worker."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from router import InvalidPayload
from tests.app import App
from tests.pages import write_files

ORDER = UUID("7d3b1c2e-0000-4000-8000-000000000007")


@pytest.fixture
def app(make_app: Callable[..., App], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    write_files("events.md", tmp_path)
    (tmp_path / "shop" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "shop"]:
        monkeypatch.delitem(sys.modules, name)
    before = set(sys.modules)
    yield make_app((tmp_path / "extensions.yaml").read_text())
    for name in set(sys.modules) - before:
        if name.split(".")[0] == "shop":
            del sys.modules[name]


def handled(app: App) -> list[dict[str, Any]]:
    path = app.folder / "handled.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_rows_travel_as_their_key_and_a_row_that_is_gone_fails_or_drops_the_job(app: App) -> None:
    with app.application() as application:
        from shop.events import Kind, OrderPlaced  # type: ignore[import-not-found]
        from shop.models import Base, Customer, engine  # type: ignore[import-not-found]
        from sqlalchemy.orm import Session

        Base.metadata.create_all(engine)
        at = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)

        def order(customer: Any) -> Any:
            return OrderPlaced(ORDER, at, Decimal("10.50"), {Kind.GIFT}, customer, b"\x00\xff")

        with Session(engine) as session:
            with pytest.raises(InvalidPayload, match="`customer`: this Customer has no key yet: save"):
                application.dispatch(order(Customer(mail="new@shop.example")))
            ann, bob = Customer(mail="ann@shop.example"), Customer(mail="bob@shop.example")
            session.add_all([ann, bob])
            session.commit()
            application.dispatch(order(ann))
            done = application.dispatch(order(bob))
            session.delete(bob)
            session.commit()
            engine.dispose()
    worker = app.start_worker("--concurrency", "1", "--log-format", "json", "--stop-when-empty")
    assert worker.wait() == 0
    assert sorted(handled(app), key=lambda line: line["handler"]) == [
        {"handler": "confirm", "mail": "ann@shop.example", "kinds": ["GIFT"], "event": "Decimal('10.50')"},
        {"handler": "count", "mail": "ann@shop.example"},
        {
            "handler": "failed",
            "error": "ReferenceMissing: shop.models:Customer [2] is gone",
            "event": str(ORDER),
        },
    ]
    (failed,) = app.failed()
    assert (failed["job"], failed["reason"]) == (done.jobs["confirm"], "fail")
    log = [json.loads(line) for line in worker.log().splitlines() if line.startswith("{")]
    (skipped,) = [line for line in log if line.get("event") == "job.skipped"]
    assert skipped["job"] == done.jobs["count"]
    assert "shop.models:Customer [2] is gone" in skipped["reason"]


def test_a_job_that_was_queued_before_the_payload_changed_is_lifted_to_the_new_version(app: App) -> None:
    file = app.config.read_text()
    lines = [line for line in file.splitlines() if line.split(":")[0].strip() not in ("version", "upcasters", "event")]
    app.config.write_text("version: 1\n" + "\n".join(lines))
    customer = {"$reference": "shop.models:Customer", "key": [1]}
    with app.application() as application:
        from shop.models import Base, Customer, engine
        from sqlalchemy.orm import Session

        Base.metadata.create_all(engine)
        with Session(engine) as session:
            session.add(ann := Customer(mail="ann@shop.example"))
            session.commit()
            old = {"id": str(ORDER), "at": "2030-01-02T03:04:05Z", "total": "10.50", "kind": "sale"}
            with pytest.raises(InvalidPayload, match=r"has the key `\$reference`"):
                application.dispatch("order.placed", {**old, "customer": customer})
            application.dispatch("order.placed", {**old, "customer": ann})
            engine.dispose()
    app.config.write_text(file)
    app.start_worker("--concurrency", "1")
    app.wait_until(lambda: len(handled(app)) == 2)
    confirm = next(line for line in handled(app) if line["handler"] == "confirm")
    assert (confirm["kinds"], confirm["mail"]) == (["SALE"], "ann@shop.example")
