"""What the parent and a child say to each other, over a pair of sockets.

::

    parent                           child
    Hello ─────────────────────────►            once: what to load
          ◄───────────────────────── Ready
    Run ───────────────────────────►            several may be sent ahead; they run in this order, shared ones at once
          ◄───────────────────────── Started    from here the timeout counts
          ◄───────────────────────── Returned | NotRunnable
          ◄───────────────────────── Raised     the child keeps the exception until ...
    Verdict ───────────────────────►            ... it hears which callback to call
          ◄───────────────────────── Called
    Call ──────────────────────────►            a callback for a job whose own child is gone
          ◄───────────────────────── Called
    Cancel ────────────────────────►            a shared run is overdue: Raised follows, if it gives way
    Tell ──────────────────────────►            something happened that listeners want to know
    Stop ──────────────────────────►            end, after what was sent before
"""

from __future__ import annotations

from typing import Literal

import msgspec

from router.config.settings import Settings
from router.jobs.following import LifecycleEvent
from router.jobs.lifecycle import Asked, Callback


class Hello(msgspec.Struct, frozen=True, tag=True):
    """The table to serve, the name of the worker, and how to log. ``declare``: whether what handlers dispatch may make
    what is missing on the broker."""

    settings: Settings
    generation: int
    worker: str
    log_level: str
    log_format: str
    declare: bool = True


class Run(msgspec.Struct, frozen=True, tag=True):
    """Run this job. ``run`` numbers it among all that this parent starts."""

    run: int
    queue: str
    body: bytes
    shared: bool = False
    """It is an ``async def`` and runs beside others of its kind."""


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """That shared run has run into its timeout: end it."""

    run: int


class Verdict(msgspec.Struct, frozen=True, tag=True):
    """What the run that has just raised calls for; None: nothing to call."""

    run: int
    callback: Callback | None


Lost = Literal["timeout", "died", "expired", "raised"]
"""How a job ended whose exception is gone, if there ever was one."""


class Call(msgspec.Struct, frozen=True, tag=True):
    """Call a callback of this job with an exception made from words."""

    run: int
    queue: str
    body: bytes
    callback: Callback
    outcome: Lost
    error: str


class Tell(msgspec.Struct, frozen=True, tag=True):
    """Tell the listeners."""

    event: LifecycleEvent


class Stop(msgspec.Struct, frozen=True, tag=True):
    """No more jobs will come."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Handlers are imported, bootstrap has run. ``listens``: the names of what its listeners want to be told of;
    ``sharing``: point and id of each route whose handler is an ``async def``."""

    listens: frozenset[str] = frozenset()
    sharing: frozenset[tuple[str, str]] = frozenset()


class Unready(msgspec.Struct, frozen=True, tag=True):
    """Handlers can't be imported, or bootstrap failed; the child ends."""

    error: str


class Started(msgspec.Struct, frozen=True, tag=True):
    """The handler of this run is being called."""

    run: int


class Returned(msgspec.Struct, frozen=True, tag=True):
    """The handler returned, after ``seconds``. ``rss``: the most memory that the child has used so far, in bytes."""

    run: int
    seconds: float
    rss: int


class Raised(msgspec.Struct, frozen=True, tag=True):
    """The handler raised, after ``seconds``; a Verdict is awaited. ``asked``, ``delay``: what its exception wants."""

    run: int
    seconds: float
    rss: int
    error: str
    asked: Asked | Literal["timeout"] | None
    delay: float | None


class NotRunnable(msgspec.Struct, frozen=True, tag=True):
    """This child doesn't know the route, or can't build the event: nothing was started."""

    run: int
    reason: str


class Called(msgspec.Struct, frozen=True, tag=True):
    """The callback has ended, well or not."""

    run: int


ToChild = Hello | Run | Cancel | Verdict | Call | Tell | Stop
ToParent = Ready | Unready | Started | Returned | Raised | NotRunnable | Called
