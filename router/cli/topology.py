"""``router topology plan | apply | check``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from router.app.router import topology as needs_of
from router.brokers.base import Topology
from router.cli.common import ConfigOption, Format, FormatOption, UsageError, duration, error, open_broker, print_json
from router.cli.grouping import SETTINGS, Group

if TYPE_CHECKING:
    from router.brokers.amqp import AmqpBroker, Declaration, Finding, Pruned

app = typer.Typer(cls=Group, help="What the file needs on RabbitMQ: show it, make it, compare it.", **SETTINGS)


@app.command()
def plan(config: ConfigOption = None, format: FormatOption = Format.TEXT) -> None:
    """Show every exchange, queue and binding that the file needs, without asking the broker."""
    with _rabbitmq(config) as (broker, needs):
        declarations = broker.plan(needs)
    if format is Format.JSON:
        print_json([_as_data(each) for each in declarations])
        return
    for each in declarations:
        typer.echo(_in_words(each))


@app.command()
def apply(
    prune: Annotated[
        list[str] | None,
        typer.Option(
            "--prune",
            metavar="QUEUE",
            help="Delete this queue, which has left the file; what is in it becomes failed jobs. Repeatable.",
        ),
    ] = None,
    prune_delay: Annotated[
        list[float] | None,
        typer.Option(
            "--prune-delay",
            parser=duration,
            metavar="DURATION",
            help="Delete the queue of this delay, which no route has any more, once it is empty. Repeatable.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask before deleting.")] = False,
    config: ConfigOption = None,
) -> None:
    """Make what is missing. Deletes nothing but what --prune names, and asks first."""
    with _rabbitmq(config) as (broker, needs):
        for queue in prune or ():
            _check_name(queue)
            if queue in needs.queues:
                raise UsageError(f"queue {queue!r} is in the file; take it out first, and restart the workers")
        for delay in prune_delay or ():
            if broker.keeps(needs, delay):
                raise UsageError(f"the queue of delay {delay:g} s is needed: by a route, or for all other waits")
        made = broker.apply(needs)
        for each in made:
            typer.echo(f"made {each}")
        typer.echo(f"{len(made)} made; all {_count(broker.plan(needs))} exchanges and queues are there")
        if not prune and not prune_delay:
            return
        doomed = [f"queue {queue}" for queue in prune or ()] + [f"delay {delay:g} s" for delay in prune_delay or ()]
        if not yes:
            typer.confirm(f"Delete {', '.join(doomed)}? What is in a queue becomes failed jobs.", abort=True, err=True)
        done = broker.prune(needs, prune or (), prune_delay or ())
    _end([*map(_pruned, done)])


@app.command()
def check(config: ConfigOption = None, format: FormatOption = Format.TEXT) -> None:
    """Compare the broker with what the file needs, changing nothing; exit code 1 if anything is wrong."""
    with _rabbitmq(config) as (broker, needs):
        findings = broker.check(needs)
        count = _count(broker.plan(needs))
    if format is Format.JSON:
        print_json([_finding(each) for each in findings])
    elif findings:
        for finding in findings:
            typer.echo(str(finding))
        typer.echo()
        unknown = sum(finding.problem == "forbidden" for finding in findings)
        if len(findings) > unknown:
            error(f"{len(findings) - unknown} of {count} exchanges and queues are not as the file needs them")
        if unknown:
            error(f"{unknown} of {count} are there, but can't be compared without configure permission")
    else:
        typer.echo(f"all {count} exchanges and queues are as the file needs them (AMQP can't tell about bindings)")
    raise typer.Exit(1 if findings else 0)


@contextmanager
def _rabbitmq(config: str | None) -> Iterator[tuple[AmqpBroker, Topology]]:
    from router.brokers.amqp import AmqpBroker  # slow to import, and no other command needs it

    with open_broker(config) as router:
        broker = router.broker
        if not isinstance(broker, AmqpBroker):
            scheme = router.table.settings.broker_url.partition(":")[0]
            raise UsageError(f"the file's broker is {scheme}://, which needs no topology; RabbitMQ is amqp://")
        yield broker, needs_of(router.table)


def _check_name(queue: str) -> None:
    from router.brokers.amqp.names import check_queue_name  # as above

    try:
        check_queue_name(queue)
    except ValueError as problem:
        raise UsageError(str(problem)) from problem


def _count(declarations: tuple[Declaration, ...]) -> int:
    """How many exchanges and queues; bindings can't be asked for."""
    return sum(hasattr(each, "arguments") for each in declarations)


def _in_words(declaration: Declaration) -> str:
    arguments = getattr(declaration, "arguments", {})
    return "\n    ".join([str(declaration), *(f"{name} = {value}" for name, value in arguments.items())])


def _as_data(declaration: Declaration) -> dict[str, Any]:
    return {"kind": type(declaration).__name__.lower(), **msgspec.to_builtins(declaration)}


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "name": finding.declaration.name,
        "problem": finding.problem,
        "text": finding.text,
        "advice": finding.advice,
    }


def _pruned(pruned: Pruned) -> str | None:
    """Say what became of it; what keeps it, if something does."""
    moved = f"; {pruned.moved} of its jobs are failed jobs now" if pruned.moved else ""
    if pruned.deleted:
        typer.echo(f"deleted {pruned.queue}{moved}")
        return None
    return f"{pruned.queue} stays: {pruned.why}{moved}"


def _end(problems: list[str | None]) -> None:
    stays = [problem for problem in problems if problem is not None]
    for problem in stays:
        error(problem)
    if stays:
        raise typer.Exit(1)
