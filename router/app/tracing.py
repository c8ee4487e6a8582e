"""W3C Trace Context (https://www.w3.org/TR/trace-context/): goes along from a dispatch to the handlers of its jobs.

OpenTelemetry is used where the application itself has imported it; without it `trace_context` says what goes along.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

Trace = dict[str, str]
"""``traceparent``, and ``tracestate`` where there is one."""

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")

_current: ContextVar[Trace | None] = ContextVar("router_trace", default=None)


def current_trace() -> Trace | None:
    """What a job that is dispatched now takes along: the span of OpenTelemetry, else what `trace_context` says."""
    propagator = _propagator()
    if propagator is not None:
        carrier: Trace = {}
        propagator.inject(carrier)
        if carrier:
            return carrier
    return _current.get()


@contextmanager
def trace_context(traceparent: str | None, tracestate: str | None = None) -> Iterator[None]:
    """Let what is dispatched inside belong to this trace: the headers of a request, say, as they came.

    A ``traceparent`` that is None or malformed is ignored, as W3C Trace Context asks. Not needed with OpenTelemetry.
    """
    if traceparent is None or not _TRACEPARENT.fullmatch(traceparent):
        yield
        return
    with entered({"traceparent": traceparent} | ({"tracestate": tracestate} if tracestate else {})):
        yield


@contextmanager
def entered(trace: Trace | None) -> Iterator[None]:
    """Make ``trace`` the current one, for OpenTelemetry too."""
    token = _current.set(trace)
    attached = None
    propagator = _propagator() if trace else None
    if propagator is not None:
        from opentelemetry import context

        attached = context.attach(propagator.extract(trace))
    try:
        yield
    finally:
        _current.reset(token)
        if attached is not None:
            context.detach(attached)


def _propagator() -> Any:
    """OpenTelemetry's, where somebody has imported it; it is not imported here for its own sake."""
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator()
