"""An application under test: a file, a broker, a journal, the real command and real workers that surely end.

``App`` knows nothing of which broker it runs on, so that the same tests run on each of ``BROKERS``.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import psutil

from router import Router
from router.app import default
from router.app.default import set_default
from router.brokers import connect
from router.brokers.base import Counts
from router.cli.main import main
from router.config import load
from router.routing.table import compile_table
from tests.servers.raw import Raw
from tests.servers.shared import RabbitPlace, rabbit_place, redis_url

T = TypeVar("T")

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
SHOP_FILE = ROOT / "config" / "extensions.yaml"
COMMAND_TIMEOUT = 60.0
DEADLINE = 40.0
"""Seconds after which a test stops waiting for something that should have happened long ago."""

sys.path.insert(0, str(EXAMPLES))  # the examples' modules, as their files' `pythonpath` makes them known


def sqlite_url(folder: Path) -> str:
    """The embedded broker, in a file of its own."""
    return f"sqlite:///{folder}/router.db"


def amqp_url(folder: Path) -> str:
    """A place of its own on a real RabbitMQ."""
    return rabbit_place().url


BROKERS: dict[str, Callable[[Path], str]] = {"amqp": amqp_url, "sqlite": sqlite_url}
"""Every broker that the acceptance tests run on: given an empty folder, its URL."""


_CONNECTIONS = """
broker: {url: "${ROUTER_BROKER_URL}", namespace: "${ROUTER_NAMESPACE}"}
locks: {url: "${ROUTER_LOCKS_URL}"}
"""


_JOURNAL = """
import json, os, time

def write(what, **details):
    line = json.dumps({"what": what, "at": time.time(), "pid": os.getpid(), **details}) + "\\n"
    fd = os.open(os.environ["SHOP_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, line.encode())
    os.close(fd)
"""
"""For handlers: what they write is in the file once `write` has returned, also where they are killed then."""


class Command(subprocess.CompletedProcess[str]):
    """A command that has ended."""

    def json(self) -> Any:
        """What it said on stdout, which is JSON."""
        return json.loads(self.stdout)


class WorkerProcess:
    """A running ``router run-worker``, its output in a file."""

    def __init__(self, command: list[str], env: Mapping[str, str], folder: Path, log: Path) -> None:
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(command, env=env, cwd=folder, stdout=output, stderr=output)

    @property
    def pid(self) -> int:
        """Of the parent."""
        return self.process.pid

    def log(self) -> str:
        """What it has said so far."""
        return self._log.read_text(errors="replace")

    def children(self) -> list[psutil.Process]:
        """Every process below the parent that lives now."""
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def wait(self, deadline: float = DEADLINE) -> int:
        """Wait until it has ended by itself; its exit code."""
        try:
            return self.process.wait(deadline)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker did not end within {deadline} s\n{self.log()}") from None

    def end(self, deadline: float = DEADLINE) -> None:
        """End it as an operator does, by SIGTERM. Asserts that it obeys and that nothing of it is left behind."""
        family = self.children()
        problems = []
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(deadline)
            except subprocess.TimeoutExpired:
                problems.append(f"it did not end within {deadline} s of SIGTERM")
                family += self.children()
                self.process.kill()
                self.process.wait()
        _, alive = psutil.wait_procs(family, timeout=10)
        for process in alive:
            problems.append(f"child {process.pid} was left behind")
            process.kill()
        assert not problems, f"worker {self.pid}: {'; '.join(problems)}\n{self.log()}"


class App:
    """One application: its file, a namespace of its own on the broker, its journal. Close it, or use it by ``with``."""

    def __init__(self, folder: Path, config: str | Path, broker_url: str, **env: str) -> None:
        """``config``: a file, or the text of one; a text without ``broker:`` gets the connections added."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(config, Path):
            self.config = config
        else:
            self.config = folder / "extensions.yaml"
            self.config.write_text(config if "broker:" in config else config + _CONNECTIONS)
        self.journal_path = folder / "journal.jsonl"
        (folder / "journal.py").write_text(_JOURNAL)
        self.env = {
            "ROUTER_CONFIG": str(self.config),
            "ROUTER_BROKER_URL": broker_url,
            "ROUTER_LOCKS_URL": redis_url() if broker_url.startswith("amqp:") else f"sqlite:///{folder}/locks.db",
            "ROUTER_NAMESPACE": f"test-{uuid.uuid4().hex[:12]}",
            "SHOP_JOURNAL": str(self.journal_path),
            **env,
        }
        self._workers: list[WorkerProcess] = []

    def __enter__(self) -> App:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every worker."""
        workers, self._workers = self._workers, []
        problems = []
        for worker in workers:
            try:
                worker.end()
            except AssertionError as problem:
                problems.append(str(problem))
        assert not problems, "\n".join(problems)

    # -- the command line ------------------------------------------------------------------------------------------

    def router(self, *arguments: str, timeout: float = COMMAND_TIMEOUT, code: int | None = 0) -> Command:
        """Run ``router``; ``code``: the exit code that it must have, None: any."""
        command = self._command(*arguments)
        done = subprocess.run(
            command, env=self._environ(), cwd=self.folder, capture_output=True, text=True, timeout=timeout, check=False
        )
        said = f"router {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        assert code is None or done.returncode == code, said
        return Command(done.args, done.returncode, done.stdout, done.stderr)

    def routes(self) -> dict[tuple[str, str], dict[str, Any]]:
        """The compiled table, as ``router routes`` shows it: (point, route id) → options."""
        listed = self.router("routes", "--format", "json").json()
        return {(route["point"], route["id"]): route for route in listed}

    def status(self) -> dict[str, Any]:
        """What ``router status`` knows: the numbers of the namespace, and by queue."""
        return self.router("status", "--format", "json").json()["counts"]

    def counts(self) -> Counts:
        """The same numbers, asked for by this process, which is cheaper to wait by; without queues of a bootstrap."""
        table = compile_table(load(self.config, self.env).settings)
        broker = connect(self.env["ROUTER_BROKER_URL"], self.env["ROUTER_NAMESPACE"])
        try:
            return broker.counts(table.queues(), table.waits())
        finally:
            broker.close()

    def failed(self) -> list[dict[str, Any]]:
        """The failed jobs."""
        return self.router("failed", "list", "--format", "json").json()

    def start_worker(self, *arguments: str) -> WorkerProcess:
        """Start ``router run-worker``; `close` ends it, whatever becomes of the test."""
        log = self.folder / f"worker-{len(self._workers)}.log"
        worker = WorkerProcess(self._command("run-worker", *arguments), self._environ(), self.folder, log)
        self._workers.append(worker)
        return worker

    def _command(self, *arguments: str) -> list[str]:
        return [str(Path(sys.executable).with_name("router")), *arguments]

    def _environ(self) -> dict[str, str]:
        return {**os.environ, **self.env}

    # -- behind the broker's back ----------------------------------------------------------------------------------

    @property
    def counts_by_queue(self) -> bool:
        """Whether the broker knows more of a queue than how many jobs are ready in it."""
        return not self.env["ROUTER_BROKER_URL"].startswith("amqp:")

    def hand_out(self, queue: str, times: int) -> None:
        """Have the one job of ``queue`` handed out so often, and never settled, as if each worker had crashed."""
        url, namespace = self.env["ROUTER_BROKER_URL"], self.env["ROUTER_NAMESPACE"]
        if url.startswith("sqlite:"):
            with sqlite3.connect(url.removeprefix("sqlite:///")) as database:
                database.execute("UPDATE jobs SET claim = ? WHERE namespace = ?", (times, namespace))
            database.close()
            return
        raw = Raw(RabbitPlace(url, namespace))
        for _ in range(times):
            message = self.wait_until(lambda: raw.channel.basic_get(raw.names.queue(queue)))
            raw.channel.basic_reject(message.delivery_tag, requeue=True)
        raw.close()

    # -- the application itself ------------------------------------------------------------------------------------

    @contextmanager
    def application(self) -> Iterator[Router]:
        """This process as the application: its Router, in the application's environment."""
        with mock.patch.dict(os.environ, self.env), mock.patch.object(sys, "path", [*sys.path]):
            router = Router(self.config)
            before = default._default
            set_default(router)
            try:
                yield router
            finally:
                default._default = before  # an application around this one goes on with its own
                router.close()

    # -- what has happened -----------------------------------------------------------------------------------------

    def journal(self, what: str | None = None, **details: Any) -> list[dict[str, Any]]:
        """What the handlers wrote: the lines of that kind, with those details, in order."""
        if not self.journal_path.exists():
            return []
        text = self.journal_path.read_text()
        lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        return [line for line in lines if what in (None, line["what"]) and details.items() <= line.items()]

    def wait_until(self, condition: Callable[[], T], deadline: float = DEADLINE) -> T:
        """Wait until ``condition`` holds; what it returned. Asserts that it does so before the deadline."""
        until = time.monotonic() + deadline
        while not (result := condition()):
            if time.monotonic() > until:
                raise AssertionError(f"not within {deadline} s. {self._story()}")
            time.sleep(0.02)
        return result

    def wait_for(self, what: str, count: int = 1, deadline: float = DEADLINE, **details: Any) -> list[dict[str, Any]]:
        """Wait for so many lines of the journal; those lines."""

        def found() -> list[dict[str, Any]]:
            lines = self.journal(what, **details)
            return lines if len(lines) >= count else []

        return self.wait_until(found, deadline)

    def _story(self) -> str:
        logs = "\n".join(worker.log()[-4000:] for worker in self._workers)
        lines = "\n".join(map(json.dumps, self.journal()[-40:]))
        return f"The journal's end:\n{lines}\nThe workers' logs:\n{logs}"


def in_process(folder: Path, env: Mapping[str, str], *arguments: str, code: int = 0) -> Command:
    """Run the command within this process: much quicker than one of its own."""
    said, complained = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    logger = logging.getLogger()
    with (
        mock.patch.dict(os.environ, {**env, "COLUMNS": "200"}),
        mock.patch.object(sys, "argv", ["router", *arguments]),
        mock.patch.object(sys, "path", [*sys.path]),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO())),
        mock.patch.object(logger, "handlers", [*logger.handlers]),
        mock.patch.object(logger, "level", logger.level),
        chdir(folder),
        redirect_stdout(said),
        redirect_stderr(complained),
    ):
        try:
            main()
        except SystemExit as end:
            exit_code = int(end.code or 0)
    texts = []
    for stream in (said, complained):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    assert exit_code == code, f"router {' '.join(arguments)}: exit code {exit_code}\n{''.join(texts)}"
    return Command(arguments, exit_code, *texts)
