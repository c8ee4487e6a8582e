"""The runner: ``python -m benchmarks [--quick] [--write] [ROW…]``. Exit code 1 if a row failed (not if it is slow)."""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import platform
import signal
import sys
import time
import traceback
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable

from benchmarks import report
from benchmarks.bench import Bench
from benchmarks.results import Failure, Results, Spread, Table

ROWS = (
    "bulk_dispatch",
    "single_dispatch",
    "noop",
    "two_children",
    "async_handlers",
    "mixed",
    "sync_dispatch",
    "idle",
    "due",
    "sqlite",
    "memory",
    "start",
    "large_file",
)


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Ours beside its peers.")
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--quick", action="store_true", help="few and short rounds, under five minutes in all")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md, as a full run of all rows does")
    parser.add_argument("--json", type=Path, help="where to put the results, after each row")
    return parser.parse_args()


def machine() -> str:
    """In a few words."""
    kind = platform.machine()
    return f"{os.cpu_count()} cores ({kind}), {platform.system()}, Python {platform.python_version()}"


def show(console: Console, table: Table) -> None:
    """Print one comparison."""
    better = "more" if table.more else "less"
    shown = RichTable("", f"{table.unit} ({better} is better)", title=table.title, title_justify="left")
    for name, values in table.values.items():
        shown.add_row(name, Spread.of(values).show())
    console.print(shown)
    for goal in table.goals:
        ratio = table.ratio(goal)
        style, word = ("green", "reached") if goal.reached(ratio) else ("red", "not reached")
        console.print(f"  {table.wording(goal)}: {ratio.show()} [{style}]{word}[/]")
    for note in table.notes:
        console.print(f"  {note}", style="dim")


def _keep(results: Results, path: Path | None) -> None:
    if path is not None:
        path.write_text(json.dumps(results.to_json(), indent=1) + "\n")


def main() -> int:
    """Measure the rows, one after the other."""
    asked, console = arguments(), Console()
    # So that what was started is ended too when somebody (a CI job's time limit, say) ends this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    results = Results(machine(), now, asked.quick)
    with Bench(quick=asked.quick) as bench:
        for row in asked.rows or ROWS:
            console.rule(row, align="left")
            start = time.monotonic()
            try:
                tables = importlib.import_module(f"benchmarks.rows.{row}").measure(bench)
            except Exception as error:  # noqa: BLE001 - a row that fails must not cost the others
                results.failures.append(Failure(row, f"{type(error).__name__}: {error}"))
                console.print(traceback.format_exc(), style="red", markup=False)
                continue
            results.tables += tables
            for table in tables:
                show(console, table)
            _keep(results, asked.json)
            console.print(f"  {time.monotonic() - start:.0f} s", style="dim")
    _keep(results, asked.json)
    if asked.write or not (asked.rows or asked.quick):
        report.write(results)
    summary = RichTable("row", "what", "goal", "measured", "reached", title="All in one run")
    for line in report.verdicts(results):
        summary.add_row(*line)
    console.print(summary)
    return 1 if results.failures else 0


if __name__ == "__main__":
    sys.exit(main())
