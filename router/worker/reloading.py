"""From an edit of the file to the table that is in force: checked in a fresh process, declared on the broker, its
children started first. The worker's loop attends to each step, and waits for none."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import msgspec

from router.app.router import topology
from router.brokers.base import Broker
from router.config import Look
from router.config.settings import keep_connections
from router.errors import BrokerError, BrokerUnavailable
from router.routing.table import RoutingTable
from router.worker.aside import aside
from router.worker.checking import Check, Checked
from router.worker.messages import Hello
from router.worker.pool import Pool, PoolExhausted
from router.worker.watching import Watcher

log = logging.getLogger("router.worker")


@dataclass(frozen=True, slots=True)
class _Looking:
    """Was it edited while it was checked?"""

    result: Checked
    changed: Future[bool]


@dataclass(frozen=True, slots=True)
class _Declaring:
    table: RoutingTable
    declared: Future[list[str]]


@dataclass(frozen=True, slots=True)
class _Starting:
    """Its children."""

    table: RoutingTable


class Reload:
    """``table``: the one in force. ``wake``: called, in any thread, when there is something to attend to."""

    def __init__(
        self,
        table: RoutingTable,
        broker: Broker,
        pool: Pool,
        hello: Callable[[RoutingTable], Hello],
        watcher: Watcher | None,
        wake: Callable[[], None],
    ) -> None:
        self._table = table
        self._broker = broker
        self._pool = pool
        self._hello = hello
        self._watcher = watcher
        self._wake = wake
        self._wanted: str | None = None
        self._stage: Check | _Looking | _Declaring | _Starting | None = None
        self.last_error: str | None = None
        """Why the file as it is now can't be used; None: it is in force."""
        self.last_error_at: float | None = None
        """In seconds since the epoch."""

    def start(self) -> None:
        """Watch the files."""
        if self._watcher is not None:
            self._watcher.start(lambda: self.want("the file was edited"))

    def want(self, why: str) -> None:
        """Look at the file once what is under way has ended. May be called from any thread."""
        self._wanted = why
        self._wake()

    def wait_on(self) -> Sequence[int]:
        """Descriptors that become readable when there is something to attend to."""
        return (self._stage.fileno(),) if isinstance(self._stage, Check) else ()

    def pids(self) -> set[int]:
        """Of the process that checks the file."""
        return {self._stage.pid} if isinstance(self._stage, Check) else set()

    def attend(self, *, begin: bool) -> RoutingTable | None:
        """Do what can be done without waiting, a step at a time; the table that is in force from now on, once there is
        one, with its children. ``begin``: look at the file, if that is wanted."""
        match self._stage:
            case Check() as check:
                if (result := check.poll()) is not None:
                    self._stage = None
                    self._checked(result)
            case _Looking(result, changed):
                if changed.done():
                    self._stage = None
                    self._looked_again(result, changed.result())
            case _Declaring(table, declared):
                if declared.done():
                    self._stage = None
                    self._declared(table, declared)
            case _Starting(table):
                return self._started(table)
            case None if begin and self._wanted is not None:
                why, self._wanted = self._wanted, None
                self._check(why)
        return None

    def close(self) -> None:
        """Watch the files no more, and end what is under way."""
        if self._watcher is not None:
            self._watcher.close()
        if isinstance(self._stage, Check):
            self._stage.cancel()

    def _check(self, why: str) -> None:
        settings = self._table.settings
        log.info("checking %s: %s", settings.path, why, extra={"event": "reload.started"})
        try:
            self._stage = Check(settings.path, settings.env)
        except OSError as error:  # no more processes, memory or descriptors
            self._failed(f"the process that checks it could not be started: {error}")

    def _checked(self, result: Checked) -> None:
        if self._watcher is None or result.watched is None:
            self._adopt(result)
            return
        self._watcher.watch(result.watched)
        self._stage = _Looking(result, aside(Look(result.watched).changed, self._wake))

    def _looked_again(self, result: Checked, changed: bool) -> None:
        if changed:
            # It was read while it was being written: perhaps half of it.
            self._wanted = "the file was edited again"
        else:
            self._adopt(result)

    def _adopt(self, result: Checked) -> None:
        table = result.sound
        if table is None:
            self._failed(result.problems())
            return
        settings, kept = keep_connections(table.settings, self._table.settings)
        for key in kept:
            log.warning("reload: %s is another now; that takes effect when this worker is started again", key)
        table = msgspec.structs.replace(table, settings=settings, generation=self._table.generation + 1)
        self._stage = _Declaring(table, declare(table, self._broker, self._wake))

    def _declared(self, table: RoutingTable, declared: Future[list[str]]) -> None:
        try:
            objections = declared.result()
        except BrokerUnavailable as error:
            log.warning("reload: the broker is out of reach, trying again: %s", error)
            self._stage = _Declaring(table, declare(table, self._broker, self._wake))
            return
        except BrokerError as error:
            self._failed(str(error))
            return
        for objection in objections:
            log.warning("%s", objection)
        self._pool.prepare(self._hello(table))
        self._stage = _Starting(table)

    def _started(self, table: RoutingTable) -> RoutingTable | None:
        """Once children are ready for it, the table is in force; if they can't be, it never is."""
        try:
            if not self._pool.prepared():
                return None
        except PoolExhausted as error:
            self._stage = None
            self._failed(str(error))
            return None
        self._stage = None
        self._pool.switch()
        self._table = table
        self.last_error = self.last_error_at = None
        return table

    def _failed(self, why: str) -> None:
        self.last_error, self.last_error_at = why, time.time()
        text = "reload: generation %d stays in force, the file can't be used:\n%s"
        log.error(text, self._table.generation, why, extra={"event": "reload.failed", "error": why})


def declare(table: RoutingTable, broker: Broker, wake: Callable[[], None]) -> Future[list[str]]:
    """Make sure, aside, that what this table needs is on the broker; the result is what the broker will not stand."""

    def call() -> list[str]:
        broker.declare(topology(table))
        return broker.objections(table.longest())

    return aside(call, wake)
