"""What a TestRouter tells: frozen, in words of the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from router.brokers.base import Reason
from router.config import AsyncOptions
from router.durations import format_duration
from router.errors import in_words
from router.jobs.job import AttemptRecord

Outcome = Literal["succeeded", "retrying", "failed", "waiting", "duplicate", "skipped"]
"""How a job's turn ended: its handler returned; raised, with attempts left; raised, and the job has failed (or it could
not be run for as long as ``unknownRouteFor``); it waits, since it can't be run (no such route here, the payload doesn't
fit its type); it ended unrun, since another job holds its unique lock by now, or since what its event refers to is gone
(``onMissing: drop``)."""


@dataclass(frozen=True, slots=True)
class Dispatched:
    """One event that was dispatched.

    ``event``: as the synchronous handlers got it (of a mapping, a copy). ``results``, ``errors``, ``jobs``,
    ``duplicates``, ``stopped_by``: those of `router.Dispatch`. ``error``: the exception that ended it, and nothing was
    queued; else None. ``caused_by``: the id of the job that has dispatched it, or None.
    """

    point: str
    event: Any
    event_id: str
    at: datetime
    results: Mapping[str, Any]
    errors: Mapping[str, Exception]
    jobs: Mapping[str, str]
    duplicates: tuple[tuple[str, str], ...]
    stopped_by: str | None
    error: BaseException | None
    caused_by: str | None


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A job that waits. ``payload``: as it travels, in JSON's types. ``due``: when it runs, ``delay`` seconds from now.

    ``options``: those of its route, after every default; None where the table has no such route. ``unique_key``: of its
    lock, None where it is not unique. ``caused_by``: the job that has dispatched its event, or None.
    """

    id: str
    point: str
    route: str
    payload: dict[str, Any]
    queue: str
    due: datetime
    delay: float
    attempt: int
    options: AsyncOptions | None
    unique_key: str | None
    correlation_id: str
    caused_by: str | None

    @property
    def max_attempts(self) -> int | None:
        """Attempts in all, the first included; the file's ``retries``."""
        return self.options.max_attempts if self.options else None

    @property
    def timeout(self) -> float | None:
        """Seconds for one attempt in a worker."""
        return self.options.timeout if self.options else None

    def __str__(self) -> str:
        when = f"in {format_duration(self.delay)}" if self.delay else "now"
        return (
            f"{self.route} ({self.point}) {self.payload}: {when}, in queue {self.queue}, "
            f"attempt {self.attempt} of {self.max_attempts or '?'}"
        )


@dataclass(frozen=True, slots=True)
class FailedJob:
    """A job that has failed. ``reason``: as in ``router failed``; ``error``: the last exception; ``attempt``: the last.

    ``history``: its last ten attempts, as text.
    """

    id: str
    point: str
    route: str
    payload: dict[str, Any]
    queue: str
    reason: Reason
    error: BaseException
    failed_at: datetime
    attempt: int
    history: tuple[AttemptRecord, ...]


@dataclass(frozen=True, slots=True)
class Ran:
    """One attempt of one job, or its end where it could not be run.

    ``error``: the handler's exception, unchanged, or why it can't be run. ``retry_in``: seconds until the next attempt.
    ``callback_error``: what onRetry or onFailure raised, which changes nothing in a worker.
    """

    job: str
    point: str
    route: str
    payload: dict[str, Any]
    queue: str
    attempt: int
    max_attempts: int | None
    at: datetime
    outcome: Outcome
    error: BaseException | None = None
    retry_in: float | None = None
    callback_error: BaseException | None = None

    def __str__(self) -> str:
        retry = f" in {format_duration(self.retry_in)}" if self.retry_in is not None else ""
        error = f": {in_words(self.error)}" if self.error is not None else ""
        broken = f"; its callback raised {in_words(self.callback_error)}" if self.callback_error is not None else ""
        return (
            f"{self.at:%Y-%m-%d %H:%M:%S}  {self.route} ({self.point}) {self.payload}, "
            f"attempt {self.attempt} of {self.max_attempts or '?'}: {self.outcome}{retry}{error}{broken}"
        )


@dataclass(frozen=True, slots=True)
class Report:
    """What one ``run_jobs`` did, in order. ``print(report)`` shows it, a line for each."""

    runs: tuple[Ran, ...]

    @property
    def succeeded(self) -> tuple[Ran, ...]:
        """The attempts whose handlers returned."""
        return self._of("succeeded")

    @property
    def retrying(self) -> tuple[Ran, ...]:
        """The attempts that were followed, or will be, by another."""
        return self._of("retrying")

    @property
    def failed(self) -> tuple[Ran, ...]:
        """The last attempts of the jobs that have failed."""
        return self._of("failed")

    def _of(self, outcome: Outcome) -> tuple[Ran, ...]:
        return tuple(ran for ran in self.runs if ran.outcome == outcome)

    def __iter__(self) -> Iterator[Ran]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    def __str__(self) -> str:
        return "\n".join(map(str, self.runs)) or "no job was due"
