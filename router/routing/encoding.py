"""Events as JSON, and which value is to blame where that can't be."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from router.errors import InvalidPayload
from router.jobs.job import MAX_EVENT_BYTES
from router.routing import models
from router.routing.references import NAME, References, has_references

_REFUSALS = (TypeError, ValueError, OverflowError, RecursionError)
"""What encoders raise at a value that they can't write; UnicodeEncodeError is a ValueError."""

_MAX_DEPTH = 1000
"""Steps that are walked to find a value that can't be written; encoders give up at about as many."""

Path = tuple[str | int, ...]
_NO_REFERENCES = References()


def encode_event(event: Any, point: str, references: References = _NO_REFERENCES, *, trusted: bool = False) -> bytes:
    """The event as JSON, what ``references`` cover by reference. Raises InvalidPayload where it can't be, or is too
    large. ``trusted``: it was encoded before, so that references in it, spelled out, are none that somebody made up."""
    try:
        data = _write(event, references)
        # What encoders make of nan and infinity, without a word.
        has_nan = (b"null" in data or b"NaN" in data or b"Infinity" in data) and _has_nan(event)
    except _REFUSALS as error:
        why = _refused(event, error, references)
        raise InvalidPayload(f"{point}: the payload can't be written as JSON: {why}") from error
    if not data.startswith(b"{") or references.covers(event):
        raise InvalidPayload(f"{point}: a payload is a mapping or an event object, not {type(event).__name__}")
    if has_nan:
        path, value, _ = _culprit(event, _has_nan)
        words = f"{_label(path)} is {value}, a number that JSON doesn't know"
        raise InvalidPayload(f"{point}: the payload can't be written as JSON: {words}; send None, or leave it out")
    if models.MASK.encode() in data and _has_masked(event):
        path, value, _ = _culprit(event, _has_masked)
        words = f"{_label(path)} is {_kind(value)}, of which only asterisks would travel"
        hint = "send a key by which the handler finds it, or write it with a `field_serializer`"
        raise InvalidPayload(f"{point}: {words}; {hint}")
    if not trusted and has_references(data) and _has_reserved_key(event):
        path, _, _ = _culprit(event, _has_reserved_key)
        words = f"{_label(path)} has the key `{NAME}`, which is kept for objects of `register_reference`"
        raise InvalidPayload(f"{point}: {words}: choose another key")
    if len(data) > MAX_EVENT_BYTES:
        raise InvalidPayload(
            f"{point}: the payload is {len(data):,} bytes long, the limit is {MAX_EVENT_BYTES:,}; "
            "store large data elsewhere and send a reference"
        )
    return data


def originals(event: Any, references: References) -> Callable[[Any], Any]:
    """Finds the object of ``event`` that a reference was made of: what is at hand needn't be loaded."""
    objects = {msgspec.json.encode(references.refer(value)): value for value in referenced(event, references)}
    return lambda reference: objects.get(msgspec.json.encode(reference))


def referenced(event: Any, references: References) -> list[Any]:
    """The objects in ``event`` that travel by reference."""
    found, rest = [], [event]
    while rest:
        value = rest.pop()
        if references.covers(value):
            found.append(value)
        else:
            rest += [child for _, child in children(value)]
    return found


def _write(event: Any, references: References) -> bytes:
    if models.is_model(event):
        return models.dump(event, references)
    return references.encoder.encode(event)


def _has_reserved_key(value: Any) -> bool:
    if isinstance(value, Mapping) and NAME in value:
        return True
    return any(_has_reserved_key(child) for _, child in children(value))


def _has_nan(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    return any(_has_nan(child) for _, child in children(value))


def _has_masked(value: Any) -> bool:
    return models.is_masked(value) or any(_has_masked(child) for _, child in children(value))


def _field_names(value: Any) -> Iterable[str]:
    """The fields of a dataclass, Struct, attrs object or pydantic model; of anything else, none."""
    if dataclasses.is_dataclass(value):
        return [field.name for field in dataclasses.fields(value)]
    return [name for name, _ in value] if models.is_model(value) else field_names(type(value))


def field_names(cls: type) -> Iterable[str]:
    """The fields of a class of dataclasses, Structs or attrs objects; of any other, none."""
    if dataclasses.is_dataclass(cls):
        return [field.name for field in dataclasses.fields(cls)]
    if issubclass(cls, msgspec.Struct):
        return cls.__struct_fields__
    return [field.name for field in getattr(cls, "__attrs_attrs__", ())]


def _refused(event: object, error: Exception, references: References) -> str:
    """Which value of ``event`` an encoder refused with ``error``, and why."""

    def refusal(value: object) -> Exception | None:
        try:
            references.encoder.encode(value)
        except _REFUSALS as error:
            return error
        return None

    if models.is_model(event):
        return f"{_label(_refused_field(event, references))}: {str(error)[:160]}"
    path, value, endless = _culprit(event, lambda inner: refusal(inner) is not None)
    error = refusal(value) or error
    if endless:
        return f"{_label(path)} contains itself"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeEncodeError):
        what = "has a key that" if isinstance(value, dict) else "is text that"
        return f"{_label(path)} {what} has half a character (a lone surrogate)"
    if isinstance(value, dict):
        key = next((key for key in value if refusal({key: None})), None)
        return f"{_label(path)} has a key that is {_kind(key)}; make it text"
    if isinstance(error, TypeError) and not references.covers(value):
        return f"{_label(path)} is {_kind(value)}, which JSON doesn't know; {_way_out(value)}"
    return f"{_label(path)}: {str(error)[:160]}"


def _refused_field(model: Any, references: References) -> Path:
    """The field of a pydantic model; what is in it, pydantic writes in ways of its own."""
    for name in type(model).model_fields:
        try:
            models.dump(model, references, {name})
        except _REFUSALS:
            return (name,)
    return ()


def _culprit(event: object, is_wrong: Callable[[Any], bool]) -> tuple[Path, Any, bool]:
    """The path of the innermost value that is wrong, the value, and whether the path comes back to where it was."""
    path: Path = ()
    value, above = event, {id(event)}
    while (found := next((child for child in children(value) if is_wrong(child[1])), None)) is not None:
        path, value = (*path, found[0]), found[1]
        if id(value) in above:
            return path, value, True
        if len(path) > _MAX_DEPTH:
            break
        above.add(id(value))
    return path, value, False


def children(value: Any) -> Iterable[tuple[str | int, Any]]:
    """What is in a container or an object with fields, with its key, index or name."""
    if isinstance(value, Mapping):
        return [(key if isinstance(key, str) else str(key), child) for key, child in value.items()]
    if isinstance(value, list | tuple | set | frozenset):
        return enumerate(value)
    return [(name, getattr(value, name, None)) for name in _field_names(value)]


def _label(path: Path) -> str:
    from router.routing.mistakes import label  # only where something is wrong

    return label(path)


def _kind(value: object) -> str:
    name = type(value).__qualname__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} `{name}`"


def _way_out(value: object) -> str:
    if hasattr(value, "model_dump"):
        return 'make it a dict: `.model_dump(mode="json")`'
    if isinstance(value, Mapping):
        return "make it a dict: `dict(…)`"
    cls = value.__class__
    if issubclass(cls, Iterable) and not hasattr(cls, "encode"):  # a lazy text
        return "make it a list: `list(…)`"
    if hasattr(value, "__tablename__") or hasattr(cls, "_meta"):
        return "let its class travel by reference (register_reference), or send its key"
    return "make it text, a number, a list or a mapping"
