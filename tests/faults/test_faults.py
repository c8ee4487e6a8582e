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

CASES = [
    pytest.param(scenario, broker, id=f"{scenario.name}-{broker}", marks=[] if scenario.quick else pytest.mark.full)
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
