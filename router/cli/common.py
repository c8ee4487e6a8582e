"""What the commands share: options, output, how errors end. Each imports only what it needs itself."""

from __future__ import annotations

import codecs
import sys
from contextlib import closing
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.errors import ConfigError, ConfigNotFound, RouterError, in_words

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table

    from router.app.router import Router

ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="The file; else $ROUTER_CONFIG, extensions.yaml, config/extensions.yaml.",
    ),
]


class Format(StrEnum):
    """How data is shown."""

    TEXT = "text"
    JSON = "json"


FormatOption = Annotated[Format, typer.Option("--format", help="Text for people, or JSON.")]


class UsageError(RouterError):
    """The command was called wrongly; exit code 2."""


def duration(text: str) -> float:
    """A duration given as an option, in seconds."""
    from router.durations import parse_duration

    try:
        return parse_duration(text)
    except ValueError as problem:
        raise typer.BadParameter(str(problem)) from None


def error(message: str) -> None:
    """Say on stderr what went wrong."""
    typer.secho("error: ", fg="red", bold=True, err=True, nl=False)
    typer.echo(message, err=True)


def explained(problem: Exception) -> str:
    """An exception in words: one of the router's explains itself, any other one is user code's and named."""
    return str(problem) if isinstance(problem, RouterError) else in_words(problem)


def print_json(data: Any) -> None:
    """Data as indented JSON on stdout."""
    typer.echo(as_json(data))


def as_json(data: Any) -> str:
    """Data as indented JSON for stdout; where that isn't UTF-8, in ASCII."""
    import json

    import msgspec

    is_utf8 = codecs.lookup(sys.stdout.encoding).name == "utf-8"
    return json.dumps(msgspec.to_builtins(data), indent=2, ensure_ascii=not is_utf8)


def print_table(table: Table) -> None:
    """A table on stdout, as wide as the terminal; where there is none, as wide as it needs to be."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 1000
    console.print(table)


def progress_bar(*, transient: bool = False) -> Progress:
    """Description, bar, count and time left of each task, on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=transient, disable=not on_terminal())


def exit_code(problem: RouterError) -> int:
    """2: wrong usage or no such file; 1: it found something wrong."""
    return 2 if isinstance(problem, UsageError | ConfigNotFound) else 1


def open_router(config: str | None) -> closing[Router]:
    """The Router of the file, bootstrap included; closed at the end of a ``with``."""
    from router.app.router import Router

    return closing(Router(config, hot_reload=False))


def open_broker(config: str | None, *, in_spite_of_mistakes: bool = False) -> closing[Router]:
    """A Router that mostly its broker is wanted of; closed at the end of a ``with``.

    A broken bootstrap is no obstacle: its routes are unknown then. ``in_spite_of_mistakes``: nor is a broken file, if
    it is certain which broker it names.
    """
    import msgspec

    from router.app.router import Router
    from router.config import find, load

    try:
        settings = load(find(config)).settings
    except ConfigError as problem:
        if problem.settings is None or not in_spite_of_mistakes:
            raise
        settings = problem.settings
        typer.echo(f"{problem}\n", err=True)
        error("the file can't be used; shown is what its broker says, without the routes that are wrong\n")
    try:
        router = Router.from_settings(settings)
    except Exception as problem:  # noqa: BLE001 - bootstrap is user code; operators must see their jobs all the same
        error(f"bootstrap fails, so its routes are unknown here: {explained(problem)}")
        router = Router.from_settings(msgspec.structs.replace(settings, bootstrap=None))
    return closing(router)


def on_terminal() -> bool:
    """Whether somebody is watching stderr."""
    return sys.stderr.isatty()
