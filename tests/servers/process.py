"""What the private servers have in common: free ports, waiting for something to be true, ending a process."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable

PORTS = (10_000, 32_000)
"""Systems hand out ports above those: Linux from 32768 on, macOS from 49152 on."""

HERE = os.path.dirname(os.path.abspath(__file__))


class ServerFailed(RuntimeError):
    """The server did not start, or did not do what was asked in time; the text has the end of its log."""


def free_ports(count: int) -> list[int]:
    """Ports that are free on 127.0.0.1 now, all different, and none of those that the system hands out by itself: a
    server has not taken its port yet, or is away, while other tests connect and listen."""
    found: set[int] = set()
    while len(found) < count:
        port = random.SystemRandom().randrange(*PORTS)  # hypothesis seeds the ordinary one, alike in each process
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.add(port)
    return [*found]


def until(true: Callable[[], bool], seconds: float, what: str, step: float = 0.02) -> None:
    """Wait for ``true()``; after ``seconds`` raise ServerFailed, naming ``what``."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise ServerFailed(f"{what}: not within {seconds:g} s")
        time.sleep(step)


def accepts(port: int) -> bool:
    """Whether somebody listens on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def end(process: subprocess.Popen[bytes], grace: float) -> None:
    """SIGTERM, then after ``grace`` seconds SIGKILL, to the process and those it started (it leads its own group)."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            kill_group(process)
    kill_group(process)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the process and those it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


def tail(path: str, size: int = 3000) -> str:
    """The end of a log file, or why there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - size))
            return file.read().decode(errors="replace")
    except OSError as error:
        return f"(no log: {error})"
