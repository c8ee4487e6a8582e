"""200 edits, every third one broken, some written in two halves, while 10,000 jobs are dispatched and run."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from router.config import load
from router.routing.table import compile_table
from tests.app import App

EVENTS = 5_000
EDITS = 200

WORK = """
import json, os

journal = os.open(os.environ["SHOP_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def first(event, context):
    line = {"what": context.route, "number": event["number"], "attempts": context.max_attempts}
    os.write(journal, (json.dumps(line) + "\\n").encode())

second = first
"""

FILE = """
version: 1
pythonpath: ["."]
broker: {url: "${ROUTER_BROKER_URL}", namespace: "${ROUTER_NAMESPACE}"}
async: {tries: EDITION, backoff_strategy: fixed}
queues: {spare: {concurrency: 1}}
extensions:
  raised:
    handlers:
      - {handler: "work:first", async: {queue: one}}
"""
SECOND_HALF = """      - {handler: "work:second", async: {queue: two}}
"""
BROKEN = ("handelrs:\n", "      - {handler: 'work:third', async: {queue: three}}\n", "\t- x\n", "      - {handler: [")


def write(file: Path, edition: int, chosen: random.Random) -> None:
    """Edition ``edition``: every third one is broken, and the halves of some are written one after the other."""
    first, second = FILE.replace("EDITION", str(edition)), SECOND_HALF
    if edition % 3 == 0:
        second += chosen.choice(BROKEN)
    match edition % 4:
        case 0:
            # Half of it is a file without a mistake, under which half of the jobs would be missing.
            with file.open("w") as stream:
                stream.write(first)
                stream.flush()
                time.sleep(chosen.random() * 0.05)
                stream.write(second)
        case 1:
            file.write_text(first + second)
        case 2:
            file.with_suffix(".new").write_text(first + second)
            file.with_suffix(".new").rename(file)
        case 3:
            file.unlink()
            file.write_text(first + second)


def edit(file: Path) -> None:
    chosen = random.Random(7)
    for edition in range(1, EDITS + 1):
        write(file, edition, chosen)
        time.sleep(chosen.random() * 0.08 if edition % 25 else 1.2)  # long enough to be put in force, now and then


def test_a_storm_of_edits_loses_nothing_and_ends_on_the_last_good_file(
    make_app: Callable[..., App], tmp_path: Path
) -> None:
    (tmp_path / "work.py").write_text(WORK)
    app = make_app(FILE.replace("EDITION", "1") + SECOND_HALF)
    worker = app.start_worker("--concurrency", "2")
    app.wait_until(lambda: "2 children" in worker.log())
    editor = threading.Thread(target=edit, args=(app.config,))
    with app.application() as application:
        editor.start()
        for batch in range(0, EVENTS, 50):
            done = application.dispatch_many([("raised", {"number": number}) for number in range(batch, batch + 50)])
            assert all(len(one.jobs) == 2 for one in done), "half a file was in force"
            time.sleep(0.1)
        editor.join()
        write(app.config, 3 * EDITS, random.Random(7))
        app.wait_until(lambda: "can't be used" in worker.log())
        write(app.config, 3 * EDITS + 1, random.Random(7))
        wanted = compile_table(load(app.config, app.env).settings).hash

        def in_force() -> bool:
            application.dispatch("raised", {"number": 0})
            return application.table.hash == wanted

        app.wait_until(in_force)
        assert application.table.generation > 2

    def in_force_there() -> bool:
        workers = app.router("status", "--format", "json").json()["workers"]  # none, where it doesn't answer in time
        return [(state["table_hash"], state["last_error"]) for state in workers] == [(wanted, None)]

    app.wait_until(in_force_there)
    app.wait_until(lambda: len(app.journal()) >= 2 * EVENTS, 90)
    runs = Counter((line["what"], line["number"]) for line in app.journal())
    expected = {(route, number) for route in ("work:first", "work:second") for number in range(EVENTS)}
    assert runs.keys() == expected
    assert app.failed() == []
    assert "is in force" in worker.log()
    editions = {line["attempts"] for line in app.journal()}
    assert not {edition for edition in editions if edition % 3 == 0}, "a broken file was in force"
