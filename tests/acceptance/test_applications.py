"""Real servers that fork, and the examples: no ceremony in the application, and no job lost."""

from __future__ import annotations

import json
import os
import re
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

from tests.app import DEADLINE, App

SCRIPTS = Path(sys.executable).parent
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

GUNICORN = ["gunicorn", "--preload", "--workers", str(WORKERS), "--bind", "127.0.0.1:0"]
SERVERS = {
    "gunicorn": [*GUNICORN, "web_app:wsgi"],
    "gunicorn with threads": [*GUNICORN, "--threads", "3", "web_app:wsgi"],
    "gunicorn with uvicorn's workers": [*GUNICORN, "--worker-class", "uvicorn.workers.UvicornWorker", "web_app:asgi"],
    "uvicorn": ["uvicorn", "--workers", str(WORKERS), "--host", "127.0.0.1", "--port", "0", "web_app:asgi"],
}


class Server:
    """A running server. ``address``: host and port, once it is ready."""

    def __init__(self, command: list[str], folder: Path, env: dict[str, str], log: Path) -> None:
        self._log = log
        self.address = ""
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [str(SCRIPTS / command[0]), *command[1:]],
                cwd=folder,
                env={**os.environ, **env},
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

    def end(self) -> None:
        """End it by SIGTERM. Asserts that it obeys, and leaves nothing behind."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.terminate()
        try:
            code: int | None = self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            code = None
            self.process.kill()
            self.process.wait()
        _, alive = psutil.wait_procs(family, timeout=10)
        for process in alive:
            process.kill()
        assert (code in (0, -15), alive) == (True, []), f"{code}\n{self.log()}"


@contextmanager
def serving(name: str, app: App) -> Iterator[Server]:
    server = Server(SERVERS[name], app.folder, app.env, app.folder / f"{name.replace(' ', '-')}.log")
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

    with ExitStack() as stack:
        servers = {name: stack.enter_context(serving(name, app)) for name in SERVERS}
        for server in servers.values():
            server.wait_until_ready()
        answers = {name: server.get_until(busy) for name, server in servers.items()}
        app.config.write_text(app.config.read_text().replace(FILE, EDITED))
        for name, server in servers.items():
            answers[name] += server.get_until(edited)
            assert not any(line in server.log() for line in ("Traceback", "ResourceWarning")), server.log()
    worker = app.start_worker("--stop-when-empty", "--concurrency", "1")
    assert worker.wait() == 0

    confirmed = Counter(line["job"] for line in app.journal("confirmed"))
    sent = Counter(answer["jobs"]["web_handlers:confirm"] for of in answers.values() for answer in of)
    at_import = Counter(line["job"] for line in app.journal("confirmed", order="in the master"))
    assert confirmed == sent + at_import
    assert set(confirmed.values()) == {1}
    assert len(at_import) >= len(SERVERS)
    assert app.failed() == []
