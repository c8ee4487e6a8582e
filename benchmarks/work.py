"""The handlers that all systems run, and how they tell what they did: as cheaply as can be, and alike for all.

Each process adds to eight bytes of its own in shared memory, so that no lock is needed; the benchmark adds them up.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = "BENCH_FOLDER"
"""The environment variable with the folder of the counters and stamps."""

STAMP = struct.Struct("dd")

_count: memoryview | None = None
_stamps: int | None = None


def _open() -> memoryview:
    global _count
    fd = os.open(Path(os.environ[FOLDER], f"count-{os.getpid()}"), os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(fd, 8)
    _count = memoryview(mmap.mmap(fd, 8)).cast("Q")
    os.close(fd)
    return _count


def _forget() -> None:
    """A forked process counts for itself."""
    global _count
    _count = None


os.register_at_fork(after_in_child=_forget)


def noop(event: Any = None) -> None:
    """Counts that it ran."""
    count = _count or _open()
    count[0] += 1


async def nap(event: Any = None) -> None:
    """Waits 10 ms."""
    await asyncio.sleep(0.01)
    noop()


def stamp(event: Mapping[str, float]) -> None:
    """Notes how long after ``at`` (monotonic) it started, then takes ``seconds``."""
    global _stamps
    waited = time.monotonic() - event["at"]
    if _stamps is None:
        _stamps = os.open(Path(os.environ[FOLDER], "stamps"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    if event["seconds"]:
        time.sleep(event["seconds"])
    os.write(_stamps, STAMP.pack(event["seconds"], waited))


class Counters:
    """What the processes have counted, from outside."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._views: dict[str, memoryview] = {}

    def total(self) -> int:
        """How many jobs have run."""
        for entry in os.scandir(self._folder):
            if entry.name.startswith("count-") and entry.name not in self._views and entry.stat().st_size == 8:
                with open(entry.path, "rb") as file:
                    memory = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
                self._views[entry.name] = memoryview(memory).cast("Q")
        return sum(view[0] for view in self._views.values())

    def stamps(self) -> list[tuple[float, float]]:
        """Pairs of a job's length and its wait, in seconds."""
        path = self._folder / "stamps"
        return list(STAMP.iter_unpack(path.read_bytes())) if path.exists() else []
