"""Pages of docs/, replayed, with every command, every file and every edit that they show.

``ROUTER_WRITE_CASES=1 pytest tests/acceptance/test_pages.py`` writes what the commands say now into the pages; read
them as a newcomer would before committing them.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
import uuid
import venv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.app import ROOT, WorkerProcess

DOCS = ROOT / "docs"
REWRITE = "ROUTER_WRITE_CASES"
GIVEN = ("pip install extension-router", "router init")
SHOWN_FOLDER = "/home/you/shop"
DEADLINE = 40.0

BLOCK = re.compile(r"^```(console worker|console|diff \S+|yaml \S+|python \S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

DIFFERS = [
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME"),
    (r"\d\d:\d\d:\d\d\.\d{3}", "TIME"),
    (ID.pattern, "ID"),
    (r"worker [\w.-]+-\d+-[0-9a-f]{6}", "worker NAME"),
    (r"pid \d+ on [\w.-]+", "pid PID on HOST"),
    (r"generation (\d+) \([0-9a-f]{8}\)", r"generation \1 (HASH)"),
    (r"\d+(\.\d+)?(ms|s|m)\b", "DURATION"),
    (r"\d+ ms", "DURATION"),
    (r"\d+ children", "N children"),
    (r"\n[ \t]*[~^]+(?=\n)", ""),  # where in its line: Python 3.13 leaves that out of some tracebacks
    (r"[ \t]+", " "),
]
"""What is another each time."""


def same(text: str) -> str:
    """``text`` without what is another each time."""
    for pattern, name in DIFFERS:
        text = re.sub(pattern, name, text)
    return "\n".join(line.strip() for line in text.strip().splitlines())


@dataclass
class Session:
    """A newcomer's two terminals. ``strict``: only commands that were printed before are used."""

    folder: Path
    scripts: Path
    strict: bool = False
    said: list[str] = field(default_factory=list)
    env: Mapping[str, str] = field(default_factory=dict)
    worker: WorkerProcess | None = None
    heard: int = 0
    ids: dict[str, str] = field(default_factory=dict)
    """Of jobs, as the page shows them → as they are now."""

    def environ(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("ROUTER_", "PYTEST_"))}
        return {**kept, "PATH": f"{self.scripts}:{os.environ['PATH']}", "COLUMNS": "110", **self.env}

    def replay(self, kind: str, body: str) -> str:
        """Do what a block shows; the block as it should be."""
        match kind.split():
            case ["diff", name]:
                self.edit(self.folder / name, body)
                return body
            case ["yaml" | "python", name]:
                (self.folder / name).parent.mkdir(exist_ok=True)
                (self.folder / name).write_text(body)
                return body
            case ["console", "worker"]:
                return self.hear(body)
            case _:
                return self.run(body)

    def run(self, body: str) -> str:
        prompt, _, page = body.partition("\n")
        command = ID.sub(lambda shown: self.ids.get(shown[0], shown[0]), prompt.removeprefix("$ "))
        self.was_printed(command)
        if command.startswith("pip install"):
            return body  # the fixture has done that
        done = subprocess.run(
            shlex.split(command),
            cwd=self.folder,
            env=self.environ(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stdout or "failed show" in command
        self.ids.update(zip(ID.findall(page), ID.findall(done.stdout), strict=False))
        self.said.append(done.stdout)
        shown = "\n".join(line.rstrip() for line in done.stdout.replace(str(self.folder), SHOWN_FOLDER).splitlines())
        return f"$ {command}\n{shown}\n"

    def was_printed(self, command: str) -> None:
        printed = any(command in line for text in self.said for line in text.splitlines())
        assert not self.strict or command in GIVEN or printed, f"nobody has printed `{command}` before"

    def hear(self, body: str) -> str:
        """Wait until the worker has said what the block shows; what it has said since the block before."""
        wanted = body.splitlines()
        if wanted and wanted[0].startswith("$ "):
            command = wanted.pop(0).removeprefix("$ ")
            self.was_printed(command)
            log = self.folder.parent / "worker.log"
            self.worker = WorkerProcess(shlex.split(command), self.environ(), self.folder, log)
            prompt = f"$ {command}\n"
        else:
            prompt = ""
        assert self.worker is not None
        until = time.monotonic() + DEADLINE
        while True:
            log_text = self.worker.log().replace(str(self.folder), SHOWN_FOLDER)
            new = log_text[self.heard :]
            missing = [line for line in wanted if same(line) not in same(new).splitlines()]
            quiet = not os.environ.get(REWRITE) or time.monotonic() > until - DEADLINE + 6
            if quiet and (not missing or os.environ.get(REWRITE)):
                self.heard = len(log_text)
                return prompt + new
            assert time.monotonic() < until, f"the worker has not said {missing}, but:\n{new}"
            time.sleep(0.1)

    def edit(self, file: Path, diff: str) -> None:
        """Apply a diff of one piece: context and ``-`` lines are found, ``+`` lines put in."""
        lines = diff.splitlines()
        text = file.read_text()
        if lines[0].startswith("@@"):
            file.write_text(text + "".join(line[1:] + "\n" for line in lines[1:]))
            return
        old = "".join(line[1:] + "\n" for line in lines if line[:1] in " -")
        new = "".join(line[1:] + "\n" for line in lines if line[:1] in " +")
        assert text.count(old) == 1, f"{file.name} has no {old!r}"
        file.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of an environment in which nothing but the wheel was installed."""
    folder = tmp_path_factory.mktemp("installed")

    def run(*command: str | Path) -> None:
        done = subprocess.run(
            [*map(str, command)], cwd=folder, capture_output=True, text=True, timeout=110, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"

    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder / "dist", ROOT)
    (wheel,) = (folder / "dist").glob("*.whl")
    venv.create(folder / "venv")
    run(sys.executable, "-m", "pip", "--python", folder / "venv", "install", "-q", wheel)  # one pip is enough
    return folder / "venv" / "bin"


def replay(name: str, session: Session) -> None:
    """Do what the page shows, and compare what is said."""
    page = (DOCS / name).read_text()
    session.folder.mkdir()
    replayed, position = "", 0
    try:
        for block in BLOCK.finditer(page):
            body = session.replay(block[1], block[2])
            if block[1] == "console" and not os.environ.get(REWRITE):
                until = time.monotonic() + DEADLINE
                # A worker tells how it is every other second.
                while "router status" in body and same(body) != same(block[2]) and time.monotonic() < until:
                    body = session.replay(block[1], block[2])
                assert same(body) == same(block[2])
            replayed += page[position : block.start()] + f"```{block[1]}\n{body}```"
            position = block.end()
    finally:
        if session.worker is not None:
            session.worker.end()
    if os.environ.get(REWRITE):
        (DOCS / name).write_text(replayed + page[position:])


def test_getting_started_begins_with_a_wheel_and_uses_what_was_printed(scripts: Path, tmp_path: Path) -> None:
    replay("getting-started.md", Session(tmp_path / "shop", scripts, strict=True))


@pytest.mark.parametrize("name", ["composition.md", "testing.md"])
def test_a_guide_shows_what_happens(name: str, tmp_path: Path) -> None:
    replay(name, Session(tmp_path / "shop", Path(sys.executable).parent))


def test_a_night_with_failed_jobs_goes_the_same_way_on_each_broker(broker_url: str, tmp_path: Path) -> None:
    env = {
        "ROUTER_BROKER_URL": broker_url,
        "ROUTER_NAMESPACE": f"night-{uuid.uuid4().hex[:8]}",
        "ROUTER_LOCKS_URL": f"sqlite:///{tmp_path}/locks.db",
    }
    replay("failed-jobs.md", Session(tmp_path / "shop", Path(sys.executable).parent, env=env))


def test_the_starter_passes_its_own_test(tmp_path: Path) -> None:
    router = Path(sys.executable).with_name("router")
    subprocess.run([str(router), "init"], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert "1 passed" in done.stdout, done.stdout


def test_a_starter_overwrites_nothing(tmp_path: Path) -> None:
    router = Path(sys.executable).with_name("router")
    (tmp_path / "handlers.py").write_text("mine")
    done = subprocess.run([str(router), "init"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "handlers.py is there already; nothing was written" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["handlers.py"]
