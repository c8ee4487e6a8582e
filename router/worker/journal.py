"""The worker's log: one line for each thing that happens to a job. The same facts are fields of the JSON log."""

from __future__ import annotations

import logging

from router.config.durations import format_duration
from router.jobs.job import Job, Stub
from router.jobs.lifecycle import Again, Failed, Step
from router.worker.runs import Run

log = logging.getLogger("router.worker")


def _about(run: Run) -> str:
    return f"{run.route.id} ({run.job.point}) job {run.job.job} attempt {run.job.attempt} of {run.options.max_attempts}"


def _fields(event: str, run: Run, **more: object) -> dict[str, object]:
    job = run.job
    return {
        "event": event,
        "job": job.job,
        "point": job.point,
        "route": job.route,
        "queue": run.queue,
        "attempt": job.attempt,
        "max_attempts": run.options.max_attempts,
        "round": job.round,
        "correlation": job.correlation,
        **more,
    }


def started(run: Run) -> None:
    """Its handler is being called."""
    if log.isEnabledFor(logging.INFO):
        log.info("started    %s", _about(run), extra=_fields("job.started", run))


def ended(run: Run, step: Step, seconds: float) -> None:
    """The attempt took so many seconds and led to this step."""
    match step:
        case Again(_, wait, error):
            log.warning(
                "retrying   %s after %s: next in %s; %s",
                _about(run),
                _elapsed(seconds),
                format_duration(round(wait, 3)),
                headline(error),
                extra=_fields("job.retrying", run, seconds=seconds, wait=wait, error=error),
            )
        case Failed(_, reason, error):
            log.error(
                "failed     %s after %s: %s; see: router failed show %s",
                _about(run),
                _elapsed(seconds),
                headline(error),
                run.job.job,
                extra=_fields("job.failed", run, seconds=seconds, reason=reason, error=error),
            )
        case _ if log.isEnabledFor(logging.INFO):
            text = "succeeded  %s in %s"
            log.info(text, _about(run), _elapsed(seconds), extra=_fields("job.succeeded", run, seconds=seconds))


def returned(run: Run, why: str) -> None:
    """It goes back to its queue, no attempt paid."""
    log.info("returned   %s: %s", _about(run), why, extra=_fields("job.returned", run, reason=why))


def lock_lost(run: Run, holder: str) -> None:
    """Another job took its unique lock."""
    text = "lock lost  %s: job %s holds it now; this one goes on"
    log.warning(text, _about(run), holder, extra=_fields("job.lock_lost", run, holder=holder))


def not_run(event: str, job: Job | Stub | None, queue: str, text: str, *, level: int = logging.WARNING) -> None:
    """A job that never became a run here: what it was, and why."""
    name = f"{job.route} ({job.point}) job {job.job}" if job else "a message that is no job"
    fields = {"event": f"job.{event}", "job": job.job if job else None, "queue": queue, "reason": text}
    log.log(level, "%-10s %s in queue %s: %s", event.replace("_", " "), name, queue, text, extra=fields)


def headline(error: str) -> str:
    """The first line of an error's text."""
    return error.split("\n", 1)[0]


def _elapsed(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
