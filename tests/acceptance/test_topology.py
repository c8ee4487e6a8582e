"""``router topology``: what the file needs on RabbitMQ is shown, made, compared and, when asked, pruned."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.app import App, amqp_url
from tests.servers.raw import Raw
from tests.servers.shared import RabbitPlace, rabbit_node

WORK = """
import json, os

def work(event):
    with open(os.environ["SHOP_JOURNAL"], "a") as journal:
        journal.write(json.dumps({"what": "worked"}) + "\\n")
"""

FILE = """
version: 1
pythonpath: ["."]
broker: {url: "${ROUTER_BROKER_URL}", namespace: "${ROUTER_NAMESPACE}"}
extensions:
  raised:
    handlers:
      - {handler: "work:work", async: {queue: emails, delay: 700ms}}
      - {handler: "work:work", id: again, async: true}
"""


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    (tmp_path / "work.py").write_text(WORK)
    with App(tmp_path, FILE, amqp_url(tmp_path)) as app:
        yield app


@pytest.fixture
def raw(app: App) -> Iterator[Raw]:
    raw = Raw(RabbitPlace(app.env["ROUTER_BROKER_URL"], app.env["ROUTER_NAMESPACE"]))
    yield raw
    raw.close()


def test_a_plan_is_made_and_then_found_as_it_should_be(app: App, raw: Raw) -> None:
    planned = app.router("topology", "plan", "--format", "json").json()
    emails = next(each for each in planned if each["kind"] == "queue" and each["name"] == raw.names.queue("emails"))
    assert emails["arguments"]["x-queue-type"] == "quorum"
    assert any(each["kind"] == "queue" and each["name"].endswith(".delay.700") for each in planned)
    missing = app.router("topology", "check", "--format", "json", code=1).json()
    count = sum(each["kind"] != "binding" for each in planned)
    assert len(missing) == count
    assert {finding["problem"] for finding in missing} == {"missing"}
    assert f"{count} made" in app.router("topology", "apply").stdout
    assert f"all {count}" in app.router("topology", "check").stdout
    assert app.router("topology", "check", "--format", "json").json() == []
    assert "0 made" in app.router("topology", "apply").stdout
    assert f"queue {raw.names.queue('emails')}\n    x-queue-type = quorum" in app.router("topology", "plan").stdout


def test_a_user_who_may_not_configure_is_told_that_nothing_could_be_compared(app: App) -> None:
    node = rabbit_node()
    if node is None:
        pytest.skip("users of ROUTER_TEST_AMQP_URL are not ours to make")
    app.router("topology", "apply")
    url = app.env["ROUTER_BROKER_URL"]
    vhost = url.rpartition("/")[2]
    node.make_user(f"reader-{vhost}", vhost, ("^$", ".*", ".*"))
    app.env["ROUTER_BROKER_URL"] = url.replace("guest:guest@", f"reader-{vhost}:secret@")
    count = len(app.router("topology", "check", "--format", "json", code=1).json())
    said = app.router("topology", "check", code=1).stderr
    assert said == f"error: {count} of {count} are there, but can't be compared without configure permission\n"


def test_status_says_what_is_not_there(app: App, raw: Raw) -> None:
    count = len(app.router("topology", "check", "--format", "json", code=1).json())
    missing = app.router("status", "--format", "json").json()["counts"]["missing"]
    assert len(missing) == count
    assert f"not on the broker: {', '.join(missing[:5])} and {count - 5} more; " in app.router("status").stdout
    app.router("topology", "apply")
    assert "not on the broker" not in app.router("status").stdout
    raw.channel.exchange_delete(raw.names.due)  # what is delayed doesn't come while it is away
    assert f"not on the broker: exchange {raw.names.due} (topic); the next start" in app.router("status").stdout


def test_what_differs_is_named_with_the_way_to_move_over(app: App, raw: Raw) -> None:
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": 5}
    raw.channel.queue_declare(raw.names.queue("emails"), durable=True, auto_delete=False, arguments=arguments)
    app.router("topology", "apply", code=1)
    said = app.router("topology", "check", code=1).stdout
    assert "x-delivery-limit" in said
    assert "move over without losing jobs" in said
    refused = app.router("dispatch", "raised", code=1)
    assert "x-delivery-limit" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_worker_that_stays_on_the_old_namespace_runs_jobs_and_what_they_dispatch(
    app: App, raw: Raw, tmp_path: Path
) -> None:
    (tmp_path / "work.py").write_text(f"{WORK}\ndef chain(event):\n    import router\n    router.dispatch('raised')\n")
    app.config.write_text(f"{FILE}  first: {{handlers: [{{handler: 'work:chain', async: true}}]}}\n")
    app.router("dispatch", "first")
    emails = raw.names.queue("emails")
    raw.channel.queue_delete(emails)
    raw.channel.queue_declare(emails, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
    raw.channel.queue_bind(emails, raw.names.due, "*.emails")
    refused = app.router("run-worker", "--stop-when-empty", code=1)
    assert "--no-declare" in refused.stderr
    assert app.start_worker("--no-declare", "--stop-when-empty", "--concurrency", "1").wait() == 0
    assert len(app.journal("worked")) == 2
    assert app.failed() == []


def test_pruning_deletes_only_what_left_the_file_and_keeps_its_jobs(app: App, raw: Raw) -> None:
    app.router("dispatch", "raised")
    refused = app.router("topology", "apply", "--prune", "emails", "--yes", code=2)
    assert "is in the file" in refused.stderr
    for none in ("", "*.emails"):
        refused = app.router("topology", "apply", "--prune", none, "--yes", code=2)
        assert refused.stderr == f"error: queue {none!r}: a name can't be empty, nor have `*` or `#` as a word\n"
    for needed in ("700ms", "500ms"):  # a route's; a step of the ladder
        assert "is needed" in app.router("topology", "apply", "--prune-delay", needed, "--yes", code=2).stderr
    app.config.write_text(FILE.replace("{queue: emails, delay: 700ms}", "{delay: 300ms}"))
    # Not asked, nothing deleted; there is nobody here to answer.
    app.router("topology", "apply", "--prune", "emails", code=1)
    app.wait_until(lambda: raw.ready(raw.names.queue("emails")) == 1)
    said = app.router("topology", "apply", "--prune", "emails", "--prune-delay", "700ms", "--yes").stdout
    assert "1 of its jobs are failed jobs now" in said
    assert raw.ready(raw.names.queue("emails")) is None
    assert raw.ready(raw.names.delay_queue(700)) is None
    (job,) = app.failed()
    assert job["queue"] == "emails"
    # Its route still is in the file, so that it can be retried, and it runs.
    app.router("failed", "retry", "--all")
    assert app.start_worker("--stop-when-empty", "--concurrency", "1").wait() == 0
    assert len(app.journal("worked")) == 2
    assert app.failed() == []


def test_a_worker_that_may_not_declare_looks_and_says_what_is_missing(app: App, raw: Raw) -> None:
    refused = app.router("run-worker", "--no-declare", "--stop-when-empty", code=1)
    assert "does not exist" in refused.stderr
    assert "router topology apply" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert raw.ready(raw.names.queue("emails")) is None
    app.router("topology", "apply")
    app.router("dispatch", "raised")
    worker = app.start_worker("--no-declare", "--stop-when-empty", "--concurrency", "1")
    assert worker.wait() == 0
    assert len(app.journal("worked")) == 2


def test_a_broker_out_of_reach_is_told_soon(app: App) -> None:
    app.env["ROUTER_BROKER_URL"] = "amqp://guest:secret@127.0.0.1:1/"
    app.config.write_text(FILE.replace("broker: {", "broker: {publishTimeout: 500ms, "))
    for command in (["status"], ["failed", "list"], ["topology", "check"], ["dispatch", "raised"]):
        done = app.router(*command, code=1)
        assert "127.0.0.1:1" in done.stderr
        assert "Traceback" not in done.stderr
        assert "secret" not in done.stdout + done.stderr


def test_the_embedded_broker_needs_none(app: App, tmp_path: Path) -> None:
    app.env["ROUTER_BROKER_URL"] = f"sqlite:///{tmp_path}/router.db"
    assert "needs no topology" in app.router("topology", "plan", code=2).stderr
    assert json.loads(app.router("failed", "list", "--format", "json").stdout) == []
