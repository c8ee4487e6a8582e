"""Every fault in the middle of a storm: nothing lost, nothing stuck, everybody back within ten seconds.

`make test` has one or two of each group with 200 jobs; `make faults` all of them with 2,000.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
from conftest import ALL, JOBS
from scenarios import SCENARIOS, Scenario
from storm import HEARTBEAT, Storm, check

from tests.servers.proxy import Proxy, through
from tests.servers.rabbitmq import RabbitNode
from tests.servers.shared import RabbitPlace

CASES = [
    pytest.param(scenario, broker, id=f"{scenario.name}-{broker}")
    for scenario in SCENARIOS
    for broker in scenario.brokers
    if ALL or scenario.quick
]


@contextmanager
def storm_on(broker: str, folder: Path, request: pytest.FixtureRequest) -> Iterator[Storm]:
    """A storm on a place of its own."""
    if broker == "sqlite":
        with Storm(folder, f"sqlite:///{folder}/router.db", JOBS) as storm:
            yield storm
        return
    node: RabbitNode = request.getfixturevalue("node")
    node.start()
    vhost = f"v{uuid.uuid4().hex[:8]}"
    node.make_vhosts([vhost])
    proxy = Proxy(node.port)
    try:
        url = through(node.url(vhost), proxy.port, heartbeat=HEARTBEAT, connection_timeout=2000)
        with Storm(folder, url, JOBS, node=node, proxy=proxy) as storm:
            storm.place = RabbitPlace(node.url(vhost), storm.app.env["ROUTER_NAMESPACE"])
            yield storm
    finally:
        proxy.close()


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("scenario", "broker"), CASES)
def test_nothing_is_lost(scenario: Scenario, broker: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with storm_on(broker, tmp_path, request) as storm:
        scenario.run(storm)
        books = storm.finish()
        report = os.environ.get("ROUTER_FAULT_REPORT")
        if report:
            with Path(report).open("a") as file:
                file.write(json.dumps({"fault": scenario.name, "broker": broker, **asdict(books)}) + "\n")
        check(books, storm)
