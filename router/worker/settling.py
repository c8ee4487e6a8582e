"""From what a job's life asks for to what the broker is told. Pure."""

from __future__ import annotations

import hashlib

from router.brokers.base import Bury, Delivery, Done, FailedJob, Forward, Outgoing, Reason, Settlement
from router.config.settings import AsyncOptions, Unique
from router.jobs.job import Job, Stub, encode, waiting
from router.jobs.lifecycle import Again, Failed, Step
from router.locks.base import claim_of

_DEFAULT_LEASE = Unique().lock_timeout


def settle(
    delivery: Delivery, job: Job, step: Step, options: AsyncOptions, queues: frozenset[str], now: float
) -> Settlement:
    """What becomes of ``delivery`` of ``job`` whose attempt led to ``step``. ``queues`` are those of the table."""
    match step:
        case Again(successor, wait):
            # A job stays in the queue it was dispatched to for as long as the file has that queue.
            queue = delivery.queue if delivery.queue in queues else options.queue
            outgoing = Outgoing(
                id=job.job,
                point=job.point,
                queue=queue,
                body=encode(successor, inherit=delivery.body),
                delay=wait,
                claim=claim_of(successor),
                lease=lease_of(options),
            )
            return Forward(delivery, outgoing)
        case Failed(failed, reason, error):
            body = encode(failed, inherit=delivery.body)
            record = FailedJob(job.job, delivery.queue, job.point, job.route, reason, error, now, body)
            return Bury(delivery, record, free=claim_of(job))
        case _:
            return Done(delivery, free=claim_of(job))


def put_aside(delivery: Delivery, job: Job | Stub, wait: float, now: float) -> Forward:
    """Let a job that nobody here can run wait for a worker that can. Its unique lock stays taken meanwhile."""
    since = now if job.waiting_since is None else job.waiting_since
    outgoing = Outgoing(
        id=job.job,
        point=job.point,
        queue=delivery.queue,
        body=waiting(delivery.body, since=since, not_before=now + wait),
        delay=wait,
        claim=claim_of(job) if isinstance(job, Job) else None,
        lease=_DEFAULT_LEASE,
    )
    return Forward(delivery, outgoing)


def give_up(delivery: Delivery, job: Job | Stub | None, reason: Reason, error: str, now: float) -> Bury:
    """Keep a job that was never run here as failed, with its bytes as they came. ``job``: what could be read of it."""
    job_id = job.job if job else f"bytes-{hashlib.sha256(delivery.body).hexdigest()[:16]}"
    point, route = (job.point, job.route) if job else ("", "")
    record = FailedJob(job_id, delivery.queue, point, route, reason, error, now, delivery.body)
    return Bury(delivery, record, free=claim_of(job) if isinstance(job, Job) else None)


def lease_of(options: AsyncOptions) -> float:
    """Seconds for which a unique job of that route holds its lock without renewing it."""
    return options.unique.lock_timeout if options.unique else _DEFAULT_LEASE
