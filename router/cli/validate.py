"""``router validate``."""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from router.brokers import connect
from router.cli.common import ConfigOption, UsageError, error, print_json
from router.config import Diagnostic, counted, find
from router.config.problems import Problem
from router.durations import format_duration
from router.errors import BrokerError, ConfigError
from router.routing.table import RoutingTable, compile_table
from router.worker.checking import Checked, check

if TYPE_CHECKING:
    from router.config import Loaded


class Report(StrEnum):
    """How what was found is shown."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"
    SARIF = "sarif"


def validate(
    file: Annotated[str | None, typer.Argument(metavar="[FILE]", help="The file to check.")] = None,
    config: ConfigOption = None,
    imports: Annotated[
        bool, typer.Option("--import/--no-import", help="Import the handlers too, in a process of their own.")
    ] = True,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings are errors.")] = False,
    broker: Annotated[
        bool, typer.Option("--broker", help="Ask the broker too, whether it stands the timeouts.")
    ] = False,
    format: Annotated[
        Report, typer.Option("--format", help="Text for people, JSON, annotations for GitHub Actions, or SARIF.")
    ] = Report.TEXT,
) -> None:
    """Check the file: every mistake at once, each with its place and a hint."""
    if file is not None and config is not None:
        raise UsageError("give the file once: router validate FILE")
    path = find(file or config)
    checked = check(str(path)) if imports else _check_here(str(path))
    if broker and (table := checked.sound):
        from router.config import load

        checked = _ask_broker(checked, table, load(path))
    if strict:
        checked = _strict(checked)
    _show(checked, path, format)
    raise typer.Exit(0 if checked.sound else 1)


def _check_here(path: str) -> Checked:
    from router.config import load  # slow to import, and mostly done by another process

    try:
        loaded = load(path)
        return Checked(compile_table(loaded.settings), loaded.warnings)
    except ConfigError as problem:
        return Checked(diagnostics=problem.diagnostics)


def _strict(checked: Checked) -> Checked:
    raised = tuple(msgspec.structs.replace(one, severity="error") for one in checked.diagnostics)
    return msgspec.structs.replace(checked, diagnostics=raised)


def _ask_broker(checked: Checked, table: RoutingTable, loaded: Loaded) -> Checked:
    """What the broker says to each timeout, beside what was found in the file."""
    settings, found = loaded.settings, [*checked.diagnostics]
    connection = connect(settings.broker_url, settings.namespace, settings.locks_url)
    try:
        connection.counts(table.queues())  # is it there at all?
        objections = cache(connection.objections)  # it connects each time
        for path, route in loaded.routes:
            for objection in objections(route.options.timeout) if route.options else ():
                hint = f"shorten this timeout of {format_duration(route.options.timeout)}" if route.options else None
                at = (*path, "async", "timeout")
                problem = Problem(objection, hint, at, code="timeout-above-broker-limit")
                found.append(loaded.composition.report(problem))
    except BrokerError as problem_of_broker:
        return msgspec.structs.replace(checked, error=str(problem_of_broker))
    finally:
        connection.close()
    return msgspec.structs.replace(checked, diagnostics=tuple(loaded.composition.ordered(found)))


def _show(checked: Checked, path: Path, format: Report) -> None:
    match format:
        case Report.JSON:
            unplaced = [{"message": checked.error, "severity": "error"}] if checked.error else []
            print_json([*checked.diagnostics, *unplaced])
        case Report.SARIF:
            from router.cli.reports import sarif

            print_json(sarif(checked.diagnostics, checked.error))
        case Report.GITHUB:
            from router.cli.reports import github

            for line in github(checked.diagnostics, checked.error):
                typer.echo(line)
        case Report.TEXT:
            _show_text(checked, path)


def _show_text(checked: Checked, path: Path) -> None:
    texts = [*map(str, checked.diagnostics), *([checked.error] if checked.error else [])]
    for text in texts:
        typer.echo(f"{text}\n", err=True)
    table = checked.sound
    if table is None:
        error(f"{path}: {_count(checked.diagnostics, checked.error)}")
        return
    routes = list(table.routes())
    later = sum(1 for _ in table.async_routes())
    warned = f" ({_count(checked.diagnostics, None)})" if checked.diagnostics else ""
    typer.echo(
        f"{path}: fine{warned}. {counted(len(table.points), 'point')}, {counted(len(routes), 'route')} "
        f"({len(routes) - later} sync, {later} async), queues: {', '.join(table.queues())}"
    )


def _count(found: tuple[Diagnostic, ...], unplaced: str | None) -> str:
    """``2 mistakes, 1 warning``."""
    errors = sum(one.severity == "error" for one in found) + bool(unplaced)
    counts = [(errors, "mistake"), (len(found) + bool(unplaced) - errors, "warning")]
    return ", ".join(counted(number, word) for number, word in counts if number)
