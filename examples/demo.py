"""The main job as a story: `make demo`. The shop's file, the real commands, a broker of its own.

It runs on the embedded broker, or on whatever $ROUTER_BROKER_URL says. The waits are a hundredth of the file's, so that
nobody has to wait a minute for a mail.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from shorten import shorten

ROOT = Path(__file__).parents[1]
ROUTER = str(Path(sys.executable).with_name("router"))
FILE = ROOT / "config" / "extensions.yaml"
console = Console(highlight=False, soft_wrap=True)


class Story:
    """Runs the real commands in a folder of its own, and ends if one of them doesn't do what the story says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shorten(FILE, folder / "extensions.yaml", waits=100, timeouts=100)
        self.env = {
            **os.environ,
            "FORCE_COLOR": "",  # what commands say is read here
            "ROUTER_CONFIG": str(folder / "extensions.yaml"),
            "ROUTER_BROKER_URL": os.environ.get("ROUTER_BROKER_URL", f"sqlite:///{folder}/router.db"),
            "ROUTER_LOCKS_URL": f"sqlite:///{folder}/locks.db",
            "ROUTER_NAMESPACE": f"demo-{os.getpid()}",
            "SHOP_JOURNAL": str(folder / "shop.jsonl"),
        }

    def tell(self, text: str) -> None:
        """A heading."""
        console.print(f"\n[bold cyan]== {text}[/]")

    def run(self, *arguments: str, expect: str = "") -> str:
        """Run ``router`` and show what it says, ids of jobs shortened to their end."""
        shown = " ".join(f"'{argument}'" if "{" in argument else argument for argument in arguments)
        console.print(f"[bold]$ router {shown}[/]", markup=True)
        done = subprocess.run(
            [ROUTER, *arguments],
            env=self.env,
            cwd=self.folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
            check=False,
        )
        console.print(
            re.sub(r"\b[0-9a-f]{8}-[0-9a-f-]{15}([0-9a-f]{12})\b", r"..\1", done.stdout).rstrip(), markup=False
        )
        if done.returncode or expect not in done.stdout:
            sys.exit(f"That is not what the story says: exit code {done.returncode}, expected to read {expect!r}")
        return done.stdout

    def failed_jobs(self) -> list[dict[str, Any]]:
        """The failed jobs, as data."""
        command = [ROUTER, "failed", "list", "--format", "json"]
        output = subprocess.run(command, env=self.env, cwd=self.folder, capture_output=True, timeout=60, check=True)
        jobs: list[dict[str, Any]] = json.loads(output.stdout)
        return jobs


def an_order(number: int, email: str) -> tuple[str, ...]:
    """The command that places an order."""
    order = {"order_id": number, "email": email, "items": [{"sku": "lamp"}], "amount": 4900}
    return ("dispatch", "order.placed", "--payload", json.dumps(order))


def main() -> None:
    """Tell the story."""
    with tempfile.TemporaryDirectory(prefix="router-demo-") as name:
        story = Story(Path(name))
        story.tell("One file says what happens when a customer places an order (config/extensions.yaml)")
        text = FILE.read_text()
        start = text.index("  order.placed:")
        console.print(text[start : text.index("  payment.due:")].rstrip(), markup=False)

        story.tell("It is checked, down to the handlers that it names")
        story.run("validate", expect="fine")

        story.tell("This is what it means (the demo waits a hundredth of that)")
        story.run("routes", "order.placed", expect="waits 100ms, 200ms, 400ms, 800ms")

        story.tell("An order comes in: three handlers run at once, four more are queued")
        story.run(*an_order(7, "refuse-2@shop.example"), expect="charged 49.00 for order 7")

        story.tell("Another one, whose mail the mail server will never take")
        story.run(*an_order(8, "refuse-99@shop.example"))

        story.tell("The same catalog twice: the second job is refused, since the first is not done")
        catalog = ("dispatch", "catalog.changed", "--payload", '{"catalog_id": "lamps", "edition": 1}')
        story.run(*catalog, expect="queued     shop.catalog:import_products")
        story.run(*catalog, expect="duplicate  shop.catalog:import_products")

        story.tell("So much waits")
        story.run("status", expect="notifications")

        story.tell("A worker runs it all. Mails that the server refuses are tried again, each time later")
        log = story.run("run-worker", "--stop-when-empty", "--concurrency", "2", expect="next in 200ms")
        if "failed     confirmation" not in log:
            sys.exit("The mail of order 8 should have failed for good")

        story.tell("What failed for good is kept, with the reason")
        story.run("failed", "list", expect="the mail server refuses")
        job = next(job for job in story.failed_jobs() if job["route"] == "confirmation")
        story.run("failed", "show", job["job"], expect="round 1 attempt 5")

        story.tell("Somebody looks into it and gives up on the feedback mail; the confirmation goes again, same id")
        story.run("failed", "forget", "--queue", "emails", "--yes")
        story.run("failed", "retry", job["job"], expect="queued again: 1 job")
        story.run("status", expect="in all: 0 delayed, 0 failed")
        if story.env["ROUTER_BROKER_URL"].startswith("amqp"):
            console.print(f"\nIts queues stay on RabbitMQ; their names begin with {story.env['ROUTER_NAMESPACE']}.")
        console.print(
            "\n[bold green]That was it.[/] Read config/extensions.yaml and examples/shop, then write your own."
        )


if __name__ == "__main__":
    main()
