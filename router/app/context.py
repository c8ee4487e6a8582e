"""What a handler may know of its own call."""

from __future__ import annotations

import logging
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import msgspec

from router.app.tracing import Trace, entered


class Context(msgspec.Struct, frozen=True):
    """Given to a handler that has a parameter named ``context``.

    ``job_id`` and ``queue`` are None for a synchronous handler, whose ``attempt`` and ``max_attempts`` are 1.
    ``dispatched_at`` is in seconds since the epoch. ``correlation_id`` is the id of the event that started it all,
    ``causation_id`` that of the job whose handler has dispatched this event, or None; ``trace`` has ``traceparent`` and
    ``tracestate`` of the dispatch, as W3C Trace Context has them, or is None.
    """

    point: str
    route: str
    correlation_id: str
    dispatched_at: float
    job_id: str | None = None
    queue: str | None = None
    attempt: int = 1
    max_attempts: int = 1
    causation_id: str | None = None
    trace: Trace | None = None

    @property
    def traceparent(self) -> str | None:
        """The trace that the dispatch belongs to, to be sent along as the header of that name."""
        return self.trace["traceparent"] if self.trace else None

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger of the handler's own, ``router.handlers.<route>``, whose records carry what this call belongs to:
        ``job``, ``point``, ``route``, ``queue``, ``attempt``, ``correlation``, ``causation`` and ``traceparent`` are
        fields of each."""
        fields = {
            "job": self.job_id,
            "point": self.point,
            "route": self.route,
            "queue": self.queue,
            "attempt": self.attempt,
            "correlation": self.correlation_id,
            "causation": self.causation_id,
            "traceparent": self.traceparent,
        }
        return _FieldsLogger(logging.getLogger(f"router.handlers.{self.route}"), fields)


class _FieldsLogger(logging.LoggerAdapter[logging.Logger]):
    def process(self, msg: object, kwargs: MutableMapping[str, Any]) -> tuple[object, MutableMapping[str, Any]]:
        """Add the fields to those that the call itself gives, which win."""
        return msg, {**kwargs, "extra": {**(self.extra or {}), **(kwargs.get("extra") or {})}}


current_job: ContextVar[Context | None] = ContextVar("current_job", default=None)
"""The job that runs here now: what its handler dispatches belongs to the same correlation, and is caused by it."""


@contextmanager
def running(context: Context) -> Iterator[None]:
    """Around the call of a job's handler, or callback."""
    token = current_job.set(context)
    try:
        with entered(context.trace) if context.trace else nullcontext():
            yield
    finally:
        current_job.reset(token)
