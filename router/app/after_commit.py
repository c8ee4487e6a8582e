"""`Router.after_commit`: events that are dispatched once a session of SQLAlchemy is committed."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from router.app.aside import in_thread, run_aside
from router.app.dispatch import Dispatch, Raised
from router.app.transactions import sync_session, wait_for_commit
from router.errors import DispatchError, InvalidPayload
from router.routing.encoding import referenced

if TYPE_CHECKING:
    from router.app.router import Router

log = logging.getLogger("router.app")

Delay = float | str | timedelta | None


class Deferred:
    """An event that waits for a commit.

    ``done``: what became of it. None until the commit, and for good after a rollback, or if the event ended in an
    exception.
    """

    def __init__(self, router: Router, raised: Raised, at: datetime | None) -> None:
        self.event_id = raised.event_id
        self.done: Dispatch | None = None
        self._router = router
        self._raised = raised
        self._at = at

    def __repr__(self) -> str:
        return f"Deferred({self._raised.plan.point.name!r}, {self.event_id!r}, done={self.done!r})"


class AfterCommit:
    """The dispatches of a Router, after the commit of one session. See `Router.after_commit`."""

    def __init__(self, router: Router, session: Any) -> None:
        self._router = router
        self._session = sync_session(session)

    def dispatch(
        self,
        event: str | object,
        payload: Any = None,
        *,
        delay: Delay = None,
        at: datetime | None = None,
        queue: str | None = None,
    ) -> Deferred:
        """`Router.dispatch` after the commit. ``delay`` counts from then.

        Raises what is wrong with the event now: UnknownPoint, InvalidPayload, HandlerImportError, ValueError.
        """
        deferred = self._prepare(event, payload, delay, at, queue)
        self._wait([deferred])
        return deferred

    async def adispatch(
        self,
        event: str | object,
        payload: Any = None,
        *,
        delay: Delay = None,
        at: datetime | None = None,
        queue: str | None = None,
    ) -> Deferred:
        """`dispatch` that never keeps the event loop waiting: what is to be done now is done in a thread."""
        deferred = await in_thread(partial(self._prepare, event, payload, delay, at, queue))
        self._wait([deferred])
        return deferred

    def dispatch_many(self, events: Iterable[tuple[str, Any] | object]) -> list[Deferred]:
        """`dispatch` each of these pairs of point and payload, or event objects; all of them, or none."""
        pairs = (event if isinstance(event, tuple) else (event, None) for event in events)
        deferred = [self._prepare(event, payload, None, None, None) for event, payload in pairs]
        self._wait(deferred)
        return deferred

    def _prepare(
        self, event: str | object, payload: Any, delay: Delay, at: datetime | None, queue: str | None
    ) -> Deferred:
        router = self._router
        raised = router._prepare(event, payload, delay, at, queue)
        if raised.plan.steps:
            try:
                kept = {id(value): value for value in referenced(raised.event, router.references)}
                raised.event = copy.deepcopy(raised.event, kept)
            except Exception as error:  # whatever the objects in it make of being copied
                raise InvalidPayload(
                    f"{raised.plan.point.name}: the payload can't be copied, to be kept until the commit: {error}"
                ) from error
        return Deferred(router, raised, at)

    def _wait(self, deferred: Sequence[Deferred]) -> None:
        wait_for_commit(self._session, deferred, carry_out)


def carry_out(batch: Sequence[Deferred]) -> None:
    """Dispatch what was committed: all handlers, then all jobs, published together.

    An event whose handler raises has no jobs and doesn't keep the others from theirs. Every exception is logged; raised
    is the DispatchError if there is one, else the first.
    """
    await_only = _greenlet_await()
    if await_only is not None:
        await_only(_shielded(batch))
        return
    carried = _Carried()
    for router, events in _by_router(batch):
        for event in events:
            with carried.handling(event):
                router._run_steps(event._raised)
        carried.publish(router)
    carried.conclude()


async def _carry_out_aside(batch: Sequence[Deferred]) -> None:
    carried = _Carried()
    for router, events in _by_router(batch):
        for event in events:
            with carried.handling(event):
                await run_aside(router._handled(event._raised))
        await in_thread(partial(carried.publish, router))
    carried.conclude()


_under_way: set[asyncio.Task[None]] = set()


async def _shielded(batch: Sequence[Deferred]) -> None:
    """Cancelled or not: it is committed, so it goes on."""
    task = asyncio.ensure_future(_carry_out_aside(batch))
    _under_way.add(task)
    task.add_done_callback(_under_way.discard)
    await asyncio.shield(task)


@dataclass(slots=True)
class _Carried:
    ready: list[Deferred] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)

    @contextmanager
    def handling(self, event: Deferred) -> Iterator[None]:
        try:
            yield
        except (Exception, asyncio.CancelledError, SystemExit) as error:  # a handler's own: the commit is `_shielded`
            log.exception("after the commit, a handler of %s raised", event._raised.plan.point.name)
            self.failures.append(error)
        else:
            self.ready.append(event)

    def publish(self, router: Router) -> None:
        ready, self.ready = self.ready, []
        for event in ready:
            if event._at is not None:
                left = router._overrides(None, event._at, None).delay
                event._raised.wanted = msgspec.structs.replace(event._raised.wanted, delay=left)
        try:
            for event, done in zip(ready, router._finish([event._raised for event in ready]), strict=True):
                event.done = done
        except DispatchError as error:
            log.error("after the commit, %s", error)
            self.failures.append(error)

    def conclude(self) -> None:
        if self.failures:
            raise next((each for each in self.failures if isinstance(each, DispatchError)), self.failures[0])


def _by_router(batch: Sequence[Deferred]) -> Iterable[tuple[Router, list[Deferred]]]:
    found: dict[Router, list[Deferred]] = {}
    for event in batch:
        found.setdefault(event._router, []).append(event)
    return found.items()


def _greenlet_await() -> Any:
    """SQLAlchemy's way to await from the synchronous code under an AsyncSession; None elsewhere."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return None
    from sqlalchemy import util
    from sqlalchemy.exc import MissingGreenlet

    await_only = getattr(util, "await_", None) or util.await_only
    trial = _nothing()
    try:
        await_only(trial)
    except (MissingGreenlet, ImportError):
        trial.close()
        return None
    return await_only


async def _nothing() -> None: ...
