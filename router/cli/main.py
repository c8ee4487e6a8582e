"""``router``: the command line."""

from __future__ import annotations

import os
import sys
import traceback
from enum import StrEnum
from importlib.metadata import version
from typing import Annotated

import typer

from router.cli import config, dispatch, failed, init, locks, routes, schema, status, topology, validate, worker
from router.cli.common import error, exit_code
from router.config.loading import ENV_VARIABLE
from router.errors import RouterError
from router.logs import set_up_logging

app = typer.Typer(
    name="router",
    help="A declarative event router: extensions.yaml says which handlers run for each event, now and on a queue.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Level(StrEnum):
    """What is logged: this and what is worse."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How log lines look."""

    TEXT = "text"
    JSON = "json"


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"extension-router {version('extension-router')}")
        raise typer.Exit


@app.callback()
def main_options(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show tracebacks of errors.")] = False,
    log_level: Annotated[
        Level | None, typer.Option("--log-level", help="Default: info for run-worker, else warning.")
    ] = None,
    log_format: Annotated[LogFormat, typer.Option("--log-format")] = LogFormat.TEXT,
    env: Annotated[
        str | None,
        typer.Option("--env", metavar="NAME", help=f"Use the overlay extensions.NAME.yaml; else ${ENV_VARIABLE}."),
    ] = None,
    _: Annotated[bool, typer.Option("--version", is_eager=True, callback=_show_version)] = False,
) -> None:
    """Route events as one readable file says."""
    level = log_level or (Level.INFO if context.invoked_subcommand == "run-worker" else Level.WARNING)
    set_up_logging(level.value, log_format.value)
    if env is not None:
        os.environ[ENV_VARIABLE] = env  # this is all that the option means, here and in every process below
    context.obj = {"verbose": verbose, "log_level": level.value, "log_format": log_format.value}


app.command("init")(init.init)
app.command("validate")(validate.validate)
app.command("config")(config.config)
app.command("routes")(routes.routes)
app.command("schema")(schema.schema)
app.command("dispatch")(dispatch.dispatch)
app.command("run-worker")(worker.run_worker)
app.command("status")(status.status)
app.add_typer(failed.app, name="failed")
app.add_typer(locks.app, name="locks")
app.add_typer(topology.app, name="topology")


_WITH_VALUE = ("--log-level", "--log-format", "--env")


def global_options_first(arguments: list[str]) -> list[str]:
    """Let ``--verbose``, ``--log-level``, ``--log-format`` and ``--env`` stand behind the command too, where people
    write them."""
    first: list[str] = []
    rest = list(arguments)
    end = rest.index("--") if "--" in rest else len(rest)
    position = 0
    while position < end:
        name, equals, _ = rest[position].partition("=")
        width = 1 if name == "--verbose" else (1 if equals else 2) if name in _WITH_VALUE else 0
        first += rest[position : position + width]
        del rest[position : position + width]
        end -= width
        position += not width
    return first + rest


def main() -> None:
    """The program: exit code 0 for fine, 1 for something wrong, 2 for wrong usage or no such file."""
    try:
        app(args=global_options_first(sys.argv[1:]))
    except RouterError as problem:
        if "--verbose" in sys.argv:
            traceback.print_exception(problem)
        error(str(problem))
        sys.exit(exit_code(problem))


if __name__ == "__main__":
    main()
