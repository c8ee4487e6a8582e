"""A file of 10,000 handlers: how long `router validate --no-import` takes, and what a reload of it costs the jobs.

``python benchmarks/large_file.py [HANDLERS]`` prints what docs/benchmarks.md shows. It all happens in this one run, on
the embedded broker, in a folder of its own.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from router import Router

ROUNDS = 5
RELOADS = 5
PROBE_EVERY = 0.02
BARE = "import sys, yaml; yaml.load(open(sys.argv[1], 'rb'), Loader=yaml.CSafeLoader)"
ROUTER = str(Path(sys.executable).with_name("router"))

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


def seconds(command: list[str]) -> float:
    """How long a command takes."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def validation(file: Path) -> None:
    """Print how long checking takes, beside a bare load of the same file, both as commands, alternating."""
    bare, ours = [], []
    for _ in range(ROUNDS):
        bare.append(seconds([sys.executable, "-c", BARE, str(file)]))
        ours.append(seconds([ROUTER, "validate", "--no-import", str(file)]))
    ratios = [mine / theirs for mine, theirs in zip(ours, bare, strict=True)]
    print(f"bare libyaml load             {statistics.median(bare):6.2f} s")
    print(f"router validate --no-import   {statistics.median(ours):6.2f} s")
    print(f"ratio                         {statistics.median(ratios):6.2f}    ({min(ratios):.2f} to {max(ratios):.2f})")


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


def reloads(folder: Path, handlers: int) -> None:
    """Print how late jobs start while the file is reloaded, beside how late they start otherwise."""
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
    print(f"a reload takes                {statistics.median(end - start - 1 for start, end in spans):6.2f} s")
    for name, found in (("otherwise", quiet), ("during reloads", during)):
        ms = sorted(1000 * one for one in found)
        tail = f"p99 {ms[int(len(ms) * 0.99)]:.0f}, most {ms[-1]:.0f}, {len(ms)} jobs"
        print(f"dispatch to start, {name:<15} {statistics.median(ms):6.1f} ms ({tail})")
    delay = 1000 * (statistics.median(during) - statistics.median(quiet))
    print(f"a reload delays a job by      {delay:6.1f} ms (median)")


def generation(log: Path) -> int:
    """Which table is in force."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return max((line["generation"] for line in lines if line.get("event") == "reload.done"), default=1)


def main() -> None:
    """Measure."""
    handlers = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        functions = "".join(f"\ndef handle_{number}(event):\n    pass\n" for number in range(500))
        (folder / "handlers.py").write_text(HANDLERS + functions)
        (folder / "extensions.yaml").write_text(large_file(handlers, 0))
        validation(folder / "extensions.yaml")
        reloads(folder, handlers)


if __name__ == "__main__":
    main()
