"""What a load read: the files whose change may change its outcome, and whether they have changed since."""

from __future__ import annotations

import glob
import hashlib
import os
import time
from collections.abc import Callable

import msgspec

UNSETTLED = 2.0
"""Seconds: a file that was written so shortly before it was read may be written again without a trace in its times."""
QUIET = 0.2
LONGEST_QUIET = 5.0


class Watched(msgspec.Struct, frozen=True):
    """Absolute paths, each with the SHA-256 of the content (None: there was nothing to be read); and absolute glob
    patterns, each with what fitted."""

    files: dict[str, str | None] = {}
    globs: dict[str, tuple[str, ...]] = {}


class Look:
    """Tells whenever the content of what is watched is another than at the last look.

    A look is cheap: it asks for sizes, times and inodes, which tell of links that point elsewhere too, and reads only
    where those have changed, or may hide a change.
    """

    def __init__(self, watched: Watched) -> None:
        self.seen = watched
        self._times: dict[str, _Times | None] | None = None
        self._settled = False

    def changed(self) -> bool:
        """Whether the content is another than what this was made with, or than when this was asked last."""
        globs = {pattern: matches(pattern) for pattern in self.seen.globs}
        times = {file: _times(file) for file in self.seen.files}
        if self._settled and times == self._times and globs == self.seen.globs:
            return False
        old_enough = (time.time() - UNSETTLED) * 1e9
        now = Watched({file: digest_of(file) for file in self.seen.files}, globs)
        self._times = times
        self._settled = all(found is None or found[2] < old_enough for found in times.values())
        before, self.seen = self.seen, now
        return now != before

    def wait_until_quiet(self, wait: Callable[[float], object]) -> None:
        """After a change, wait by ``wait(seconds)`` until nothing changes any more, or for 5 s: somebody is writing."""
        until = time.monotonic() + LONGEST_QUIET
        wait(QUIET)
        while self.changed() and time.monotonic() < until:
            wait(QUIET)


_Times = tuple[int, int, int]


def _times(file: str) -> _Times | None:
    try:
        found = os.stat(file)
    except (OSError, ValueError):
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def matches(pattern: str) -> tuple[str, ...]:
    """The paths that fit an absolute glob pattern now."""
    return tuple(sorted(glob.glob(pattern, recursive=True)))


def digest_of(file: str) -> str | None:
    """The SHA-256 of a file's content; None where it can't be read, as between two steps of a replacement."""
    try:
        with open(file, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except (OSError, ValueError):
        return None
