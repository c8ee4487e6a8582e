"""`make demo` tells its story."""

import subprocess
import sys

from harness import EXAMPLES


def test_the_demo_runs_to_its_end():
    command = [sys.executable, str(EXAMPLES / "demo.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "That was it." in done.stdout
    assert "Traceback (most recent call last)" not in done.stderr
