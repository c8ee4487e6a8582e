"""A shop whose jobs have failed: an application to try ``router failed`` on."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from router.brokers.base import FailedJob
from router.cli.failed.lines import to_line
from router.jobs.job import AttemptRecord, Job, encode, new_id
from tests.app import App, Command, in_process

MakeApp = Callable[..., App]

FILE = """
version: 1
pythonpath: ["."]
extensions:
  raised:
    schema: payload.json
    handlers:
      - {handler: "work:work", id: worker, async: {queue: emails, retries: 2, backoffSeconds: 50ms}}
  other:
    handlers:
      - {handler: "work:work", async: {queue: reports, retries: 1}}
  only_one:
    handlers:
      - {handler: "work:work", id: unique, async: {queue: uniques, retries: 1, uniqueJob: true, uniqueBy: [number]}}
  one_waits:
    handlers:
      - {handler: "work:slow", id: unique, async: {queue: uniques, retries: 2, backoffSeconds: 50ms,
                                                   uniqueJob: true, uniqueBy: [number], uniqueUntil: start}}
"""

SCHEMA = {"type": "object", "required": ["number"], "properties": {"number": {"type": "integer"}}}

WORK = """
import json, os, pathlib, time

def slow(event, context):
    if context.attempt == context.max_attempts:
        time.sleep(event["seconds"])
    work(event, context)

def work(event, context):
    if event["number"] in json.loads(pathlib.Path("broken.json").read_text()):
        raise ValueError(f"no stock for {event['number']}")
    line = json.dumps({"what": "worked", "number": event["number"], "job": context.job_id}) + "\\n"
    fd = os.open(os.environ["SHOP_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, line.encode())
    os.close(fd)
"""


class Shop:
    """An application whose handler fails for the numbers that are ``broken``."""

    def __init__(self, make_app: MakeApp, folder: Path, config: str = FILE) -> None:
        (folder / "work.py").write_text(WORK)
        (folder / "payload.json").write_text(json.dumps(SCHEMA))
        self.folder = folder
        self.broken()
        self.app: App = make_app(config)
        self.on_sqlite = self.app.counts_by_queue

    def broken(self, *numbers: int) -> None:
        """From now on the handler fails for these."""
        (self.folder / "broken.json").write_text(json.dumps(numbers))

    def router(self, *arguments: str, code: int = 0) -> Command:
        """The command, within this process: much quicker than one of its own."""
        return in_process(self.folder, self.app.env, *arguments, code=code)

    def restore(self, *jobs: FailedJob) -> list[str]:
        """Put these among the failed jobs, by the command; their ids."""
        file = self.folder / f"{new_id()}.jsonl"
        file.write_bytes(b"".join(map(to_line, jobs)))
        assert f"imported: {len(jobs)} job" in self.router("failed", "import", str(file)).stdout
        return [job.id for job in jobs]

    def failed(self, *arguments: str) -> list[str]:
        """The ids that a list shows."""
        return [job["job"] for job in self.router("failed", "list", "--format", "json", *arguments).json()]

    def run_jobs(self) -> None:
        """Until nothing is queued."""
        assert self.app.start_worker("--stop-when-empty", "--concurrency", "1").wait() == 0

    def worked(self) -> list[int]:
        """The numbers of the jobs whose handler came to its end."""
        return [line["number"] for line in self.app.journal("worked")]

    def patched(self, patch: str, *arguments: str) -> Command:
        """The command in a process in which ``patch`` was run before; whatever its exit code."""
        done = subprocess.run(
            self._patched(patch, *arguments),
            cwd=self.folder,
            env=self.app._environ(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Command(done.args, done.returncode, done.stdout, done.stderr)

    def start(self, patch: str, *arguments: str) -> subprocess.Popen[str]:
        """The same, not waited for."""
        return subprocess.Popen(
            self._patched(patch, *arguments),
            cwd=self.folder,
            env=self.app._environ(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _patched(self, patch: str, *arguments: str) -> list[str]:
        program = f"{textwrap.dedent(patch)}\nfrom router.cli.main import main\nmain()"
        return [sys.executable, "-c", program, *arguments]


def failed_job(number: int, *, age: float = 60.0, error: str = "", **changes: Any) -> FailedJob:
    """A job of ``raised`` that failed ``age`` seconds ago."""
    at = time.time() - age
    error = error or f"ValueError: no stock for {number}"
    point, route = changes.get("point", "raised"), changes.get("route", "worker")
    job = Job(
        v=1,
        job=new_id(),
        point=point,
        route=route,
        event=msgspec.Raw(msgspec.json.encode({"number": number})),
        dispatched_at=at - 5,
        correlation=new_id(),
        attempt=2,
        lock=changes.pop("lock", None),
        history=(AttemptRecord(1, 2, at, "raised", error),),
    )
    return replace(FailedJob(job.job, "emails", point, route, "attempts", error, at, encode(job)), **changes)
