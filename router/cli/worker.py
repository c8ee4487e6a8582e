"""``router run-worker``."""

from __future__ import annotations

import os
import re
import sys
from typing import Annotated

import typer

from router.brokers import connect
from router.cli.common import ConfigOption, UsageError, duration, error
from router.config.places import find
from router.config.problems import did_you_mean
from router.worker.checking import Check
from router.worker.processes import end_at_sigterm_as_pid_1

_MEMORY = re.compile(r"(\d+)\s*([KMG]?)i?B?", re.IGNORECASE)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def _cpus() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _memory(text: str) -> int:
    match = _MEMORY.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no amount of memory: write 300M or 2G")
    return int(match[1]) * _UNITS[match[2].upper()]


def run_worker(
    context: typer.Context,
    config: ConfigOption = None,
    queue: Annotated[
        list[str] | None,
        typer.Option("--queue", "-q", help="Serve only this queue; several: the first one's jobs start first."),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, max=1000, help="How many children. Default: as many as CPUs.")
    ] = None,
    stop_when_empty: Annotated[bool, typer.Option(help="End when nothing is ready, running here, or delayed.")] = False,
    max_jobs: Annotated[int | None, typer.Option(min=1, help="End after so many attempts.")] = None,
    max_time: Annotated[
        float | None, typer.Option(parser=duration, metavar="DURATION", help="End after so long.")
    ] = None,
    grace: Annotated[
        float, typer.Option(parser=duration, metavar="DURATION", help="What running jobs get when it ends.")
    ] = 25.0,
    max_jobs_per_child: Annotated[int | None, typer.Option(min=1, help="Replace a child after so many jobs.")] = None,
    max_memory_per_child: Annotated[
        int | None, typer.Option(parser=_memory, metavar="SIZE", help="Replace a child that has used more: 300M.")
    ] = None,
    reload: Annotated[
        bool, typer.Option("--reload/--no-reload", help="Put edits of the file in force, or only at SIGHUP.")
    ] = True,
    declare: Annotated[
        bool,
        typer.Option(
            "--declare/--no-declare",
            help="RabbitMQ: make what is missing, or only look.",
        ),
    ] = True,
) -> None:
    """Run the jobs of the queues, in children of this process, until it is told to stop (SIGTERM, Ctrl-C)."""
    end_at_sigterm_as_pid_1()
    path = str(find(config))
    checking = Check(path)
    # Imported while the file is checked.
    from router.worker.parent import Worker, WorkerOptions
    from router.worker.pool import Limits
    from router.worker.watching import Watcher

    checked = checking.wait()
    table = checked.sound
    if table is None:
        typer.echo(checked.problems(), err=True)
        typer.echo(err=True)
        error(f"{path} can't be used; nothing was started")
        raise typer.Exit(1)
    for name in queue or ():
        if name not in table.queues():
            near = did_you_mean(name, table.queues()) or f"it has {', '.join(table.queues())}"
            raise UsageError(f"the file has no queue {name!r}; {near}")
    settings = table.settings
    if settings.broker_url.startswith("memory:"):
        raise UsageError("memory:// lives inside one process, so a worker can't see its jobs; use sqlite:///router.db")
    options = WorkerOptions(
        queues=tuple(queue or ()),
        concurrency=concurrency or _cpus(),
        stop_when_empty=stop_when_empty,
        max_jobs=max_jobs,
        max_time=max_time,
        grace=grace,
        limits=Limits(max_jobs_per_child, max_memory_per_child),
        log_level=context.obj["log_level"],
        log_format=context.obj["log_format"],
        declare=declare,
    )
    broker = connect(settings.broker_url, settings.namespace, settings.locks_url, declare=declare)
    try:
        watcher = Watcher(checked.watched) if reload and checked.watched else None
        raise typer.Exit(Worker(table, broker, options, watcher).run())
    finally:
        broker.close()
