"""Going through the failed jobs for a command: how far it is, and what Ctrl-C leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import typer

from router.brokers.base import Broker, Decision, FailedJob, Keep, Sweep
from router.cli.common import error, on_terminal, progress_bar
from router.cli.interrupting import CtrlC, interrupted
from router.config import counted
from router.errors import RouterError

if TYPE_CHECKING:
    from rich.progress import Progress

MOST_PROBLEMS = 20
"""Lines of problems that are shown."""


@dataclass(slots=True)
class Tally:
    """What was done, even if it came to no good end: ``interrupted`` by Ctrl-C, or by ``problem``."""

    requeued: list[str] = field(default_factory=list)
    forgotten: int = 0
    duplicates: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False
    problem: RouterError | None = None


def carry_out(broker: Broker, decide: Callable[[FailedJob], Decision], doing: str) -> Tally:
    """Do with every failed job as ``decide`` says. Ctrl-C ends it between two steps, a second one at once."""
    tally = Tally()
    looked_at = 0
    with CtrlC() as ctrl_c, progress(doing, lambda: broker.counts([]).failed) as advance:

        def asked(failed: FailedJob) -> Decision:
            nonlocal looked_at
            ctrl_c.may_take_effect()
            looked_at += 1
            return decide(failed)

        def report(step: Sweep) -> None:
            nonlocal looked_at
            tally.requeued += step.requeued
            tally.forgotten += len(step.forgotten)
            tally.duplicates.update(step.duplicates)
            advance(looked_at)
            looked_at = 0

        try:
            broker.sweep(asked, report)
        except KeyboardInterrupt:
            tally.interrupted = True
        except RouterError as problem:
            tally.problem = problem
    return tally


def browse(broker: Broker, visit: Callable[[FailedJob], None], left: str = "nothing was changed") -> None:
    """Show ``visit`` every failed job; they stay as they are. ``left``: what Ctrl-C leaves, in words."""

    def look(failed: FailedJob) -> Keep:
        visit(failed)
        return Keep()

    tally = carry_out(broker, look, "reading")
    if tally.interrupted:
        interrupted(left)
    if tally.problem is not None:
        raise tally.problem


def finish(tally: Tally, done: str, problems: list[str]) -> None:
    """Say what was ``done``, and end the command unless all went well."""
    typer.echo(done)
    if tally.interrupted:
        interrupted("the others stay failed; the same command again goes on with them")
    for problem in problems[:MOST_PROBLEMS]:
        error(problem)
    if len(problems) > MOST_PROBLEMS:
        error(f"so it is with {counted(len(problems) - MOST_PROBLEMS, 'more job')}")
    if tally.problem is not None:
        raise tally.problem
    if problems:
        raise typer.Exit(1)


@contextmanager
def progress(doing: str, total: Callable[[], int | None]) -> Iterator[Callable[[int], None]]:
    """A line on a terminal, from the first call of the function on: so many more are done."""
    shown: Progress | None = None

    def advance(count: int) -> None:
        nonlocal shown
        if not on_terminal():
            return
        if shown is None:
            shown = progress_bar(transient=True)
            shown.add_task(doing, total=known)
            shown.start()
        shown.advance(shown.task_ids[0], count)

    known = total() if on_terminal() else None
    try:
        yield advance
    finally:
        if shown is not None:
            shown.stop()
