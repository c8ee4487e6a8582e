"""``router failed list | show``: only looking."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
import typer

from router.brokers.base import FailedJob
from router.cli.common import ConfigOption, Format, FormatOption, as_json, open_broker, print_json, print_table
from router.cli.failed.selecting import (
    ErrorOption,
    Filters,
    HandlerOption,
    LimitOption,
    Newest,
    PointOption,
    QueueOption,
    ReasonOption,
    SinceOption,
    decoded,
    find,
    handler_of,
)
from router.cli.failed.sweeping import browse
from router.config import counted
from router.config.diagnostics import clean
from router.jobs.following import headline
from router.jobs.job import MAX_HISTORY, AttemptRecord
from router.routing.table import RoutingTable

SHOWN = 50
"""Jobs that the table has where no ``--limit`` is given."""

MAX_BYTES_SHOWN = 2000


def list_failed(
    point: PointOption = None,
    handler: HandlerOption = None,
    queue: QueueOption = None,
    error: ErrorOption = None,
    since: SinceOption = None,
    reason: ReasonOption = None,
    limit: LimitOption = None,
    config: ConfigOption = None,
    format: FormatOption = Format.TEXT,
) -> None:
    """List the failed jobs, those that failed last at the end: 50 of them, as JSON all, or as many as --limit says."""
    as_text = format is Format.TEXT
    filters = Filters(point, handler, queue, error, since, reason, limit or (SHOWN if as_text else None))
    newest: Newest[FailedJob | tuple[str, ...]] = Newest(filters.limit)
    total = 0
    with open_broker(config, in_spite_of_mistakes=True) as router:
        table = router.table

        def visit(job: FailedJob) -> None:
            nonlocal total
            total += 1
            if filters.fits(job, table):
                newest.add(job.failed_at, _row(job) if as_text else job)

        browse(router.broker, visit)
    jobs = newest.in_order()
    if not as_text:
        _print_list(_as_data(job, table) for job in jobs if isinstance(job, FailedJob))
        return
    if jobs:
        _print_table(row for row in jobs if isinstance(row, tuple))
    typer.echo(_summary(total, newest.seen, len(jobs)))
    if total and not newest.seen:
        for text in filters.unknown(table):
            typer.echo(f"the file has no {text}")


def show(
    id: Annotated[str, typer.Argument(help="The job id, or an unambiguous beginning of it.")],
    config: ConfigOption = None,
    format: FormatOption = Format.TEXT,
) -> None:
    """Show everything about one failed job: payload, origin, each attempt with its error."""
    with open_broker(config, in_spite_of_mistakes=True) as router:
        (failed,) = find(router, [id])
        table = router.table
    if format is Format.JSON:
        print_json(_as_data(failed, table))
        return
    job = decoded(failed)
    facts = {"job": failed.id, "failed": f"{_moment(failed.failed_at, zone=True)}, reason: {failed.reason}"}
    if job is not None:
        facts["dispatched"] = _moment(job.dispatched_at, zone=True)
    facts["queue"] = failed.queue
    if failed.point:
        facts |= {"point": failed.point, "route": failed.route}
        facts["handler"] = handler_of(failed, table) or "unknown: the file doesn't have this route"
    if job is None:
        body = failed.body[:MAX_BYTES_SHOWN]
        facts |= {"error": failed.error, "bytes": f"{body!r}{' ...' if len(failed.body) > len(body) else ''}"}
    else:
        facts |= {"round": str(job.round), "correlation": job.correlation}
        if job.causation is not None:
            facts["caused by"] = f"job {job.causation}"
    for name, value in facts.items():
        typer.echo(f"{name:<12} {clean(value)}")
    if job is None:
        return
    typer.echo(f"\npayload\n{_shown(msgspec.json.format(bytes(job.event), indent=2).decode())}")
    if len(job.history) >= MAX_HISTORY:
        typer.echo(f"\nof its attempts the last {MAX_HISTORY} are kept")
    for record in job.history:
        typer.echo(f"\n{_attempt(record)}\n{_shown(record.error.rstrip())}")
    if not job.history or failed.reason not in ("attempts", "fail"):
        typer.echo(f"\nerror\n{_shown(failed.error.rstrip())}")


def _row(job: FailedJob) -> tuple[str, ...]:
    error = headline(job.error)
    cells = (job.id, _moment(job.failed_at), job.queue, job.point or "-", job.route or "-", job.reason, error)
    return tuple(map(clean, cells))


def _print_table(rows: Iterable[tuple[str, ...]]) -> None:
    from rich.table import Column, Table

    table = Table(
        Column("job", no_wrap=True, min_width=36), "failed", "queue", "point", "route", "reason", "error", box=None
    )
    for row in rows:
        table.add_row(*row)
    print_table(table)


def _summary(total: int, fitting: int, shown: int) -> str:
    if not total:
        return "no failed jobs"
    text = counted(total, "failed job") + (f", of which {fitting} fit" if fitting < total else "")
    if not shown:
        return text
    if shown < fitting:
        text += f"; shown are the {shown} that failed last, --limit {fitting} shows all"
    return f"\n{text}\nrouter failed show ID tells more, router failed retry ID tries again"


def _attempt(record: AttemptRecord) -> str:
    where = f", worker {record.worker}" if record.worker else ""
    return f"round {record.round} attempt {record.attempt}, {_moment(record.at)}{where}: {record.outcome}"


def _moment(at: float, *, zone: bool = False) -> str:
    try:
        local = time.localtime(at)
    except (OverflowError, ValueError, OSError):  # it came from outside: an import, a message that isn't ours
        return f"{at:g} s after 1970"
    return time.strftime("%Y-%m-%d %H:%M:%S %Z" if zone else "%Y-%m-%d %H:%M:%S", local)


def _shown(text: str) -> str:
    """``text`` of many lines, with nothing in it that a terminal would obey."""
    return _indented("\n".join("\t".join(map(clean, line.split("\t"))) for line in text.split("\n")))


def _indented(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.split("\n"))


def _print_list(items: Iterable[dict[str, Any]]) -> None:
    """A JSON array, an item at a time: as one text it would take as much memory again."""
    before = "["
    for item in items:
        typer.echo(f"{before}\n{_indented(as_json(item))}", nl=False)
        before = ","
    typer.echo("[]" if before == "[" else "\n]")


def _as_data(failed: FailedJob, table: RoutingTable) -> dict[str, Any]:
    job = decoded(failed)
    return {
        "job": failed.id,
        "queue": failed.queue,
        "point": failed.point,
        "route": failed.route,
        "handler": handler_of(failed, table),
        "reason": failed.reason,
        "error": failed.error,
        "failed_at": failed.failed_at,
        "dispatched_at": job.dispatched_at if job else None,
        "round": job.round if job else None,
        "correlation": job.correlation if job else None,
        "causation": job.causation if job else None,
        "event": msgspec.json.decode(job.event) if job else None,
        "history": msgspec.to_builtins(job.history) if job else [],
        "bytes": None if job else failed.body.decode(errors="backslashreplace"),
    }
