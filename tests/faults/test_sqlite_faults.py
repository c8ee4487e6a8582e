"""The embedded broker's file: a full disk, a read-only one, a corrupt file."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from storm import Storm, check

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of sixteen megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16M", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """A file that leaves no room for another byte."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return filler


def test_a_full_disk_is_told_and_waited_for(disk: Path, make_storm: Callable[..., Storm]) -> None:
    storm = make_storm("sqlite", folder=disk)
    # More than the file and its log have room for in themselves.
    (storm.folder / "large.json").write_text(json.dumps({"text": "x" * 8_000_000}))
    storm.begin()
    with storm.fault():
        filler = fill(disk)
        said = storm.app.router("dispatch", "quick", "-p", "@large.json", code=1).stderr
        assert "full" in said
        assert "Traceback" not in said
        filler.unlink()
    check(storm.finish(), storm)
    assert "Traceback" not in storm.workers[0].log()


@pytest.mark.full
def test_a_read_only_file_system_is_told(disk: Path, make_storm: Callable[..., Storm]) -> None:
    storm = make_storm("sqlite", folder=disk)
    storm.app.router("dispatch", "quick")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for command in (["dispatch", "quick"], ["run-worker", "--max-time", "3s"]):
        done = storm.app.router(*command, code=None)
        said = done.stdout + done.stderr
        assert "Traceback" not in said
        assert "read-only" in said or "readonly" in said, said
        assert str(disk / "router.db") in said
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert storm.start_worker("--stop-when-empty").wait() == 0
    assert len(storm.app.journal("quick")) == 1


@pytest.mark.full
def test_a_corrupt_file_is_told_and_left_as_it_is(disk: Path, make_storm: Callable[..., Storm]) -> None:
    storm = make_storm("sqlite", folder=disk)
    for _ in range(3):
        storm.app.router("dispatch", "quick")
    file = disk / "router.db"
    file.write_bytes(b"not a database, but who knows " * 1000)
    before = file.read_bytes()
    for command in (["dispatch", "quick"], ["run-worker", "--max-time", "3s"], ["status"], ["failed", "list"]):
        done = storm.app.router(*command, code=1)
        said = done.stdout + done.stderr
        assert "Traceback" not in said
        assert str(file) in said
        assert "not a database" in said or "malformed" in said, said
    assert file.read_bytes() == before
