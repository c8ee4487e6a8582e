"""Real servers that fork, and the examples: no ceremony in the application, and no job lost."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy
from sqlalchemy import orm

from router.app import default
from tests.app import DEADLINE, EXAMPLES, ROOT, App

DOCS = ROOT / "docs"
WORKERS = 2
REQUESTS = 30

HANDLERS = """
import json, os

def reserve(event):
    return os.getpid()

def confirm(event, context):
    line = json.dumps({"what": "confirmed", "job": context.job_id, "order": event["order"]}) + "\\n"
    with open(os.environ["SHOP_JOURNAL"], "ab", buffering=0) as journal:
        journal.write(line.encode())

def thank(event, context): ...
"""

FILE = """
version: 1
extensions:
  order.placed:
    handlers:
      - {handler: "web_handlers:reserve"}
      - {handler: "web_handlers:confirm", async: true}
"""
EDITED = FILE + '      - {handler: "web_handlers:thank", async: true}\n'

APPLICATION = """
import json, os
import router

router.dispatch("order.placed", {"order": "in the master"})  # with --preload: connects before the server forks

def answer(done):
    return json.dumps({"pid": done.results["web_handlers:reserve"], "jobs": done.jobs}).encode()

def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [answer(router.dispatch("order.placed", {"order": environ["PATH_INFO"]}))]

async def asgi(scope, receive, send):
    assert scope["type"] == "http"
    body = answer(await router.adispatch("order.placed", {"order": scope["path"]}))
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})
"""

PAGE = (DOCS / "applications.md").read_text()
COMMANDS = re.findall(r"^\$ (.* web_app:.*)$", PAGE, re.MULTILINE)
"""How the page says that servers are started, each with two workers."""
ADDRESS = {"gunicorn": ["--bind", "127.0.0.1:0"], "uvicorn": ["--host", "127.0.0.1", "--port", "0"]}


class Server:
    """A running server. ``address``: host and port, once it is ready."""

    def __init__(self, command: str, app: App, place: Path) -> None:
        """``place``: a new folder for what the server itself writes."""
        place.mkdir()
        self._log = place / "log"
        self.address = ""
        self._family: list[psutil.Process] = []
        name, *arguments = command.split()
        env = {**os.environ, **app.env, "XDG_RUNTIME_DIR": str(place)}
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).with_name(name)), *ADDRESS[name], *arguments],
                cwd=app.folder,
                env=env,
                stdout=output,
                stderr=output,
            )

    def log(self) -> str:
        """What it has said so far."""
        return self._log.read_text(errors="replace")

    def wait_until_ready(self) -> None:
        """Wait until it says where it listens, and does (uvicorn says it too early)."""
        until = time.monotonic() + DEADLINE
        while not self.address:
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < until, self.log()
            time.sleep(0.02)
            found = re.search(r"http://(127\.0\.0\.1):(\d+)", self.log())
            with suppress(ConnectionRefusedError):
                if found:
                    socket.create_connection((found[1], int(found[2]))).close()
                    self.address = f"{found[1]}:{found[2]}"

    def get(self, path: str) -> dict[str, Any]:
        """What it answers, on a connection of its own, so that any of its workers may."""
        connection = HTTPConnection(self.address, timeout=DEADLINE)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        assert answer.status == 200, f"{text!r}\n{self.log()}"
        return json.loads(text)  # type: ignore[no-any-return]

    def get_until(self, condition: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        """Ask until the answers fulfil ``condition``; all answers."""
        answers: list[dict[str, Any]] = []
        until = time.monotonic() + DEADLINE
        with ThreadPoolExecutor(4) as threads:
            while not condition(answers):
                assert time.monotonic() < until, f"{answers[-10:]}\n{self.log()}"
                answers += threads.map(self.get, [f"/{len(answers) + n}" for n in range(10)])
                time.sleep(0.05)
        return answers

    def terminate(self) -> None:
        """Tell it to end, by SIGTERM."""
        if not self._family and self.process.poll() is None:
            self._family = psutil.Process(self.process.pid).children(recursive=True)
            self.process.terminate()

    def end(self) -> None:
        """End it. Asserts that it obeys, and leaves nothing behind."""
        self.terminate()
        try:
            code: int | None = self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            code = None
            self.process.kill()
            self.process.wait()
        _, alive = psutil.wait_procs(self._family, timeout=10)
        for process in alive:
            process.kill()
        assert (code in (0, -15), alive) == (True, []), f"{code}\n{self.log()}"


@contextmanager
def serving(command: str, app: App) -> Iterator[Server]:
    server = Server(command, app, app.folder / f"server-{COMMANDS.index(command)}")
    try:
        yield server
    finally:
        server.end()


def pids(answers: list[dict[str, Any]]) -> set[int]:
    return {answer["pid"] for answer in answers}


def test_servers_that_fork_lose_no_job_and_put_an_edit_in_force_without_any_ceremony(
    make_app: Callable[..., App],
) -> None:
    app = make_app(FILE)
    (app.folder / "web_handlers.py").write_text(HANDLERS)
    (app.folder / "web_app.py").write_text(APPLICATION)

    def busy(answers: list[dict[str, Any]]) -> bool:
        return len(answers) >= REQUESTS and len(pids(answers)) == WORKERS

    def edited(answers: list[dict[str, Any]]) -> bool:
        return len(pids([answer for answer in answers if len(answer["jobs"]) == 2])) == WORKERS

    assert len(COMMANDS) == 4
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(command, app)) for command in COMMANDS]
        for server in servers:
            server.wait_until_ready()
        answers = [answer for server in servers for answer in server.get_until(busy)]
        app.config.write_text(app.config.read_text().replace(FILE, EDITED))
        for server in servers:
            answers += server.get_until(edited)
        for server in servers:
            server.terminate()
            assert not any(word in server.log() for word in ("Traceback", "Warning")), server.log()
    worker = app.start_worker("--stop-when-empty", "--concurrency", "1")
    assert worker.wait() == 0

    confirmed = Counter(line["job"] for line in app.journal("confirmed"))
    sent = Counter(answer["jobs"]["web_handlers:confirm"] for answer in answers)
    at_import = Counter(line["job"] for line in app.journal("confirmed", order="in the master"))
    assert confirmed == sent + at_import
    assert set(confirmed.values()) == {1}
    assert len(at_import) >= len(COMMANDS)
    assert app.failed() == []


SAID = {
    "fastapi_shop/main.py": """
POST /orders?item=lamp: 200 {'order_id': 1, 'results': {'handlers:reserve': 'lamp reserved for order 1'}}
POST /orders?item=unicorn: 409 {'detail': 'sold out'}
GET /orders: 200 ['lamp']
POST /stock/lamp?left=3: 200 {'results': {'handlers:audit': '3 of lamp noted', 'handlers:price': 120}, 'queued': 1}
mail: lamp of order 1 is on its way
supplier: more of lamp, please
""",
    "django_shop/run.py": """
order 1 is committed
POST /orders/lamp: 200 {'order_id': 1}
POST /orders/unicorn: 409 {'detail': 'sold out'}
GET /orders: 200 {'orders': [{'item': 'lamp', 'confirmed': False}]}
mail: lamp is on its way
""",
}


@pytest.mark.parametrize("script", SAID)
def test_an_example_runs_by_one_command_and_dispatches_only_what_is_committed(script: str) -> None:
    command = [sys.executable, str(EXAMPLES / script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    # Two jobs of different queues may run in either order.
    assert sorted(done.stdout.splitlines()) == sorted(SAID[script].strip().splitlines()), done.stderr


CODE = re.findall(r"^```python ?(\S*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_code_of_the_page_that_is_an_examples_is_there() -> None:
    excerpts = [(name, code) for name, code in CODE if name]
    assert len(excerpts) >= 5
    for name, code in excerpts:
        assert code in (ROOT / name).read_text()


def test_the_code_of_the_page_runs_and_gives_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(EXAMPLES / "fastapi_shop", tmp_path / "shop")
    monkeypatch.chdir(tmp_path / "shop")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(default, "_default", None)
    monkeypatch.delenv("ROUTER_CONFIG", raising=False)

    class Base(orm.DeclarativeBase): ...

    class Order(Base):
        __tablename__ = "orders"
        id = orm.mapped_column(sqlalchemy.Integer, primary_key=True)
        item = orm.mapped_column(sqlalchemy.String)

    engine = sqlalchemy.create_engine("sqlite:///shop.db")
    Base.metadata.create_all(engine)
    names = {"Session": orm.Session, "engine": engine, "Order": Order}
    checked = 0
    try:
        for block in [code for name, code in CODE if not name]:
            run(block, names)
            # A line that shows its value is run once more. Within a block that is indented it can't be.
            for shown, value in re.findall(r"^(\S.*?)  # -> (.*)$", block, re.MULTILINE):
                assert eval(shown, names) == ast.literal_eval(value)
                checked += 1
    finally:
        engine.dispose()
        sys.modules.pop("handlers", None)
    assert checked >= 4


def run(code: str, names: dict[str, Any]) -> None:
    """Run it; at its top level it may await."""
    running = eval(compile(code, "applications.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    if running is not None:
        asyncio.run(running)
