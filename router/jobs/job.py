"""A job and its encoding on the wire.

The body is one JSON object. A field that this version doesn't know is copied into every successor, so that an older
worker between two newer ones loses nothing. Times are seconds since the epoch.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import uuid_utils

from router.errors import RouterError

WIRE_VERSION = 1
MAX_HISTORY = 10
MAX_ERROR_BYTES = 4096
MAX_EVENT_BYTES = 16 * 1024 * 1024 - 128 * 1024
"""Largest encoded payload: RabbitMQ 4 refuses bodies over 16 MiB, and a job's history needs room beside the payload."""

AttemptOutcome = Literal["raised", "timeout", "died"]


class AttemptRecord(msgspec.Struct, frozen=True):
    """One failed attempt, as the history keeps it. ``at`` is when it ended, ``error`` at most 4 KiB of text,
    ``worker`` the name of the worker in which it ran."""

    round: int
    attempt: int
    at: float
    outcome: AttemptOutcome
    error: str
    worker: str | None = None


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One async route's execution for one event.

    ``attempt`` is the number of the attempt that comes next or runs now, from 1; ``round`` goes up when an operator
    retries a failed job, ``retried_at`` is when that was last; the number may come again, of a job that was exported
    before, the time doesn't. ``event`` is the payload, still encoded. ``not_before`` is when a delayed job is due;
    ``waiting_since`` is set while it waits for a worker that knows its route. ``lock`` is the key of its unique lock;
    ``expires_at`` is when it is too late to start an attempt; ``event_version`` is the ``version:`` that the point had;
    ``trace`` has ``traceparent`` and ``tracestate`` of W3C Trace Context.
    """

    v: int
    job: str
    point: str
    route: str
    event: msgspec.Raw
    dispatched_at: float
    correlation: str
    causation: str | None = None
    trace: dict[str, str] | None = None
    event_version: int = 1
    round: int = 1
    attempt: int = 1
    retried_at: float | None = None
    not_before: float | None = None
    waiting_since: float | None = None
    lock: str | None = None
    expires_at: float | None = None
    history: tuple[AttemptRecord, ...] = ()

    @property
    def run_key(self) -> tuple[str, int, int]:
        """What one run of the job is known by: (job, round, attempt)."""
        return (self.job, self.round, self.attempt)


class Stub(msgspec.Struct, frozen=True):
    """What can be read of a job of any version."""

    v: int
    job: str
    point: str = ""
    route: str = ""
    waiting_since: float | None = None


class UndecodableJob(RouterError):
    """The bytes are not a job of a known version."""


class UnknownVersion(UndecodableJob):
    """A job, but of a wire version that this worker doesn't know; a newer one may. ``stub``: what can be read."""

    def __init__(self, stub: Stub) -> None:
        super().__init__(f"wire version {stub.v}, where {WIRE_VERSION} is known here")
        self.stub = stub


def new_id() -> str:
    """A UUIDv7: sorts by time of creation."""
    return str(uuid_utils.uuid7())


_decoder = msgspec.json.Decoder(Job)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_KNOWN = frozenset(Job.__struct_fields__)


_stub_decoder = msgspec.json.Decoder(Stub)


def decode(body: bytes) -> Job:
    """The job in ``body``. Raises UnknownVersion or UndecodableJob, with the reason in words."""
    try:
        job = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        try:
            stub = _stub_decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise UndecodableJob(f"not a job: {error}") from error
        if stub.v != WIRE_VERSION:
            raise UnknownVersion(stub) from error
        raise UndecodableJob(f"not a job: {error}") from error
    if job.v != WIRE_VERSION:
        raise UnknownVersion(_stub_decoder.decode(body))
    return job


def encode(job: Job, inherit: bytes | None = None) -> bytes:
    """The job as JSON. ``inherit``: the body it came from, whose unknown fields are copied."""
    body = msgspec.json.encode(job)
    if inherit is None:
        return body
    unknown = {name: raw for name, raw in _fields.decode(inherit).items() if name not in _KNOWN}
    return msgspec.json.encode(_fields.decode(body) | unknown) if unknown else body


def waiting(body: bytes, *, since: float, not_before: float) -> bytes:
    """The job in ``body``, whatever its version, put aside until ``not_before`` because nobody here can run it."""
    fields: dict[str, object] = dict(_fields.decode(body))
    return msgspec.json.encode(fields | {"waiting_since": since, "not_before": not_before})


def without_history(body: bytes) -> bytes | None:
    """The job in ``body``, whatever its version, without its history; None where there is none, or no job."""
    try:
        fields = _fields.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    history = fields.pop("history", None)
    return None if history is None or bytes(history) == b"[]" else msgspec.json.encode(fields)
