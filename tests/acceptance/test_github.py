"""323 real webhook deliveries of GitHub: every job's handler ran, none twice, none lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.app import EXAMPLES, App

sys.path.insert(0, str(EXAMPLES / "github"))
import fetch


def test_every_job_of_the_real_deliveries_runs_once(make_app: Callable[..., App], tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    config = EXAMPLES / "github" / "extensions.yaml"
    app = make_app(config, GITHUB_LEDGER=str(ledger))
    source = fetch.deliveries()
    points = [json.loads(line)["point"] for line in source.read_text().splitlines()]
    routes = yaml.safe_load(config.read_text())["extensions"]
    expected = Counter(
        (point, handler["handler"]) for point in points for handler in routes[point]["handlers"] if "async" in handler
    )
    assert len(points) == 323

    sent = app.router("dispatch", "--from", str(source), "--format", "json").json()
    assert sent == {"events": 323, "jobs": expected.total(), "duplicates": 0}
    assert app.start_worker("--stop-when-empty", "--concurrency", "2").wait() == 0

    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert Counter((line["point"], line["route"]) for line in lines) == expected
    assert len({line["job"] for line in lines}) == expected.total()
    assert app.failed() == []


def test_the_example_runs_by_one_command() -> None:
    command = [sys.executable, str(EXAMPLES / "github" / "run.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("323 deliveries")


@pytest.mark.skipif(shutil.which("npm") is None, reason="the package comes by npm, which is not installed")
def test_the_pinned_package_yields_the_same_deliveries(tmp_path: Path) -> None:
    fetch.fetch(tmp_path / "made.jsonl")
    made = [json.loads(line) for line in (tmp_path / "made.jsonl").read_text().splitlines()]
    assert len(made) == 323
    if fetch.SHARED.exists():
        assert made == [json.loads(line) for line in fetch.SHARED.read_text().splitlines()]
