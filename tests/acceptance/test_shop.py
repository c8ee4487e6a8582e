"""The shop at the root of a checkout: every command does something real with no option but the broker's place."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from router.brokers import connect
from router.brokers.base import FailedJob
from tests.app import ROOT, App, sqlite_url


class Checkout:
    """The root of the checkout, with the broker and the journal elsewhere."""

    def __init__(self, folder: Path, broker_url: str) -> None:
        self.delayed_per_queue = broker_url.startswith("sqlite:")
        self.journal = folder / "shop.jsonl"
        self._env = {name: value for name, value in os.environ.items() if name != "ROUTER_CONFIG"} | {
            "ROUTER_BROKER_URL": broker_url,
            "ROUTER_NAMESPACE": f"test-{uuid.uuid4().hex[:12]}",
            "ROUTER_LOCKS_URL": f"sqlite:///{folder}/locks.db",
            "SHOP_JOURNAL": str(self.journal),
        }

    def router(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run the command there."""
        command = [str(Path(sys.executable).with_name("router")), *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self._env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done


@pytest.fixture
def checkout(tmp_path: Path, broker_url: str) -> Checkout:
    return Checkout(tmp_path, broker_url)


def test_the_file_is_fine(checkout: Checkout) -> None:
    assert "fine" in checkout.router("validate").stdout


def test_routes_spell_out_order_queue_and_waits(checkout: Checkout) -> None:
    shown = checkout.router("routes", "order.placed").stdout
    assert "shop.mail:send_confirmation as confirmation" in shown
    assert "after 1m; 5 attempts; waits 10s, 20s, 40s, 80s; timeout 2m" in shown
    assert shown.index("shop.billing:process_payment") < shown.index("shop.mail:SendOrderNotification")


def test_an_order_runs_what_is_sync_and_a_worker_the_rest(checkout: Checkout) -> None:
    sent = json.loads(checkout.router("dispatch", "order.placed", "-p", '{"order_id": 7}', "--format", "json").stdout)
    assert "shop.inventory:update_stock" in sent["results"]
    counts = json.loads(checkout.router("status", "--format", "json").stdout)["counts"]
    assert counts["queues"]["notifications"]["ready"] == 1
    assert counts["queues"]["notifications"]["delayed"] == (1 if checkout.delayed_per_queue else None)
    assert counts["delayed"] == 2
    checkout.router("run-worker", "--max-jobs", "2")
    what = [json.loads(line)["what"] for line in checkout.journal.read_text().splitlines()]
    assert {"mail.sent", "invoice.booked"} <= set(what)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["validate", "nix.yaml"], 2, "there is no file"),
        (["dispatch", "order.plcd"], 1, "did you mean 'order.placed'"),
        (["dispatch", "order.placed", "-p", "{"], 2, "no JSON"),
        (["dispatch", "order.placed", "-p", "@nix.json"], 2, "can't be read"),
        (["dispatch", "order.placed", "-p", '{"order_id": "x"}'], 1, "order_id"),
        (["dispatch"], 2, "POINT"),
        (["routes", "order.plcd"], 2, "order.placed"),
        (["run-worker", "--queue", "lowe"], 2, "low"),
        (["failed", "show", "nix"], 2, "no failed job"),
        (["failed", "retry"], 2, "--all"),
        (["dispatc"], 2, "dispatch"),
    ],
)
def test_wrong_use_is_told_without_a_traceback(tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    checkout = Checkout(tmp_path, sqlite_url(tmp_path))
    done = checkout.router(*arguments, code=code)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [["--help"], ["schema"], ["dispatch", "noted"], ["failed", "list"], ["failed", "export"]], ids=" ".join
)
def test_a_full_disk_behind_stdout_is_told_without_a_traceback(own: App, arguments: list[str]) -> None:
    broker = connect(own.env["ROUTER_BROKER_URL"], own.env["ROUTER_NAMESPACE"])
    broker.restore([FailedJob("one", "default", "", "", "undecodable", "not a job", 1.0, b"x" * 100_000)])
    broker.close()

    def run(*options: str) -> tuple[int, str]:
        command = own._command(*options, *arguments)
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                command, cwd=own.folder, env=own._environ(), stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
            )  # fmt: skip
        return done.returncode, done.stderr.replace("exported: 1 job\n", "")

    assert run() == (1, "error: stdout can't be written: No space left on device\n")
    assert "Traceback" in run("--verbose")[1]


def test_who_reads_no_further_hears_nothing_of_it(own: App) -> None:
    command = f"{own._command()[0]} schema | true"
    done = subprocess.run(command, shell=True, env=own._environ(), stderr=subprocess.PIPE, timeout=60, check=True)
    assert done.stderr == b""


def test_a_line_that_is_no_event_names_its_line_and_where_to_go_on(checkout: Checkout, tmp_path: Path) -> None:
    source = tmp_path / "events.jsonl"
    good = json.dumps({"point": "day.ended", "payload": {"day": "Monday"}})
    source.write_text(f"{good}\n{good}\nnonsense\n{good}\n")
    done = checkout.router("dispatch", "--from", str(source), code=1)
    assert f"{source}:3:" in done.stderr
    assert "--skip 3" in done.stderr
    assert "dispatched 1 events: 2 jobs" in checkout.router("dispatch", "--from", str(source), "--skip", "3").stdout
    queues = json.loads(checkout.router("status", "--format", "json").stdout)["counts"]["queues"]
    assert queues["low"]["ready"] == 6


def test_the_readme_shows_only_what_runs(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    blocks = [block.split("\n", 1) for block in text.split("```")[1::2]]
    code = dict(blocks)
    for command in ("make demo", "make test"):
        assert command in text
        assert f"\n{command.split()[1]}: setup" in (ROOT / "Makefile").read_text()
    (tmp_path / "extensions.yaml").write_text(code["yaml"])
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "inventory.py").write_text("def update_stock(event): return 'taken'\n")
    (tmp_path / "shop" / "mail.py").write_text("def send_confirmation(event): ...\n")
    checks = "\nassert done.results == {'shop.inventory:update_stock': 'taken'}\nassert len(done.jobs) == 1\n"
    (tmp_path / "program.py").write_text(code["python"] + checks)
    env = {name: value for name, value in os.environ.items() if not name.startswith("ROUTER_")}
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


_OWN = """
version: 1
pythonpath: [.]
extensions:
  refused: {handlers: [{handler: "own:refuses"}, {handler: "own:noted", async: true}]}
  failed: {handlers: [{handler: "own:fails"}]}
  odd:
    handlers:
      - {handler: "own:odd"}
      - {handler: "own:nan"}
      - {handler: "own:half"}
      - {handler: "own:noted", async: true}
  noted: {handlers: [{handler: "own:noted", async: true}]}
"""

_OWN_HANDLERS = """
import router

def refuses(event): raise ValueError("handler says no")
def fails(event): raise router.Fail("for good")
def odd(event): return {(1, 2): 3}
def nan(event): return [float("nan")]
def half(event): return "\\ud800"
def noted(event): ...
"""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[App]:
    (tmp_path / "own.py").write_text(_OWN_HANDLERS)
    with App(tmp_path, _OWN, sqlite_url(tmp_path)) as app:
        yield app


def test_what_a_handler_raises_is_named_and_no_wrong_usage(own: App) -> None:
    for point, said in (("refused", "ValueError: handler says no"), ("failed", "Fail: for good")):
        done = own.router("dispatch", point, code=1)
        assert f"error: {point}: {said}; nothing was queued" in done.stderr
        assert "Traceback" not in done.stderr
    assert "in refuses" in own.router("dispatch", "refused", "--verbose", code=1).stderr
    for option in ("--delay", "--queue"):
        assert "'nonsense'" in own.router("dispatch", "refused", option, "nonsense", code=2).stderr
    assert own.counts().queues["default"].ready == 0


def test_results_that_json_does_not_know_are_shown_as_python_does(own: App) -> None:
    shown = own.router("dispatch", "odd", "--format", "json").json()
    assert shown["results"] == {"own:odd": "{(1, 2): 3}", "own:nan": "[nan]", "own:half": "'\\ud800'"}
    assert list(shown["jobs"]) == ["own:noted"]


def test_many_events_may_come_out_of_a_pipe(own: App, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    threading.Thread(target=pipe.write_text, args=('{"point": "noted"}\n' * 3,), daemon=True).start()
    assert "dispatched 3 events: 3 jobs" in own.router("dispatch", "--from", str(pipe)).stdout


_PRESSED = """
version: 1
extensions:
  noted: {handlers: [{handler: "own:noted", async: true}]}
  pressed: {handlers: [{handler: "own:presses"}, {handler: "own:noted", async: true}]}
"""

_PRESSING = """
import os, signal

def noted(event): ...
def presses(event):
    for _ in range(event["times"]):
        os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.parametrize(
    ("times", "jobs", "said"),
    [
        (1, 4, "all lines up to 4 are done; go on with --skip 4"),
        (2, 3, "surely done are the lines up to 0, perhaps some of those up to 4; --skip 0 does these again"),
    ],
)
def test_ctrl_c_ends_many_events_between_two_and_says_where_to_go_on(
    make_app: Callable[..., App], tmp_path: Path, times: int, jobs: int, said: str
) -> None:
    (tmp_path / "own.py").write_text(_PRESSING)
    app = make_app(_PRESSED)
    noted = '{"point": "noted"}\n'
    source = tmp_path / "events.jsonl"
    source.write_text(noted * 3 + f'{{"point": "pressed", "payload": {{"times": {times}}}}}\n' + noted * 3)
    done = app.router("dispatch", "--from", str(source), code=130)
    assert f"error: interrupted: {said}\n" in done.stderr
    assert app.counts().queues["default"].ready == jobs


def test_ctrl_c_ends_many_events_while_the_next_one_is_waited_for(own: App, tmp_path: Path) -> None:
    command = own._command("dispatch", "--from", "-")
    process = subprocess.Popen(
        command, cwd=tmp_path, env=own._environ(), stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    process.stdin.write('{"point": "noted"}\n' * 1000)
    process.stdin.flush()
    own.wait_until(lambda: own.counts().queues["default"].ready == 1000)
    process.send_signal(signal.SIGINT)
    assert process.wait(40) == 130
    assert process.stderr is not None
    assert "interrupted: all lines up to 1000 are done; go on with --skip 1000" in process.stderr.read()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"point": "noted", "paylod": {"n": 1}, "delay": 60}', "unknown field `paylod`"),
        (b'{"point": "noted", "payload": {"n": "\xff"}}', "utf-8"),
        (b'{"point": "noted", "payload": {"n": ' + b"[" * 100_000, "recursion"),
    ],
    ids=["unknown", "bytes", "deep"],
)
def test_a_line_that_says_something_else_is_refused(own: App, tmp_path: Path, line: bytes, said: str) -> None:
    source = tmp_path / "events.jsonl"
    source.write_bytes(b'{"point": "noted"}\n' + line + b"\n")
    done = own.router("dispatch", "--from", str(source), code=1)
    assert f"{source}:2: " in done.stderr
    assert said in done.stderr
    assert "a line is" in done.stderr
    assert "--skip 2" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "payload", [os.fsdecode(b'{"n": "\xff"}'), "@bytes.json", "[" * 100_000], ids=["text", "file", "deep"]
)
def test_a_payload_that_no_json_can_be_is_wrong_usage(own: App, tmp_path: Path, payload: str) -> None:
    (tmp_path / "bytes.json").write_bytes(b'{"n": "\xff"}')
    done = own.router("dispatch", "noted", "-p", payload, code=2)
    assert "is no JSON: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_byte_order_mark_before_a_payload_is_no_mistake(own: App, tmp_path: Path) -> None:
    (tmp_path / "one.json").write_bytes(b'\xef\xbb\xbf{"n": 1}')
    (tmp_path / "many.jsonl").write_bytes(b'\xef\xbb\xbf{"point": "noted"}\n{"point": "noted"}\n')
    assert "dispatched noted" in own.router("dispatch", "noted", "-p", "@one.json").stdout
    assert "dispatched 2 events" in own.router("dispatch", "--from", "many.jsonl").stdout


def test_a_failed_job_of_a_route_that_the_bootstrap_registers_can_be_retried(tmp_path: Path) -> None:
    (tmp_path / "extensions.yaml").write_text(
        'version: 1\nbroker: {url: "sqlite:///router.db"}\npythonpath: [.]\nbootstrap: wiring:setup\n'
    )
    (tmp_path / "wiring.py").write_text(
        "def fails(event): raise ValueError('no')\n\n"
        "def setup(router): router.register_async('raised', 'wiring:fails', queue='emails', retries=1)\n"
    )
    router = str(Path(sys.executable).with_name("router"))
    env = {name: value for name, value in os.environ.items() if not name.startswith("ROUTER_")}

    def run(*arguments: str) -> str:
        command = [router, *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    run("dispatch", "raised")
    run("run-worker", "--stop-when-empty", "--concurrency", "1")
    assert "queued again: 1 job" in run("failed", "retry", "--all")
    (tmp_path / "wiring.py").write_text("raise RuntimeError('broken')\n")
    assert "bootstrap fails" in run("status")
