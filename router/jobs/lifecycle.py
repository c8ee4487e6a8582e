"""What happens to a job next: the one place that knows. Pure; the time is passed in.

::

    dispatch ─► queue ─► attempt ─┬─ Returned, Raised ("drop") ──────────────► Finish
                  ▲               ├─ Raised, TimedOut, Died ─┬─ attempts left ─► Again (waits, next attempt)
                  │               │                          └─ none left,
                  │               │                             or not wanted ─► Failed
                  │               ├─ Expired (before it started) ──────────────► Failed
                  └── delay ◄─────┴─ not runnable here (`park`) ─┬─ for less than unknownRouteFor ─► the same attempt
                                                                 └─ for longer ────────────────────► a failed job
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from router.config.settings import AsyncOptions
from router.durations import MAX_WAIT
from router.errors import ChildDied, JobTimeout
from router.jobs.job import MAX_ERROR_BYTES, MAX_HISTORY, AttemptOutcome, AttemptRecord, Job
from router.jobs.unique import until_start

FIRST_PARK_SECONDS = 1.0
PARK_SECONDS = 10.0
"""How long a job that nobody here can run waits at first, and at most, before somebody looks at it again."""


Asked = Literal["retry", "fail", "drop"]


@dataclass(frozen=True, slots=True)
class Returned:
    """The handler returned."""


@dataclass(frozen=True, slots=True)
class Raised:
    """The handler raised. ``asked`` is "retry" or "fail" for the exceptions of those names; ``delay`` is Retry's.

    "drop": what the event is about is gone, and then the job is not to be done.
    """

    error: str
    asked: Asked | None = None
    delay: float | None = None


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The handler ran for longer than ``timeout`` seconds and was ``ended`` in that way."""

    timeout: float
    ended: Literal["killed", "cancelled"] = "killed"


@dataclass(frozen=True, slots=True)
class Died:
    """The child in which the handler ran ended before it did. ``how``: in words, `killed by SIGKILL`."""

    how: str


@dataclass(frozen=True, slots=True)
class Expired:
    """No attempt was started in the time that the job had for that."""


Outcome = Returned | Raised | TimedOut | Died | Expired


@dataclass(frozen=True, slots=True)
class Finish:
    """The job is done. ``skipped``: why it was not to be done."""

    skipped: str | None = None


@dataclass(frozen=True, slots=True)
class Again:
    """Another attempt, ``wait`` seconds from now, as ``successor``."""

    successor: Job
    wait: float
    error: str


@dataclass(frozen=True, slots=True)
class Failed:
    """No attempt is left, or none is wanted. ``job`` is the job with its last attempt in the history."""

    job: Job
    reason: Literal["attempts", "fail", "expired"]
    error: str


Step = Finish | Again | Failed


def next_step(
    job: Job, options: AsyncOptions, outcome: Outcome, now: float, *, worker: str | None = None, draw: float = 0.0
) -> Step:
    """What follows from ``outcome`` of the attempt that ``job`` names, in that worker.

    ``now``: seconds since the epoch. ``draw``: a random number from 0 to 1, for jitter.
    """
    if isinstance(outcome, Returned):
        return Finish()
    if isinstance(outcome, Raised) and outcome.asked == "drop":
        return Finish(outcome.error.partition("\n")[0])
    if isinstance(outcome, Expired):
        text = f"JobExpired: no attempt could be started in time; attempt {job.attempt} would have been the next"
        return Failed(msgspec.structs.replace(job, not_before=None), "expired", text)
    kind, error = _describe(outcome)
    record = AttemptRecord(job.round, job.attempt, now, kind, cut(error), worker)
    history = (*job.history, record)[-MAX_HISTORY:]
    if _fails_at_once(outcome, options):
        return Failed(msgspec.structs.replace(job, history=history, not_before=None), "fail", record.error)
    if job.attempt >= options.max_attempts:
        return Failed(msgspec.structs.replace(job, history=history, not_before=None), "attempts", record.error)
    asked = outcome.delay if isinstance(outcome, Raised) else None
    wait = min(options.backoff.wait(job.attempt, draw) if asked is None else max(asked, 0.0), MAX_WAIT)
    successor = msgspec.structs.replace(
        job,
        attempt=job.attempt + 1,
        history=history,
        not_before=now + wait,
        waiting_since=None,
        # What was unique until it started is so no more: another one may hold the lock by now.
        lock=None if until_start(job.lock, options) else job.lock,
    )
    return Again(successor, wait, record.error)


Callback = Literal["onRetry", "onFailure"]


def callback_of(step: Step) -> Callback | None:
    """Which of the route's callbacks is told of it."""
    match step:
        case Again():
            return "onRetry"
        case Failed():
            return "onFailure"
        case _:
            return None


def is_expired(job: Job, now: float) -> bool:
    """Whether it is too late to start an attempt of the job. ``now``: seconds since the epoch."""
    return job.expires_at is not None and now > job.expires_at


def _fails_at_once(outcome: Raised | TimedOut | Died, options: AsyncOptions) -> bool:
    match outcome:
        case Raised(asked=asked):
            return asked == "fail"
        case TimedOut():
            return not _NAMES_OF_TIMEOUT.isdisjoint(options.dont_retry_on)
        case _:
            return not _NAMES_OF_DEATH.isdisjoint(options.dont_retry_on)


def _names(error: type[BaseException]) -> frozenset[str]:
    """Every import path by which a file may name that exception, or one that it is derived from."""
    classes = error.__mro__[:-1]
    return frozenset(f"{module}:{cls.__name__}" for cls in classes for module in (cls.__module__, "router"))


_NAMES_OF_TIMEOUT, _NAMES_OF_DEATH = _names(JobTimeout), _names(ChildDied)


def park(waiting_since: float | None, unknown_route_for: float, now: float) -> float | None:
    """Seconds for which a job that nobody here can run is put aside; None: it has waited for ``unknown_route_for``."""
    waited = 0.0 if waiting_since is None else max(now - waiting_since, 0.0)
    left = unknown_route_for - waited
    # Soon at first: it may come to an old worker several times before it meets a new one.
    return min(max(waited, FIRST_PARK_SECONDS), PARK_SECONDS, left) if left > 0 else None


def next_round(job: Job, now: float) -> Job:
    """The failed ``job``, to be tried again from its first attempt, however late it is. ``now``: seconds since the
    epoch."""
    return msgspec.structs.replace(
        job, round=job.round + 1, attempt=1, retried_at=now, not_before=None, waiting_since=None, expires_at=None
    )


def _describe(outcome: Raised | TimedOut | Died) -> tuple[AttemptOutcome, str]:
    match outcome:
        case Raised(error):
            return "raised", error
        case TimedOut(timeout, ended):
            return "timeout", f"JobTimeout: ran longer than {timeout:g} s and was {ended}"
        case Died(how):
            return "died", f"ChildDied: {how}"


def cut(text: str) -> str:
    """``text`` in at most 4 KiB of UTF-8; of a longer one the beginning (what) and the end (where) stay."""
    data = text.encode(errors="replace")
    if len(data) <= MAX_ERROR_BYTES:
        return data.decode()
    half = MAX_ERROR_BYTES // 2 - 10
    return f"{data[:half].decode(errors='ignore')}\n[... cut]\n{data[-half:].decode(errors='ignore')}"
