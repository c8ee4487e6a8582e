"""What a handler may know of its own call."""

from __future__ import annotations

import logging
from contextvars import ContextVar

import msgspec


class Context(msgspec.Struct, frozen=True):
    """Given to a handler that has a parameter named ``context``.

    ``job_id`` and ``queue`` are None for a synchronous handler, whose ``attempt`` and ``max_attempts`` are 1.
    ``dispatched_at`` is in seconds since the epoch. ``correlation_id`` is the id of the event that started it all.
    """

    point: str
    route: str
    correlation_id: str
    dispatched_at: float
    job_id: str | None = None
    queue: str | None = None
    attempt: int = 1
    max_attempts: int = 1

    @property
    def logger(self) -> logging.Logger:
        """A logger of the handler's own, ``router.handlers.<route>``."""
        return logging.getLogger(f"router.handlers.{self.route}")


current_job: ContextVar[Context | None] = ContextVar("current_job", default=None)
"""The job that runs here now: what its handler dispatches belongs to the same correlation, and is caused by it."""
