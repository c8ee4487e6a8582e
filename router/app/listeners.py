"""Functions that want to be told what happens (`Router.on`)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from router.config import did_you_mean
from router.errors import HandlerImportError, RegistrationError
from router.jobs.following import NAMES, LifecycleEvent, Name
from router.routing.handlers import check_function

log = logging.getLogger("router.app")

Listener = Callable[[LifecycleEvent], Any]

TOLD_IN_APPLICATIONS = frozenset({"dispatched", "queued", "duplicate", "skipped"})


class Listeners:
    """By name of the event, in the order in which they came."""

    def __init__(self) -> None:
        self.by_name: dict[str, tuple[Listener, ...]] = {}

    def add(self, name: Name, listener: Listener) -> None:
        """Raises RegistrationError."""
        if name not in NAMES:
            hint = did_you_mean(name, NAMES, form='"{}"') or f"there are {', '.join(NAMES)}"
            raise RegistrationError(f"nothing that happens is called {name!r}; {hint}")
        try:
            check_function(listener, f"on({name!r}), listener", "a listener", "the event")
        except HandlerImportError as error:
            raise RegistrationError(str(error)) from error
        self.by_name[name] = (*self.by_name.get(name, ()), listener)

    def tell(self, event: LifecycleEvent) -> None:
        """Call those that listen to it. What they raise is logged, and changes nothing."""
        for listener in self.by_name.get(event.name, ()):
            try:
                listener(event)
            except (Exception, SystemExit):  # a thread of a worker would silently end with it
                log.exception("a listener of %r raised", event.name)
