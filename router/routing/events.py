"""Between payloads and the types that a point declares by ``event:``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from router.errors import HandlerImportError, InvalidPayload
from router.jobs.job import MAX_EVENT_BYTES
from router.routing.handlers import import_object

_REFUSALS = (TypeError, ValueError, OverflowError, RecursionError)
"""What encoders raise at a value that they can't write; UnicodeEncodeError is a ValueError."""

_MAX_DEPTH = 1000
"""Steps that are walked to find a value that can't be written; encoders give up at about as many."""

_Path = tuple[str | int, ...]


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
        has_nan = b"null" in data and _has_nan(event)
    except _REFUSALS as error:
        raise InvalidPayload(f"{point}: the payload can't be written as JSON: {_refused(event, error)}") from error
    if not data.startswith(b"{"):
        raise InvalidPayload(f"{point}: a payload is a mapping or an event object, not {type(event).__name__}")
    if has_nan:
        path, value, _ = _culprit(event, _has_nan)
        words = f"{_label(path)} is {value}, a number that JSON doesn't know"
        raise InvalidPayload(f"{point}: the payload can't be written as JSON: {words}; send None, or leave it out")
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
    return any(_has_nan(getattr(value, name, None)) for name in _field_names(value))


def _field_names(value: Any) -> Iterable[str]:
    """The fields of a dataclass or Struct; of anything else, none."""
    if dataclasses.is_dataclass(value):
        return [field.name for field in dataclasses.fields(value)]
    return value.__struct_fields__ if isinstance(value, msgspec.Struct) else ()


def _refused(event: object, error: Exception) -> str:
    """Which value of ``event`` an encoder refused with ``error``, and why."""
    if hasattr(event, "model_dump_json"):
        return f"{_label(_refused_field(event))}: {str(error)[:160]}"
    path, value, endless = _culprit(event, lambda inner: _refusal(inner) is not None)
    error = _refusal(value) or error
    if endless:
        return f"{_label(path)} contains itself"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeEncodeError):
        what = "has a key that" if isinstance(value, dict) else "is text that"
        return f"{_label(path)} {what} has half a character (a lone surrogate)"
    if isinstance(value, dict):
        key = next((key for key in value if _refusal({key: None})), None)
        return f"{_label(path)} has a key that is {_kind(key)}; make it text"
    if isinstance(error, TypeError):
        return f"{_label(path)} is {_kind(value)}, which JSON doesn't know; {_way_out(value)}"
    return f"{_label(path)}: {str(error)[:160]}"


def _refusal(value: object) -> Exception | None:
    try:
        msgspec.json.encode(value)
    except _REFUSALS as error:
        return error
    return None


def _refused_field(model: Any) -> _Path:
    """The field of a pydantic model; what is in it, pydantic writes in ways of its own."""
    for name in type(model).model_fields:
        try:
            model.model_dump_json(include={name})
        except _REFUSALS:
            return (name,)
    return ()


def _culprit(event: object, is_wrong: Callable[[Any], bool]) -> tuple[_Path, Any, bool]:
    """The path of the innermost value that is wrong, the value, and whether the path comes back to where it was."""
    path: _Path = ()
    value, above = event, {id(event)}
    while (found := next((child for child in _children(value) if is_wrong(child[1])), None)) is not None:
        path, value = (*path, found[0]), found[1]
        if id(value) in above:
            return path, value, True
        if len(path) > _MAX_DEPTH:
            break
        above.add(id(value))
    return path, value, False


def _children(value: Any) -> Iterable[tuple[str | int, Any]]:
    if isinstance(value, Mapping):
        return [(key if isinstance(key, str) else str(key), child) for key, child in value.items()]
    if isinstance(value, list | tuple | set | frozenset):
        return enumerate(value)
    return [(name, getattr(value, name, None)) for name in _field_names(value)]


def _label(path: _Path) -> str:
    from router.routing.payloads import label  # only where something is wrong

    return label(path)


def _kind(value: object) -> str:
    name = type(value).__qualname__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} `{name}`"


def _way_out(value: object) -> str:
    if hasattr(value, "model_dump"):
        return 'make it a dict: `.model_dump(mode="json")`'
    if isinstance(value, Mapping):
        return "make it a dict: `dict(…)`"
    if isinstance(value, Iterable):
        return "make it a list: `list(…)`"
    return "make it text, a number, a list or a mapping"


def build_event(data: bytes, event_type: type | None, point: str) -> Any:
    """The event that handlers get, from its JSON. Raises InvalidPayload where it does not fit ``event_type``."""
    try:
        if event_type is None:
            return msgspec.json.decode(data)
        if hasattr(event_type, "model_validate_json"):
            return event_type.model_validate_json(data)
        return msgspec.json.decode(data, type=event_type)
    except Exception as error:  # what the class itself checks may raise anything
        from router.routing.fitting import unfit

        raise InvalidPayload(unfit(error, data, event_type, point)) from error
