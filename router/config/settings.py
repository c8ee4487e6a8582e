"""What a checked file says, frozen and with every default filled in.

All durations are seconds. These values are also what the routing table is made of, and what a checking process hands
to a worker as JSON, so they hold names and numbers only, never code.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Strategy = Literal["fixed", "linear", "exponential"]
OnError = Literal["stop", "continue"]
Until = Literal["start", "done"]
OnMissing = Literal["fail", "drop"]

DEFAULT_BROKER_URL = "sqlite:///router.db"
DEFAULT_NAMESPACE = "router"
DEFAULT_PRIORITY = 100
DEFAULT_UNKNOWN_ROUTE_FOR = 600.0
DEFAULT_PUBLISH_TIMEOUT = 10.0
MAX_RETRIES = 1_000


class Backoff(msgspec.Struct, frozen=True):
    """The waits between attempts: a strategy over one base, or a list whose last entry repeats.

    ``seconds`` has one entry where ``strategy`` is given, and at least one where it is None (a list in the file).
    ``most``: no wait is longer than so many seconds; ``jitter``: the share of each wait that is left to chance.
    """

    strategy: Strategy | None
    seconds: tuple[float, ...]
    most: float | None = None
    jitter: float = 0.0

    def wait(self, retry: int, draw: float = 0.0) -> float:
        """Seconds to wait before retry number ``retry`` (from 1): fixed b, linear b·n, exponential b·2^(n-1); of a list
        the n-th entry, the last one repeating. ``draw``, from 0 to 1 at random: how far jitter shortens the wait.
        Source: design.md section 2."""
        wait = self.seconds[min(retry, len(self.seconds)) - 1]
        match self.strategy:
            case "linear":
                wait = wait * retry
            case "exponential":
                wait = wait * 2.0 ** (retry - 1)
        longest = wait if self.most is None else min(wait, self.most)
        return longest * (1.0 - self.jitter * draw)


class Unique(msgspec.Struct, frozen=True):
    """``uniqueJob: true``. ``by``: dotted payload paths, empty for all of it; ``lock_timeout``: seconds; ``until``: the
    lock is freed when the handler starts, or when the job is done."""

    by: tuple[str, ...] = ()
    lock_timeout: float = 3600.0
    until: Until = "done"


class AsyncOptions(msgspec.Struct, frozen=True):
    """How one route runs later. ``max_attempts`` is the file's ``retries``: attempts in all, the first included.

    ``retry_on``, ``dont_retry_on``: import paths of exceptions. ``expires``: seconds after the job was due for which an
    attempt may start. ``on_missing``: what becomes of the job if what its event refers to is gone.
    """

    queue: str
    delay: float
    max_attempts: int
    backoff: Backoff
    timeout: float
    on_failure: str | None = None
    on_retry: str | None = None
    unique: Unique | None = None
    retry_on: tuple[str, ...] = ()
    dont_retry_on: tuple[str, ...] = ()
    expires: float | None = None
    on_missing: OnMissing = "fail"


class Route(msgspec.Struct, frozen=True):
    """One handler bound to one point. ``options`` is None for a synchronous route."""

    id: str
    point: str
    handler: str
    priority: int = DEFAULT_PRIORITY
    on_error: OnError = "stop"
    options: AsyncOptions | None = None


class Point(msgspec.Struct, frozen=True):
    """An extension point. ``routes`` are in the order in which they run: by priority, ties as in the file.

    ``event`` is an import path; ``schema`` the JSON Schema itself, already read. ``version`` is that of the payload,
    ``upcasters`` the functions that lift older ones, the last of them to it. ``on_failure``, ``on_retry``: of its
    asynchronous handlers that have none.
    """

    name: str
    routes: tuple[Route, ...] = ()
    description: str | None = None
    event: str | None = None
    schema: dict[str, object] | bool | None = None
    version: int = 1
    upcasters: tuple[str, ...] = ()
    interruptible: bool = False
    on_failure: str | None = None
    on_retry: str | None = None

    def defaults(self, of_file: AsyncDefaults) -> AsyncDefaults:
        """What asynchronous handlers of this point get where they don't say otherwise."""
        return msgspec.structs.replace(
            of_file,
            on_failure=self.on_failure or of_file.on_failure,
            on_retry=self.on_retry or of_file.on_retry,
        )


class AsyncDefaults(msgspec.Struct, frozen=True):
    """The file's top-level ``async``: what every async route gets where it doesn't say otherwise."""

    queue: str = "default"
    tries: int = 3
    backoff: Backoff = Backoff("exponential", (10.0,))
    delay: float = 0.0
    timeout: float = 600.0
    on_failure: str | None = None
    on_retry: str | None = None
    unique: Unique | None = None
    retry_on: tuple[str, ...] = ()
    dont_retry_on: tuple[str, ...] = ()
    expires: float | None = None
    on_missing: OnMissing = "fail"


_CONNECTIONS = {"broker_url": "broker.url", "namespace": "broker.namespace", "locks_url": "locks.url"}


class Settings(msgspec.Struct, frozen=True):
    """One file, checked. Paths in it are absolute; ``hash`` is the SHA-256 of the file, of what it includes, its
    overlay and the schemas they name; ``env`` says which overlay that was.

    ``publish_timeout``: seconds that a dispatch waits for a broker that is out of reach, or that confirms nothing.
    """

    path: str
    hash: str
    env: str | None = None
    broker_url: str = DEFAULT_BROKER_URL
    namespace: str = DEFAULT_NAMESPACE
    publish_timeout: float = DEFAULT_PUBLISH_TIMEOUT
    locks_url: str | None = None
    defaults: AsyncDefaults = AsyncDefaults()
    bootstrap: str | None = None
    pythonpath: tuple[str, ...] = ()
    unknown_route_for: float = DEFAULT_UNKNOWN_ROUTE_FOR
    concurrency: dict[str, int] = {}
    """Queue name → how many of its jobs one worker runs at once, for the queues that limit it."""
    async_concurrency: dict[str, int] = {}
    """Queue name → how many of its jobs that are ``async def`` one child runs at once, where that is more than one."""
    points: tuple[Point, ...] = ()


def keep_connections(new: Settings, old: Settings) -> tuple[Settings, tuple[str, ...]]:
    """``new`` with the connections of ``old``, which a running process can't exchange, since jobs and locks are there;
    and the keys of the file for which that made a difference."""
    differ = [name for name in _CONNECTIONS if getattr(new, name) != getattr(old, name)]
    kept = {name: getattr(old, name) for name in differ}
    return msgspec.structs.replace(new, **kept), tuple(_CONNECTIONS[name] for name in differ)
