"""Synchronous handlers, in one process: 1, 5 and 20 at a point."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import blinker
import pluggy
import pyee

from benchmarks.bench import Bench
from benchmarks.results import Goal, Table
from benchmarks.systems import ROOT
from router import Router

SIZES = (1, 5, 20)
PAYLOAD = {"order_id": 7}

Dispatch = Callable[[], object]


def handle(event: object) -> int:
    """What all of them call."""
    return 7


def measure(bench: Bench) -> list[Table]:
    """Microseconds for one dispatch."""
    tables = []
    for size in SIZES:
        dispatches = {
            "router": _router(bench.folder, size),
            "pluggy": _pluggy(size),
            "blinker": _blinker(size),
            "pyee": _pyee(size),
            "bare loop": _bare(size),
        }
        # Many short rounds: what disturbs then disturbs all of them, or none.
        count = bench.pick(20_000, 4_000) // size
        measures = {name: partial(_time, one, count) for name, one in dispatches.items()}
        values = bench.alternate(measures, bench.pick(41, 25))
        peers = ("pluggy", "blinker") if size == 1 else ("pluggy", "blinker", "pyee")
        goals = [Goal(1, (peer,), at_least=False) for peer in peers]
        title = f"Sync dispatch, {size} handler{'s' if size > 1 else ''}"
        tables.append(Table("sync_dispatch", title, "µs", values, goals, more=False))
    return tables


def _time(dispatch: Dispatch, count: int) -> float:
    for _ in range(count // 10):
        dispatch()
    start = time.perf_counter()
    for _ in range(count):
        dispatch()
    return (time.perf_counter() - start) / count * 1e6


def _router(folder: Path, size: int) -> Dispatch:
    handlers = [{"handler": f"{__name__}:handle", "id": f"h{number}"} for number in range(size)]
    file = {"version": 1, "pythonpath": [str(ROOT)], "extensions": {"order.placed": {"handlers": handlers}}}
    path = folder / f"sync{size}.yaml"
    path.write_text(json.dumps(file))
    dispatch = Router(path).dispatch
    return lambda: dispatch("order.placed", PAYLOAD)


def _pluggy(size: int) -> Dispatch:
    manager = pluggy.PluginManager("bench")

    class Spec:
        @pluggy.HookspecMarker("bench")
        def order_placed(self, event: Any) -> None: ...

    manager.add_hookspecs(Spec)
    for _ in range(size):
        # Not a class with a method, which would be one call more than the others have.
        plugin = SimpleNamespace(order_placed=pluggy.HookimplMarker("bench")(_handler()))
        manager.register(plugin, name=str(id(plugin)))
    hook = manager.hook.order_placed
    return lambda: hook(event=PAYLOAD)


def _handler() -> Callable[[Any], int]:
    def order_placed(event: Any) -> int:
        return 7

    return order_placed


def _blinker(size: int) -> Dispatch:
    signal = blinker.Signal()
    receivers = [_handler() for _ in range(size)]
    for receiver in receivers:
        signal.connect(receiver, weak=False)
    return lambda: signal.send(PAYLOAD)


def _pyee(size: int) -> Dispatch:
    emitter = pyee.EventEmitter()
    for _ in range(size):
        emitter.on("order.placed", _handler())
    return lambda: emitter.emit("order.placed", PAYLOAD)


def _bare(size: int) -> Dispatch:
    handlers = [_handler() for _ in range(size)]

    def loop() -> None:
        for handler in handlers:
            handler(PAYLOAD)

    return loop
