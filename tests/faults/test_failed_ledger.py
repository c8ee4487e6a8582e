"""Failed jobs by the thousand: a retry that is killed again and again loses none, and a large queue is no trouble."""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from router.brokers import connect
from router.brokers.amqp.failed import BATCH
from router.cli.failed.lines import to_line
from tests.app import BROKERS, App, amqp_url
from tests.failed_shop import FILE, Shop, failed_job

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]

JOBS = 10_000
KILLS = 3


def open_shop(folder: Path, url: str) -> Iterator[Shop]:
    with App(folder, FILE, url) as app:
        yield Shop(lambda _: app, folder)


@pytest.fixture(params=sorted(BROKERS))
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    yield from open_shop(tmp_path, BROKERS[request.param](tmp_path))


@pytest.fixture
def amqp_shop(tmp_path: Path) -> Iterator[Shop]:
    yield from open_shop(tmp_path, amqp_url(tmp_path))


def rounds_run(log: str) -> Counter[tuple[str, int, int]]:
    """How often which attempt was started, by job, round and attempt, as the worker's log says."""
    lines = (json.loads(line) for line in log.splitlines() if line.startswith("{"))
    return Counter(
        (line["job"], line["round"], line["attempt"]) for line in lines if line.get("event") == "job.started"
    )


def test_a_retry_of_ten_thousand_killed_three_times_brings_each_job_to_its_next_round(shop: Shop) -> None:
    ids = shop.restore(*(failed_job(number, age=1e6 - number) for number in range(JOBS)))
    chosen = random.Random()
    broker = connect(shop.app.env["ROUTER_BROKER_URL"], shop.app.env["ROUTER_NAMESPACE"])

    def queued(at_least: int = 0) -> int:
        ready = broker.counts(["emails"]).queues["emails"].ready
        return ready if ready >= at_least else 0

    for kill in range(KILLS):
        retry = shop.start("", "failed", "retry", "--all")
        enough = chosen.randrange(JOBS * kill // (KILLS + 1) + 1, JOBS * (kill + 1) // (KILLS + 1))
        shop.app.wait_until(partial(queued, enough), 120)
        with suppress(subprocess.TimeoutExpired):
            retry.wait(chosen.uniform(0, 0.1))  # anywhere in the next steps
        assert retry.poll() is None, "it is killed while it is at it"
        retry.kill()
        retry.communicate()
        print(f"killed with {queued()} queued")
    last = shop.start("", "failed", "retry", "--all")
    said, complained = last.communicate(timeout=120)
    assert last.returncode == 0, complained
    print(said.strip())
    assert shop.failed() == []
    doubles = queued() - JOBS
    print(f"{doubles} of them doubles")
    assert doubles == 0 if shop.on_sqlite else 0 <= doubles <= KILLS * BATCH
    broker.close()

    worker = shop.app.start_worker("--log-format", "json", "--stop-when-empty", "--concurrency", "2")
    assert worker.wait(400) == 0
    runs = rounds_run(worker.log())
    assert set(runs) == {(job, 2, 1) for job in ids}
    assert sum(runs.values()) <= JOBS + doubles
    assert Counter((line["number"], line["job"]) for line in shop.app.journal("worked")) == {
        (number, job): runs[job, 2, 1] for number, job in enumerate(ids)
    }
    assert shop.failed() == []


def test_fifty_thousand_failed_jobs_on_rabbitmq(amqp_shop: Shop) -> None:
    """Each with a payload and tracebacks of 4 KB in all; the numbers are in docs/failed-jobs.md."""
    count = 50_000
    traceback = "ValueError: no stock\n\nTraceback (most recent call last):\n" + 'File "shop.py", line 7\n' * 45
    with (amqp_shop.folder / "many.jsonl").open("wb") as file:
        for number in range(count):
            file.write(to_line(failed_job(number, age=1e6 - number, error=traceback)))

    memory = """
        import atexit, pathlib, re
        status = pathlib.Path("/proc/self/status")
        atexit.register(lambda: pathlib.Path("peak").write_text(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1]))
    """

    def measured(*arguments: str) -> str:
        began = time.monotonic()
        process = amqp_shop.start(memory, "failed", *arguments)
        said, complained = process.communicate(timeout=300)
        assert process.returncode == 0, complained
        seconds, peak = time.monotonic() - began, int((amqp_shop.folder / "peak").read_text()) / 1024
        print(f"router failed {' '.join(arguments)}: {seconds:.1f} s, {peak:.0f} MiB")
        assert seconds < 120
        assert peak < 300
        return said

    assert f"imported: {count} jobs" in measured("import", "many.jsonl")
    assert f"{count} failed jobs" in measured("list")
    assert len(json.loads(measured("list", "--format", "json"))) == count
    assert f"exported: {count} jobs" in measured("export", "all.jsonl")
    assert "queued again: 100 jobs" in measured("retry", "--all", "--limit", "100")
    assert f"queued again: {count - 100} jobs" in measured("retry", "--all")
    assert f"imported: {count} jobs" in measured("import", "all.jsonl")
    assert f"forgotten: {count} jobs" in measured("forget", "--all", "--yes")
    assert amqp_shop.failed() == []
    assert amqp_shop.app.counts().queues["emails"].ready == count
