"""`make demo` tells its story."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.app import EXAMPLES


def test_the_demo_runs_to_its_end(broker_url: str) -> None:
    env = {**os.environ, "COLUMNS": "40", "FORCE_COLOR": "1"}  # a narrow terminal
    if broker_url.startswith("amqp:"):
        env["ROUTER_BROKER_URL"] = broker_url
    command = [sys.executable, str(EXAMPLES / "demo.py")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "That was it." in done.stdout
    assert "Traceback (most recent call last)" not in done.stderr
