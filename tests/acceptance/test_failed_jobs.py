"""``router failed``: whatever is done with failed jobs does what it says, and loses none, wherever it is killed."""

from __future__ import annotations

import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from router.brokers import connect
from router.brokers.base import FailedJob
from router.cli.failed.lines import to_line
from router.cli.failed.selecting import _since
from router.jobs.job import decode, encode
from router.locks.base import Claim
from tests.app import App, amqp_url, in_process
from tests.failed_shop import FILE, MakeApp, Shop, failed_job

NO_LOCKS = 'broker: {url: "${ROUTER_BROKER_URL}", namespace: "${ROUTER_NAMESPACE}"}\n'

ONE_POINT = """
version: 1
extensions: {raised: {handlers: [{handler: "work:work", id: worker, async: {queue: emails}}]}}
"""

STRICT = """
from dataclasses import dataclass

@dataclass
class Order:
    number: int

    def __post_init__(self):
        raise ValueError("not today")
"""


@pytest.fixture
def shop(make_app: MakeApp, tmp_path: Path) -> Shop:
    return Shop(make_app, tmp_path)


@pytest.fixture
def amqp_shop(tmp_path: Path) -> Any:
    """On RabbitMQ only."""
    with App(tmp_path, "version: 1\n", amqp_url(tmp_path)) as app:
        app.config.write_text(FILE + (tmp_path / "extensions.yaml").read_text().removeprefix("version: 1\n"))
        yield Shop(lambda _: app, tmp_path)


# -- looking


def test_a_filter_means_the_same_in_each_command(shop: Shop) -> None:
    one = failed_job(1, age=7200, queue="low", error="TimeoutError: mail server\n\nTraceback: line 7")
    two = failed_job(2, age=5400, reason="poison")
    three = failed_job(3, age=60, point="other", route="work:work", queue="reports")
    four = failed_job(4, age=30, point="gone", route="gone.module:handler", error="LookupError: Mail")
    shop.restore(four, two, one, three)
    expected: dict[tuple[str, ...], list[FailedJob]] = {
        (): [one, two, three, four],
        ("--point", "raised"): [one, two],
        ("--handler", "worker"): [one, two],
        ("--handler", "work:work"): [one, two, three],
        ("--handler", "gone.module:handler"): [four],
        ("--queue", "low"): [one],
        ("--error", "(?i)mail"): [one, four],
        ("--error", r"line \d$"): [one],
        ("--since", "1h"): [three, four],
        ("--since", time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() - 6000))): [two, three, four],
        ("--reason", "poison"): [two],
        ("--limit", "3"): [two, three, four],
        ("--point", "raised", "--limit", "1"): [two],
        ("--point", "raised", "--queue", "nix"): [],
    }
    for arguments, jobs in expected.items():
        assert shop.failed(*arguments) == [job.id for job in jobs], arguments
    exported = shop.router("failed", "export", "--handler", "work:work", "--limit", "2").stdout
    assert [json.loads(line)["id"] for line in exported.splitlines()] == [two.id, three.id]
    assert "queued again: 1 job" in shop.router("failed", "retry", "--point", "raised", "--limit", "1").stdout
    assert shop.failed() == [one.id, three.id, four.id]
    assert "forgotten: 1 job" in shop.router("failed", "forget", "--error", "Mail", "--yes").stdout
    assert shop.failed() == [one.id, three.id]


def test_a_date_without_dashes_is_a_date_and_no_number_of_seconds() -> None:
    assert _since("20260131") == _since("2026-01-31") == datetime(2026, 1, 31).timestamp()
    assert _since("90") == pytest.approx(time.time() - 90, abs=60)


def test_an_error_is_shown_as_it_is_but_for_what_a_terminal_would_obey(shop: Shop) -> None:
    shop.restore(job := failed_job(1, error="ValueError: :id: [red]\x1b[31m\r\u202e\x9b\nsecond\tline"))
    listed = shop.router("failed", "list").stdout
    assert "ValueError: :id: [red]␛[31m␍��" in listed
    shown = shop.router("failed", "show", job.id).stdout
    assert "ValueError: :id: [red]␛[31m␍��\n  second\tline" in shown


def test_a_list_ends_with_the_newest_and_says_how_many_there_are(shop: Shop) -> None:
    assert "no failed jobs" in shop.router("failed", "list").stdout
    jobs = [failed_job(number, age=1000 - number) for number in range(60)]
    shop.restore(*jobs)
    said = shop.router("failed", "list").stdout
    assert "60 failed jobs; shown are the 50 that failed last, --limit 60 shows all" in said
    assert [line.split()[0] for line in said.splitlines()[1:51]] == [job.id for job in jobs[10:]]
    said = shop.router("failed", "list", "--error", "no stock for 1", "--limit", "2").stdout
    assert "60 failed jobs, of which 11 fit; shown are the 2 that failed last, --limit 11 shows all" in said
    assert "60 failed jobs, of which 0 fit" in shop.router("failed", "list", "--queue", "nix").stdout
    said = shop.router("failed", "list", "--point", "raise", "--handler", "nix:f").stdout
    assert "the file has no point `raise`; did you mean `raised`?" in said
    assert "the file has no handler `nix:f`" in said
    assert len(shop.failed()) == 60


def test_show_tells_payload_origin_and_each_attempt_with_its_worker_and_traceback(shop: Shop) -> None:
    shop.broken(7)
    shop.app.router("dispatch", "raised", "-p", '{"number": 7, "of": ["ü"]}')
    shop.run_jobs()
    (job,) = shop.failed()
    said = shop.router("failed", "show", job[:20]).stdout
    for fact in (
        f"job          {job}",
        "reason: attempts",
        "point        raised\nroute        worker\nhandler      work:work\nround        1\ncorrelation  ",
        '\n  "number": 7,\n',
        '"ü"',
        "round 1 attempt 1, ",
        "round 1 attempt 2, ",
        ", worker ",
        ": raised\n  ValueError: no stock for 7\n",
        'raise ValueError(f"no stock for',
    ):
        assert fact in said or fact in said.replace("  ", " ").replace("\n ", "\n "), (fact, said)
    assert said.count("Traceback (most recent call last)") == 2
    data = shop.router("failed", "show", job, "--format", "json").json()
    assert data["event"] == {"number": 7, "of": ["ü"]}
    assert (data["handler"], data["queue"], data["round"], data["reason"]) == ("work:work", "emails", 1, "attempts")
    assert [attempt["attempt"] for attempt in data["history"]] == [1, 2]
    assert data["dispatched_at"] < data["failed_at"]


def test_bytes_that_are_no_job_are_shown_and_stay_when_all_is_retried(shop: Shop) -> None:
    nonsense = FailedJob(
        "bytes-1", "emails", "", "", "undecodable", "not a job: \u00fc", time.time(), b"\x00\xffnonsense\n"
    )
    unknown = failed_job(1, queue="nix", point="gone", route="gone:gone")
    good = failed_job(2)
    shop.restore(nonsense, unknown, good)
    said = shop.router("failed", "show", "bytes-1").stdout
    assert "not a job" in said
    assert "nonsense" in said
    done = shop.router("failed", "retry", "--all", code=1)
    assert "queued again: 1 job" in done.stdout
    assert "bytes-1 is no job that this version can read; it stays" in done.stderr
    assert f"{unknown.id}: the file has neither its queue 'nix' nor its route 'gone:gone' of gone" in done.stderr
    assert set(shop.failed()) == {"bytes-1", unknown.id}


def test_a_job_that_was_dispatched_in_no_year_is_shown(shop: Shop) -> None:
    job = failed_job(1)
    shop.restore(replace(job, body=encode(replace(decode(job.body), dispatched_at=1e300))))
    assert "1e+300" in shop.router("failed", "show", job.id).stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list", "--error", "["], "no regular expression"),
        (["list", "--since", "yesterday"], "neither a duration"),
        (["list", "--reason", "bad"], "unknown_route"),
        (["list", "--limit", "0"], "--limit"),
        (["show", "nix"], "nix is no failed job"),
        (["show", ""], "an empty id names no job"),
        (["retry", ""], "an empty id names no job"),
        (["forget", ""], "an empty id names no job"),
        (["retry"], "--all"),
        (["retry", "nix"], "nix is no failed job"),
        (["retry", "nix", "--all"], "not both"),
        (["retry", "--all", "--within", "5m"], "--canary"),
        (["retry", "--all", "--edit", "--canary", "1"], "one of the two"),
        (["retry", "--all", "--edit"], "--edit is for one job"),
        (["forget"], "--all"),
        (["export", "--forget"], "needs a FILE"),
        (["export", "extensions.yaml"], "is there already"),
        (["export", ""], "an empty name is no file"),
        (["import", "nix.jsonl"], "can't be read"),
    ],
)
def test_wrong_use_is_told_without_a_traceback(tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "extensions.yaml").write_text("version: 1\n")
    done = in_process(tmp_path, {"ROUTER_CONFIG": "extensions.yaml"}, "failed", *arguments, code=2)
    assert done.stdout == ""
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def on_sqlite(folder: Path, command: str, env: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    """A line of the shell, in which ``$R`` is the command, where a job with euros and smileys in it has failed."""
    (folder / "extensions.yaml").write_text(ONE_POINT)
    failed = failed_job(7, error="LookupError: no räte for €😀")
    (folder / "jobs.jsonl").write_bytes(to_line(replace(failed, body=failed.body.replace(b"number", "nö€😀".encode()))))
    in_process(folder, {}, "failed", "import", "jobs.jsonl")
    line = f"R='{Path(sys.executable).with_name('router')}'; {command}"
    return subprocess.run(["sh", "-c", line], cwd=folder, env={**os.environ, **env}, capture_output=True, timeout=60)


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("$R failed forget --all <&-", 1, "Delete 1 failed job for good?"),
        ("$R failed import - <&-", 0, "imported: 0 jobs"),
        ("$R dispatch order -p - <&-", 2, "stdin is no JSON"),
        ("$R failed export >&-", 0, "exported: 1 job"),
        ("$R failed list 2>&-", 0, "1 failed job"),
    ],
)
def test_where_a_standard_stream_is_closed_it_is_as_if_nothing_came_from_there(
    tmp_path: Path, command: str, code: int, said: str
) -> None:
    done = on_sqlite(tmp_path, command, {})
    assert said in (done.stdout + done.stderr).decode()
    assert b"Traceback" not in done.stderr
    assert done.returncode == code


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_a_terminal_has_no_characters_for_is_shown_in_some_way_and_json_stays_json(
    tmp_path: Path, encoding: str
) -> None:
    for number, command in enumerate(("list", "show 0", "list --format json", "show 0 --format json")):
        folder = tmp_path / str(number)
        folder.mkdir()
        done = on_sqlite(folder, f"$R failed {command}", {"PYTHONIOENCODING": encoding})
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"LookupError: no r" in done.stdout
        if "json" in command:
            assert "LookupError: no räte for €😀" in json.dumps(json.loads(done.stdout), ensure_ascii=False)


# -- retrying with another payload


def editor(shop: Shop, *texts: str) -> None:
    """An editor that each time leaves the next of these texts in the file; it notes what it found there."""
    script = shop.folder / "editor.py"
    script.write_text(
        "import json, pathlib, sys\n"
        "file, state = pathlib.Path(sys.argv[-1]), pathlib.Path(sys.argv[1])\n"
        "texts = json.loads(state.read_text())\n"
        "with open(sys.argv[1] + '.found', 'a') as found: found.write(file.read_text() + '---\\n')\n"
        "file.write_text(texts.pop(0)) if texts[0] is not None else texts.pop(0)\n"
        "state.write_text(json.dumps(texts))\n"
    )
    state = shop.folder / "texts.json"
    state.write_text(json.dumps(texts))
    shop.app.env["VISUAL"] = f"{sys.executable} {script} {state}"


def found(shop: Shop) -> list[str]:
    """What the editor found in the file each time."""
    return (shop.folder / "texts.json.found").read_text().split("---\n")[:-1]


def test_an_edited_payload_is_retried_in_the_place_of_the_old_one(shop: Shop) -> None:
    (job,) = shop.restore(failed_job(7))
    editor(shop, '{"number": 8, "by": "hand"}')
    assert "queued again: 1 job" in shop.router("failed", "retry", job[:30], "--edit").stdout
    assert found(shop) == ['{\n  "number": 7\n}\n']
    assert shop.failed() == []
    shop.run_jobs()
    assert [(line["number"], line["job"]) for line in shop.app.journal("worked")] == [(8, job)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"number": 8', "no JSON: Expecting ',' delimiter: line 1 column 13"),
        ('{"number": "eight"}', "number"),
        ("[1]", "must be a mapping"),
    ],
)
def test_an_edited_payload_that_no_dispatch_would_take_is_refused(shop: Shop, text: str, said: str) -> None:
    (job,) = shop.restore(failed_job(7))
    editor(shop, text)
    done = shop.router("failed", "retry", job, "--edit", code=1)
    assert said in done.stderr
    assert "nothing was done, the job stays failed" in done.stderr
    assert "Traceback" not in done.stderr
    assert shop.failed() == [job]


def test_an_unchanged_or_empty_payload_changes_nothing(shop: Shop) -> None:
    (job,) = shop.restore(failed_job(7))
    editor(shop, None, "", "\n")  # type: ignore[arg-type]
    for _ in range(3):
        assert "nothing was done" in shop.router("failed", "retry", job, "--edit").stdout
    shop.app.env["VISUAL"] = "false"
    assert "ended with code 1" in shop.router("failed", "retry", job, "--edit", code=1).stderr
    shop.app.env["VISUAL"] = "no-such-editor"
    assert "set $VISUAL or $EDITOR" in shop.router("failed", "retry", job, "--edit", code=1).stderr
    assert shop.failed() == [job]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ('"vim', "the editor '\"vim' can't be started: No closing quotation; set $VISUAL or $EDITOR"),
        (" ", "the editor ' ' can't be started: it names no program; set $VISUAL or $EDITOR"),
        ("sh -c 'rm $1; mkdir $1' sh", ".json can't be read: Is a directory; nothing was done"),
    ],
)
def test_an_editor_that_is_none_is_told_without_a_traceback(shop: Shop, command: str, said: str) -> None:
    (job,) = shop.restore(failed_job(7))
    shop.app.env["VISUAL"] = command
    done = shop.router("failed", "retry", job, "--edit", code=1)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert shop.failed() == [job]


def test_a_payload_is_edited_as_utf_8_whatever_the_locale_with_or_without_a_mark(tmp_path: Path) -> None:
    (tmp_path / "edit.py").write_text(
        "import pathlib, sys\n"
        "file = pathlib.Path(sys.argv[1])\n"
        "file.write_bytes(b'\\xef\\xbb\\xbf' + file.read_bytes().replace('€'.encode(), 'ß'.encode()))\n"
    )
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "EDITOR": f"{sys.executable} edit.py"}
    done = on_sqlite(tmp_path, "$R failed retry --all --edit", env)
    assert (done.stdout, done.stderr) == (b"queued again: 1 job\n", b"")
    with sqlite3.connect(tmp_path / "router.db") as database:
        ((body,),) = database.execute("SELECT body FROM jobs")
    assert json.loads(body)["event"] == {"nöß😀": 7}


def test_on_a_terminal_a_mistake_is_shown_and_the_editor_offered_again(shop: Shop) -> None:
    (job,) = shop.restore(failed_job(7))
    editor(shop, '{"number": "x"}', '{"number": 8}')
    ours, theirs = pty.openpty()
    command = shop.app._command("failed", "retry", job, "--edit")
    process = subprocess.Popen(
        command, cwd=shop.folder, env=shop.app._environ(), stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True
    )
    os.close(theirs)
    said = read_until(ours, "Edit again?")
    os.write(ours, b"\n")
    said += read_until(ours, "queued again: 1 job")
    assert process.wait(20) == 0
    os.close(ours)
    assert "number" in said
    assert found(shop) == ['{\n  "number": 7\n}\n', '{"number": "x"}']
    shop.run_jobs()
    assert shop.worked() == [8]


def read_until(terminal: int, text: str) -> str:
    """What a process says on its terminal up to ``text``."""
    said, until = "", time.monotonic() + 40
    while text not in said:
        assert time.monotonic() < until, said
        try:
            said += os.read(terminal, 4096).decode()
        except OSError:
            raise AssertionError(f"it ended, without {text!r}: {said}") from None
    return said


def test_a_unique_job_is_locked_by_the_payload_that_it_has_now(shop: Shop) -> None:
    shop.broken(7)
    shop.app.router("dispatch", "only_one", "-p", '{"number": 7}')
    shop.run_jobs()
    (job,) = shop.failed()
    editor(shop, '{"number": 8}')
    shop.router("failed", "retry", job, "--edit")
    assert "duplicate" in shop.app.router("dispatch", "only_one", "-p", '{"number": 8}').stdout
    assert "queued" in shop.app.router("dispatch", "only_one", "-p", '{"number": 7}').stdout


def test_a_job_that_somebody_else_retried_while_it_was_edited_is_left_alone(shop: Shop) -> None:
    (job,) = shop.restore(failed_job(7))
    router = Path(sys.executable).with_name("router")
    script = shop.folder / "editor.sh"
    script.write_text(f'#!/bin/sh\n{router} failed retry {job} && echo \'{{"number": 8}}\' > "$1"\n')
    script.chmod(0o755)
    shop.app.env["VISUAL"] = str(script)
    done = shop.router("failed", "retry", job, "--edit", code=1)
    assert "has changed while it was edited" in done.stderr
    shop.run_jobs()
    assert shop.worked() == [7]


def test_a_job_that_was_unique_until_it_started_is_so_again_when_it_is_retried(shop: Shop) -> None:
    shop.broken(7)
    payload = ("-p", '{"number": 7, "seconds": 0}')
    shop.app.router("dispatch", "one_waits", *payload)
    shop.run_jobs()
    (job,) = shop.failed()
    shop.router("failed", "retry", job)
    assert f"job {job} is not done yet" in shop.app.router("dispatch", "one_waits", *payload).stdout
    shop.run_jobs()
    assert shop.failed() == [job]
    assert "queued" in shop.app.router("dispatch", "one_waits", *payload).stdout
    done = shop.router("failed", "retry", job, code=1)
    assert f"{job} is unique, and job" in done.stderr


# -- canaries


def test_canaries_that_succeed_let_the_others_follow(shop: Shop) -> None:
    jobs = [failed_job(number, age=100 - number) for number in range(6)]
    shop.restore(*reversed(jobs))
    worker = shop.app.start_worker("--concurrency", "1")
    done = shop.router("failed", "retry", "--all", "--canary", "2", "--within", "30s")
    assert "queued again: 2 canary jobs; waiting for them" in done.stdout
    assert "2 canary jobs succeeded\nqueued again: 6 jobs" in done.stdout
    shop.app.wait_for("worked", 6)
    assert shop.worked()[:2] == [0, 1], "those that failed first"
    assert sorted(shop.worked()) == list(range(6))
    assert shop.failed() == []
    assert "Traceback" not in worker.log()


def test_a_canary_that_fails_again_keeps_the_others_back(shop: Shop) -> None:
    jobs = [failed_job(number, age=100 - number) for number in range(6)]
    shop.restore(*jobs)
    shop.broken(1)
    shop.app.start_worker("--concurrency", "1")
    done = shop.router("failed", "retry", "--point", "raised", "--canary", "2", "--within", "30s", code=1)
    assert f"canary {jobs[1].id} has failed again: ValueError: no stock for 1" in done.stderr
    assert "stopped; the other 4 jobs stay failed" in done.stderr
    assert shop.worked() == [0]
    assert set(shop.failed()) == {job.id for job in jobs[1:]}
    again = next(job for job in shop.app.failed() if job["job"] == jobs[1].id)
    assert again["round"] == 2
    # It can be retried like any other, with all its attempts.
    shop.broken()
    shop.router("failed", "retry", "--all")
    shop.app.wait_for("worked", 6)


def test_a_canary_that_is_unique_until_it_starts_is_watched_until_it_is_done(shop: Shop) -> None:
    shop.broken(1, 2)
    for number in (1, 2):
        shop.app.router("dispatch", "one_waits", "-p", json.dumps({"number": number, "seconds": 0}))
    shop.run_jobs()
    assert len(shop.failed()) == 2
    payload = {"number": 1, "seconds": 2.5}  # longer than it takes to believe that a job without a lock is done
    editor(shop, json.dumps(payload))
    (slow,) = shop.failed("--limit", "1")
    shop.router("failed", "retry", slow, "--edit")
    shop.run_jobs()
    shop.app.start_worker("--concurrency", "1")
    done = shop.router("failed", "retry", "--limit", "1", "--canary", "1", "--within", "30s", code=1)
    assert f"canary {slow} has failed again: ValueError: no stock for 1" in done.stderr
    assert shop.router("locks", "list", "--format", "json").json() == []


def test_canaries_without_a_worker_are_waited_for_in_vain(shop: Shop) -> None:
    jobs = [failed_job(number, age=100 - number) for number in range(3)]
    shop.restore(*jobs)
    done = shop.router("failed", "retry", "--all", "--canary", "1", "--within", "1s", code=1)
    assert "no worker runs" in done.stderr
    assert f"canary {jobs[0].id} was not done within 1s" in done.stderr
    assert "stopped; the other 2 jobs stay failed" in done.stderr
    assert shop.failed() == [job.id for job in jobs[1:]]


def test_a_canary_whose_lock_another_job_holds_stops_it(shop: Shop) -> None:
    shop.broken(7)
    shop.app.router("dispatch", "only_one", "-p", '{"number": 7}')
    shop.run_jobs()
    (job,) = shop.failed()
    shop.restore(failed_job(1, age=-60))
    shop.app.router("dispatch", "only_one", "-p", '{"number": 7}')
    done = shop.router("failed", "retry", "--all", "--canary", "1", code=1)
    assert f"{job} is unique, and job" in done.stderr
    assert "not every canary could be queued; the other 1 job stays failed" in done.stderr


def test_without_a_lock_store_rabbitmq_says_how_sure_it_is(tmp_path: Path) -> None:
    with App(tmp_path, FILE.replace(FILE[FILE.index("  only_one") :], "") + NO_LOCKS, amqp_url(tmp_path)) as app:
        shop = Shop(lambda _: app, tmp_path)
        shop.restore(*(failed_job(number, age=100 - number) for number in range(4)))
        app.start_worker("--concurrency", "1")
        done = shop.router("failed", "retry", "--all", "--canary", "2", "--within", "40s")
        assert "2 canary jobs succeeded, as far as RabbitMQ can tell without a lock store" in done.stdout
        app.wait_for("worked", 4)
        shop.broken(9)
        (job,) = shop.restore(failed_job(9))
        done = shop.router("failed", "retry", "--all", "--canary", "1", "--within", "40s", code=1)
        assert f"canary {job} has failed again" in done.stderr


def test_without_a_lock_store_a_canary_that_was_put_aside_counts_as_waiting(tmp_path: Path) -> None:
    handlers = "handlers: [{handler: 'work:work', id: worker, async: {queue: emails}}]"
    file = f"version: 1\npythonpath: ['.']\nextensions: {{raised: {{event: 'strict:Order', {handlers}}}}}\n"
    with App(tmp_path, file + NO_LOCKS, amqp_url(tmp_path)) as app:
        shop = Shop(lambda _: app, tmp_path)
        (tmp_path / "strict.py").write_text(STRICT)
        jobs = shop.restore(*(failed_job(number, age=100 - number) for number in range(2)))
        worker = app.start_worker("--concurrency", "1")
        app.wait_until(lambda: "1 children" in worker.log())
        done = shop.router("failed", "retry", "--all", "--canary", "1", "--within", "7s", code=1)
        tried = f"job {jobs[0]} attempt 3 in queue emails: raised: the payload does not fit"
        app.wait_until(lambda: tried in worker.log())
        assert f"canary {jobs[0]} was not done within 7s" in done.stderr
        assert shop.failed() == jobs[1:]


# -- forgetting


def test_forgetting_asks_and_says_how_many(shop: Shop) -> None:
    shop.restore(failed_job(1), failed_job(2))
    refused = shop.router("failed", "forget", "--all", code=1)
    assert "Delete 2 failed jobs for good?" in refused.stderr
    assert len(shop.failed()) == 2
    assert "forgotten: 2 jobs" in shop.router("failed", "forget", "--all", "--yes").stdout
    assert "forgotten: 0 jobs" in shop.router("failed", "forget", "--all").stdout
    assert shop.failed() == []


def test_a_unique_job_that_failed_for_good_or_was_forgotten_blocks_nobody(shop: Shop) -> None:
    shop.broken(7)
    shop.app.router("dispatch", "only_one", "-p", '{"number": 7}')
    shop.run_jobs()
    (job,) = shop.failed()
    lock = decode_lock(shop, job)
    with shop.app.application() as router:
        locks = router.broker.locks
        assert locks is not None
        assert locks.holder(lock) is None, "a final failure frees it"
        # As where RabbitMQ itself took the job for failed, since its queue was gone.
        locks.hold(Claim(lock, job, 1, 1), 3600)
        assert "duplicate" in shop.app.router("dispatch", "only_one", "-p", '{"number": 7}').stdout
        shop.router("failed", "forget", job)
        assert locks.holder(lock) is None
    assert "queued" in shop.app.router("dispatch", "only_one", "-p", '{"number": 7}').stdout


def decode_lock(shop: Shop, job: str) -> str:
    lines = shop.router("failed", "export").stdout.splitlines()
    lock: str = next(line["body"]["lock"] for line in map(json.loads, lines) if line["id"] == job)
    return lock


# -- carrying them elsewhere


def test_what_was_exported_and_forgotten_comes_back_as_it_was(shop: Shop) -> None:
    nonsense = FailedJob("bytes-1", "emails", "", "", "undecodable", "not a job", time.time() - 9, b"\x00\xff\n")
    several_lines = failed_job(3, age=50)
    several_lines = replace(several_lines, body=several_lines.body.replace(b'{"v"', b'{\n"v"', 1))
    jobs = [failed_job(1, age=70), failed_job(2, error="Error: ü\u2028\n\nTraceback"), several_lines, nonsense]
    shop.restore(*jobs)
    broker = connect(shop.app.env["ROUTER_BROKER_URL"], shop.app.env["ROUTER_NAMESPACE"])
    before = broker.failed()
    assert {job.id for job in before} == {job.id for job in jobs}
    done = shop.router("failed", "export", "jobs.jsonl", "--forget")
    assert "exported: 4 jobs to jobs.jsonl\nforgotten: 4 jobs" in done.stdout
    assert broker.failed() == []
    lines = [json.loads(line) for line in (shop.folder / "jobs.jsonl").read_bytes().split(b"\n")[:-1]]
    assert [line["id"] for line in lines if "body" in line] == [job.id for job in jobs[:2]]
    assert next(line for line in lines if line["id"] == jobs[0].id)["body"]["event"] == {"number": 1}
    assert "imported: 4 jobs" in shop.router("failed", "import", "jobs.jsonl").stdout
    assert broker.failed() == before
    assert "imported: 0 jobs; 4 were there already" in shop.router("failed", "import", "jobs.jsonl").stdout
    assert broker.failed() == before
    broker.close()


def test_a_job_that_two_operators_imported_at_once_is_retried_once(shop: Shop) -> None:
    """On RabbitMQ it is there twice."""
    broker, jobs = (
        connect(shop.app.env["ROUTER_BROKER_URL"], shop.app.env["ROUTER_NAMESPACE"]),
        [failed_job(1), failed_job(2)],
    )
    shop.router("failed", "import", "-")  # makes the queues
    for _ in range(2):
        broker.restore(jobs)
    broker.close()
    assert "queued again: 2 jobs" in shop.router("failed", "retry", "--all").stdout
    assert shop.failed() == []
    assert shop.app.counts().queues["emails"].ready == 2


def test_what_is_imported_again_after_its_retry_runs_again_in_the_same_worker(shop: Shop) -> None:
    """A worker remembers for ten minutes how an attempt ended, for copies that come after a lost ack: this is none."""
    file = str(shop.folder / "failed.jsonl")
    shop.app.start_worker("--concurrency", "1")
    shop.broken(1, 2)
    for number in (1, 2):
        shop.router("dispatch", "raised", "--payload", f'{{"number": {number}}}')
    shop.app.wait_until(lambda: len(shop.failed()) == 2)
    shop.router("failed", "export", file, "--forget")
    shop.broken(1)
    shop.router("failed", "import", file)
    shop.router("failed", "retry", "--all")
    shop.app.wait_until(lambda: shop.worked() == [2] and len(shop.failed()) == 1)
    shop.router("failed", "forget", "--all", "--yes")
    shop.broken()
    shop.router("failed", "import", file)
    shop.router("failed", "retry", "--all")
    shop.app.wait_until(lambda: sorted(shop.worked()) == [1, 2, 2])
    assert shop.failed() == []


def test_a_message_without_a_body_comes_back_too(shop: Shop) -> None:
    empty = FailedJob("bytes-1", "emails", "", "", "undecodable", "not a job", time.time() - 9, b"")
    shop.restore(empty)
    shop.router("failed", "export", "jobs.jsonl", "--forget")
    assert "imported: 1 job" in shop.router("failed", "import", "jobs.jsonl").stdout
    assert [job["bytes"] for job in shop.router("failed", "list", "--format", "json").json()] == [""]


def test_a_unique_job_that_was_carried_to_another_namespace_is_unique_there(shop: Shop) -> None:
    shop.broken(7)
    shop.app.router("dispatch", "only_one", "-p", '{"number": 7}')
    shop.run_jobs()
    (job,) = shop.failed()
    assert "forgotten: 1 job" in shop.router("failed", "export", "jobs.jsonl", "--forget").stdout
    before, after = shop.app.env["ROUTER_NAMESPACE"], f"{shop.app.env['ROUTER_NAMESPACE']}-after"
    shop.app.env["ROUTER_NAMESPACE"] = after
    shop.router("failed", "import", "jobs.jsonl")
    assert "queued again: 1 job" in shop.router("failed", "retry", "--all").stdout
    assert f"job {job} is not done" in shop.app.router("dispatch", "only_one", "-p", '{"number": 7}').stdout
    shop.app.env["ROUTER_NAMESPACE"] = before
    assert shop.router("locks", "list", "--format", "json").json() == []


def test_an_export_goes_through_a_pipe_and_back(shop: Shop) -> None:
    shop.restore(failed_job(1), failed_job(2))
    router = str(Path(sys.executable).with_name("router"))
    pipe = f"{router} failed export --limit 1 | grep -v nothing > some.jsonl && {router} failed forget --all --yes"
    subprocess.run(f"{pipe} && {router} failed import - < some.jsonl", shell=True, cwd=shop.folder,
                   env=shop.app._environ(), timeout=60, check=True, capture_output=True)  # fmt: skip
    assert len(shop.failed()) == 1


def test_a_line_that_cannot_be_used_is_named_and_those_before_it_are_there(shop: Shop) -> None:
    one, two, three = failed_job(1), failed_job(2), failed_job(3)
    file = shop.folder / "jobs.jsonl"
    wrong = {
        "nonsense": b"nonsense\n",
        "`id` is other": to_line(two).replace(two.id.encode(), b"other", 1),
        "version 2": to_line(two).replace(b'{"v":1', b'{"v":2', 1),
        "neither `body` nor": to_line(two).replace(b'"body"', b'"bodi"', 1),
        "reason": to_line(two).replace(b'"attempts"', b'"because"', 1),
        "`$.failed_at`": to_line(replace(two, failed_at=1e300)),
    }
    for said, line in wrong.items():
        file.write_bytes(to_line(one) + b"\n" + line + to_line(three))
        done = shop.router("failed", "import", "jobs.jsonl", code=1)
        assert "jobs.jsonl:3: " in done.stderr
        assert "import again" in done.stderr
        assert said in done.stderr or said == "nonsense"
    assert shop.failed() == [one.id]
    file.write_bytes(to_line(one) + to_line(two) + to_line(three))
    assert "imported: 2 jobs; 1 were there already" in shop.router("failed", "import", "jobs.jsonl").stdout


def test_an_export_forgets_only_what_it_has_written(shop: Shop) -> None:
    """A job that was retried and has failed again between the two is another one."""
    kept, changed = failed_job(1), failed_job(2)
    shop.restore(kept, changed)
    patch = """
        from router.cli.failed import moving
        from router.brokers.base import Forget, Keep
        from msgspec.structs import replace
        browse = moving.browse
        def browse_and_change(broker, visit):
            browse(broker, visit)
            job = next(job for job in broker.failed() if b'"number":2' in job.body)
            broker.sweep(lambda failed: Forget() if failed.id == job.id else Keep())
            broker.restore([replace(job, body=job.body.replace(b'"attempt":2', b'"attempt":1'))])
        moving.browse = browse_and_change
    """
    done = shop.patched(patch, "failed", "export", "jobs.jsonl", "--forget")
    assert "exported: 2 jobs to jobs.jsonl\nforgotten: 1 job\n" in done.stdout
    assert shop.failed() == [changed.id]


# -- killed, interrupted

SMALL_STEPS = """
    import os, signal, itertools
    import router.brokers.sqlite, router.brokers.amqp.failed
    from router.cli.failed import moving
    router.brokers.sqlite.PAGE_ROWS = router.brokers.amqp.failed.BATCH = moving.BATCH = 10
    from router.brokers.sqlite import SqliteBroker
    from router.brokers.amqp.broker import AmqpBroker

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def dying(call, number, after):
        count = itertools.count(1)
        def wrapped(*arguments, **keywords):
            last = next(count) == number
            if last and not after:
                die()
            result = call(*arguments, **keywords)
            if last:
                die()
            return result
        return wrapped
"""
"""Steps of ten jobs; ``dying`` kills the process, as kill -9 does, before or after the n-th call of a function."""


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_in_the_middle_of_a_retry_and_started_again_every_job_is_retried(shop: Shop, after: bool) -> None:
    shop.restore(*(failed_job(number, age=100 - number) for number in range(60)))
    for step in (1, 3):
        where = "SqliteBroker._requeue" if shop.on_sqlite else "AmqpBroker.publish"
        patch = textwrap.dedent(SMALL_STEPS) + f"{where} = dying({where}, {step}, {after})"
        assert shop.patched(patch, "failed", "retry", "--all").returncode == -signal.SIGKILL
    left = len(shop.failed())
    assert 0 < left < 60
    assert f"queued again: {left} jobs" in shop.router("failed", "retry", "--all").stdout
    assert shop.failed() == []
    shop.run_jobs()
    assert set(shop.worked()) == set(range(60))
    assert len(shop.worked()) == 60 if shop.on_sqlite else len(shop.worked()) <= 60 + 20


def test_killed_anywhere_in_a_retry_and_started_again_until_done_no_job_is_gone(shop: Shop) -> None:
    shop.restore(*(failed_job(number, age=1e4 - number) for number in range(200)))
    patch, lives = textwrap.dedent(SMALL_STEPS), 0.6
    while True:
        process = shop.start(patch, "failed", "retry", "--all")
        try:
            _, said = process.communicate(timeout=lives)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            lives *= 1.2
            continue
        assert process.returncode == 0, said
        break
    assert shop.failed() == []
    shop.run_jobs()
    assert set(shop.worked()) == set(range(200))


def test_killed_in_the_middle_of_an_import_and_started_again_each_job_is_there_once(shop: Shop) -> None:
    jobs = [failed_job(number, age=100 - number) for number in range(40)]
    (shop.folder / "jobs.jsonl").write_bytes(b"".join(map(to_line, jobs)))
    for step in (1, 2):
        where = f"{'Sqlite' if shop.on_sqlite else 'Amqp'}Broker.restore"
        patch = textwrap.dedent(SMALL_STEPS) + f"{where} = dying({where}, {step}, after=True)"
        assert shop.patched(patch, "failed", "import", "jobs.jsonl").returncode == -signal.SIGKILL
    assert "imported: 10 jobs; 30 were there already" in shop.router("failed", "import", "jobs.jsonl").stdout
    assert shop.failed() == [job.id for job in jobs]


def test_an_export_that_was_killed_has_removed_nothing_and_left_no_half_file(shop: Shop) -> None:
    jobs = [failed_job(number, age=100 - number) for number in range(30)]
    shop.restore(*jobs)
    patch = textwrap.dedent(SMALL_STEPS) + "os.fsync = dying(os.fsync, 1, after=False)"
    assert shop.patched(patch, "failed", "export", "jobs.jsonl", "--forget").returncode == -signal.SIGKILL
    assert not (shop.folder / "jobs.jsonl").exists()
    assert shop.failed() == [job.id for job in jobs]
    where = "SqliteBroker._forget" if shop.on_sqlite else "router.brokers.amqp.failed.Browser.remove"
    patch = textwrap.dedent(SMALL_STEPS) + f"{where} = dying({where}, {4 if shop.on_sqlite else 12}, after=True)"
    # The first pass, which writes, has three steps; in the second, which forgets, the process ends.
    assert shop.patched(patch, "failed", "export", "jobs.jsonl", "--forget").returncode == -signal.SIGKILL
    written = [json.loads(line)["id"] for line in (shop.folder / "jobs.jsonl").read_text().splitlines()]
    assert written == [job.id for job in jobs]
    left = shop.app.wait_until(lambda: shop.failed())
    assert 0 < len(left) <= 30
    shop.router("failed", "import", "jobs.jsonl")
    assert shop.failed() == [job.id for job in jobs]


def test_ctrl_c_ends_between_two_steps_and_says_what_was_done(shop: Shop) -> None:
    jobs = [failed_job(number, age=100 - number) for number in range(60)]
    shop.restore(*jobs)
    pressed = """
        from router.cli.failed import sweeping
        for each in (SqliteBroker, AmqpBroker):
            def sweep(self, decide, report=None, sweep=each.sweep):
                count = itertools.count(1)
                def pressing(step):
                    if next(count) == 2:
                        os.kill(os.getpid(), signal.SIGINT)
                    report(step)
                return sweep(self, decide, pressing)
            each.sweep = sweep
    """
    patch = textwrap.dedent(SMALL_STEPS) + textwrap.dedent(pressed)
    done = shop.patched(patch, "failed", "retry", "--all")
    assert done.returncode == 130
    assert "queued again: 20 jobs" in done.stdout
    assert "interrupted: the others stay failed; the same command again goes on with them" in done.stderr
    assert "Traceback" not in done.stderr
    assert set(shop.failed()) == {job.id for job in jobs[20:]}
    done = shop.patched(patch, "failed", "list")
    assert (done.returncode, done.stdout) == (130, "")
    assert "interrupted: nothing was changed" in done.stderr
    done = shop.patched(patch, "failed", "forget", "--all", "--yes")
    assert done.returncode == 130
    assert "forgotten: 20 jobs" in done.stdout
    assert len(shop.failed()) == 20


def test_ctrl_c_while_canaries_are_waited_for_says_what_is_where(shop: Shop) -> None:
    jobs = [failed_job(number, age=100 - number) for number in range(3)]
    shop.restore(*jobs)
    process = shop.start("", "failed", "retry", "--all", "--canary", "1")
    assert process.stdout is not None
    assert "queued again: 1 canary job; waiting for it" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, complained = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted: the canaries stay queued; the other 2 jobs stay failed" in complained
    assert "Traceback" not in complained
    assert shop.failed() == [job.id for job in jobs[1:]]


def test_how_far_it_is_shows_on_a_terminal_only(shop: Shop) -> None:
    shop.restore(*(failed_job(number) for number in range(30)))
    assert "reading" not in shop.router("failed", "export").stderr
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        shop.app._command("failed", "forget", "--all", "--yes"),
        cwd=shop.folder,
        env=shop.app._environ(),
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    said = read_until(ours, "forgotten: 30 jobs")
    assert process.wait(20) == 0
    os.close(ours)
    assert "forgetting" in said
    assert "30/30" in said


# -- two operators

BROWSES = """
    from router.app.router import Router
    from router.brokers.base import Keep
    def wait(failed):
        print("browsing", flush=True)
        input()
        return Keep()
    Router().broker.sweep(wait)
    raise SystemExit
"""


def test_a_second_operator_is_told_to_wait_and_gets_on_when_the_first_has_finished(amqp_shop: Shop) -> None:
    (job,) = amqp_shop.restore(failed_job(1))
    first = amqp_shop.start(BROWSES)
    assert first.stdout is not None
    assert first.stdout.readline() == "browsing\n"
    second = amqp_shop.start("", "failed", "list")
    assert second.stderr is not None
    assert "someone is browsing the failed jobs of this namespace; waiting" in second.stderr.readline()
    assert second.poll() is None
    first.communicate("\n", timeout=30)
    said, _ = second.communicate(timeout=30)
    assert second.returncode == 0
    assert job in said


def test_a_second_operator_gives_up_after_a_while(amqp_shop: Shop) -> None:
    (job,) = amqp_shop.restore(failed_job(1))
    first = amqp_shop.start(BROWSES)
    assert first.stdout is not None
    assert first.stdout.readline() == "browsing\n"
    patch = "import router.brokers.amqp.failed as failed; failed.OTHERS = 2.0"
    second = amqp_shop.patched(patch, "failed", "retry", "--all")
    assert second.returncode == 1
    assert "someone is browsing the failed jobs of this namespace, for more than 2 s" in second.stderr
    assert "Traceback" not in second.stderr
    first.kill()
    first.communicate()
    assert amqp_shop.failed() == [job], "killed, the first one holds nobody up"


def test_a_second_operator_need_not_wait_for_the_end(amqp_shop: Shop) -> None:
    amqp_shop.restore(failed_job(1))
    first = amqp_shop.start(BROWSES)
    assert first.stdout is not None
    assert first.stdout.readline() == "browsing\n"
    second = amqp_shop.start("", "failed", "forget", "--all", "--yes")
    assert second.stderr is not None
    assert "waiting" in second.stderr.readline()
    second.send_signal(signal.SIGINT)
    said, complained = second.communicate(timeout=30)
    assert (second.returncode, said) == (130, "forgotten: 0 jobs\n")
    assert "interrupted" in complained
    first.communicate("\n", timeout=30)
    assert len(amqp_shop.failed()) == 1
