"""`make soak`: one storm after another, each with a fault chosen at random, for half an hour; ends at the first wrong.

``python tests/faults/soak.py [MINUTES [SEED]]``
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

from scenarios import SCENARIOS

MINUTES = 30.0


def main() -> int:
    """Run until the time is over; the exit code."""
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else MINUTES
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(10**6)
    chosen = random.Random(seed)
    until = time.monotonic() + minutes * 60
    print(f"seed {seed}", flush=True)
    storms = 0
    while time.monotonic() < until:
        names = [f"{scenario.name}-{chosen.choice(scenario.brokers)}" for scenario in chosen.sample(SCENARIOS, 3)]
        jobs = chosen.choice((200, 500, 1000))
        print(f"{time.strftime('%H:%M:%S')} {jobs} jobs: {', '.join(names)}", flush=True)
        tests = [f"{Path(__file__).with_name('test_faults.py')}::test_nothing_is_lost[{name}]" for name in names]
        command = [sys.executable, "-m", "pytest", "-m", "full or not full", "-q", *tests]
        done = subprocess.run(command, env={**os.environ, "ROUTER_FAULT_JOBS": str(jobs)}, check=False)
        if done.returncode:
            return done.returncode
        storms += len(names)
    print(f"{storms} storms, nothing lost", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
