"""Makes a copy of a router file whose waits and timeouts are shorter, for a demo or a test that can't wait a minute.

Nothing else changes: the copy names the same handlers, in the same order, with the same number of attempts.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from router import Router
from router.durations import parse_duration

WAITS = ("delay", "backoff", "backoffSeconds")
TIMEOUTS = ("timeout",)

_BOOTSTRAP = '''"""The bootstrap of a shortened copy: what the original registers by code is shortened, too."""

from {module} import {function} as original
from shorten import ShortRouter


def setup(router):
    original(ShortRouter(router, {waits}, {timeouts}))
'''


def shorten(source: Path, target: Path, *, waits: float = 1, timeouts: float = 1) -> Path:
    """Write a copy of ``source`` to ``target``: delays and backoffs divided by ``waits``, timeouts by ``timeouts``."""
    data = yaml.safe_load(source.read_text())
    here, there = source.resolve().parent, target.resolve().parent
    target.parent.mkdir(parents=True, exist_ok=True)
    if "async" in data:
        data["async"] = shorter_options(data["async"], waits, timeouts)
    for point in data["extensions"].values():
        if "schema" in point:
            point["schema"] = str(here / point["schema"])
        for handler in point.get("handlers", ()):
            if isinstance(handler.get("async"), dict):
                handler["async"] = shorter_options(handler["async"], waits, timeouts)
    folders = [str(here / folder) for folder in data.get("pythonpath", ())]
    if "bootstrap" in data:
        name = f"shortened_{hashlib.sha256(str(target).encode()).hexdigest()[:8]}"
        module, function = data["bootstrap"].split(":")
        text = _BOOTSTRAP.format(module=module, function=function, waits=waits, timeouts=timeouts)
        (there / f"{name}.py").write_text(text)
        data["bootstrap"] = f"{name}:setup"
        folders += [str(there), str(Path(__file__).resolve().parent)]
    if folders:
        data["pythonpath"] = list(dict.fromkeys(folders))
    target.write_text(yaml.safe_dump(data, sort_keys=False, width=120))
    return target


def shorter_options(options: Mapping[str, Any], waits: float, timeouts: float) -> dict[str, Any]:
    """Options of ``async:`` with their durations divided. A strategy under ``backoff`` is no duration, and stays."""
    factors = dict.fromkeys(WAITS, waits) | dict.fromkeys(TIMEOUTS, timeouts)
    return {name: _divided(value, factors[name]) if name in factors else value for name, value in options.items()}


def _divided(value: Any, factor: float) -> Any:
    if isinstance(value, list):
        return [_divided(item, factor) for item in value]
    with contextlib.suppress(ValueError):
        return round(parse_duration(value) / factor, 6)
    return value


class ShortRouter:
    """The router that a bootstrap is given, but what it registers is shortened."""

    def __init__(self, router: Router, waits: float, timeouts: float) -> None:
        self._router, self._waits, self._timeouts = router, waits, timeouts

    def register_async(self, point: str | type, handler: str | Callable[..., Any], **options: Any) -> Any:
        """`Router.register_async` with its durations divided."""
        return self._router.register_async(point, handler, **shorter_options(options, self._waits, self._timeouts))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._router, name)
