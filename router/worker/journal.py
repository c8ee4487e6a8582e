"""Says what happens to the worker's jobs: to the log, and to the listeners that its children have."""

from __future__ import annotations

import logging
import time
from typing import Any

from router.jobs.following import LifecycleEvent, Name, level, log_event, name_of, of_job, of_step
from router.jobs.job import Job, Stub
from router.jobs.lifecycle import Step
from router.worker.runs import Run

log = logging.getLogger("router.worker")


class Journal:
    """``worker``: the name of this one. ``listened``: what the listeners want to be told of."""

    def __init__(self, worker: str | None = None) -> None:
        self.listened: frozenset[str] = frozenset()
        self.failed_unrun = 0
        """How many jobs failed without having been run here."""
        self._worker = worker
        self._untold: list[LifecycleEvent] = []

    def take_untold(self) -> list[LifecycleEvent]:
        """What is to be told to listeners, since the last call."""
        untold, self._untold = self._untold, []
        return untold

    def started(self, run: Run) -> None:
        """Its handler is being called. Listeners have it from the child itself, which is busy from now on."""
        if log.isEnabledFor(level("started")):
            log_event(log, of_job("started", run.job, run.queue, time.time(), run.options, worker=self._worker))

    def ended(self, run: Run, step: Step, seconds: float) -> None:
        """The attempt took so many seconds and led to this step."""
        if self._wanted(name_of(step)):
            about = (run.job, run.queue, time.time(), run.options)
            self._tell(of_step(step, *about, seconds=seconds, worker=self._worker))

    def returned(self, run: Run, why: str) -> None:
        """It goes back to its queue, no attempt paid."""
        self._note("returned", run, reason=why)

    def lock_lost(self, run: Run, holder: str) -> None:
        """Another job took its unique lock; this one goes on."""
        self._note("lock_lost", run, holder=holder)

    def superseded(self, run: Run) -> None:
        """A copy of a job of which a later attempt is under way."""
        self._note("skipped", run, reason="a later attempt of it is under way")

    def duplicate(self, run: Run, holder: str) -> None:
        """Another job has its unique lock by now."""
        self._note("duplicate", run, holder=holder)

    def waiting(self, job: Job | Stub, queue: str, reason: str, wait: float) -> None:
        """It can't be run here, and is put aside for so many seconds."""
        self._note_unrun("waiting", job, queue, reason=reason, wait=wait)

    def given_up(self, job: Job | Stub | None, queue: str, reason: str, error: str) -> None:
        """It failed without having been run here. ``job``: what could be read of it."""
        self.failed_unrun += 1
        self._note_unrun("failed", job, queue, reason=reason, error=error)

    def _note(self, name: Name, run: Run, **more: Any) -> None:
        if self._wanted(name):
            self._tell(of_job(name, run.job, run.queue, time.time(), run.options, worker=self._worker, **more))

    def _note_unrun(self, name: Name, job: Job | Stub | None, queue: str, **more: Any) -> None:
        if not self._wanted(name):
            return
        more["worker"] = self._worker
        if isinstance(job, Job):
            self._tell(of_job(name, job, queue, time.time(), **more))
            return
        if job is not None:
            more |= {"job": job.job, "point": job.point, "route": job.route}
        self._tell(LifecycleEvent(name=name, at=time.time(), queue=queue, **more))

    def _wanted(self, name: Name) -> bool:
        return name in self.listened or log.isEnabledFor(level(name))

    def _tell(self, event: LifecycleEvent) -> None:
        log_event(log, event)
        if event.name in self.listened:
            self._untold.append(event)
