"""``router failed forget``."""

from __future__ import annotations

from typing import Annotated

import typer

from router.brokers.base import Decision, FailedJob, Forget, Keep
from router.cli.common import ConfigOption, open_broker
from router.cli.failed.selecting import (
    All,
    ErrorOption,
    Filters,
    HandlerOption,
    Ids,
    LimitOption,
    PointOption,
    QueueOption,
    ReasonOption,
    SinceOption,
    decoded,
    selection,
)
from router.cli.failed.sweeping import carry_out, finish
from router.config import counted
from router.locks.base import claim_of


def forget(
    ids: Ids = None,
    all: All = False,
    point: PointOption = None,
    handler: HandlerOption = None,
    queue: QueueOption = None,
    error: ErrorOption = None,
    since: SinceOption = None,
    reason: ReasonOption = None,
    limit: LimitOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    config: ConfigOption = None,
) -> None:
    """Delete failed jobs, for good; the lock that a unique one still holds is freed."""
    filters = Filters(point, handler, queue, error, since, reason, limit)
    with open_broker(config, in_spite_of_mistakes=True) as router:
        ask = not ids and not yes
        chosen = selection(router, ids, all, filters, look=ask)
        if ask and chosen.ids:
            typer.confirm(f"Delete {counted(len(chosen.ids), 'failed job')} for good?", abort=True, err=True)

        def decide(failed: FailedJob) -> Decision:
            return forgetting(failed) if chosen.fits(failed) else Keep()

        tally = carry_out(router.broker, decide, "forgetting")
    finish(tally, f"forgotten: {counted(tally.forgotten, 'job')}", [])


def forgetting(failed: FailedJob) -> Forget:
    """The decision to delete it."""
    job = decoded(failed)
    return Forget(free=claim_of(job) if job is not None else None)
