"""``router init``."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from router.cli.common import UsageError, error
from router.config import schema_text

STARTER = ("extensions.yaml", "handlers.py", "test_handlers.py")
SCHEMA = "extensions.schema.json"

_NEXT = """
Next:
  router validate                                            check the file, here and in CI
  router dispatch order.placed --payload '{"order_id": 7}'   raise an event
  router run-worker                                          run what was queued, until Ctrl-C
  router status                                              what is queued, running, failed, and who runs it
  python -m pytest                                           run the test

An edit of extensions.yaml is put in force while the worker runs, as soon as it is saved without a mistake."""


def init(folder: Annotated[Path, typer.Argument(help="Where to write them.")] = Path()) -> None:
    """Write a starter: a commented extensions.yaml, handlers, a test, and the schema for editors."""
    contents = {name: (files("router.cli") / "starter" / name).read_text(encoding="utf-8") for name in STARTER}
    contents[SCHEMA] = schema_text()
    present = [name for name in contents if os.path.lexists(folder / name)]
    if present:
        error(f"{folder / present[0]} is there already; nothing was written")
        raise typer.Exit(1)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            with (folder / name).open("x", encoding="utf-8") as file:
                file.write(content)
    except OSError as problem:
        raise UsageError(f"{problem.filename}: {problem.strerror}") from problem
    typer.echo(f"Wrote {', '.join(map(str, (folder / name for name in contents)))}.")
    if folder != Path():
        typer.echo(f"\n  cd {folder}")
    typer.echo(_NEXT)
