"""``router``: the command line."""

from __future__ import annotations

import logging
import os
import sys
from enum import StrEnum
from importlib.metadata import version
from typing import Annotated

import click
import typer

from router.cli import dispatch, failed, routes, status, validate, worker
from router.cli.common import error, exit_code
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
    _: Annotated[bool, typer.Option("--version", is_eager=True, callback=_show_version)] = False,
) -> None:
    """Route events as one readable file says."""
    level = log_level or (Level.INFO if context.invoked_subcommand == "run-worker" else Level.WARNING)
    set_up_logging(level.value, log_format.value)
    context.obj = {"verbose": verbose, "log_level": level.value, "log_format": log_format.value}


app.command("validate")(validate.validate)
app.command("routes")(routes.routes)
app.command("dispatch")(dispatch.dispatch)
app.command("run-worker")(worker.run_worker)
app.command("status")(status.status)
app.add_typer(failed.app, name="failed")


def main() -> None:
    """The program: exit code 0 for fine, 1 for something wrong, 2 for wrong usage or no such file."""
    verbose = "--verbose" in sys.argv
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.exceptions.NoArgsIsHelpError as usage:
        usage.show()
        sys.exit(2)
    except click.ClickException as usage:
        usage.show()
        sys.exit(2)
    except click.exceptions.Abort:
        error("interrupted")
        sys.exit(130)
    except RouterError as problem:
        if verbose:
            logging.getLogger("router").exception("%s", type(problem).__name__)
        error(str(problem))
        sys.exit(exit_code(problem))
    except BrokenPipeError:  # `router routes | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
