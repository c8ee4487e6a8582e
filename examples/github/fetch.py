"""The deliveries for this example: GitHub's own webhook payloads, from a pinned npm package.

``python examples/github/fetch.py TARGET.jsonl`` writes one delivery a line:
``{"point": "github.<event>[.<action>]", "payload": {...}}``.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGE = "@octokit/webhooks-examples@7.6.1"
SHARED = Path(__file__).parents[3] / "shared" / "data" / "github-webhooks.jsonl"
"""Where the project's own machines have the same deliveries."""

_LEFT_OUT = re.compile(r"pkg\.github\.com|-----BEGIN ")
"""Package hosts and key-like strings."""


def deliveries() -> Path:
    """A file of the deliveries: the shared one, else one made now."""
    if SHARED.exists():
        return SHARED
    target = Path(tempfile.mkdtemp(prefix="github-webhooks-")) / "github-webhooks.jsonl"
    fetch(target)
    return target


def fetch(target: Path) -> None:
    """Write the deliveries of the package to ``target``. Needs npm."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", PACKAGE, "--silent"], cwd=folder, check=True, timeout=120, capture_output=True)
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as package:
            member = package.extractfile("package/api.github.com/index.json")
            assert member is not None
            events = json.load(member)
    with target.open("w") as lines:
        lines.writelines(json.dumps(delivery, separators=(",", ":")) + "\n" for delivery in _select(events))


def _select(events: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for event in events:
        for payload in event["examples"]:
            if not _LEFT_OUT.search(json.dumps(payload)):
                action = payload.get("action")
                point = f"github.{event['name']}.{action}" if isinstance(action, str) else f"github.{event['name']}"
                yield {"point": point, "payload": payload}


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
