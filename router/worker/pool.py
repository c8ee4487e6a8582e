"""The children: started, watched, fed, replaced."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

from router.jobs.following import LifecycleEvent
from router.pauses import doubled
from router.worker.messages import Hello, Ready, Stop, Tell, ToChild
from router.worker.pipes import ParentPipe
from router.worker.processes import describe_exit, kill, start_program
from router.worker.runs import Run
from router.worker.stepping import Mark, new_memory

log = logging.getLogger("router.worker")

READY_WITHIN = 60.0
START_WITHIN = 5.0
STOP_WITHIN = 5.0
EXIT_WITHIN = 1.0
FRUITLESS_STARTS = 5
UNTOLD_MOST = 10_000
MAX_UNSENT = 512 * 1024
"""Bytes that may wait for a busy child: more isn't sent ahead."""


@dataclass(slots=True, eq=False)
class Child:
    """One child as its parent sees it.

    ``runs``, by number, are in the order sent: the first one runs, or is about to, or, of shared ones, all do. ``mark``
    says which of those was executing last.
    """

    process: subprocess.Popen[bytes]
    pipe: ParentPipe
    generation: int
    started_at: float
    mark: Mark
    runs: dict[int, Run] = field(default_factory=dict)
    by_queue: Counter[str] = field(default_factory=Counter)
    """How many of the runs are of each queue."""
    ready: Ready | None = None
    """What it said when it had imported everything."""
    free_since: float = 0.0
    """When a run ended here last."""
    jobs_run: int = 0
    worn: bool = False
    """It has reached one of its `Limits`."""
    stop_by: float | None = None
    """Set when it was told to stop: when it must have ended."""
    killed_for: str | None = None
    deaf_since: float | None = None
    """Set when it has closed its pipe."""
    unready: str | None = None
    """Why it could not become ready, in its own words."""

    @property
    def first(self) -> Run | None:
        """The one that runs, or is about to."""
        return next(iter(self.runs.values()), None)

    @property
    def shares(self) -> bool:
        """Whether it runs shared ones."""
        first = self.first
        return first is not None and first.shared

    def give(self, run: Run, message: ToChild) -> None:
        """Hand it a run; the message goes with the next `flush`."""
        self.runs[run.number] = run
        self.by_queue[run.queue] += 1
        self.pipe.post(message)

    def drop(self, run: Run, now: float) -> None:
        """That run has ended here."""
        self.free_since = now
        del self.runs[run.number]
        self.by_queue[run.queue] -= 1

    def drop_all(self) -> list[Run]:
        """All of them have."""
        runs = list(self.runs.values())
        self.runs.clear()
        self.by_queue.clear()
        return runs

    def send(self, message: ToChild) -> None:
        """Write to the child, without waiting for it to read."""
        self.pipe.send(message)

    def kill(self, why: str) -> None:
        """End it now; its end is noticed like any other."""
        self.killed_for = self.killed_for or why
        self.process.kill()

    def stop(self, now: float) -> None:
        """Tell it to end after what it was sent."""
        if self.stop_by is None:
            self.stop_by = now + STOP_WITHIN
            self.send(Stop())

    @property
    def usable(self) -> bool:
        """Whether it may be given jobs."""
        return self.can_tell and not self.worn

    @property
    def can_tell(self) -> bool:
        """Whether it may be given events to tell."""
        if self.ready is None or self.pipe.ended:
            return False
        return self.stop_by is None and self.killed_for is None


@dataclass(frozen=True, slots=True)
class Limits:
    """When a child is replaced by a fresh one, between two jobs: after so many jobs, above so many bytes."""

    max_jobs: int | None = None
    max_memory: int | None = None


class PoolExhausted(Exception):
    """No child ever becomes ready; the text says why."""


class Pool:
    """Keeps ``size`` children alive that serve the table of ``hello``.

    Another table gets children of its own first (`prepare`), so that nothing waits for their start (`switch`).
    """

    def __init__(self, size: int, limits: Limits, hello: Hello) -> None:
        self.size = size
        self._limits = limits
        self._hello = hello
        self._coming: Hello | None = None
        self._coming_failed: str | None = None
        self._children: list[Child] = []
        self._failures = 0
        self._ever_ready = False
        self._start_after = 0.0
        self._untold: deque[LifecycleEvent] = deque()

    def __iter__(self) -> Iterator[Child]:
        return iter(tuple(self._children))

    def pids(self) -> set[int]:
        """Process ids of all children."""
        return {child.process.pid for child in self._children}

    def prepare(self, hello: Hello) -> None:
        """Start children that serve this table, beside the others, a quarter of them at a time."""
        self._coming, self._coming_failed = hello, None

    def prepared(self) -> bool:
        """Whether the children of `prepare` are all ready. Raises PoolExhausted where one can't be."""
        if self._coming_failed is not None:
            self._coming = None
            raise PoolExhausted(self._coming_failed)
        return sum(child.ready is not None for child in self._children if self._is_coming(child)) >= self.size

    def switch(self) -> None:
        """Give jobs to the children of `prepare` only; the others end as they finish what they run."""
        if self._coming is not None:
            self._hello, self._coming = self._coming, None
        self._failures = 0
        self._start_after = 0.0

    def _is_coming(self, child: Child) -> bool:
        return self._coming is not None and child.generation == self._coming.generation

    def usable(self) -> list[Child]:
        """The children that may be given jobs, the least busy first."""
        generation = self._hello.generation
        usable = [child for child in self._children if child.usable and child.generation == generation]
        return sorted(usable, key=lambda child: len(child.runs))

    def changing(self) -> bool:
        """Whether a child begins or ends, or should."""
        if self._coming is not None or len(self._children) != self.size:
            return True
        generation = self._hello.generation
        return any(not child.usable or child.generation != generation for child in self._children)

    def ended(self) -> list[Child]:
        """Children whose process is gone; each is to be handed to `bury` once its last messages are read."""
        return [child for child in self._children if child.process.poll() is not None]

    def bury(self, child: Child, now: float) -> None:
        """Let go of a child that has ended.

        Raises PoolExhausted when children end one after the other without any ever becoming ready.
        """
        self._children.remove(child)
        child.pipe.close()
        child.mark.close()
        why = child.unready or child.killed_for or describe_exit(child.process.returncode)
        if self._is_coming(child):
            self._coming_failed = f"a child could not be started: {why}"
            return
        if child.ready or (child.stop_by is not None and child.killed_for is None):
            return
        self._note_failure(why, now)

    def _note_failure(self, why: str, now: float) -> None:
        self._failures += 1
        self._start_after = now + doubled(0.25, self._failures, 30.0)
        log.error("a child could not be started: %s", why, extra={"event": "child.unready"})
        if self._failures >= FRUITLESS_STARTS and not self._ever_ready:
            raise PoolExhausted(why)

    def maintain(self, now: float) -> None:
        """Stop what is outdated or too much, kill what is late, start what is missing."""
        for child in self._children:
            self._check(child, now)
        members = [child for child in self._children if child.stop_by is None and not self._is_coming(child)]
        # After a switch, as long as children of before run jobs.
        idle = [child for child in members if not child.runs]
        for child in idle[: max(len(members) - self.size, 0)]:
            child.stop(now)
        if now >= self._start_after:
            try:
                for _ in range(self.size - len(members)):
                    self._start(now, self._hello)
            except OSError as error:  # those that run go on, and this may pass
                self._note_failure(str(error), now)
        self._maintain_coming(now)

    def _maintain_coming(self, now: float) -> None:
        if self._coming is None or self._coming_failed is not None:
            return
        coming = [child for child in self._children if self._is_coming(child)]
        starting = sum(child.ready is None for child in coming)
        most = max(self.size // 4, 1)
        try:
            for _ in range(min(most - starting, self.size - len(coming))):
                self._start(now, self._coming)
        except OSError as error:
            self._coming_failed = f"a child could not be started: {error}"

    def _check(self, child: Child, now: float) -> None:
        child.pipe.flush()
        outdated = child.generation != self._hello.generation and not self._is_coming(child)
        if (outdated or child.worn) and not child.runs:
            child.stop(now)
        if not child.ready and now - child.started_at > READY_WITHIN:
            child.kill(f"not ready within {READY_WITHIN:g} s")
        elif child.stop_by is not None and not child.runs and now > child.stop_by:
            child.kill("did not end when told to")
        elif child.pipe.ended and child.ready and child.stop_by is None:
            # A dying process closes its pipe before it can be waited for: let it tell its exit code.
            child.deaf_since = child.deaf_since or now
            if now - child.deaf_since > EXIT_WITHIN:
                child.kill("closed its pipe")
        elif _starts_nothing(child, now):
            child.kill(f"did not start a job within {START_WITHIN:g} s")

    def tell(self, events: Iterable[LifecycleEvent]) -> None:
        """Let the least busy child tell these to its listeners, also one that is to be replaced; while there is none,
        they wait."""
        self._untold += events
        while self._untold:
            able = [child for child in self._children if child.can_tell and child.pipe.unsent < MAX_UNSENT]
            if not able:
                break
            min(able, key=lambda child: len(child.runs)).send(Tell(self._untold.popleft()))
        if len(self._untold) > UNTOLD_MOST:
            log.error("listeners are not told of %d events: no child has time for that", len(self._untold))
            self._untold.clear()

    def flush(self) -> None:
        """Let the children have what was given to them."""
        for child in self._children:
            child.pipe.flush()

    def note_job(self, child: Child, rss: int) -> None:
        """A job has ended in that child, which has used at most so many bytes so far."""
        child.jobs_run += 1
        if self._limits.max_jobs is not None and child.jobs_run >= self._limits.max_jobs:
            child.worn = True
        if self._limits.max_memory is not None and rss > self._limits.max_memory:
            child.worn = True

    def note_ready(self, child: Child, said: Ready) -> None:
        """That child has imported everything."""
        child.ready = said
        self._failures = 0
        self._ever_ready = True

    def _start(self, now: float, hello: Hello) -> None:
        """Raises OSError where the system has no more processes, memory or descriptors for it now."""
        with ExitStack() as undo, ExitStack() as theirs_only:
            ours, theirs = socket.socketpair()
            undo.callback(ours.close)
            theirs_only.callback(theirs.close)
            memory = new_memory()
            theirs_only.callback(os.close, memory)
            mark = Mark(memory)
            undo.callback(mark.close)
            process = start_program("router.worker.child", hand_over=theirs, memory=memory)
            undo.pop_all()
        child = Child(process, ParentPipe(ours), hello.generation, now, mark)
        child.send(hello)
        self._children.append(child)

    def end(self, now: float) -> None:
        """End every child: the idle ones when they like, within seconds, the busy ones at once."""
        if self._untold:
            log.error("listeners are not told of %d events: the worker ends", len(self._untold))
        for child in self._children:
            if child.runs or not child.ready:
                child.kill("the worker stops")
            else:
                child.stop(now)
        give_up_at = time.monotonic() + STOP_WITHIN
        for child in self._children:
            try:
                child.process.wait(timeout=max(give_up_at - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                kill(child.process)
            child.pipe.close()
        self._children = []


def _starts_nothing(child: Child, now: float) -> bool:
    """Whether it was sent a job long ago, runs none, and doesn't start it."""
    first = child.first
    if first is None or now - max(first.sent_at, child.free_since) <= START_WITHIN or first.phase != "sent":
        return False
    return not first.shared or all(run.phase == "sent" for run in child.runs.values())
