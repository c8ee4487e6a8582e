"""Jobs as AMQP messages and back. Pure.

The body is the job's; properties and headers only repeat what people want to see in RabbitMQ's pages, except for the
header ``not_before``: when a delayed job is due, should its wait end earlier, by the ladder or by a policy. None of
RabbitMQ's own headers (``x-death`` and so on) is ever copied into a message that is published again.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, cast, get_args

import msgspec
from amqp.serialization import dumps
from msgspec.structs import replace

from router.brokers.amqp.names import Names, wait_for
from router.brokers.amqp.wire import Delivered
from router.brokers.base import FailedJob, Outgoing, Reason
from router.jobs.job import MAX_ERROR_BYTES, UndecodableJob, decode
from router.jobs.job import without_history as job_without_history

NOT_BEFORE = "not_before"
"""Header: when the job is due, in seconds since the epoch."""

DELIVERY_COUNT = "x-delivery-count"
"""RabbitMQ's header: how often it was handed out before."""

_NOT_BEFORE_NAME, _COUNT_NAME = NOT_BEFORE.encode(), DELIVERY_COUNT.encode()

_FLAGS = struct.Struct(">H")
_LONGLONG = struct.Struct(">Q")
_CONTENT_TYPE, _HEADERS, _DELIVERY_MODE, _MESSAGE_ID, _TIMESTAMP, _TYPE = (1 << bit for bit in (15, 13, 12, 7, 6, 5))
_JSON = b"\x10application/json"
_BYTES = b"\x18application/octet-stream"
_PERSISTENT = b"\x02"
_REASONS = frozenset(get_args(Reason))
_LATEST = 253_402_300_799.0
"""Seconds since the epoch: the end of the year 9999. A time beyond is none: Python knows no such date."""


class Publication(msgspec.Struct, frozen=True):
    """A message ready to be sent. ``target`` names the queue it is meant for, in messages about it."""

    id: str
    exchange: str
    key: str
    properties: bytes
    body: bytes
    target: str

    @property
    def arguments(self) -> bytes:
        """Of ``basic.publish``, encoded; always mandatory."""
        return publish_arguments(self.exchange, self.key)


def publish_job(names: Names, job: Outgoing, exact: frozenset[int], now: float) -> Publication:
    """``job``, to be handed out ``job.delay`` seconds after ``now`` (since the epoch)."""
    step = wait_for(job.delay, exact)
    headers = _table({"queue": job.queue, NOT_BEFORE: now + job.delay}) if job.delay > 0 else _queue_header(job.queue)
    return _publication(names, job.queue, step, job.id, job.point, headers, job.body, now)


def park(names: Names, queue: str, message: Any, now: float) -> Publication:
    """The job in ``message``, which came before it is due, on the largest step of the ladder that fits."""
    due = not_before(message) or now
    headers = _table({"queue": queue, NOT_BEFORE: due})
    properties = message.properties
    identity, kind = str(properties.get("message_id") or ""), str(properties.get("type") or "")
    body = body_of(message)
    return _publication(names, queue, wait_for(due - now), identity or _made_from(body), kind, headers, body, now)


def publish_failed(names: Names, failed: FailedJob) -> Publication:
    """``failed`` as a message for the queue of failed jobs; its body is the job's original bytes."""
    headers: dict[str, object] = {
        "queue": _cut(failed.queue, 255),
        "route": _cut(failed.route, 1024),
        "reason": failed.reason,
        "error": _cut(failed.error, MAX_ERROR_BYTES),
        "failed_at": float(failed.failed_at),
    }
    content = _BYTES if failed.reason == "undecodable" else _JSON
    properties = _properties(content, _table(headers), failed.id, failed.point, failed.failed_at)
    return Publication(failed.id, names.unrouted, failed.queue[:200], properties, failed.body, names.failed)


def without_history(publication: Publication) -> Publication | None:
    """The same job without its history; None where it has none."""
    body = job_without_history(publication.body)
    return None if body is None else replace(publication, body=body)


def refused(successor: Outgoing, queue: str, body: bytes, why: str, now: float) -> FailedJob:
    """The failed job out of ``body`` in ``queue``, whose ``successor`` RabbitMQ refuses for good."""
    try:
        route = decode(body).route
    except UndecodableJob:
        route = ""
    error = f"RabbitMQ refuses to take this job for its next attempt: {why}"
    return FailedJob(successor.id, queue, successor.point, route, "fail", error, now, body)


def read_failed(message: Any, routing_key: str, now: float) -> FailedJob:
    """A failed job out of its message: one that we put there, or one whose queue was gone when it was due."""
    properties: Mapping[str, Any] = message.properties
    headers: Mapping[str, Any] = properties.get("application_headers") or {}
    body = body_of(message)
    reason = headers.get("reason")
    identity, point, route = _text(properties.get("message_id")), _text(properties.get("type")), ""
    if isinstance(reason, str) and reason in _REASONS:
        return FailedJob(
            id=identity or _made_from(body),
            queue=_text(headers.get("queue")),
            point=point,
            route=_text(headers.get("route")),
            reason=cast(Reason, reason),
            error=_text(headers.get("error")),
            failed_at=_moment(headers.get("failed_at")) or now,
            body=body,
        )
    queue = _queue_of(routing_key)
    kind: Reason = "unknown_route"
    error = f"there was no queue {queue!r} on the broker when this job was due"
    try:
        job = decode(body)
        identity, point, route = job.job, job.point, job.route
    except UndecodableJob as problem:
        kind, error = "undecodable", f"{error}; {problem}"
    failed_at = _died_at(headers) or _moment(properties.get("timestamp")) or now
    return FailedJob(identity or _made_from(body), queue, point, route, kind, error, failed_at, body)


def not_before(message: Any) -> float | None:
    """When this message's job is due, if it says so."""
    if _lacks(message, _NOT_BEFORE_NAME):
        return None
    headers = message.properties.get("application_headers") or {}
    return _moment(headers.get(NOT_BEFORE))


def _lacks(message: Any, name: bytes) -> bool:
    """Whether there is no such header for sure, without decoding any."""
    return isinstance(message, Delivered) and name not in message.header


def body_of(message: Any) -> bytes:
    """The bytes of this message; py-amqp gives a text for an empty one."""
    body = message.body
    return body.encode() if isinstance(body, str) else bytes(body)


def delivery_count(message: Any) -> int:
    """How often this message has been handed out, this time included."""
    if _lacks(message, _COUNT_NAME):
        return 1
    headers = message.properties.get("application_headers") or {}
    value = headers.get(DELIVERY_COUNT, 0)
    return value + 1 if isinstance(value, int) else 1


def _publication(
    names: Names, queue: str, step: int, identity: str, point: str, headers: bytes, body: bytes, now: float
) -> Publication:
    properties = _properties(_JSON, headers, identity, point, now)
    if step:
        return Publication(identity, names.delay, f"{step}.{queue}", properties, body, names.delay_queue(step))
    return Publication(identity, names.jobs, queue, properties, body, names.queue(queue))


def _properties(content_type: bytes, headers: bytes, identity: str, kind: str, at: float) -> bytes:
    # By hand: py-amqp's general way costs more than all the rest of publishing.
    return b"".join(
        (
            _FLAGS.pack(_CONTENT_TYPE | _HEADERS | _DELIVERY_MODE | _MESSAGE_ID | _TIMESTAMP | _TYPE),
            content_type,
            headers,
            _PERSISTENT,
            _short(identity),
            _LONGLONG.pack(max(0, int(at))),
            _short(kind),
        )
    )


def _table(headers: Mapping[str, object]) -> bytes:
    return bytes(dumps("F", (headers,)))


@lru_cache(maxsize=1024)
def _queue_header(queue: str) -> bytes:
    return _table({"queue": queue})


@lru_cache(maxsize=4096)
def publish_arguments(exchange: str, key: str, *, mandatory: bool = True) -> bytes:
    """The arguments of ``basic.publish``, encoded."""
    return b"\x00\x00" + _short(exchange) + _short(key) + bytes((mandatory,))


def _short(text: str) -> bytes:
    data = text.encode("utf-8", "replace")
    if len(data) > 255:
        data = _cut(text, 255).encode("utf-8", "replace")
    return bytes((len(data),)) + data


def _cut(text: str, size: int) -> str:
    data = text.encode("utf-8", "replace")
    return data.decode() if len(data) <= size else data[:size].decode("utf-8", "ignore")


def _queue_of(routing_key: str) -> str:
    first, dot, rest = routing_key.partition(".")
    return rest if dot and first.isdigit() else routing_key


def _made_from(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:32]


# Anybody can publish to our exchanges, so a header may be anything.


def _text(value: object) -> str:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _moment(value: object) -> float | None:
    if isinstance(value, datetime):
        value = (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    return float(value) if isinstance(value, int | float) and 0 <= value <= _LATEST else None


def _died_at(headers: Mapping[str, Any]) -> float | None:
    deaths = headers.get("x-death")
    first = deaths[0] if isinstance(deaths, list) and deaths else None
    return _moment(first.get("time")) if isinstance(first, dict) else None
