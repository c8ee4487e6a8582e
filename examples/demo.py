"""The main job as a story: `make demo`. A file and handlers of its own in a fresh folder, and the real commands."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

HANDLERS = """
def update_stock(event):
    return f"order {event['order_id']}: stock is reserved"

def send_confirmation(event):
    print(f"    mail for order {event['order_id']} is sent", flush=True)

def invoice(event, context):
    if context.attempt < 3:
        raise ConnectionError("the invoice service is down")

def pay_supplier(event):
    raise RuntimeError("the supplier's account is closed")
"""
FILE = """version: 1
broker: {url: "${ROUTER_BROKER_URL:-sqlite:///router.db}"}
extensions:
  order.placed:
    description: A customer has placed an order.
    handlers:
      - {handler: "demo_shop:update_stock", priority: 10}
      - {handler: "demo_shop:send_confirmation", async: {queue: notifications}}
      - {handler: "demo_shop:invoice", async: {retries: 4, backoff: exponential, backoffSeconds: 500ms}}
      - {handler: "demo_shop:pay_supplier", async: {retries: 2, backoff: fixed, backoffSeconds: 500ms}}
"""


def step(title: str, *arguments: str, folder: str) -> str:
    """Run one real command, shown with its title; anything but success ends the story."""
    print(f"\n== {title}\n$ router {' '.join(arguments)}", flush=True)
    command = [str(Path(sys.executable).with_name("router")), *arguments]
    done = subprocess.run(
        command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False
    )
    print(done.stdout, end="", flush=True)
    if done.returncode:
        sys.exit(f"that ended with exit code {done.returncode}, which is not what the story says")
    return done.stdout


def main() -> None:
    """Tell the story."""
    os.environ.pop("ROUTER_CONFIG", None)
    with tempfile.TemporaryDirectory(prefix="router-demo-") as folder:
        Path(folder, "demo_shop.py").write_text(HANDLERS)
        Path(folder, "extensions.yaml").write_text(FILE)
        print(f"== One file says what happens\n{FILE}")
        step("It is checked, handlers included", "validate", folder=folder)
        step("What it means", "routes", folder=folder)
        step("An order: one handler runs at once", "dispatch", "order.placed", "-p", '{"order_id": 7}', folder=folder)
        step("Three jobs are queued", "status", folder=folder)
        log = step("A worker runs them, and retries what fails", "run-worker", "--stop-when-empty", folder=folder)
        failed = step("What failed is kept, with its reason", "failed", "list", folder=folder)
        if "next in 1s" not in log or "the supplier's account is closed" not in failed:
            sys.exit("the retry or the failed job is missing from the story")
        step("Once the cause is mended, it goes again", "failed", "retry", "--all", folder=folder)


if __name__ == "__main__":
    main()
