"""What the rows share: the one RabbitMQ node, folders, processes that are sure to end, and rounds that alternate."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec
import psutil

from benchmarks import raw
from benchmarks.producers import Order
from benchmarks.systems import QUEUES, ROOT, Load, Name, System, Task, router_file
from benchmarks.work import FOLDER, Counters
from tests.servers.process import kill_group, tail
from tests.servers.rabbitmq import RabbitNode

T = TypeVar("T")

DEADLINE = 120.0
"""Seconds that any one wait may take, unless it says otherwise."""


class NotInTime(RuntimeError):
    """Something did not happen before its deadline; the text has the end of its log."""


class Bench:
    """One run. ``quick``: fewer and shorter rounds."""

    def __init__(self, *, quick: bool) -> None:
        self.quick = quick
        self._stack = contextlib.ExitStack()
        self._node: RabbitNode | None = None
        self._systems: dict[Name, System] = {}
        self._templates: dict[tuple[str, str], raw.Template] = {}

    def __enter__(self) -> Bench:
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="router-bench-")))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def pick(self, full: T, quick: T) -> T:
        """One of them."""
        return quick if self.quick else full

    def alternate(self, measures: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
        """Measure each system once a round, so that what slows the machine down slows them all; another first each."""
        wrapped = {name: partial(_as_mapping, measure) for name, measure in measures.items()}
        return self.alternate_all(wrapped, rounds)[""]

    def alternate_all(
        self, measures: Mapping[str, Callable[[], Mapping[str, float]]], rounds: int
    ) -> dict[str, dict[str, list[float]]]:
        """`alternate`, where each measures several things at once: by thing, then by system."""
        values: dict[str, dict[str, list[float]]] = {}
        names = list(measures)
        for round_ in range(rounds):
            first = round_ % len(names)
            for name in names[first:] + names[:first]:
                for what, value in measures[name]().items():
                    values.setdefault(what, {}).setdefault(name, []).append(value)
        # In the order in which they were given, whoever was first.
        return {what: {name: found[name] for name in names if name in found} for what, found in values.items()}

    # -- RabbitMQ --------------------------------------------------------------------------------------------------

    @property
    def node(self) -> RabbitNode:
        """The private node, started when it is first asked for."""
        if self._node is None:
            # At 1 GB it blocks publishers in the middle of a million jobs.
            self._node = RabbitNode(memory="8GB")
            self._stack.callback(self._node.close)
            self._node.start()
            self._node.make_vhosts(list(QUEUES))
        return self._node

    def system(self, name: Name) -> System:
        """One of QUEUES; its queue exists."""
        if name not in self._systems:
            folder = self.folder / name
            folder.mkdir()
            system = System(name, self.node.url(name), folder)
            system.file.write_text(router_file(system.url))
            self._systems[name] = system
            self.produce(system, Order(sender=system.name))
        return self._systems[name]

    def template(self, system: System, task: Task = "noop") -> raw.Template:
        """A message as it publishes them."""
        if (system.name, task) not in self._templates:
            self.purge(system)
            self.produce(system, Order(sender=system.name, task=task))
            queue = system.queue()
            self._templates[system.name, task] = queue.take()
            queue.close()
        return self._templates[system.name, task]

    # -- processes -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def process(self, name: str, words: Sequence[str], environment: Mapping[str, str]) -> Iterator[Running]:
        """A process that is killed at the end of the block, with its own; its output is in a file."""
        log = Path(tempfile.mkstemp(prefix=f"{name}-", suffix=".log", dir=self.folder)[1])
        with log.open("wb") as output:
            process = subprocess.Popen(
                words,
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            yield Running(name, process, log)
        finally:
            kill_group(process)

    def produce(self, system: System, order: Order) -> float:
        """Dispatch by a process of its own; jobs a second. As "raw" it is py-amqp, with the bodies of the system."""
        environment = {**system.environment, FOLDER: str(self.folder)}
        if order.task == "nap":
            environment["BENCH_ASYNC"] = "1"
        if order.sender == "raw":
            path = self.folder / "template"
            path.write_bytes(pickle.dumps(self.template(system)))
            environment["BENCH_TEMPLATE"] = str(path)
        return self.produce_in(environment, order)

    def produce_in(self, environment: Mapping[str, str], order: Order) -> float:
        """`produce`, with all that the sender needs in its environment."""
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.producers"],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            input=msgspec.json.encode(order),
            capture_output=True,
            timeout=DEADLINE,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{order.sender} could not dispatch:\n{done.stderr.decode()[-2000:]}")
        return float(done.stdout.splitlines()[-1])

    def purge(self, system: System) -> None:
        """Forget what is ready in its queue."""
        queue = system.queue()
        queue.purge()
        queue.close()

    @contextlib.contextmanager
    def worker(self, system: System, processes: int, load: Load) -> Iterator[tuple[Running, Counters]]:
        """Its worker, and what its handlers count."""
        folder = Path(tempfile.mkdtemp(prefix=f"{system.name}-", dir=self.folder))
        command = system.worker(processes, load)
        environment = {**system.environment, **command.environment, FOLDER: str(folder)}
        with self.process(system.name, command.words, environment) as running:
            yield running, Counters(folder)

    @contextlib.contextmanager
    def ready_worker(self, system: System, processes: int, load: Load) -> Iterator[tuple[Running, Counters]]:
        """A worker that has run a few jobs already, as many as should wake all of its processes."""
        template = self.template(system)
        with self.worker(system, processes, load) as (running, counters):
            count = 25 * processes
            raw.fill(system.url, template, count)
            running.until(lambda: counters.total() >= count)
            time.sleep(0.5)
            yield running, counters

    def drain(self, system: System, task: Task, count: int, processes: int, load: Load) -> dict[str, float]:
        """How its worker runs jobs from a full queue, after the first tenth, in as many seconds as it gets.

        ``jobs/s``, and ``CPU``: microseconds of all of the worker's processes for one job, which say something even on
        a machine that others use. Raises RuntimeError where all have run, but not all were acked.
        """
        template = self.template(system, task)
        queue = system.queue()
        queue.purge()
        raw.fill(system.url, template, count)
        with self.worker(system, processes, load) as (running, counters):
            running.until(lambda: counters.total() >= count // 10)
            start, before, cpu = time.perf_counter(), counters.total(), running.cpu()
            end_by = start + self.pick(6.0, 2.0)
            running.until(lambda: counters.total() >= count or time.perf_counter() > end_by)
            ran, seconds, cpu = counters.total(), time.perf_counter() - start, running.cpu() - cpu
            time.sleep(0.3)  # for the last acks
        time.sleep(0.3)  # what was not acked is ready again
        left = queue.ready()
        queue.close()
        if left and ran >= count:
            raise RuntimeError(f"{system.name}: {left} of {count} jobs ran but were not acked")
        return {"jobs/s": (ran - before) / seconds, "CPU": cpu / (ran - before) * 1e6}


def _as_mapping(measure: Callable[[], float]) -> dict[str, float]:
    return {"": measure()}


class Running:
    """A process that was started."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log

    def until(self, true: Callable[[], bool], seconds: float = DEADLINE, step: float = 0.002) -> None:
        """Wait for ``true()``. Raises NotInTime, also where the process has ended before."""
        deadline = time.monotonic() + seconds
        while not true():
            ended = self.process.poll()
            if ended is not None or time.monotonic() > deadline:
                why = f"not within {seconds:g} s" if ended is None else f"ended with {ended}"
                raise NotInTime(f"{self.name}: {why}\n{tail(str(self.log))}")
            time.sleep(step)

    def cpu(self) -> float:
        """Seconds of CPU that it and those below it have used, those that ended left out."""
        own = psutil.Process(self.process.pid)
        return sum(each.cpu_times().user + each.cpu_times().system for each in (own, *own.children(recursive=True)))
