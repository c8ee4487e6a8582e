"""Calls that may take long, beside the loop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def aside(call: Callable[[], T], wake: Callable[[], None]) -> Future[T]:
    """Run ``call`` in a thread of its own, which dies with the process; ``wake`` is called there when it has ended."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except Exception as error:  # noqa: BLE001 - whoever asks for the result gets it
            future.set_exception(error)
        wake()

    threading.Thread(target=run, name="router-aside", daemon=True).start()
    return future
