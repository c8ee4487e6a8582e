"""The worker's parent process: one loop that hands jobs to children and settles what became of them.

It imports no user code and never blocks for longer than the broker's contract allows. It alone decides and settles.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import socket
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from router.brokers.base import Broker, WorkerState
from router.brokers.wake import Wake
from router.config import mask_url
from router.errors import BrokerUnavailable
from router.routing.table import RoutingTable, difference
from router.worker.clock import Clock
from router.worker.desk import Desk
from router.worker.emptiness import Emptiness
from router.worker.messages import Hello, Ready, ToParent, Unready
from router.worker.pool import Child, Limits, Pool, PoolExhausted
from router.worker.processes import describe_exit, reap_orphans
from router.worker.reloading import Reload, declare
from router.worker.watchdog import Watchdog
from router.worker.watching import Watcher

log = logging.getLogger("router.worker")

FLUSH_WITHIN = 10.0
REPORT_EVERY = 2.0
LONGEST_WAIT = 1.0
TEND_EVERY = 0.2
"""Seconds after which children are looked at, also where nothing is known to have happened to one."""


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What ``router run-worker`` was asked for. Times in seconds, memory (in ``limits``) in bytes."""

    queues: tuple[str, ...] = ()
    concurrency: int = 1
    stop_when_empty: bool = False
    max_jobs: int | None = None
    max_time: float | None = None
    grace: float = 25.0
    limits: Limits = field(default_factory=Limits)
    log_level: str = "info"
    log_format: str = "text"
    declare: bool = True


class Worker:
    """Serves the queues of a table until it is told to stop. `run` belongs in the main thread of a process."""

    def __init__(self, table: RoutingTable, broker: Broker, options: WorkerOptions, watcher: Watcher | None) -> None:
        """``watcher``: of what was read for the table; None: edits are noticed by SIGHUP only."""
        self._table = table
        self._broker = broker
        self._options = options
        self._clock = Clock()
        self._started_at = self._clock.now()
        self._started_epoch = time.time()
        self._name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._desk = Desk(table, options.queues, broker.locks, self._name)
        self._pool = Pool(options.concurrency, options.limits, self._hello(table))
        self._consumer = broker.consumer(self._name)
        self._wake = Wake()
        self._watchdog = Watchdog()
        self._reload = Reload(table, broker, self._pool, self._hello, watcher, self._wake.set)
        self._emptiness = Emptiness(broker, self._wake.set)
        self._loaded_at = self._started_epoch
        self._stopping: str | None = None
        self._stop_by: float | None = None
        self._signals: list[int] = []
        self._reported_at = 0.0
        self._tend_at = 0.0

    def _hello(self, table: RoutingTable) -> Hello:
        options = self._options
        return Hello(
            table.settings, table.generation, self._name, options.log_level, options.log_format, options.declare
        )

    # -- the loop --------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Work until told to stop, or until nothing is left to do where that was asked for. Returns the exit code."""
        settings = self._table.settings
        about = (self._name, self._pool.size, ", ".join(self._desk.queues()), mask_url(settings.broker_url))
        log.info("worker %s: %d children, queues %s, broker %s", *about, extra={"event": "worker.started"})
        self._watchdog.start()
        with self._signals_wake():
            self._reload.start()
            try:
                self._attend_children(self._clock.now())  # they get ready while the broker is
                self._prepare()
                while not self._done():
                    self._turn()
            except PoolExhausted as error:
                log.error("giving up: no child could be started: %s", error, extra={"event": "worker.failed"})
                return 1
            finally:
                self._reload.close()
                self._end()
        return 0

    def _turn(self) -> None:
        wait = self._patience()
        ready = self._wait(wait)
        self._watchdog.progress()
        lost = self._clock.tick(wait)
        if lost:
            log.warning("this worker stood still for %.1f s; running jobs get that time back", lost)
        now = self._clock.now()
        for child in ready:
            self._listen(child, now)
        self._attend_signals(now)
        self._tell()  # before the last child that could is let go
        self._attend_children(now)
        self._attend_reload()
        self._desk.check_locks(now)
        self._settle()
        room = self._room(now)
        taken = self._consumer.poll(room, max(room.values(), default=0))
        self._desk.lost(self._consumer.take_lost())
        self._desk.take(taken, now)
        self._desk.assign(self._pool, now)
        self._tell()
        self._pool.flush()
        self._settle()
        self._report(now)
        self._check_limits(now)

    def _tell(self) -> None:
        self._pool.tell(self._desk.journal.take_untold())

    def _settle(self) -> None:
        settlements = self._desk.take_settlements()
        if settlements:
            self._consumer.settle(settlements)

    def _patience(self) -> float:
        """How long nothing needs to be done if nothing happens."""
        deadline = self._desk.next_deadline(self._pool)
        until = LONGEST_WAIT if deadline is None else deadline - self._clock.now()
        return max(min(until, self._consumer.patience(), LONGEST_WAIT), 0.0)

    def _room(self, now: float) -> dict[str, int]:
        if self._stopping:
            return {}
        room = self._desk.room(self._pool, now)
        if self._options.max_jobs is None:
            return room
        left = self._options.max_jobs - self._desk.ended.total() - self._desk.in_hand
        return {queue: min(count, left) for queue, count in room.items() if left > 0}

    def _wait(self, seconds: float) -> list[Child]:
        """Wait until something can be read, or written to a child that had not read all, at most so long; returns the
        children for which that holds."""
        # Asked anew each turn: the numbers of closed descriptors come again.
        children = {child.pipe.fileno(): child for child in self._pool if not child.pipe.ended}
        poll = select.poll()
        for fd, child in children.items():
            poll.register(fd, select.POLLIN | select.POLLOUT if child.pipe.unsent else select.POLLIN)
        for fd in (*self._consumer.wait_on(), *self._reload.wait_on(), self._wake.fileno()):
            poll.register(fd, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(seconds * 1000)]
        if self._wake.fileno() in ready:
            self._wake.clear()
        return [children[fd] for fd in ready if fd in children]

    # -- children --------------------------------------------------------------------------------------------------

    def _listen(self, child: Child, now: float) -> None:
        for message in child.pipe.receive():
            self._heard(child, message, now)
        if child.pipe.garbled is not None:
            child.kill(f"it said what can't be understood: {child.pipe.garbled}")

    def _heard(self, child: Child, message: ToParent, now: float) -> None:
        match message:
            case Ready():
                self._pool.note_ready(child, message)
                if child.generation == self._table.generation:
                    self._desk.rely_on(message)
            case Unready(error):
                child.unready = error
            case _ if message.run not in child.runs:
                child.kill(f"it spoke of a run that it doesn't have: {type(message).__name__} {message.run}")
            case _:
                self._desk.heard(child, message, self._pool, now)

    def _attend_children(self, now: float) -> None:
        self._desk.check_deadlines(self._pool, now)
        if now < self._tend_at and not self._pool.changing():
            return
        self._tend_at = now + TEND_EVERY
        for child in self._pool.ended():
            self._listen(child, now)
            how = child.killed_for or describe_exit(child.process.returncode)
            if child.ready and child.stop_by is None:
                log.warning("child %d ended: %s", child.process.pid, how, extra={"event": "child.ended", "reason": how})
            self._desk.child_ended(child, how, now)
            self._pool.bury(child, now)
        self._pool.maintain(now)

    def _attend_reload(self) -> None:
        failed_at = self._reload.last_error_at
        table = self._reload.attend(begin=not self._stopping)
        if table is not None:
            self._switch(table)
        elif self._reload.last_error_at != failed_at:
            self._reported_at = 0.0

    def _switch(self, table: RoutingTable) -> None:
        """That table is in force, and its children are there."""
        old, self._table, self._loaded_at = self._table, table, time.time()
        self._desk.use(table)
        for child in self._pool.usable()[:1]:
            assert child.ready is not None
            self._desk.rely_on(child.ready)
        gc.collect()  # the connection that declared it is made of cycles: they would lie here for hundreds of reloads
        changes = difference(old, table) or ["no route changed; children are replaced, so that edited code is in force"]
        for change in changes:
            log.info("reload: %s", change, extra={"event": "reload.changed"})
        fields = {"event": "reload.done", "generation": table.generation, "hash": table.hash}
        log.info("reload: generation %d is in force", table.generation, extra=fields)
        self._reported_at = 0.0

    def _prepare(self) -> None:
        """Make sure that the queues exist; a broker that is away is waited for."""
        while not self._stopping:
            declared = declare(self._table, self._broker, self._wake.set)
            while not declared.done() and not self._stopping:
                ready = self._wait(LONGEST_WAIT)
                self._clock.tick(LONGEST_WAIT)
                self._watchdog.progress()
                now = self._clock.now()
                for child in ready:
                    self._listen(child, now)
                self._attend_signals(now)
                self._attend_children(now)
                self._check_time(now)
            if not declared.done():
                return
            try:
                for objection in declared.result():
                    log.warning("%s", objection)
                return
            except BrokerUnavailable as error:
                log.warning("the broker is out of reach, trying again: %s", error)

    # -- the outside -----------------------------------------------------------------------------------------------

    @contextmanager
    def _signals_wake(self) -> Iterator[None]:
        """Let signals end a wait."""
        before = {
            number: signal.signal(number, lambda number, _: self._signals.append(number))
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
        }
        old_fd = signal.set_wakeup_fd(self._wake.wakeup_fd(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(old_fd)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _attend_signals(self, now: float) -> None:
        signals, self._signals = self._signals, []
        for number in signals:
            if number == signal.SIGCHLD:
                self._tend_at = 0.0
                reap_orphans(self._pool.pids() | self._reload.pids())
            elif number == signal.SIGHUP:
                self._reload.want("SIGHUP")
            elif self._stopping is None:
                self._stop(f"{signal.Signals(number).name}", now)
            else:
                log.warning("%s again: stopping now", signal.Signals(number).name)
                self._stop_by = now

    def _stop(self, why: str, now: float) -> None:
        grace = self._options.grace
        running = len(self._desk.running())
        log.info("stopping (%s): %d jobs run, they have %g s", why, running, grace, extra={"event": "worker.stopping"})
        self._stopping = why
        self._stop_by = now + grace
        self._desk.return_waiting(f"this worker stops ({why})")

    def _check_limits(self, now: float) -> None:
        options = self._options
        if self._stopping:
            return
        if options.max_jobs is not None and self._desk.ended.total() >= options.max_jobs:
            self._stop("--max-jobs", now)
        elif options.stop_when_empty and self._is_empty(now):
            self._stop("--stop-when-empty", now)
        else:
            self._check_time(now)

    def _check_time(self, now: float) -> None:
        most = self._options.max_time
        if most is not None and now - self._started_at >= most and not self._stopping:
            self._stop("--max-time", now)

    def _is_empty(self, now: float) -> bool:
        if self._desk.in_hand or self._consumer.unsettled:
            self._emptiness.busy()
            return False
        return self._emptiness.seen(self._desk.queues(), self._table.waits(), now)

    def _report(self, now: float) -> None:
        if now - self._reported_at < REPORT_EVERY:
            return
        self._reported_at = now
        running = tuple((run.queue, run.job.job, run.route.id, run.started_epoch) for run in self._desk.running())
        self._consumer.report(
            WorkerState(
                self._name,
                socket.gethostname(),
                os.getpid(),
                self._started_epoch,
                self._table.generation,
                self._table.hash,
                self._reload.last_error,
                running,
                self._loaded_at,
                self._reload.last_error_at,
            )
        )

    # -- the end ---------------------------------------------------------------------------------------------------

    def _done(self) -> bool:
        if self._stopping is None:
            return False
        grace_over = self._stop_by is not None and self._clock.now() >= self._stop_by
        return self._desk.in_hand == 0 or grace_over

    def _end(self) -> None:
        """Give back what is unfinished, end the children, let the broker confirm what became of the jobs."""
        now = self._clock.now()
        self._desk.return_all("this worker stops", now)
        self._settle()
        self._tell()
        self._pool.end(now)
        give_up_at = time.monotonic() + FLUSH_WITHIN
        while self._consumer.unsettled and time.monotonic() < give_up_at:
            self._watchdog.progress()
            self._consumer.poll({})
            self._wait(self._consumer.patience())
        if self._consumer.unsettled:
            log.error("%d jobs could not be settled; they will run again", self._consumer.unsettled)
        self._consumer.close()
        self._watchdog.close()
        ended = self._desk.ended + Counter(failed=self._desk.journal.failed_unrun)
        text = "worker %s stopped: %d succeeded, %d to be retried, %d failed"
        numbers = (ended["succeeded"], ended["retried"], ended["failed"])
        log.info(text, self._name, *numbers, extra={"event": "worker.stopped", **ended})
