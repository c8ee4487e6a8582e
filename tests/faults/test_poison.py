"""What nobody can run ends among the failed jobs, with its reason and its bytes, and the rest goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from storm import BOTH, FILE, WORK, Storm

from router.brokers import connect
from router.brokers.base import Outgoing, Topology
from tests.servers.raw import Raw

NEWER = json.dumps({"v": 99, "job": "newer", "point": "quick", "route": "work:quick", "new": {}}).encode()
HUGE = b"[" + b" " * 20_000_000
BODIES = {"not-json": b"hello", "not-text": b"\xff\x00\xfe", "newer": NEWER, "huge": HUGE}
SECONDS = 90.0


@pytest.mark.parametrize("broker", BOTH)
def test_poison_fails_with_its_reason_and_the_rest_goes_on(broker: str, make_storm: Callable[..., Storm]) -> None:
    storm = make_storm(broker, FILE.replace("unknownRouteFor: 60s", "unknownRouteFor: 2s"))
    url = storm.place.url if storm.place else storm.broker_url
    behind = connect(url, storm.app.env["ROUTER_NAMESPACE"])
    behind.declare(Topology(frozenset({"default", "deadly", "numbers"})))
    receipt = behind.publish([Outgoing(id, "p", "default", body) for id, body in BODIES.items()], deadline=30)
    assert set(receipt.confirmed) == set(BODIES)
    expected = {*BODIES.values()}
    if storm.place is not None:
        raw = Raw(storm.place)
        raw.publish(raw.names.jobs, "default", b"not ours")
        raw.close()
        expected.add(b"not ours")
    # Poison from 40 on; it has crashed 36 workers already.
    storm.app.router("dispatch", "deadly")
    storm.app.hand_out("deadly", 36)
    for _ in range(5):
        storm.app.router("dispatch", "quick")

    supervise(storm, lambda: len(behind.failed()) == len(expected) + 1)

    failed = behind.failed()
    behind.close()
    unread = {job.body for job in failed if job.reason == "undecodable"}
    assert unread == expected - {NEWER}
    (newer,) = (job for job in failed if job.reason == "unknown_route")
    assert json.loads(NEWER).items() <= json.loads(newer.body).items()  # it has waited, and says since when
    (deadly,) = (job for job in failed if job.reason == "poison")
    assert deadly.route == "work:kill_parent"
    storm.app.wait_for("quick", 5)
    assert 1 <= len(storm.app.journal("killing")) <= 4


def supervise(storm: Storm, done: Callable[[], bool]) -> None:
    """Start a worker again whenever it has died, until ``done``."""
    worker = storm.start_worker("--concurrency", "1")
    until = time.monotonic() + SECONDS
    while not done():
        assert time.monotonic() < until, storm.app._story()
        if worker.process.poll() is not None:
            worker = storm.start_worker("--concurrency", "1")
        time.sleep(0.2)


NEW_WORK = (
    WORK
    + """
from dataclasses import dataclass

@dataclass
class Raised:
    greeting: str

def fresh(event):
    write("fresh", greeting=event.greeting)
"""
)


@pytest.mark.full
@pytest.mark.parametrize("broker", ["amqp", "sqlite"])
def test_old_workers_let_the_jobs_of_a_new_route_wait_for_the_new_ones(
    broker: str, make_storm: Callable[..., Storm]
) -> None:
    """A rolling deployment: the application is new already, one worker still old."""
    storm = make_storm(broker, FILE.replace("unknownRouteFor: 60s", "unknownRouteFor: 10m"))
    old = storm.start_worker("--concurrency", "1")
    storm.app.router("dispatch", "quick")
    storm.app.wait_for("quick")
    # The old worker keeps its table: what it is given now is no file at all.
    handlers = '[{handler: "newer:fresh", async: true}]'
    new_file = FILE + f'  raised.anew: {{event: "newer:Raised", handlers: {handlers}}}\n'
    (storm.folder / "newer.py").write_text(NEW_WORK)
    (storm.folder / "new.yaml").write_text(new_file)
    storm.app.router("dispatch", "-c", "new.yaml", "raised.anew", "-p", '{"greeting": "hello"}')
    storm.app.wait_until(lambda: "waiting" in old.log())
    assert storm.app.failed() == []
    storm.start_worker("-c", "new.yaml", "--concurrency", "1")
    # Each of the workers may get it, each time that it is due; the old one puts it back.
    (line,) = storm.app.wait_for("fresh", deadline=110)
    assert line["greeting"] == "hello"
    storm.app.router("dispatch", "quick")
    storm.app.wait_for("quick", 2)
    assert storm.app.failed() == []
