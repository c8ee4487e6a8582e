"""What a reload of a large file costs the jobs: how late they start meanwhile. Used by rows/large_file.py.

On the embedded broker, with two children; it takes about two minutes.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.results import OURS, Goal, Table, percentile
from benchmarks.systems import BIN
from router import Router

RELOADS = 5
PROBE_EVERY = 0.02
ROUTER = str(BIN / "router")

PROBE = """
version: 1
pythonpath: ["."]
broker: {url: "sqlite:///router.db"}
extensions:
  probed: {handlers: [{handler: "handlers:probe", async: {queue: probes}}]}
"""
HANDLERS = """
import os, time

def probe(event):
    fd = os.open("late.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{event['at']} {time.time() - event['at']}\\n".encode())
    os.close(fd)

def alert(error, event):
    pass
"""


def large_file(handlers: int, edition: int) -> str:
    """PROBE and so many handlers more, five for each extension point, three of them asynchronous."""
    lines = [PROBE.strip()]
    for number in range(handlers):
        if number % 5 == 0:
            lines += [f"  area{number % 50}.event{number}:", f"    description: Edition {edition}.", "    handlers:"]
        lines += [f"      - handler: handlers:handle_{number % 500}", f"        id: h{number}"]
        if number % 5 > 1:
            options = f"queue: q{number % 7}, delay: 5, retries: {3 + edition % 2}, backoff: linear, backoffSeconds: 10"
            lines.append(f"        async: {{{options}, timeout: 120, onFailure: 'handlers:alert'}}")
    return "\n".join(lines) + "\n"


class Probes:
    """Dispatches a job every now and then, in a thread, until told to stop."""

    def __init__(self, folder: Path) -> None:
        (folder / "probe.yaml").write_text(PROBE)
        self._app = Router(folder / "probe.yaml", hot_reload=False)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(PROBE_EVERY):
            self._app.dispatch("probed", {"at": time.time()})

    def close(self) -> None:
        """Stop."""
        self._stop.set()
        self._thread.join()
        self._app.close()


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until it holds, at most five minutes."""
    until = time.monotonic() + 300
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError
        time.sleep(0.05)


def make(folder: Path, handlers: int) -> Path:
    """Write the file, and a module with its handlers."""
    functions = "".join(f"\ndef handle_{number}(event):\n    pass\n" for number in range(500))
    (folder / "handlers.py").write_text(HANDLERS + functions)
    file = folder / "extensions.yaml"
    file.write_text(large_file(handlers, 0))
    return file


def measure(folder: Path, handlers: int) -> Table:
    """How late jobs start while the file is reloaded, beside how late they start otherwise."""
    file, log = folder / "extensions.yaml", folder / "worker.log"
    spans: list[tuple[float, float]] = []
    with log.open("wb") as output:
        command = [ROUTER, "--log-format", "json", "run-worker", "--concurrency", "2"]
        worker = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)
    try:
        wait_for(lambda: "worker.started" in log.read_text())
        probes = Probes(folder)
        wait_for(lambda: (folder / "late.txt").exists())
        time.sleep(5)
        for edition in range(1, RELOADS + 1):
            start = time.time()
            file.write_text(large_file(handlers, edition))
            wait_for(lambda wanted=edition + 1: generation(log) == wanted)  # type: ignore[misc]
            spans.append((start, time.time() + 1))
            time.sleep(3)
        probes.close()
    finally:
        worker.terminate()
        worker.wait(60)
    late = [tuple(map(float, line.split())) for line in (folder / "late.txt").read_text().splitlines()]
    within = [any(start <= at <= end for start, end in spans) for at, _ in late]
    during = [seconds for (_, seconds), reloading in zip(late, within, strict=True) if reloading]
    # Before the first reload the worker was still starting.
    quiet = [
        seconds for (at, seconds), reloading in zip(late, within, strict=True) if not reloading and at > spans[0][0]
    ]
    notes = [f"A reload takes {statistics.median(end - start - 1 for start, end in spans):.1f} s."]
    for name, found in (("Otherwise", quiet), ("During reloads", during)):
        ms = sorted(1000 * one for one in found)
        notes.append(f"{name}: {len(ms)} jobs, p99 {percentile(ms, 0.99):.0f} ms, most {ms[-1]:.0f} ms.")
    values = {
        f"{OURS}, otherwise": [1000 * statistics.median(quiet)],
        f"{OURS}, during reloads": [1000 * statistics.median(during)],
    }
    more = values[f"{OURS}, during reloads"][0] - values[f"{OURS}, otherwise"][0]
    title, goal = "A reload delays a ready job, in the median, by", Goal(100, at_least=False)
    return Table("large_file", title, "ms", {OURS: [more], **values}, [goal], more=False, notes=notes)


def generation(log: Path) -> int:
    """Which table is in force."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return max((line["generation"] for line in lines if line.get("event") == "reload.done"), default=1)
