"""What is done with GitHub's webhook deliveries. Each handler notes in a ledger what it was given."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from typing import Any

from router import Context


@dataclass(frozen=True)
class Push:
    """The parts of a push that CI wants to know."""

    ref: str
    after: str
    repository: dict[str, Any]


def _note(what: str, context: Context, **details: Any) -> None:
    line = {"what": what, "job": context.job_id, "point": context.point, "route": context.route, **details}
    fd = os.open(os.environ.get("GITHUB_LEDGER", "ledger.jsonl"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(fd, (json.dumps(line) + "\n").encode())
    finally:
        os.close(fd)


def audit(delivery: dict[str, Any], context: Context) -> None:
    """Every delivery: who did it, and a digest of what came."""
    text = json.dumps(delivery, sort_keys=True)
    sender = delivery.get("sender") or {}
    _note("audited", context, sender=sender.get("login"), digest=hashlib.sha256(text.encode()).hexdigest())


def triage(delivery: dict[str, Any]) -> str:
    """At once, for new issues: the label they get."""
    title = delivery["issue"]["title"].lower()
    return "bug" if "bug" in title or "error" in title else "triage"


def notify(delivery: dict[str, Any], context: Context) -> None:
    """Tell the maintainers about an issue or a pull request."""
    subject = delivery.get("issue") or delivery["pull_request"]
    _note("notified", context, title=subject["title"])


def review(delivery: dict[str, Any], context: Context) -> None:
    """Ask for a review of a pull request."""
    _note("review asked", context, number=delivery["number"])


def build(push: Push, context: Context) -> None:
    """Build what was pushed."""
    _note("built", context, repository=push.repository["full_name"], commit=push.after)


def announce(delivery: dict[str, Any], context: Context) -> None:
    """Announce a release."""
    _note("announced", context, tag=delivery["release"]["tag_name"])
