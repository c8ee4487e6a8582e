"""``router schema``."""

from __future__ import annotations

import typer

from router.config import schema_text


def schema() -> None:
    """Print the JSON Schema (draft 7) of extensions.yaml, for editors and other tools."""
    typer.echo(schema_text(), nl=False)
