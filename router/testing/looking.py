"""What waits, and what has failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec

from router.brokers.base import FailedJob as BrokersFailedJob
from router.brokers.memory import Waiting
from router.config import did_you_mean
from router.errors import RouterError
from router.jobs.job import decode
from router.routing.encoding import encode_event
from router.routing.references import References
from router.routing.table import RoutingTable
from router.testing.clock import as_datetime, seconds_of
from router.testing.records import FailedJob, QueuedJob


def queued_job(waiting: Waiting, table: RoutingTable, now: float) -> QueuedJob:
    """A job that waits, in words of the file."""
    job = decode(waiting.body)
    route = table.find(job.point, job.route)
    return QueuedJob(
        id=job.job,
        point=job.point,
        route=job.route,
        payload=msgspec.json.decode(job.event),
        queue=waiting.queue,
        due=as_datetime(waiting.available_at),
        delay=max(round(waiting.available_at - now, 6), 0.0),
        attempt=job.attempt,
        options=route.options if route else None,
        unique_key=job.lock,
        correlation_id=job.correlation,
        caused_by=job.causation,
    )


def failed_job(failed: BrokersFailedJob, errors: Mapping[str, BaseException]) -> FailedJob:
    """A job that has failed. ``errors``: the last exceptions, by the ids of jobs."""
    job = decode(failed.body)
    return FailedJob(
        id=failed.id,
        point=failed.point,
        route=failed.route,
        payload=msgspec.json.decode(job.event),
        queue=failed.queue,
        reason=failed.reason,
        error=errors.get(failed.id) or RouterError(failed.error),
        failed_at=as_datetime(failed.failed_at),
        attempt=job.attempt,
        history=job.history,
    )


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a test asks for among the jobs that wait; None: any."""

    route: str
    payload: Mapping[str, Any] | object | None
    point: str | None
    queue: str | None
    delay: float | str | timedelta | None
    references: References

    def among(self, queued: list[QueuedJob], table: RoutingTable) -> list[QueuedJob]:
        """Those that fit. Raises ValueError where no async route has that id."""
        known = {route.id for route, _ in table.async_routes()}
        if self.route not in known.union(job.route for job in queued):
            hint = did_you_mean(self.route, known, form="'{}'")
            raise ValueError(f"no async route has the id {self.route!r}" + (f"; {hint}" if hint else ""))
        # As it would travel, so that a date is compared with the text that became of it.
        data = b"{}" if self.payload is None else encode_event(self.payload, self.route, self.references)
        values = msgspec.json.decode(data)
        delay = None if self.delay is None else seconds_of("delay", self.delay)
        return [job for job in queued if self._fits(job, delay) and _has(job.payload, values)]

    def _fits(self, job: QueuedJob, delay: float | None) -> bool:
        return (
            job.route == self.route
            and self.point in (None, job.point)
            and self.queue in (None, job.queue)
            and delay in (None, job.delay)
        )

    def __str__(self) -> str:
        asked = {"payload": self.payload, "point": self.point, "queue": self.queue, "delay": self.delay}
        given = ", ".join(f"{name} {value!r}" for name, value in asked.items() if value is not None)
        return self.route + (f" with {given}" if given else "")


def _has(payload: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    return all(key in payload and payload[key] == value for key, value in values.items())


def shown(queued: list[QueuedJob]) -> str:
    """These jobs, a line for each."""
    return "\n  ".join(["these wait:", *map(str, queued)]) if queued else "no job waits"
