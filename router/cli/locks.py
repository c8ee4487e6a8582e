"""``router locks``: the locks of unique jobs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from router.app.router import Router
from router.cli.common import (
    ConfigOption,
    Format,
    FormatOption,
    UsageError,
    open_broker,
    print_json,
    print_table,
)
from router.cli.grouping import SETTINGS, Group
from router.config import counted
from router.durations import format_duration
from router.jobs.unique import key_parts
from router.locks.base import Lease, Locks

app = typer.Typer(cls=Group, help="Locks of unique jobs: see who holds them, give up one that is stuck.", **SETTINGS)

_SHOWN = 12
"""Characters of a lock's digest that tell it from others, for people."""


@app.command("list")
def list_locks(
    point: Annotated[str | None, typer.Option(help="Only those of this extension point.")] = None,
    config: ConfigOption = None,
    format: FormatOption = Format.TEXT,
) -> None:
    """List the locks that are held: by which job, and for how long if nobody renews them."""
    with open_broker(config, in_spite_of_mistakes=True) as router:
        held = [lease for lease in _held(router) if point in (None, key_parts(lease.claim.key)[0])]
    if format is Format.JSON:
        print_json([_as_data(lease) for lease in held])
        return
    if not held:
        typer.echo("no lock is held")
        return
    from rich.table import Table

    table = Table("lock", "point", "handler", "held by job", "runs out in", box=None)
    for lease in held:
        held_at, route, digest = key_parts(lease.claim.key)
        table.add_row(digest[:_SHOWN], held_at, route, lease.claim.job, format_duration(max(round(lease.left), 1)))
    print_table(table)


@app.command()
def release(
    lock: Annotated[str, typer.Argument(help="The lock, or an unambiguous beginning of it; or the job that holds it.")],
    config: ConfigOption = None,
) -> None:
    """Give up a lock whose job is gone. While its job still waits or runs, another one of its kind may start then."""
    with open_broker(config, in_spite_of_mistakes=True) as router:
        found = [
            one
            for one in _held(router)
            if lock and (key_parts(one.claim.key)[2].startswith(lock) or one.claim.job == lock)
        ]
        if not found:
            raise UsageError(
                f"no lock is held that begins with {lock!r}, nor by a job of that id; see router locks list"
            )
        if len(found) > 1:
            raise UsageError(f"{lock!r} means {counted(len(found), 'lock')}; write more of it")
        (lease,) = found
        freed = _locks(router).free(lease.claim)
    held_at, route, _ = key_parts(lease.claim.key)
    if not freed:
        typer.echo(f"job {lease.claim.job} has given it up meanwhile, or goes on with it; look again")
        raise typer.Exit(1)
    typer.echo(f"the lock of {route} ({held_at}) that job {lease.claim.job} held is free")


def _locks(router: Router) -> Locks:
    locks = router.broker.locks
    if locks is None:
        raise UsageError("this file has no lock store: `locks.url` is not set")
    return locks


def _held(router: Router) -> list[Lease]:
    return _locks(router).held(f"{router.table.settings.namespace}:")


def _as_data(lease: Lease) -> dict[str, Any]:
    point, route, digest = key_parts(lease.claim.key)
    return {
        "lock": digest,
        "point": point,
        "route": route,
        "job": lease.claim.job,
        "round": lease.claim.round,
        "attempt": lease.claim.attempt,
        "left": lease.left,
    }
