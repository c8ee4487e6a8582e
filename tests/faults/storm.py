"""A storm: jobs dispatched and worked on by real processes, a fault in the middle of them, and the books afterwards.

The handlers write each start and end to a ledger with fsync, the dispatching process each confirm. When all is quiet,
the ledger, the queues and the failed jobs are compared with what was confirmed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.app import App, WorkerProcess
from tests.servers.proxy import Proxy
from tests.servers.rabbitmq import RabbitNode
from tests.servers.shared import RabbitPlace

JOBS = int(os.environ.get("ROUTER_FAULT_JOBS", "200"))

BOTH = [pytest.param("amqp"), pytest.param("sqlite", marks=pytest.mark.full)]
"""For what `make test` tries on RabbitMQ, and `make faults` on both."""

QUIET_WITHIN = 90.0
RECOVERED_WITHIN = 10.0 if JOBS >= 1000 else 30.0
"""In `make test` other tests run beside the storm, on a machine that may be slow to start a worker."""

HEARTBEAT = 2
UNDER_WAY = 3.0
"""Seconds before a fault in which a job may have started and not been acknowledged yet."""

WORK = '''
import os, time

from journal import write

def count(event, context):
    """Every tenth job fails once, every fiftieth for good."""
    number = event["number"]
    run = {"number": number, "job": context.job_id, "attempt": context.attempt}
    write("start", **run)
    time.sleep(0.005)
    if number % 50 == 49 or (number % 10 == 9 and context.attempt == 1):
        write("raise", **run)
        raise ValueError(f"job {number} fails")
    write("end", **run)

def quick(event):
    write("quick")

def kill_parent(event, context):
    write("killing", attempt=context.attempt)
    os.kill(os.getppid(), 9)
    time.sleep(10)
'''

FILE = """
version: 1
pythonpath: ["."]
broker: {url: "${ROUTER_BROKER_URL}", namespace: "${ROUTER_NAMESPACE}", publishTimeout: 3s}
locks: {url: "${ROUTER_LOCKS_URL}"}
unknownRouteFor: 60s
async: {backoff: 300ms, backoff_strategy: fixed, tries: 3}
extensions:
  numbered: {handlers: [{handler: "work:count", async: {queue: numbers}}]}
  quick: {handlers: [{handler: "work:quick", async: true}]}
  deadly: {handlers: [{handler: "work:kill_parent", async: {queue: deadly}}]}
"""

DISPATCHER = """
import os, sys, time, router
from router import DispatchError

app = router.Router(sys.argv[1])
begin, end, pause, ledger = int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5]
fd = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
for number in range(begin, end):
    try:
        app.dispatch("numbered", {"number": number})
    except DispatchError as error:
        left = error.unconfirmed
        while left:
            try:
                app.resend(left)
                left = ()
            except DispatchError as again:
                left = again.unconfirmed
    os.write(fd, f"{number}\\n".encode())
    os.fsync(fd)
    time.sleep(pause)
"""


@dataclass
class Books:
    """What the comparison found.

    ``lost``: confirmed, and nowhere. ``twice``: attempts that were started more than once; ``unexplained``: those of
    them that were not under way at a fault. ``both``: jobs that ended well and failed.
    """

    confirmed: int
    ended: int
    failed: int
    lost: list[int]
    twice: int
    unexplained: list[tuple[int, int]]
    both: list[int]
    recovered_after: float | None


@dataclass
class Storm:
    """``jobs`` numbered jobs on ``broker_url``.

    For RabbitMQ there are the ``node``, a ``proxy`` in front of it, and the ``place`` on it.
    """

    folder: Path
    broker_url: str
    jobs: int
    node: RabbitNode | None = None
    proxy: Proxy | None = None
    place: RabbitPlace | None = None
    file: str = FILE
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.app = App(self.folder, self.file, self.broker_url, **self.env)
        (self.folder / "work.py").write_text(WORK)
        self.workers: list[WorkerProcess] = []
        self.dispatchers: list[subprocess.Popen[bytes]] = []
        self.faults: list[tuple[float, float]] = []
        """When each fault began and when it was over."""
        self.excepted: set[int] = set()
        """What may be lost: it was in a queue that was deleted."""

    def __enter__(self) -> Storm:
        return self

    def __exit__(self, *_: object) -> None:
        for dispatcher in self.dispatchers:
            dispatcher.kill()
            dispatcher.wait()
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGCONT)
        self.app.close()

    # -- what is going on ------------------------------------------------------------------------------------------

    def start_worker(self, *arguments: str) -> WorkerProcess:
        """One more worker."""
        worker = self.app.start_worker(*(arguments or ("--concurrency", "2")))
        self.workers.append(worker)
        return worker

    def start_dispatcher(self, begin: int = 0, end: int | None = None) -> subprocess.Popen[bytes]:
        """A process that dispatches the numbers, spread over some seconds."""
        end = self.jobs if end is None else end
        pause = 3.0 / 200 if self.jobs <= 200 else 12.0 / self.jobs
        command = [sys.executable, "-c", DISPATCHER, str(self.app.config)]
        command += [str(begin), str(end), str(pause), str(self.folder / "confirmed")]
        log = (self.folder / f"dispatcher-{len(self.dispatchers)}.log").open("wb")
        with log:
            process = subprocess.Popen(command, env={**os.environ, **self.app.env}, cwd=self.folder, stderr=log)
        self.dispatchers.append(process)
        return process

    def begin(self) -> None:
        """A worker, a dispatcher, and jobs on their way: a third of them has ended when this returns."""
        self.start_worker()
        self.start_dispatcher()
        self.until_ended(self.jobs // 3)

    def ended(self) -> set[int]:
        """The numbers whose handler has returned."""
        return {line["number"] for line in self.app.journal("end")}

    def until_ended(self, count: int) -> None:
        """Wait until so many jobs have ended."""
        self.app.wait_until(lambda: len(self.ended()) >= count, QUIET_WITHIN)

    @contextmanager
    def fault(self) -> Iterator[None]:
        """Around a fault: what is under way meanwhile may run twice, and recovery is measured from its end."""
        began = time.time()
        yield
        self.faults.append((began, time.time()))

    def confirmed(self) -> set[int]:
        """The numbers that the dispatching processes have seen confirmed."""
        path = self.folder / "confirmed"
        return {int(line) for line in path.read_text().split()} if path.exists() else set()

    # -- the books -------------------------------------------------------------------------------------------------

    def finish(self) -> Books:
        """Let the dispatchers come to their end, wait until all is quiet, compare."""
        for dispatcher in self.dispatchers:
            dispatcher.wait(QUIET_WITHIN)
        until = time.monotonic() + QUIET_WITHIN
        while not self._quiet() and time.monotonic() < until:
            time.sleep(0.25)
        return self._compare()

    def started(self) -> set[int]:
        """The numbers whose handler has been called."""
        return {line["number"] for line in self.app.journal("start")}

    def _quiet(self) -> bool:
        tried = self.ended() | {line["number"] for line in self.app.journal("raise")} | self.excepted
        if not self.confirmed() <= tried:
            return False
        counts = self.app.counts()
        return counts.delayed == 0 and not any(queue.ready or queue.running for queue in counts.queues.values())

    def _compare(self) -> Books:
        confirmed = self.confirmed()
        ended = self.ended()
        failed = {job["event"]["number"] for job in self.app.failed() if job.get("event", {}).get("number") is not None}
        starts: dict[tuple[int, int], list[float]] = {}
        for line in self.app.journal("start"):
            starts.setdefault((line["number"], line["attempt"]), []).append(line["at"])
        twice = {run: times for run, times in starts.items() if len(times) > 1}
        lost = sorted(confirmed - ended - failed)
        return Books(
            confirmed=len(confirmed),
            ended=len(ended),
            failed=len(failed),
            lost=lost,
            twice=len(twice),
            unexplained=sorted(run for run, times in twice.items() if not self._under_way(times[0])),
            both=sorted(ended & failed),
            recovered_after=self._recovered_after(),
        )

    def _under_way(self, started: float) -> bool:
        """Whether a job that started then may have been unacknowledged, or its dispatch unconfirmed, at a fault."""
        return any(began - UNDER_WAY <= started <= over + RECOVERED_WITHIN for began, over in self.faults)

    def _recovered_after(self) -> float | None:
        """Seconds from the last fault's end to the first start after it."""
        if not self.faults:
            return None
        over = self.faults[-1][1]
        return min((line["at"] - over for line in self.app.journal("start") if line["at"] > over), default=None)


def check(books: Books, storm: Storm, *, all_confirmed: bool = True) -> None:
    """Nothing lost, nothing twice without a reason, and the good ones good, the bad ones failed."""
    said = f"{books}\n{storm.app._story()}"
    if all_confirmed:
        assert books.confirmed == storm.jobs, said
    assert set(books.lost) <= storm.excepted, said
    assert books.unexplained == [], said
    assert books.both == [], said
    bad = {number for number in storm.confirmed() - storm.excepted if number % 50 == 49}
    assert books.failed >= len(bad), said
    if books.recovered_after is not None:
        assert books.recovered_after <= RECOVERED_WITHIN, said
