"""What is done about orders and stock. Nothing in here knows of the web."""

from __future__ import annotations

import asyncio
import time
from typing import Any


async def reserve(order: dict[str, Any]) -> str:
    """At once, after the commit: awaited by the event loop."""
    await asyncio.sleep(0)  # stands for a call to the warehouse
    return f"{order['item']} reserved for order {order['order_id']}"


def audit(count: dict[str, Any]) -> str:
    """At once, and blocking: `adispatch` runs it in a thread."""
    time.sleep(0.01)  # stands for a file, a driver or a computation that knows nothing of asyncio
    return f"{count['left']} of {count['item']} noted"


async def price(count: dict[str, Any]) -> int:
    """At once, after `audit`."""
    return 100 if count["left"] > 5 else 120


def send_confirmation(order: dict[str, Any]) -> None:
    """Later, in a worker."""
    print(f"mail: {order['item']} of order {order['order_id']} is on its way", flush=True)


def reorder(count: dict[str, Any]) -> None:
    """Later, in a worker."""
    print(f"supplier: more of {count['item']}, please", flush=True)
