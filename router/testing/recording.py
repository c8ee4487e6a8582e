"""What was dispatched."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from router.app.context import current_job
from router.app.dispatch import Dispatch, Raised
from router.testing.clock import as_datetime
from router.testing.records import Dispatched


@dataclass(slots=True, eq=False)
class _Event:
    raised: Raised
    at: float
    event: Any
    caused_by: str | None
    done: Dispatch | None = None
    error: BaseException | None = None


class Recorder:
    """Remembers every event, from its beginning on."""

    def __init__(self) -> None:
        self._events: dict[str, _Event] = {}

    @contextmanager
    def handling(self, raised: Raised, now: float) -> Iterator[None]:
        """Around the handlers of an event, with which it begins: what is prepared for a commit may never be."""
        __tracebackhide__ = True
        cause = current_job.get()
        # Handlers may change the mapping that they get; what it holds may be anything, so it is not copied deeply.
        given = dict(raised.event) if isinstance(raised.event, Mapping) else raised.event
        event = _Event(raised, now, given, cause.job_id if cause else None)
        self._events[raised.event_id] = event
        try:
            yield
        except GeneratorExit:
            event.error = asyncio.CancelledError()
            raise
        except BaseException as error:
            event.error = error
            raise

    def finished(self, done: Sequence[Dispatch]) -> None:
        """The jobs of these events are queued."""
        for dispatch in done:
            self._events[dispatch.event_id].done = dispatch

    def dispatched(self) -> list[Dispatched]:
        """Every event so far."""
        return [_dispatched(event) for event in self._events.values()]


def _dispatched(event: _Event) -> Dispatched:
    raised, done = event.raised, event.done
    return Dispatched(
        point=raised.plan.point.name,
        event=event.event,
        event_id=raised.event_id,
        at=as_datetime(event.at),
        results=dict(raised.results),
        errors=dict(raised.errors),
        jobs=dict(done.jobs) if done else {},
        duplicates=done.duplicates if done else (),
        stopped_by=raised.stopped_by,
        error=event.error,
        caused_by=event.caused_by,
    )
