"""The functions of the package: the methods of one Router for the whole process, made at first use."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router.app.aside import in_thread
from router.app.dispatch import Dispatch
from router.app.listeners import Listener
from router.app.registering import warn_caller
from router.app.router import Router, being_set_up
from router.brokers.base import Outgoing, Receipt
from router.config.settings import DEFAULT_PRIORITY, OnError, Route
from router.errors import RouterError
from router.jobs.following import Name
from router.routing.table import RoutingTable

if TYPE_CHECKING:
    from router.app.after_commit import AfterCommit

_lock = threading.RLock()
_default: Router | None = None
_maker: int | None = None
"""The thread in which the default Router is being made."""


def default_router() -> Router:
    """The process's Router; made for the default file where `configure` was not called. While that, or a worker's, is
    made, its ``bootstrap`` and the modules that this imports get that one."""
    return _at_hand() or configure()


def _at_hand() -> Router | None:
    return _default if _default is not None and _maker != threading.get_ident() else being_set_up()


def set_default(router: Router) -> None:
    """Let the functions of the package use ``router``."""
    global _default
    _default = router


def configure(config: str | Path | None = None, *, env: str | None = None, hot_reload: bool = True) -> Router:
    """Load and validate the file now, and let the functions of the package use it; the arguments are those of `Router`.

    Given neither a file nor another overlay, it returns the default Router that there is, if there is one. Else that
    one is replaced; of what was registered with it outside ``bootstrap``, a warning tells. Raises ConfigError.
    """
    global _maker
    with _lock:
        before = _at_hand()
        if before is not None and config is None and env in (None, before.table.settings.env):
            if not hot_reload:
                before.look_no_more()
            return before
        if being_set_up() is not None:
            raise RouterError("`bootstrap`, and what it imports, can't configure another router: it sets one up")
        _maker = threading.get_ident()
        try:
            router = Router(config, env=env, hot_reload=hot_reload)
        finally:
            _maker = None
        if before is not None and before is not router and before.by_hand:
            warn_caller(
                f"configure replaces the default router, and with it {', '.join(before.by_hand)}: "
                "call configure before anything is registered, or register in the file's `bootstrap`"
            )
        set_default(router)
        return router


def _after_fork() -> None:
    """A lock that another thread of the parent held would be held for ever."""
    global _lock, _maker
    if _maker != threading.get_ident():
        _lock, _maker = threading.RLock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def dispatch(
    event: str | object,
    payload: Any = None,
    *,
    delay: float | str | timedelta | None = None,
    at: datetime | None = None,
    queue: str | None = None,
) -> Dispatch:
    """`Router.dispatch` of the default Router."""
    return default_router().dispatch(event, payload, delay=delay, at=at, queue=queue)


async def adispatch(
    event: str | object,
    payload: Any = None,
    *,
    delay: float | str | timedelta | None = None,
    at: datetime | None = None,
    queue: str | None = None,
) -> Dispatch:
    """`Router.adispatch` of the default Router, which is made in a thread, too."""
    router = _at_hand()
    if router is None:
        router = await in_thread(default_router)
    return await router.adispatch(event, payload, delay=delay, at=at, queue=queue)


def dispatch_many(events: Iterable[tuple[str, Any] | object]) -> list[Dispatch]:
    """`Router.dispatch_many` of the default Router."""
    return default_router().dispatch_many(events)


def after_commit(session: Any) -> AfterCommit:
    """`Router.after_commit` of the default Router."""
    return default_router().after_commit(session)


def register_reference(cls: type, *, key: Callable[[Any], Any], load: Callable[[type, Any], Any]) -> None:
    """`Router.register_reference` of the default Router."""
    default_router().register_reference(cls, key=key, load=load)


def on(event: Name, listener: Listener) -> None:
    """`Router.on` of the default Router."""
    default_router().on(event, listener)


def reload() -> RoutingTable:
    """`Router.reload` of the default Router."""
    return default_router().reload()


def resend(unconfirmed: Sequence[Outgoing]) -> Receipt:
    """`Router.resend` of the default Router."""
    return default_router().resend(unconfirmed)


def register(
    point: str | type,
    handler: str | Callable[..., Any],
    *,
    priority: int = DEFAULT_PRIORITY,
    id: str | None = None,
    on_error: OnError = "stop",
) -> Route:
    """`Router.register` of the default Router."""
    return default_router().register(point, handler, priority=priority, id=id, on_error=on_error)


def register_async(
    point: str | type,
    handler: str | Callable[..., Any],
    *,
    priority: int = DEFAULT_PRIORITY,
    id: str | None = None,
    **options: Any,
) -> Route:
    """`Router.register_async` of the default Router."""
    return default_router().register_async(point, handler, priority=priority, id=id, **options)
