"""``router failed retry``."""

from __future__ import annotations

import time
from typing import Annotated

import msgspec
import typer

from router.app.router import Router, topology
from router.brokers.base import Decision, FailedJob, Forget, Keep, Outgoing, Requeue
from router.cli.common import ConfigOption, UsageError, duration, error, open_broker
from router.cli.failed.canaries import Verdict, Watch, as_canary, delayed, lengthened, without_mark
from router.cli.failed.editing import edit as edit_payload
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
    Selection,
    SinceOption,
    decoded,
    digest,
    of_ids,
    selection,
)
from router.cli.failed.sweeping import Tally, browse, carry_out, finish
from router.cli.interrupting import interrupted
from router.config import counted
from router.config.settings import AsyncOptions
from router.durations import format_duration
from router.errors import InvalidPayload, RouterError
from router.jobs.job import Job
from router.jobs.lifecycle import next_round
from router.jobs.unique import is_of, lock_key
from router.locks.base import claim_of
from router.worker.settling import publish_again, queue_for

WITHIN = 300.0


def retry(
    ids: Ids = None,
    all: All = False,
    point: PointOption = None,
    handler: HandlerOption = None,
    queue: QueueOption = None,
    error: ErrorOption = None,
    since: SinceOption = None,
    reason: ReasonOption = None,
    limit: LimitOption = None,
    edit: Annotated[bool, typer.Option("--edit", help="Edit the payload of this one job in $EDITOR first.")] = False,
    canary: Annotated[
        int | None, typer.Option("--canary", min=1, help="So many first, the others only if those succeed.")
    ] = None,
    within: Annotated[
        float | None,
        typer.Option("--within", parser=duration, metavar="DURATION", help="What canaries have for that; 5m."),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Put failed jobs back into their queues, with all their attempts anew and the same ids."""
    if edit and canary is not None:
        raise UsageError("--edit is for one job, --canary for many: give one of the two")
    if within is not None and canary is None:
        raise UsageError("--within goes with --canary")
    filters = Filters(point, handler, queue, error, since, reason, limit)
    with open_broker(config) as router:
        chosen = selection(router, ids, all, filters, look=edit or canary is not None)
        router.broker.declare(topology(router.table))
        retrial = Retrial(router)
        if edit:
            _edit_one(router, retrial, chosen)
        elif canary is not None and chosen.ids is not None:
            _canaries_first(router, retrial, chosen.ids, canary, WITHIN if within is None else within)
        else:
            _end(retrial, retrial.run(chosen))


class Retrial:
    """Starts the next round of failed jobs. ``problems``: why some stay failed; ``sent``: what was made of the rest."""

    def __init__(self, router: Router, canaries_within: float | None = None) -> None:
        """``canaries_within``: make them canaries, that are watched for so many seconds."""
        self._router = router
        self._within = canaries_within
        self.problems: list[str] = []
        self.sent: dict[str, Outgoing] = {}
        self.rounds: dict[str, int] = {}
        self._queued: set[bytes] = set()

    def run(self, chosen: Selection, edited: dict[bytes, Job] | None = None) -> Tally:
        """Retry those. ``edited``: by their bytes before, the jobs that were edited."""

        def decide(failed: FailedJob) -> Decision:
            if not chosen.fits(failed):
                return Keep()
            job = decoded(failed) if edited is None else edited.get(failed.body)
            if edited is not None and job is None:
                return Keep()
            copy = digest(failed)
            if copy in self._queued:
                return Forget()  # it is there twice, and the other one is queued again, or stays
            decision = self._decide(failed, job)
            if isinstance(decision, Requeue):
                self._queued.add(copy)
            return decision

        tally = carry_out(self._router.broker, decide, "retrying")
        for job, holder in tally.duplicates.items():
            self.problems.append(f"{job} is unique, and job {holder} holds its lock; it stays")
        return tally

    def _decide(self, failed: FailedJob, job: Job | None) -> Decision:
        if job is None:
            self.problems.append(f"{failed.id} is no job that this version can read; it stays")
            return Keep()
        table = self._router.table
        route = table.find(job.point, job.route)
        options = route.options if route else None
        queue = queue_for(failed.queue, options, table.queues())
        if queue is None:
            self.problems.append(
                f"{failed.id}: the file has neither its queue {failed.queue!r} nor its route {job.route!r} of "
                f"{job.point}; it stays until one of the two is back"
            )
            return Keep()
        namespace = table.settings.namespace
        job = _locked(next_round(without_mark(job), time.time()), options, namespace)
        if self._within is None:
            return Requeue(publish_again(job, failed.body, queue, options))
        job = as_canary(job, options, namespace, self._router.broker.locks)
        outgoing = lengthened(publish_again(job, failed.body, queue, options), self._within)
        self.sent[failed.id], self.rounds[failed.id] = outgoing, job.round
        return Requeue(outgoing)


def _locked(job: Job, options: AsyncOptions | None, namespace: str) -> Job:
    """With the lock of a unique job that has none any more, since it had started, or that of another namespace."""
    if job.lock is not None and not is_of(job.lock, namespace):  # of an import
        job = msgspec.structs.replace(job, lock=None)
    if job.lock is not None or options is None or options.unique is None:
        return job
    try:
        lock = lock_key(namespace, job.point, job.route, options.unique, bytes(job.event))
    except InvalidPayload:  # of before the route was unique by what it lacks
        return job
    return msgspec.structs.replace(job, lock=lock)


def _end(retrial: Retrial, tally: Tally, before: int = 0) -> None:
    finish(tally, f"queued again: {counted(before + len(tally.requeued), 'job')}", retrial.problems)


def _edit_one(router: Router, retrial: Retrial, chosen: Selection) -> None:
    if chosen.ids is None or len(chosen.ids) != 1:
        raise UsageError(f"--edit is for one job, and these are {len(chosen.ids or ())}; see: router failed list")
    found: list[FailedJob] = []
    browse(router.broker, lambda failed: found.append(failed) if chosen.fits(failed) else None)
    if not found:
        raise RouterError(f"{chosen.ids[0]} is no failed job any more: somebody else has retried or forgotten it")
    failed = found[-1]
    before = decoded(failed)
    if before is None:
        raise RouterError(f"{failed.id} is no job that this version can read, so that its payload can't be edited")
    after = edit_payload(router, before)
    if after is None:
        typer.echo("nothing was changed, so nothing was done; without --edit it is retried as it is")
        return
    tally = retrial.run(chosen, {failed.body: after})
    if not tally.requeued and not retrial.problems and tally.problem is None:
        retrial.problems.append(f"{failed.id} has changed while it was edited; see: router failed show {failed.id}")
    claim = claim_of(before)
    if tally.requeued and claim is not None and claim.key != after.lock and router.broker.locks is not None:
        router.broker.locks.free(claim)  # the key of the payload as it was, should the job still hold that
    _end(retrial, tally)


def _canaries_first(router: Router, retrial: Retrial, ids: tuple[str, ...], number: int, within: float) -> None:
    first, others = ids[:number], ids[number:]
    stay = f"the other {counted(len(others), 'job')} {'stays' if len(others) == 1 else 'stay'} failed"
    before = delayed(router)
    trial = Retrial(router, within)
    tally = trial.run(of_ids(first))
    sent = {job: trial.sent[job] for job in tally.requeued}
    if tally.interrupted or tally.problem or len(sent) < len(first):
        trial.problems.append(f"stopped: not every canary could be queued; {stay}")
    if trial.problems or not sent:
        _end(trial, tally)
        return
    left = f"the canaries stay queued; {stay}"
    try:
        typer.echo(
            f"queued again: {counted(len(sent), 'canary job')}; waiting for {'it' if len(sent) == 1 else 'them'}"
        )
        verdict = Watch(router, sent, trial.rounds, before, left).until(
            time.monotonic() + within,
            no_worker=lambda: error("no worker runs; start one in another terminal: router run-worker"),
        )
    except KeyboardInterrupt:
        interrupted(left)
    if verdict.failed or verdict.waiting:
        _stopped(verdict, within, stay)
    typer.echo(f"{counted(len(sent), 'canary job')} succeeded{_HOW_KNOWN if verdict.inferred else ''}")
    _end(retrial, retrial.run(of_ids(others)), before=len(sent))


_HOW_KNOWN = (
    ", as far as RabbitMQ can tell without a lock store (locks.url): nothing is ready in their queues, nothing from "
    "there runs, no more is delayed than before, and none has failed again"
)


def _stopped(verdict: Verdict, within: float, stay: str) -> None:
    for job, why in verdict.failed.items():
        error(f"canary {job} has failed again: {why}")
    for job in verdict.waiting:
        if verdict.failed:
            error(f"canary {job} was not done yet")
        else:
            error(f"canary {job} was not done within {format_duration(within)}; see: router status")
    error(f"stopped; {stay}")
    raise typer.Exit(1)
