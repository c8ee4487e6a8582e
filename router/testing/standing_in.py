"""Standing in for the Router that the functions of the package use."""

from __future__ import annotations

import threading
from typing import Any

from router.app import default
from router.app.router import Router


class StandIn:
    """A context in which ``router`` is what `router.dispatch` and the others use, and what `router.configure` gives,
    so that an application that calls that when it starts doesn't leave the test behind. May be entered again inside."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._mutex = threading.Lock()
        self._depth = 0
        self._before: dict[str, Any] = {}

    def __enter__(self) -> None:
        with self._mutex:
            if self._depth == 0:
                module = vars(default)
                self._before = {name: module[name] for name in ("_default", "Router")}
                module.update(_default=self._router, Router=lambda *_, **__: self._router)
            self._depth += 1

    def __exit__(self, *_: object) -> None:
        with self._mutex:
            self._depth -= 1
            if self._depth == 0:
                vars(default).update(self._before)
