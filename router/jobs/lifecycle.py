"""What happens to a job next: the one place that knows. Pure; the time is passed in.

::

    dispatch ─► queue ─► attempt ─┬─ Returned ──────────────────────────────► Finish
                  ▲               ├─ Raised, TimedOut, Died ─┬─ attempts left ─► Again (waits, next attempt)
                  │               │                          └─ none left ─────► Failed
                  └── delay ◄─────┴─ NotRunnable ─┬─ for less than unknownRouteFor ─► Wait (same attempt)
                                                  └─ for longer ────────────────────► Failed
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from router.config.settings import MAX_WAIT, AsyncOptions
from router.jobs.job import MAX_ERROR_BYTES, MAX_HISTORY, AttemptOutcome, AttemptRecord, Job

FIRST_PARK_SECONDS = 1.0
PARK_SECONDS = 10.0
"""How long a job that nobody here can run waits at first, and at most, before somebody looks at it again."""


@dataclass(frozen=True, slots=True)
class Returned:
    """The handler returned."""


@dataclass(frozen=True, slots=True)
class Raised:
    """The handler raised. ``asked`` is "retry" or "fail" for the exceptions of those names; ``delay`` is Retry's."""

    error: str
    asked: Literal["retry", "fail"] | None = None
    delay: float | None = None


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The handler ran for longer than ``timeout`` seconds and was killed."""

    timeout: float


@dataclass(frozen=True, slots=True)
class Died:
    """The child in which the handler ran ended before it did. ``how``: in words, `killed by SIGKILL`."""

    how: str


Outcome = Returned | Raised | TimedOut | Died


@dataclass(frozen=True, slots=True)
class Finish:
    """The job is done."""


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
    reason: Literal["attempts", "fail"]
    error: str


Step = Finish | Again | Failed


def next_step(job: Job, options: AsyncOptions, outcome: Outcome, now: float) -> Step:
    """What follows from ``outcome`` of the attempt that ``job`` names. ``now``: seconds since the epoch."""
    if isinstance(outcome, Returned):
        return Finish()
    kind, error = _describe(outcome)
    record = AttemptRecord(job.round, job.attempt, now, kind, cut(error))
    history = (*job.history, record)[-MAX_HISTORY:]
    if isinstance(outcome, Raised) and outcome.asked == "fail":
        return Failed(msgspec.structs.replace(job, history=history, not_before=None), "fail", record.error)
    if job.attempt >= options.max_attempts:
        return Failed(msgspec.structs.replace(job, history=history, not_before=None), "attempts", record.error)
    asked = outcome.delay if isinstance(outcome, Raised) else None
    wait = min(options.backoff.wait(job.attempt) if asked is None else max(asked, 0.0), MAX_WAIT)
    successor = msgspec.structs.replace(
        job, attempt=job.attempt + 1, history=history, not_before=now + wait, waiting_since=None
    )
    return Again(successor, wait, record.error)


def park(waiting_since: float | None, unknown_route_for: float, now: float) -> float | None:
    """Seconds for which a job that nobody here can run is put aside; None: it has waited for ``unknown_route_for``."""
    waited = 0.0 if waiting_since is None else max(now - waiting_since, 0.0)
    left = unknown_route_for - waited
    # Soon at first: it may come to an old worker several times before it meets a new one.
    return min(max(waited, FIRST_PARK_SECONDS), PARK_SECONDS, left) if left > 0 else None


def next_round(job: Job) -> Job:
    """The failed ``job``, to be tried again from its first attempt."""
    return msgspec.structs.replace(job, round=job.round + 1, attempt=1, not_before=None, waiting_since=None)


def _describe(outcome: Raised | TimedOut | Died) -> tuple[AttemptOutcome, str]:
    match outcome:
        case Raised(error):
            return "raised", error
        case TimedOut(timeout):
            return "timeout", f"JobTimeout: ran longer than {timeout:g} s and was killed"
        case Died(how):
            return "died", f"ChildDied: {how}"


def cut(text: str) -> str:
    """``text`` in at most 4 KiB of UTF-8; of a longer one the beginning (what) and the end (where) stay."""
    data = text.encode(errors="replace")
    if len(data) <= MAX_ERROR_BYTES:
        return data.decode()
    half = MAX_ERROR_BYTES // 2 - 10
    return f"{data[:half].decode(errors='ignore')}\n[... cut]\n{data[-half:].decode(errors='ignore')}"
