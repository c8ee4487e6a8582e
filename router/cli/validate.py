"""``router validate``."""

from __future__ import annotations

from typing import Annotated

import typer

from router.cli.common import ConfigOption, Format, FormatOption, UsageError, error, print_json
from router.config import find, load
from router.errors import ConfigError
from router.routing.table import compile_table
from router.worker.checking import Checked, check


def validate(
    file: Annotated[str | None, typer.Argument(metavar="[FILE]", help="The file to check.")] = None,
    config: ConfigOption = None,
    imports: Annotated[
        bool, typer.Option("--import/--no-import", help="Import the handlers too, in a process of their own.")
    ] = True,
    format: FormatOption = Format.TEXT,
) -> None:
    """Check the file: every mistake at once, each with its place and a hint."""
    if file is not None and config is not None:
        raise UsageError("give the file once: router validate FILE")
    path = find(file or config)
    checked = check(str(path)) if imports else _check_here(str(path))
    if format is Format.JSON:
        found = [*checked.diagnostics] if checked.error is None else [*checked.diagnostics, {"message": checked.error}]
        print_json(found)
    elif checked.diagnostics or checked.error:
        typer.echo(checked.problems(), err=True)
        count = len(checked.diagnostics) + (checked.error is not None)
        typer.echo(err=True)
        error(f"{path}: {count} mistake{'s' if count > 1 else ''}")
    elif checked.table is not None:
        routes = list(checked.table.routes())
        later = sum(1 for _ in checked.table.async_routes())
        typer.echo(
            f"{path}: fine. {len(checked.table.points)} points, {len(routes)} routes "
            f"({len(routes) - later} sync, {later} async), queues: {', '.join(checked.table.queues())}"
        )
    raise typer.Exit(0 if checked.sound else 1)


def _check_here(path: str) -> Checked:
    try:
        return Checked(compile_table(load(path).settings))
    except ConfigError as problem:
        return Checked(diagnostics=problem.diagnostics)
