"""``router``: the command line."""

from __future__ import annotations

import errno
import os
import sys
from enum import StrEnum
from io import TextIOWrapper
from typing import Annotated

import typer

from router.cli.common import error, exit_code
from router.cli.grouping import lazy_app
from router.config.places import ENV_VARIABLE
from router.errors import RouterError

COMMANDS = {
    "init": (
        "router.cli.init:init",
        "Write a starter: a commented extensions.yaml, handlers, a test, and the schema for editors.",
    ),
    "validate": (
        "router.cli.validate:validate",
        "Check the file: every mistake at once, each with its place and a hint.",
    ),
    "config": (
        "router.cli.config:config",
        "Show what the file says with its includes, its overlay and the environment, all resolved, passwords masked.",
    ),
    "routes": (
        "router.cli.routes:routes",
        "Show the compiled table: for each point, in order, what runs at once and what runs later.",
    ),
    "schema": (
        "router.cli.schema:schema",
        "Print the JSON Schema (draft 7) of extensions.yaml, for editors and other tools.",
    ),
    "dispatch": (
        "router.cli.dispatch:dispatch",
        "Raise an extension point: run its synchronous handlers here, queue the others.",
    ),
    "run-worker": (
        "router.cli.worker:run_worker",
        "Run the jobs of the queues, in children of this process, until it is told to stop (SIGTERM, Ctrl-C).",
    ),
    "status": (
        "router.cli.status:status",
        "Show what is queued, delayed, running and failed, and which workers are alive.",
    ),
    "failed": (
        "router.cli.failed:app",
        "Jobs that have failed: see why, try them again, forget them, carry them elsewhere.",
    ),
    "locks": ("router.cli.locks:app", "Locks of unique jobs: see who holds them, give up one that is stuck."),
    "topology": ("router.cli.topology:app", "What the file needs on RabbitMQ: show it, make it, compare it."),
}

app = lazy_app(
    COMMANDS,
    name="router",
    help="A declarative event router: extensions.yaml says which handlers run for each event, now and on a queue.",
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
        from importlib.metadata import version

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
    from router.logs import set_up_logging

    level = log_level or (Level.INFO if context.invoked_subcommand == "run-worker" else Level.WARNING)
    set_up_logging(level.value, log_format.value)
    if env is not None:
        os.environ[ENV_VARIABLE] = env  # this is all that the option means, here and in every process below
    context.obj = {"verbose": verbose, "log_level": level.value, "log_format": log_format.value}


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


_UNWRITTEN = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Of what stdout leads to: nobody reads on, no space, and the like."""


def main() -> None:
    """The program: exit code 0 for fine, 1 for something wrong, 2 for wrong usage or no such file."""
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names and errors may have what a terminal can't show
    try:
        try:
            _run()
        finally:
            sys.stdout.flush()  # where it can be caught, unlike at the interpreter's exit
    except OSError as problem:
        if problem.filename is not None or problem.errno not in _UNWRITTEN:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what its buffers hold still
        if problem.errno != errno.EPIPE:
            _tell(problem, f"stdout can't be written: {os.strerror(problem.errno)}")
        sys.exit(1)


def _open_standard_streams() -> None:
    """Where this process was started without one of them (`>&-`), open the null device in its place.

    Otherwise the next thing opened takes its number, and children would inherit that as their stdout.
    """
    for fd, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
            os.set_inheritable(fd, True)
            setattr(sys, name, os.fdopen(fd, mode))


def _run() -> None:
    try:
        app(args=global_options_first(sys.argv[1:]))
    except RouterError as problem:
        _tell(problem, str(problem))
        sys.exit(exit_code(problem))


def _tell(problem: Exception, message: str) -> None:
    if "--verbose" in sys.argv:
        import traceback

        traceback.print_exception(problem)
    error(message)


if __name__ == "__main__":
    main()
