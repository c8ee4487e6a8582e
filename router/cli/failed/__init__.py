"""``router failed list | show | retry | forget | export | import``."""

from __future__ import annotations

import typer

from router.cli.failed.forgetting import forget
from router.cli.failed.listing import list_failed, show
from router.cli.failed.moving import export, import_failed
from router.cli.failed.retrying import retry

app = typer.Typer(
    help="Jobs that have failed: see why, try them again, forget them, carry them elsewhere.", no_args_is_help=True
)
app.command("list")(list_failed)
app.command("show")(show)
app.command("retry")(retry)
app.command("forget")(forget)
app.command("export")(export)
app.command("import")(import_failed)
