"""`router validate` and `router config` as CI and operators use them: exit codes, formats, what the broker says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from router.brokers import connect
from tests.app import App, Command

WARNED = """
version: 1
broker: {url: "sqlite:///router.db"}
extensions:
  order.placed:
    handlers:
      - handler: os.path:join
        async: {retries: 1, backoff: linear}
"""
BROKEN = WARNED.replace("retries", "retires").replace("order.placed", '"order\\nplaced"')


def run(folder: Path, *arguments: str, code: int = 0) -> Command:
    """Run ``router`` in ``folder``."""
    command = [str(Path(sys.executable).with_name("router")), *arguments]
    env = {key: value for key, value in os.environ.items() if not key.startswith("ROUTER_")}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, f"{arguments}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    return Command(done.args, done.returncode, done.stdout, done.stderr)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "extensions.yaml").write_text(WARNED)
    return tmp_path


def test_a_warning_is_shown_and_is_an_error_only_if_asked_for(folder: Path) -> None:
    done = run(folder, "validate", "--no-import")
    assert "extensions.yaml:8:29: warning[backoff-unused]" in done.stderr
    assert "fine (1 warning)" in done.stdout
    done = run(folder, "validate", "--no-import", "--strict", code=1)
    assert "extensions.yaml:8:29: error[backoff-unused]" in done.stderr
    assert "1 mistake" in done.stderr


def test_json_is_an_array_with_all_that_is_shown(folder: Path) -> None:
    (found,) = run(folder, "validate", "--no-import", "--format", "json").json()
    assert (found["severity"], found["code"], found["line"], found["column"]) == ("warning", "backoff-unused", 8, 29)
    assert [place["message"] for place in found["related"]] == ["the first attempt is the only one"]


def test_github_annotations_stand_at_their_lines_and_hide_nothing_behind_line_breaks(folder: Path) -> None:
    (folder / "extensions.yaml").write_text(BROKEN)
    lines = run(folder, "validate", "--no-import", "--format", "github", code=1).stdout.splitlines()
    assert len(lines) == 2
    assert lines[1] == (
        "::error file=extensions.yaml,line=8,col=17,endColumn=24,title=mistake::"
        "unknown key `retires` in `async` of a handler%0Ahint: did you mean `retries`?"
    )
    assert lines[0].startswith("::error file=extensions.yaml,line=5,col=3,")


def test_sarif_names_rules_places_and_related_places(folder: Path) -> None:
    (folder / "conf").mkdir()
    (folder / "extensions.yaml").rename(folder / "conf" / "my extensions.yaml")
    report = run(folder, "validate", "--no-import", "--format", "sarif", "conf/my extensions.yaml").json()
    assert report["version"] == "2.1.0"
    (done,) = report["runs"]
    (result,) = done["results"]
    assert {rule["id"] for rule in done["tool"]["driver"]["rules"]} >= {result["ruleId"]} == {"backoff-unused"}
    assert result["level"] == "warning"
    place: dict[str, Any] = result["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "conf/my%20extensions.yaml"
    assert place["region"] == {"startLine": 8, "startColumn": 29, "endColumn": 36}
    assert result["relatedLocations"][0]["physicalLocation"]["region"]["startColumn"] == 17


def test_a_file_outside_the_repository_has_an_absolute_address_in_sarif(folder: Path, tmp_path: Path) -> None:
    (folder / "elsewhere").mkdir()
    report = run(folder / "elsewhere", "validate", "--no-import", "--format", "sarif", "../extensions.yaml").json()
    uri = report["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert uri.startswith("file:///")


def test_what_config_prints_means_the_same_and_hides_passwords(folder: Path) -> None:
    (folder / "extensions.production.yaml").write_text(
        'broker: {url: "amqp://me:pa%2Fss@host/", namespace: "on"}\npythonpath: [src]\nextensions: {"12": {}}\n'
    )
    done = run(folder, "config", "--env", "production")
    assert "pa%2Fss" not in done.stdout
    printed = yaml.safe_load(done.stdout)
    assert printed["broker"] == {"url": "amqp://me:***@host/", "namespace": "on"}
    assert printed["pythonpath"] == [str(folder / "src")]
    (folder / "flat.yaml").write_text(done.stdout)
    assert run(folder, "config", "-c", "flat.yaml").stdout == done.stdout
    assert run(folder, "config", "--env", "production", "--format", "json").json() == printed
    origins = run(folder, "config", "--env", "production", "--format", "json", "--origins").json()
    assert {"path": ["broker", "namespace"], "value": "on", "origin": "extensions.production.yaml:1"} in origins


def test_an_overlay_that_is_not_there_is_named_with_those_that_are(folder: Path) -> None:
    (folder / "extensions.production.yaml").write_text("queues: {}\n")
    done = run(folder, "validate", "--env", "prod", code=2)
    assert "no overlay for the environment 'prod' (that would be 'extensions.prod.yaml')" in done.stderr
    assert "it has overlays for production" in done.stderr


def test_an_event_type_that_does_not_fit_its_schema_is_warned_of(folder: Path) -> None:
    (folder / "events.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass\nclass Placed:\n    order_id: str\n"
        "@dataclass\nclass Fits:\n    order_id: int\n"
    )
    (folder / "placed.json").write_text('{"required": ["order_id"], "properties": {"order_id": {"type": "integer"}}}')
    (folder / "extensions.yaml").write_text(
        "version: 1\n"
        "extensions:\n"
        "  placed: {event: 'events:Placed', schema: placed.json}\n"
        "  fits: {event: 'events:Fits', schema: placed.json}\n"
    )
    (found,) = run(folder, "validate", "--format", "json").json()
    assert (found["code"], found["line"], found["column"]) == ("event-does-not-fit-schema", 3, 19)
    assert found["message"] == "`order_id` is text in Placed and an integer in the schema"
    assert run(folder, "validate", "--no-import", "--format", "json").json() == []


TOO_LONG = """
version: 1
broker: {url: "${ROUTER_BROKER_URL}", namespace: "${ROUTER_NAMESPACE}"}
extensions:
  order.placed:
    handlers:
      - handler: os.path:join
        async: {queue: heavy, timeout: 2h}
      - handler: os.path:split
        async: {queue: heavy, timeout: 20m}
"""


UNTELLABLE = """
version: 1
pythonpath: ["."]
bootstrap: words:start
extensions:
  a:
    handlers: [{handler: "fails:run"}, {handler: "words:Made"}]
"""


def test_exceptions_that_cannot_tell_their_words_end_in_no_traceback(folder: Path) -> None:
    (folder / "extensions.yaml").write_text(UNTELLABLE)
    (folder / "fails.py").write_text("from words import Wordless\nraise Wordless\n")
    (folder / "words.py").write_text(
        "class Wordless(Exception):\n    def __str__(self):\n        return self.text\n"
        "class Made:\n    def __init__(self):\n        raise Wordless\n    def handle(self, event):\n        pass\n"
        "def start(router):\n    raise Wordless\n"
    )
    said = run(folder, "validate", code=1).stderr
    for what in ("bootstrap fails: words:start", "fails:run: importing fails fails", "words:Made: Made() fails"):
        assert f"{what}: Wordless: (its text can't be had: __str__ raises AttributeError)" in said
    assert "3 mistakes" in said


def test_what_a_handler_says_of_itself_does_not_hide_what_was_queued(folder: Path) -> None:
    (folder / "extensions.yaml").write_text(
        'version: 1\npythonpath: ["."]\nbroker: {url: "sqlite:///router.db"}\nextensions:\n'
        "  a:\n    handlers:\n"
        '      - {handler: "h:raises", onError: continue}\n'
        '      - {handler: "h:returns"}\n'
        '      - {handler: "h:raises", id: later, async: true}\n'
    )
    (folder / "h.py").write_text(
        "class Wordless(Exception):\n    def __str__(self):\n        return self.text\n    __repr__ = __str__\n"
        "def raises(event):\n    raise Wordless\n"
        "def returns(event):\n    return Wordless()\n"
    )
    said = run(folder, "dispatch", "a").stdout
    assert "error in   h:raises: Wordless: (its text can't be had" in said
    assert "ran        h:returns -> Wordless (its __repr__ raises AttributeError" in said
    assert "queued     later job" in said
    (folder / "extensions.yaml").write_text((folder / "extensions.yaml").read_text().replace("continue", "stop"))
    assert "a: Wordless: (its text can't be had" in run(folder, "dispatch", "a", code=1).stderr


def test_the_broker_itself_says_which_timeouts_it_does_not_stand(make_app: Callable[..., App]) -> None:
    app = make_app(TOO_LONG)
    broker = connect(app.env["ROUTER_BROKER_URL"], app.env["ROUTER_NAMESPACE"])
    objects = bool(broker.objections(7200))  # RabbitMQ before 3.12
    broker.close()
    found = app.router("validate", "--no-import", "--broker", "--format", "json").json()
    expected = [("timeout-above-broker-limit", 8, "warning")] if objects else []
    assert [(one["code"], one["line"], one["severity"]) for one in found] == expected
    app.router("validate", "--no-import", "--broker", "--strict", code=1 if objects else 0)


def test_a_broker_that_is_away_is_an_error_only_if_it_was_to_be_asked(folder: Path) -> None:
    (folder / "extensions.yaml").write_text(WARNED.replace("sqlite:///router.db", "amqp://127.0.0.1:1/"))
    run(folder, "validate", "--no-import")
    done = run(folder, "validate", "--no-import", "--broker", code=1)
    assert "127.0.0.1:1" in done.stderr
    *_, last = run(folder, "validate", "--no-import", "--broker", "--format", "json", code=1).json()
    assert "127.0.0.1:1" in last["message"]
