"""RabbitMQ is killed in the middle of a thousand jobs: worker and application go on by themselves."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from test_worker_kills import FILE, JOBS, WORK, dispatch_numbers

from tests.app import App
from tests.servers.rabbitmq import RabbitNode

AWAY = 2.0
BACK_WITHIN = 10.0

DISPATCHER = """
import sys, time, router
from router import DispatchError

app = router.Router(sys.argv[1])
app.table
print("ready", flush=True)
errors = 0
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    try:
        app.dispatch("numbered", {"number": number})
    except DispatchError as error:
        errors += 1
        while True:
            try:
                app.resend(error.unconfirmed)
                break
            except DispatchError as again:
                error = again
    time.sleep(0.005)
print(errors, flush=True)
"""


def test_killed_rabbitmq_loses_no_job_and_everybody_comes_back(own_node: RabbitNode, tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(WORK)
    with App(tmp_path, FILE, own_node.url()) as app:
        dispatch_numbers(app)
        worker = app.start_worker("--concurrency", "2")
        command = [sys.executable, "-c", DISPATCHER, str(app.config), str(JOBS), str(JOBS + 1000)]
        dispatcher = subprocess.Popen(
            command, env={**os.environ, **app.env}, cwd=app.folder, stdout=subprocess.PIPE, text=True
        )
        try:
            app.wait_until(lambda: len(app.journal("end")) > JOBS / 3)
            own_node.kill()
            killed_at = time.time()
            time.sleep(AWAY)  # the outage itself
            own_node.start()
            back_at = time.time()
            app.wait_until(lambda: app.journal("start")[-1]["at"] > back_at, BACK_WITHIN)
            output, _ = dispatcher.communicate(timeout=60)
        finally:
            dispatcher.kill()
            dispatcher.wait()
        assert dispatcher.returncode == 0
        assert output.startswith("ready")
        app.wait_until(lambda: {line["number"] for line in app.journal("end")} == set(range(2 * JOBS)))
        # Those that ran twice were in the worker's hands, or on their way to the broker, when it was killed.
        starts = Counter(line["number"] for line in app.journal("start"))
        assert max(starts.values()) <= 2
        firsts: dict[int, float] = {}
        for line in app.journal("start"):
            firsts.setdefault(line["number"], line["at"])
        twice = [number for number, count in starts.items() if count > 1]
        assert all(killed_at - 2.0 < firsts[number] < back_at + BACK_WITHIN for number in twice)
        assert app.failed() == []
        assert worker.process.poll() is None
        assert "Traceback" not in worker.log()
