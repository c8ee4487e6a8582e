"""Between payloads and the types that a point declares by ``event:``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import msgspec

from router.errors import HandlerImportError, InvalidPayload
from router.jobs.job import MAX_EVENT_BYTES
from router.routing.handlers import import_object


def import_event_type(path: str) -> type:
    """The dataclass, msgspec.Struct or pydantic model at ``path``. Raises HandlerImportError."""
    found = import_object(path)
    if not isinstance(found, type) or not (
        dataclasses.is_dataclass(found) or issubclass(found, msgspec.Struct) or hasattr(found, "model_validate_json")
    ):
        raise HandlerImportError(f"{path}: an event type is a dataclass, a msgspec.Struct or a pydantic model")
    return found


def encode_event(event: Any, point: str) -> bytes:
    """The event as JSON. Raises InvalidPayload where it can't be, or is too large."""
    try:
        if hasattr(event, "model_dump_json"):
            data: bytes = event.model_dump_json().encode()
        else:
            data = msgspec.json.encode(event)
    except (TypeError, ValueError, UnicodeEncodeError, OverflowError, RecursionError) as error:
        raise InvalidPayload(f"{point}: the payload can't be written as JSON: {error}") from error
    if not data.startswith(b"{"):
        raise InvalidPayload(f"{point}: a payload is a mapping or an event object, not {type(event).__name__}")
    if b"null" in data and _has_nan(event):
        raise InvalidPayload(f"{point}: the payload has a number that JSON doesn't know (nan or infinity)")
    if len(data) > MAX_EVENT_BYTES:
        raise InvalidPayload(
            f"{point}: the payload is {len(data):,} bytes long, the limit is {MAX_EVENT_BYTES:,}; "
            "store large data elsewhere and send a reference"
        )
    return data


def _has_nan(value: Any) -> bool:
    """JSON encoders turn nan and infinity into null without a word."""
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, Mapping):
        return any(map(_has_nan, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return any(map(_has_nan, value))
    if dataclasses.is_dataclass(value) or isinstance(value, msgspec.Struct):
        names = (
            [f.name for f in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else value.__struct_fields__
        )
        return any(_has_nan(getattr(value, name)) for name in names)
    return False


def build_event(data: bytes, event_type: type | None, point: str) -> Any:
    """The event that handlers get, from its JSON. Raises InvalidPayload where it does not fit ``event_type``."""
    try:
        if event_type is None:
            return msgspec.json.decode(data)
        if hasattr(event_type, "model_validate_json"):
            return event_type.model_validate_json(data)
        return msgspec.json.decode(data, type=event_type)
    except (msgspec.DecodeError, ValueError, TypeError) as error:
        name = event_type.__name__ if event_type else "JSON"
        raise InvalidPayload(f"{point}: the payload is no {name}: {error}") from error
