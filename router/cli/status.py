"""``router status``."""

from __future__ import annotations

import time

import typer

from router.brokers.base import Counts, WorkerState
from router.cli.common import ConfigOption, Format, FormatOption, error, open_broker, print_json, print_table
from router.config import mask_url
from router.errors import BrokerUnavailable

_MISSING_SHOWN = 5


def status(config: ConfigOption = None, format: FormatOption = Format.TEXT) -> None:
    """Show what is queued, delayed, running and failed, and which workers are alive."""
    with open_broker(config, in_spite_of_mistakes=True) as router:
        counts = router.broker.counts(router.table.queues(), router.table.waits())
        workers: list[WorkerState] | None = None  # unknown
        problem: BrokerUnavailable | None = None
        try:
            workers = router.broker.workers()
        except BrokerUnavailable as raised:  # as under a memory alarm, when the numbers are wanted most
            problem = raised
        url = mask_url(router.table.settings.broker_url)
        namespace = router.table.settings.namespace
    if format is Format.JSON:
        print_json({"broker": url, "namespace": namespace, "counts": counts, "workers": workers})
    else:
        now = time.time()
        typer.echo(f"broker {url}, namespace {namespace}\n")
        _show_queues(counts, now)
        typer.echo(f"\nin all: {_number(counts.delayed)} delayed, {_number(counts.failed)} failed\n")
        if counts.missing:
            shown, more = counts.missing[:_MISSING_SHOWN], len(counts.missing) - _MISSING_SHOWN
            text = f"not on the broker: {', '.join(shown)}" + (f" and {more} more" if more > 0 else "")
            typer.secho(f"{text}; the next start of a worker or `router topology apply` makes them\n", fg="yellow")
        if workers is not None:
            _show_workers(workers, now)
    if problem is not None:
        error(str(problem))
        raise typer.Exit(1)


def _show_queues(counts: Counts, now: float) -> None:
    from rich.table import Table

    table = Table("queue", "ready", "delayed", "running", "failed", "oldest", box=None)
    for name, queue in sorted(counts.queues.items()):
        numbers = (queue.ready, queue.delayed, queue.running, queue.failed)
        oldest = "-" if queue.oldest is None else _age(now - queue.oldest)
        table.add_row(name, *map(_number, numbers), oldest)
    print_table(table)


def _show_workers(workers: list[WorkerState], now: float) -> None:
    if not workers:
        typer.echo("no worker is alive; start one: router run-worker")
    for worker in workers:
        typer.echo(
            f"worker {worker.name} (pid {worker.pid} on {worker.host}), up {_age(now - worker.started_at)}, "
            f"table generation {worker.generation} ({worker.table_hash[:8]}) for {_age(now - worker.loaded_at)}, "
            f"{len(worker.running)} running"
        )
        for queue, job, route, started_at in worker.running:
            typer.echo(f"  running {route} (queue {queue}) job {job} for {_age(now - started_at)}")
        if worker.last_error:
            since = "" if worker.last_error_at is None else f" for {_age(now - worker.last_error_at)}"
            typer.secho(f"  its file can't be used{since}; the last good table is in force:", fg="red")
            typer.echo("    " + worker.last_error.replace("\n", "\n    "))


def _number(count: int | None) -> str:
    return "unknown" if count is None else str(count)


def _age(seconds: float) -> str:
    seconds = max(seconds, 0.0)
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f}{unit}"
    return f"{seconds:.1f}s"
