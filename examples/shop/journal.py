"""What the shop has done, one JSON object a line. The demo and the tests read it to see real effects."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

_DEFAULT = Path(__file__).parents[2] / "var" / "shop.jsonl"


def path() -> Path:
    """``$SHOP_JOURNAL``, else ``var/shop.jsonl`` next to the broker's file."""
    return Path(os.environ.get("SHOP_JOURNAL") or _DEFAULT)


def write(what: str, **details: Any) -> None:
    """Add a line. Several processes may do so at once: with O_APPEND each write lands whole, behind the others."""
    line = json.dumps({"what": what, **details, "at": time.time(), "pid": os.getpid()}) + "\n"
    path().parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path(), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


def read() -> list[dict[str, Any]]:
    """Every line so far, oldest first."""
    try:
        return [json.loads(line) for line in path().read_text().splitlines()]
    except FileNotFoundError:
        return []
