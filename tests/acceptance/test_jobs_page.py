"""docs/jobs.md: retries, deadlines and unique jobs, as the page has them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.app import App
from tests.pages import write_files


@pytest.fixture
def app(make_app: Callable[..., App], tmp_path: Path) -> App:
    write_files("jobs.md", tmp_path)
    return make_app((tmp_path / "extensions.yaml").read_text())


def lines(app: App, *what: str) -> list[dict[str, Any]]:
    path = app.folder / "shop.jsonl"
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in found if line["what"] in what]


def test_the_page_keeps_its_word(app: App) -> None:
    with app.application() as application:
        for card in ("busy", "stolen", "unknown"):
            application.dispatch("card.charged", {"card": card})
        application.dispatch("code.sent", {"code": 1234})
        first = application.dispatch("catalog.changed", {"catalog": {"id": 7}, "edition": 1})
        second = application.dispatch("catalog.changed", {"catalog": {"id": 7}, "edition": 2})
        assert second.duplicates == (("import", first.jobs["import"]),)
        assert application.dispatch("catalog.changed", {"catalog": {"id": 8}, "edition": 3}).jobs
    assert len(app.router("locks", "list", "--format", "json").json()) == 2
    worker = app.start_worker("--concurrency", "1", "--stop-when-empty")
    assert worker.wait() == 0
    assert lines(app, "retry", "charged") == [
        {"what": "retry", "attempt": 1, "error": "the bank is busy"},
        {"what": "retry", "attempt": 2, "error": "the bank is busy"},
        {"what": "charged", "attempt": 3},
    ]
    failed = sorted((line["card"], line["error"]) for line in lines(app, "failed"))
    assert failed == [("stolen", "CardRefused"), ("unknown", "LookupError")]
    assert lines(app, "too late", "code") == [{"what": "too late", "error": "JobExpired", "code": 1234}]
    assert sorted(line["edition"] for line in lines(app, "imported")) == [1, 3]
    assert app.router("locks", "list", "--format", "json").json() == []
    assert sorted(job["reason"] for job in app.failed()) == ["expired", "fail", "fail"]
