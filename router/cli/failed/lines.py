"""A failed job as a line of JSON, with everything that is needed to put it back, and nothing lost of its bytes."""

from __future__ import annotations

import base64
from typing import Annotated

import msgspec

from router.brokers.base import FailedJob, Reason
from router.jobs.job import UndecodableJob, decode

VERSION = 1

_YEAR_10000 = 253_402_300_800.0
"""In seconds since the epoch: no calendar goes further."""


class _Line(msgspec.Struct):
    """``body`` is the job as it is on the wire, where that is JSON in one line, ``body_base64`` any other bytes."""

    v: int
    id: str
    queue: str
    point: str
    route: str
    reason: Reason
    error: str
    failed_at: Annotated[float, msgspec.Meta(ge=0, lt=_YEAR_10000)]
    body: msgspec.Raw = msgspec.Raw()
    body_base64: bytes | None = None


_decoder = msgspec.json.Decoder(_Line)


def to_line(failed: FailedJob) -> bytes:
    """The line, its end included."""
    fields: dict[str, object] = {
        "v": VERSION,
        "id": failed.id,
        "queue": failed.queue,
        "point": failed.point,
        "route": failed.route,
        "reason": failed.reason,
        "error": failed.error,
        "failed_at": failed.failed_at,
    }
    if _is_a_line_of_json(failed.body):
        fields["body"] = msgspec.Raw(failed.body)
    else:
        fields["body_base64"] = base64.b64encode(failed.body).decode()
    return msgspec.json.encode(fields) + b"\n"


def from_line(line: bytes) -> FailedJob:
    """The failed job of a line. Raises ValueError, with what is wrong and what to do."""
    try:
        read = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{error}; a line is what `router failed export` has written") from error
    if read.v != VERSION:
        raise ValueError(f"version {read.v} of the format, where {VERSION} is known here; import it by a newer router")
    body = bytes(read.body) if read.body_base64 is None else read.body_base64
    if read.body_base64 is None and not body:
        raise ValueError("it has neither `body` nor `body_base64`")
    try:
        job = decode(body)
    except UndecodableJob:
        pass
    else:
        if job.job != read.id:
            raise ValueError(f"`id` is {read.id}, but the job in `body` is {job.job}; make them the same")
    return FailedJob(
        id=read.id,
        queue=read.queue,
        point=read.point,
        route=read.route,
        reason=read.reason,
        error=read.error,
        failed_at=read.failed_at,
        body=body,
    )


def _is_a_line_of_json(body: bytes) -> bool:
    if b"\n" in body or b"\r" in body or not body.startswith(b"{"):
        return False
    try:
        body.decode()
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True
