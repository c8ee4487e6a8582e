"""A file of 10,000 handlers: checking it, dispatching by it, and (in a full run) what a reload of it costs the jobs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import reloads
from benchmarks.bench import Bench
from benchmarks.results import Goal, Table
from benchmarks.rows.start import run
from benchmarks.systems import BIN, ROOT
from router import Router

HANDLERS = 10_000
BARE = "import sys, yaml; yaml.load(open(sys.argv[1], 'rb'), Loader=yaml.CSafeLoader)"
POINTS = (1, 10_000)


def measure(bench: Bench) -> list[Table]:
    """Ours beside a bare load; a dispatch at one of many points beside one at the only point."""
    folder = bench.folder / "large"
    folder.mkdir()
    file = reloads.make(folder, HANDLERS)
    commands = {
        "router": [str(BIN / "router"), "validate", "--no-import", str(file)],
        "bare libyaml load": [sys.executable, "-c", BARE, str(file)],
    }
    checks = bench.alternate({name: partial(run, words) for name, words in commands.items()}, bench.pick(5, 2))
    dispatches = {f"router, {points:,} points": _dispatch(bench.folder, points) for points in POINTS}
    measures = {name: partial(_time, one) for name, one in dispatches.items()}
    few, many = dispatches
    tables = [
        Table(
            "large_file",
            f"`validate --no-import` of {HANDLERS:,} handlers",
            "s",
            checks,
            [Goal(3, ("bare libyaml load",), at_least=False)],
            more=False,
        ),
        Table(
            "large_file",
            "Sync dispatch in a large table",
            "µs",
            bench.alternate(measures, bench.pick(41, 15)),
            [Goal(1.1, (few,), at_least=False, ours=many)],
            more=False,
        ),
    ]
    return tables if bench.quick else [*tables, reloads.measure(folder, HANDLERS)]


def _dispatch(folder: Path, points: int) -> Callable[[], object]:
    """A dispatch at the last point, and at another in between, so that it isn't one entry of a cache."""
    handler = {"handlers": [{"handler": "benchmarks.rows.sync_dispatch:handle"}]}
    file = {"version": 1, "pythonpath": [str(ROOT)], "extensions": {f"p{number}": handler for number in range(points)}}
    path = folder / f"points{points}.yaml"
    path.write_text(json.dumps(file))
    dispatch, last = Router(path, hot_reload=False).dispatch, f"p{points - 1}"
    return lambda: dispatch(last, {"order_id": 7})


def _time(dispatch: Callable[[], object], count: int = 3_000) -> float:
    for _ in range(100):
        dispatch()
    start = time.perf_counter()
    for _ in range(count):
        dispatch()
    return (time.perf_counter() - start) / count * 1e6
