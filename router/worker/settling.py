"""From what a job's life asks for to what the broker is told. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Container

from router.brokers.base import Bury, Delivery, Done, FailedJob, Forward, Outgoing, Reason, Settlement
from router.config.settings import AsyncOptions, Unique
from router.jobs.job import Job, Stub, encode, waiting
from router.jobs.lifecycle import Again, Failed, Step, park
from router.locks.base import claim_of

_DEFAULT_LEASE = Unique().lock_timeout


def settle(
    delivery: Delivery, job: Job, step: Step, options: AsyncOptions, queues: frozenset[str], now: float
) -> Settlement:
    """What becomes of ``delivery`` of ``job`` whose attempt led to ``step``. ``queues`` are those of the table."""
    match step:
        case Again(successor, wait):
            queue = queue_for(delivery.queue, options, queues)
            return Forward(delivery, publish_again(successor, delivery.body, queue or options.queue, options, wait))
        case Failed(failed, reason, error):
            body = encode(failed, inherit=delivery.body)
            record = FailedJob(job.job, delivery.queue, job.point, job.route, reason, error, now, body)
            return Bury(delivery, record, free=claim_of(job))
        case _:
            return Done(delivery, free=claim_of(job))


def queue_for(own: str, options: AsyncOptions | None, queues: Container[str]) -> str | None:
    """Where a job goes on: in its own queue while the file has it, else in its route's; None where neither is known."""
    return own if own in queues else options.queue if options else None


def publish_again(job: Job, body: bytes, queue: str, options: AsyncOptions | None, delay: float = 0.0) -> Outgoing:
    """``job``, which goes on from what came as ``body``; its lock, if it is unique, goes along."""
    return Outgoing(
        id=job.job,
        point=job.point,
        queue=queue,
        body=encode(job, inherit=body),
        delay=delay,
        claim=claim_of(job),
        lease=lease_of(options),
    )


def set_aside(delivery: Delivery, job: Job | Stub, reason: str, limit: float, now: float) -> Forward | Bury:
    """What becomes of a job that nobody here can run: it waits for a worker that can, ``limit`` seconds in all, then
    fails as an ``unknown_route``. Its unique lock stays taken while it waits."""
    wait = park(job.waiting_since, limit, now)
    if wait is None:
        text = f"{reason}; it has waited {limit:g} s for a worker that knows it"
        return give_up(delivery, job, "unknown_route", text, now)
    since = now if job.waiting_since is None else job.waiting_since
    outgoing = Outgoing(
        id=job.job,
        point=job.point,
        queue=delivery.queue,
        body=waiting(delivery.body, since=since, not_before=now + wait),
        delay=wait,
        claim=claim_of(job) if isinstance(job, Job) else None,
        lease=lease_of(None),
    )
    return Forward(delivery, outgoing)


def give_up(delivery: Delivery, job: Job | Stub | None, reason: Reason, error: str, now: float) -> Bury:
    """Keep a job that was never run here as failed, with its bytes as they came. ``job``: what could be read of it."""
    job_id = job.job if job else f"bytes-{hashlib.sha256(delivery.body).hexdigest()[:16]}"
    point, route = (job.point, job.route) if job else ("", "")
    record = FailedJob(job_id, delivery.queue, point, route, reason, error, now, delivery.body)
    return Bury(delivery, record, free=claim_of(job) if isinstance(job, Job) else None)


def lease_of(options: AsyncOptions | None) -> float:
    """Seconds for which a unique job of that route (None: nobody here knows it) holds its lock without renewing it."""
    return options.unique.lock_timeout if options and options.unique else _DEFAULT_LEASE
