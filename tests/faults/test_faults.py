"""Every fault in the middle of a storm: nothing lost, nothing stuck, everybody back within ten seconds.

`make test` has one or two of each group with 200 jobs; `make faults` all of them with 2,000.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from scenarios import SCENARIOS, Scenario
from storm import Storm, check

from tests.servers.rabbitmq import RabbitNode
from tests.servers.shared import RabbitPlace

CASES = [
    pytest.param(
        scenario, broker, id=f"{scenario.name}-{broker}", marks=[] if broker in scenario.quick else pytest.mark.full
    )
    for scenario in SCENARIOS
    for broker in scenario.brokers
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("scenario", "broker"), CASES)
def test_nothing_is_lost(scenario: Scenario, broker: str, make_storm: Callable[..., Storm]) -> None:
    storm = make_storm(broker)
    scenario.run(storm)
    books = storm.finish()
    report = os.environ.get("ROUTER_FAULT_REPORT")
    if report:
        with Path(report).open("a") as file:
            file.write(json.dumps({"fault": scenario.name, "broker": broker, **asdict(books)}) + "\n")
    check(books, storm)
    storm.app.close()
    if storm.node is not None and storm.place is not None:
        planned = {
            each["name"]
            for each in storm.app.router("topology", "plan", "--format", "json").json()
            if each["kind"] == "queue"
        }
        assert queues_of(storm.node, storm.place) <= planned, "a queue was left behind"


def queues_of(node: RabbitNode, place: RabbitPlace) -> set[str]:
    """The names of the queues that are there."""
    vhost = place.url.rpartition("/")[2]
    listed = node.ctl("list_queues", "-p", vhost, "name", "--no-table-headers", "--silent")
    return set(listed.split())
