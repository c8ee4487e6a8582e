"""What a load read: the files whose change may change its outcome, and whether they have changed."""

from __future__ import annotations

import glob
import hashlib
import os
import time

import msgspec

UNSETTLED = 2.0
"""Seconds: a file that was written so shortly before it was read may be written again without a trace in its times."""


class Watched(msgspec.Struct, frozen=True):
    """Absolute paths of files, those that were missing among them, and absolute glob patterns."""

    files: tuple[str, ...] = ()
    globs: tuple[str, ...] = ()


class Look:
    """Tells whenever the content of what is watched is another than at the last look.

    A look is cheap: it asks for sizes, times and inodes, which tell of links that point elsewhere too, and reads only
    where those have changed, or may hide a change.
    """

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._times: tuple[object, ...] = ()
        self._settled = False
        self._digest = b""
        self.changed()

    @property
    def watched(self) -> Watched:
        """What is watched."""
        return self._watched

    def changed(self) -> bool:
        """Whether the content is another than when this was made, or than when this was asked last."""
        files = (*self._watched.files, *(found for pattern in self._watched.globs for found in _matches(pattern)))
        times = tuple(map(_times, files))
        if times == self._times and self._settled:
            return False
        now = time.time()
        digest = _digest(files)
        self._settled = all(written is None or written[2] < (now - UNSETTLED) * 1e9 for written in times)
        self._times = times
        before, self._digest = self._digest, digest
        return digest != before


def _matches(pattern: str) -> list[str]:
    return sorted(glob.glob(pattern, recursive=True))


def _times(file: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(file)
    except (OSError, ValueError):
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _digest(files: tuple[str, ...]) -> bytes:
    digest = hashlib.sha256()
    for file in files:
        digest.update(os.fsencode(file) + b"\0")
        try:
            with open(file, "rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        except (OSError, ValueError):  # absent, or between two steps of a replacement: what it is then is told apart
            digest.update(b"absent")
    return digest.digest()
