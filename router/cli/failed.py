"""``router failed list | show | retry | forget``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import typer
from rich.table import Column, Table

from router.app.router import Router
from router.brokers.base import Decision, FailedJob, Forget, Keep, Outgoing, Requeue
from router.cli.common import (
    ConfigOption,
    Format,
    FormatOption,
    UsageError,
    counted,
    error,
    open_broker,
    print_json,
    print_table,
)
from router.jobs.job import Job, UndecodableJob, decode
from router.jobs.lifecycle import next_round
from router.worker.settling import publish_again, queue_for

app = typer.Typer(help="Jobs that have failed: see why, try them again, forget them.", no_args_is_help=True)

Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Job ids, or unambiguous beginnings of them.")]
All = Annotated[bool, typer.Option("--all", help="Every failed job that fits the options.")]
QueueFilter = Annotated[str | None, typer.Option("--queue", "-q", help="Only of this queue.")]
PointFilter = Annotated[str | None, typer.Option("--point", help="Only of this extension point.")]
RouteFilter = Annotated[str | None, typer.Option("--route", help="Only of this route.")]


@app.command("list")
def list_failed(
    queue: QueueFilter = None,
    point: PointFilter = None,
    route: RouteFilter = None,
    config: ConfigOption = None,
    format: FormatOption = Format.TEXT,
) -> None:
    """List the failed jobs, the longest failed first."""
    with open_broker(config, in_spite_of_mistakes=True) as router:
        found = [job for job in router.broker.failed() if _fits(job, queue, point, route)]
    if format is Format.JSON:
        print_json([_as_data(job) for job in found])
        return
    if not found:
        typer.echo("no failed jobs")
        return
    table = Table(
        Column("job", no_wrap=True, min_width=36), "failed", "queue", "point", "route", "reason", "error", box=None
    )
    for job in found:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.failed_at))
        error_line = job.error.split("\n", 1)[0]
        table.add_row(job.id, when, job.queue, job.point or "-", job.route or "-", job.reason, error_line)
    print_table(table)
    typer.echo(f"\n{len(found)} failed; router failed show ID tells more, router failed retry ID tries again")


@app.command()
def show(
    id: Annotated[str, typer.Argument(help="The job id, or an unambiguous beginning of it.")],
    config: ConfigOption = None,
    format: FormatOption = Format.TEXT,
) -> None:
    """Show everything about one failed job."""
    with open_broker(config, in_spite_of_mistakes=True) as router:
        (job,) = _select(router, [id])
    if format is Format.JSON:
        print_json(_as_data(job))
        return
    decoded = _decoded(job)
    typer.echo(f"job      {job.id}")
    typer.echo(f"failed   {time.strftime('%Y-%m-%d %H:%M:%S %Z', time.localtime(job.failed_at))}, reason: {job.reason}")
    typer.echo(f"queue    {job.queue}")
    if decoded is None:
        typer.echo(f"error    {job.error}")
        typer.echo(f"bytes    {job.body[:2000]!r}{' ...' if len(job.body) > 2000 else ''}")
        return
    typer.echo(f"route    {job.route} of {job.point}")
    typer.echo(f"round    {decoded.round}")
    typer.echo(f"event    {msgspec.json.format(bytes(decoded.event), indent=2).decode()}")
    for record in decoded.history:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.at))
        typer.echo(f"\nround {record.round} attempt {record.attempt}, {when}: {record.outcome}")
        typer.echo("  " + record.error.rstrip().replace("\n", "\n  "))
    if not decoded.history:
        typer.echo(f"error    {job.error}")


@app.command()
def retry(
    ids: Ids = None,
    all: All = False,
    queue: QueueFilter = None,
    point: PointFilter = None,
    route: RouteFilter = None,
    config: ConfigOption = None,
) -> None:
    """Put failed jobs back into their queues, with all their attempts anew and the same ids."""
    with open_broker(config) as router:
        wanted = _wanted(router, ids, all, queue, point, route)
        problems: list[str] = []

        def decide(failed: FailedJob) -> Decision:
            if not wanted(failed):
                return Keep()
            job = _decoded(failed)
            if job is None:
                problems.append(f"{failed.id} is no job that this version can read; it stays")
                return Keep()
            outgoing = _again(router, failed, job)
            if outgoing is None:
                problems.append(f"{failed.id}: the file has neither its queue {failed.queue!r} nor its route; it stays")
                return Keep()
            return Requeue(outgoing)

        done = router.broker.sweep(decide)
    for job, holder in done.duplicates.items():
        problems.append(f"{job} is unique, and job {holder} holds its lock; it stays")
    typer.echo(f"queued again: {counted(len(done.requeued), 'job')}")
    _end(problems)


@app.command()
def forget(
    ids: Ids = None,
    all: All = False,
    queue: QueueFilter = None,
    point: PointFilter = None,
    route: RouteFilter = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    config: ConfigOption = None,
) -> None:
    """Delete failed jobs, for good."""
    with open_broker(config, in_spite_of_mistakes=True) as router:
        wanted = _wanted(router, ids, all, queue, point, route)
        if not ids and not yes:
            count = sum(map(wanted, router.broker.failed()))
            typer.confirm(f"Delete {counted(count, 'failed job')} for good?", abort=True, err=True)
        done = router.broker.sweep(lambda job: Forget() if wanted(job) else Keep())
    typer.echo(f"forgotten: {counted(len(done.forgotten), 'job')}")


def _end(problems: list[str]) -> None:
    for problem in problems:
        error(problem)
    if problems:
        raise typer.Exit(1)


def _fits(job: FailedJob, queue: str | None, point: str | None, route: str | None) -> bool:
    return queue in (None, job.queue) and point in (None, job.point) and route in (None, job.route)


def _wanted(
    router: Router, ids: list[str] | None, all_of_them: bool, queue: str | None, point: str | None, route: str | None
) -> Callable[[FailedJob], bool]:
    filtered = (queue, point, route) != (None, None, None)
    if ids and (all_of_them or filtered):
        raise UsageError("give job ids, or --all and filters, not both")
    if ids:
        chosen = {job.id for job in _select(router, ids)}
        return lambda job: job.id in chosen
    if not (all_of_them or filtered):
        raise UsageError("which jobs? Give ids, --queue, --point, --route, or --all")
    return lambda job: _fits(job, queue, point, route)


def _select(router: Router, ids: list[str]) -> list[FailedJob]:
    """The failed jobs of these ids. Raises UsageError where one is unknown or ambiguous."""
    failed = {job.id: job for job in router.broker.failed()}
    chosen = []
    for wanted in ids:
        near = [wanted] if wanted in failed else [job_id for job_id in failed if job_id.startswith(wanted)]
        if len(near) != 1:
            what = "begins several ids" if near else "is no failed job"
            raise UsageError(f"{wanted} {what}; see: router failed list")
        chosen.append(failed[near[0]])
    return chosen


def _decoded(failed: FailedJob) -> Job | None:
    try:
        return decode(failed.body)
    except UndecodableJob:
        return None


def _again(router: Router, failed: FailedJob, job: Job) -> Outgoing | None:
    """The job of the next round; None where the file has neither its queue nor its route."""
    route = router.table.find(job.point, job.route)
    options = route.options if route else None
    queue = queue_for(failed.queue, options, router.table.queues())
    return None if queue is None else publish_again(next_round(job), failed.body, queue, options)


def _as_data(failed: FailedJob) -> dict[str, Any]:
    job = _decoded(failed)
    return {
        "job": failed.id,
        "queue": failed.queue,
        "point": failed.point,
        "route": failed.route,
        "reason": failed.reason,
        "error": failed.error,
        "failed_at": failed.failed_at,
        "round": job.round if job else None,
        "event": msgspec.json.decode(job.event) if job else None,
        "history": msgspec.to_builtins(job.history) if job else [],
        "bytes": None if job else failed.body.decode(errors="backslashreplace"),
    }
