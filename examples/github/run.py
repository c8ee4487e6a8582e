"""Runs the example: dispatches the deliveries, runs a worker, and compares what ran with what was queued."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from fetch import deliveries

HERE = Path(__file__).parent


def main() -> int:
    """0 if every job's handler ran exactly once."""
    source = deliveries()
    with tempfile.TemporaryDirectory(prefix="router-github-") as folder:
        ledger = Path(folder) / "ledger.jsonl"
        broker = os.environ.get("ROUTER_BROKER_URL", f"sqlite:///{folder}/router.db")
        env = {**os.environ, "ROUTER_BROKER_URL": broker, "GITHUB_LEDGER": str(ledger)}
        command = [str(Path(sys.executable).with_name("router"))]
        options = ["--config", str(HERE / "extensions.yaml")]
        sent = subprocess.run(
            [*command, "dispatch", "--from", str(source), "--format", "json", *options],
            env=env,
            stdout=subprocess.PIPE,
            timeout=120,
            check=True,
        )
        counts = json.loads(sent.stdout)
        worker = ["run-worker", "--stop-when-empty", "--concurrency", "2", "--log-level", "warning", *options]
        subprocess.run([*command, *worker], env=env, timeout=300, check=True)
        lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    runs = Counter(line["job"] for line in lines)
    twice = sum(count > 1 for count in runs.values())
    print(f"{counts['events']} deliveries, {counts['jobs']} jobs queued, {len(runs)} ran, {twice} of them twice")
    for what, count in Counter(line["what"] for line in lines).most_common():
        print(f"  {count:4} {what}")
    return 0 if len(runs) == counts["jobs"] and not twice else 1


if __name__ == "__main__":
    sys.exit(main())
