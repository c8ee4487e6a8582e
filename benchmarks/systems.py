"""The systems whose queues are compared: how each one's worker is started, with its settings."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks import raw

Name = Literal["router", "celery", "dramatiq", "taskiq"]
Task = Literal["noop", "stamp", "nap"]
Load = Literal["short", "mixed", "async"]
"""What the worker is set up for: many short jobs, short and long ones on one queue, 64 coroutines at a time."""

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
AT_A_TIME = 64

QUEUES: dict[Name, str] = {"router": "router.queue.bench", "celery": "bench", "dramatiq": "bench", "taskiq": "bench"}


@dataclass(frozen=True)
class Command:
    """A worker to start."""

    words: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)


def router_file(url: str, queue: Mapping[str, object] | None = None) -> str:
    """Our file, as JSON, which is YAML too."""
    routes = {
        f"bench.{task}": {"handlers": [{"handler": f"benchmarks.work:{task}", "async": {"queue": "bench"}}]}
        for task in ("noop", "stamp", "nap")
    }
    file = {"version": 1, "pythonpath": [str(ROOT)], "broker": {"url": url}, "extensions": routes}
    return json.dumps({**file, "queues": {"bench": queue}} if queue else file)


@dataclass(frozen=True)
class System:
    """One of QUEUES, in a virtual host of its own."""

    name: Name
    url: str
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """For its workers and producers."""
        return {"BENCH_URL": self.url, "ROUTER_CONFIG": str(self.file), "BENCH_SYSTEM": self.name}

    @property
    def file(self) -> Path:
        """Our file."""
        return self.folder / "bench.yaml"

    def queue(self) -> raw.Queue:
        """Its queue, seen from behind."""
        return raw.Queue(self.url, QUEUES[self.name])

    def worker(self, processes: int, load: Load) -> Command:
        """How to start its worker for this load."""
        return getattr(self, f"_{self.name}")(processes, load)

    def _router(self, processes: int, load: Load) -> Command:
        options = ["--concurrency", str(processes), "--config", str(self.file)]
        return Command([str(BIN / "router"), "--log-level", "warning", "run-worker", *options])

    def _celery(self, processes: int, load: Load) -> Command:
        # For jobs of different lengths Celery's docs want a multiplier of 1, for short ones a large one.
        ahead = "1" if load == "mixed" else "100"
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "warning"]
        options = ["--pool", "prefork", "--concurrency", str(processes), *quiet]
        words = [str(BIN / "celery"), "--app", "benchmarks.apps.celery_app", "worker", *options]
        return Command(words, {"BENCH_PREFETCH": ahead})

    def _dramatiq(self, processes: int, load: Load) -> Command:
        threads = AT_A_TIME if load == "async" else 1
        environment = {"BENCH_ASYNC": "1"} if load == "async" else {}
        if load == "short":
            environment["dramatiq_queue_prefetch"] = "100"
        options = ["--processes", str(processes), "--threads", str(threads)]
        return Command([str(BIN / "dramatiq"), "benchmarks.apps.dramatiq_app", *options], environment)

    def _taskiq(self, processes: int, load: Load) -> Command:
        threads = ["--max-threadpool-threads", "1", "--max-async-tasks", "1"] if load == "mixed" else []
        at_a_time = ["--max-async-tasks", str(AT_A_TIME)] if load != "mixed" else []
        options = ["--workers", str(processes), *threads, *at_a_time, "--log-level", "WARNING"]
        ahead = {"short": "200", "mixed": "1", "async": str(2 * AT_A_TIME)}[load]
        words = [str(BIN / "taskiq"), "worker", "benchmarks.apps.taskiq_app:broker", *options]
        return Command(words, {"BENCH_PREFETCH": ahead})
