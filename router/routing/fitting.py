"""A payload that is no event of its class, in words for people. Imported only where something is wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from router.config.problems import counted, did_you_mean
from router.config.values import alternatives, short, there
from router.errors import in_words
from router.routing.class_schemas import Node, generated, plain
from router.routing.mistakes import MAX_SHOWN, Path, label, listed, missing, unknown, wrong_option

_MSGSPEC_WORDS = {
    "int": "an integer",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
    "bytes": "text in base64",
    "datetime": "a date and time",
    "date": "a date",
    "time": "a time of day",
    "timedelta": "a duration",
    "duration": "a duration",
    "uuid": "a UUID",
    "decimal": "a decimal number",
}
_MSGSPEC_FORMATS = {
    "Invalid RFC3339 encoded datetime": "a date and time such as 2030-12-31T23:59:59Z",
    "Invalid RFC3339 encoded date": "a date such as 2030-12-31",
    "Invalid RFC3339 encoded time": "a time of day such as 23:59:59Z",
    "Invalid ISO8601 duration": "a duration such as P1DT12H",
    "Invalid UUID": "a UUID",
    "Invalid base64 encoded string": "text in base64",
    "Invalid decimal string": "a decimal number",
}
_COMPARED = {">=": "at least", ">": "more than", "<=": "at most", "<": "less than"}
_UNITS = {"str": "character", "object": "key", "bytes": "byte"}
_PYDANTIC_KINDS = {
    "int": "an integer",
    "float": "a number",
    "decimal": "a decimal number",
    "string": "text",
    "bool": "true or false",
    "bytes": "text",
    **dict.fromkeys(("list", "tuple", "set", "frozen_set"), "a list"),
    **dict.fromkeys(("dict", "model", "dataclass", "mapping"), "a mapping"),
    "datetime": "a date and time such as 2030-12-31T23:59:59Z",
    "date": "a date such as 2030-12-31",
    "time": "a time of day such as 23:59:59",
    "time_delta": "a duration such as P1DT12H",
    "uuid": "a UUID",
    "url": "a URL",
    "none": "null",
}
_PYDANTIC_KIND = re.compile(rf"({'|'.join(_PYDANTIC_KINDS)})_(type|parsing|from_\w+|attributes_type|parsing_\w+)")


def unfit(error: Exception, data: bytes, event_type: type | None, point: str) -> str:
    """Why no event of ``event_type`` can be made of the JSON ``data``, from what its library says."""
    if event_type is None or (
        isinstance(error, msgspec.DecodeError) and not isinstance(error, msgspec.ValidationError)
    ):
        return f"{point}: the payload is not JSON: {error}"
    head = f"{point}: the payload does not fit {event_type.__module__}:{event_type.__qualname__}"
    try:
        payload = msgspec.json.decode(data)
        if isinstance(error, msgspec.ValidationError):
            texts = [_msgspec_text(str(error), payload, event_type)]
        elif hasattr(error, "errors"):
            texts = _pydantic_texts(error.errors(include_url=False), payload, event_type)
        else:
            texts = [in_words(error)]
    except Exception:  # noqa: BLE001 - the library's own words are better than none
        texts = [str(error)]
    return listed(head, texts)


def _msgspec_text(message: str, payload: object, event_type: type) -> str:
    match = re.fullmatch(r"(.*?)(?: - at (`key` in )?`\$(.*)`)?", message, re.DOTALL)
    what, in_key, where = match.groups() if match else (message, None, "")
    path = _steps(where or "", payload)
    known, value = _look_up(payload, path)
    place = f"a key of {label(path)}" if in_key else label(path)
    got = "" if in_key else f", not {short(value)}" if known else ""
    if found := re.fullmatch("Object missing required field `(.*)`", what):
        names = _names(event_type, path)
        spare = [key for key in value if key not in names] if isinstance(value, dict) and names else []
        return missing(path, found[1], spare)
    if found := re.fullmatch("Object contains unknown field `(.*)`", what):
        return unknown(path, found[1], _names(event_type, path))
    if found := re.fullmatch("Expected `([^`]+)`(?:, got `(.+)`)?", what):
        wants = alternatives([_MSGSPEC_WORDS.get(name, f"`{name}`") for name in found[1].split(" | ")])
        is_there = there(value) if known and not in_key else _MSGSPEC_WORDS.get(found[2], found[2])
        return f"{place} must be {wants}" + (f", not {is_there}" if is_there else "")
    if found := re.fullmatch("Expected `(?:int|float)` (>=|>|<=|<) (.+)", what):
        return f"{place} must be {_COMPARED[found[1]]} {found[2]}{got}"
    if found := re.fullmatch("Expected `(?:int|float)` that's a multiple of (.+)", what):
        return f"{place} must be a multiple of {found[1]}{got}"
    if found := re.fullmatch(r"Expected `(\w+)` of (at least )?length (?:(>=|<=) )?(\d+)(?:, got \d+)?", what):
        amount = f"{_COMPARED[found[3]]} " if found[3] else found[2] or ""
        size = f", not {len(value)}" if isinstance(value, str | list | dict) and not in_key else ""
        return f"{place} must have {amount}{counted(int(found[4]), _UNITS.get(found[1], 'item'))}{size}"
    if found := re.fullmatch("Expected `str` matching regex '(.*)'", what, re.DOTALL):
        return f"{place} must match the pattern `{found[1]}`{got}"
    if (
        what.startswith(("Invalid enum value", "Invalid value"))
        and known
        and not in_key
        and (options := _options(event_type, path))
    ):
        return wrong_option(place, value, options)
    if form := _MSGSPEC_FORMATS.get(what):
        return f"{place} must be {form}{got}"
    return f"{place}: {what}"


def _steps(where: str, payload: Any) -> Path:
    """The path in a message of msgspec: ``.items[0].sku``, ``[...]`` for a key that it doesn't tell."""
    path: Path = ()
    while where:
        if found := re.match(r"\[(?:(\d+)|\.\.\.)\]", where):
            step: Any = int(found[1]) if found[1] else ...
        else:
            found = re.match(r"\.([^.\[]*)", where)
            if found is None:
                return path
            step = found[1]
            rest = where[1:]
            # A name may itself have dots and brackets.
            whole = [key for key in payload if rest.startswith(key)] if isinstance(payload, dict) else []
            step = max([key for key in whole if rest[len(key) : len(key) + 1] in ("", ".", "[")] or [step], key=len)
        where = where[len(step) + 1 :] if isinstance(step, str) else where[found.end() :]
        path = (*path, step)
        payload = _look_up(payload, (step,))[1]
    return path


def _look_up(payload: Any, path: Path) -> tuple[bool, Any]:
    """Whether the value at ``path`` is known, and the value."""
    for step in path:
        in_mapping = isinstance(payload, dict) and isinstance(step, str) and step in payload
        in_list = isinstance(payload, list) and isinstance(step, int) and step < len(payload)
        if not in_mapping and not in_list:
            return False, None
        payload = payload[step]
    return True, payload


def _pydantic_texts(errors: Sequence[dict[str, Any]], payload: object, event_type: type) -> list[str]:
    errors = _of_nearest_variants(errors, payload)
    kinds: dict[Path, dict[str, None]] = {}
    for error in errors:  # a value of a union has one error for each kind that would do
        if found := _PYDANTIC_KIND.fullmatch(error["type"]):
            kinds.setdefault(_place(error, payload).path, {})[_PYDANTIC_KINDS[found[1]]] = None
    texts = list(dict.fromkeys(_pydantic_text(error, payload, event_type, kinds) for error in errors))
    return texts if len(texts) <= MAX_SHOWN else [*texts[:MAX_SHOWN], f"and {len(texts) - MAX_SHOWN} more"]


def _of_nearest_variants(errors: Sequence[dict[str, Any]], payload: object) -> Sequence[dict[str, Any]]:
    """Without those that say why a value is not another variant of its union than the one that it is nearest to."""
    scores: dict[Path, dict[object, list[int]]] = {}
    for error in errors:
        place = _place(error, payload)
        if place.variant is not None:
            score = scores.setdefault(place.union, {}).setdefault(place.variant, [0, 0, 0])
            score[0] += place.path == place.union and _PYDANTIC_KIND.fullmatch(error["type"]) is not None
            score[1] += error["type"] in ("literal_error", "enum") and len(place.path) <= len(place.union) + 1
            score[2] += 1
    nearest = {union: min(variants, key=lambda each: variants[each]) for union, variants in scores.items()}
    return [
        error
        for error in errors
        if (place := _place(error, payload)).variant is None
        or place.variant == (best := nearest[place.union])
        or scores[place.union][best][0]
    ]


def _pydantic_text(
    error: dict[str, Any], payload: object, event_type: type, kinds: Mapping[Path, Mapping[str, None]]
) -> str:
    path, name, *_ = _place(error, payload)
    on_key, context, kind = error["loc"][-1:] == ("[key]",), error.get("ctx", {}), error["type"]
    value = error["input"] if on_key else _look_up(payload, path)[1]
    place = f"the key {label(path)}" if on_key else label(path)
    if _PYDANTIC_KIND.fullmatch(kind):
        return f"{place} must be {alternatives([*kinds[path]])}, not {there(value)}"
    if kind == "missing" and isinstance(name, str):
        names = _names(event_type, path)
        spare = [key for key in value if key not in names] if isinstance(value, dict) and names else []
        return missing(path, name, spare)
    if kind == "missing":
        return f"{label((*path, *([] if name is None else [name])))} is missing"
    if kind == "extra_forbidden":
        return unknown(path, str(name), _names(event_type, path))
    for bound, words in (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than")):
        if bound in context:
            return f"{place} must be {words} {context[bound]}, not {short(value)}"
    if kind in ("enum", "literal_error"):
        expected = str(context.get("expected", ""))
        options = re.findall("'([^']*)'", expected)
        hint = did_you_mean(value, options, form='"{}"') if isinstance(value, str) and len(options) > 1 else None
        allowed = re.sub("'([^']*)'", r'"\1"', expected)
        return f"{place} must be {allowed}, not {short(value)}" + (f"; {hint}" if hint else "")
    if kind.startswith("union_tag_") and (key := context.get("discriminator", "").strip("'")).isidentifier():
        if kind == "union_tag_not_found":
            return missing(path, key)
        return wrong_option(label((*path, key)), context["tag"], re.findall("'([^']*)'", context["expected_tags"]))
    if kind in ("value_error", "assertion_error"):
        return f"{place}: {context.get('error') or error['msg']}"
    if found := re.fullmatch(r"\w+ should (.*)", error["msg"].replace(" after validation", ""), re.DOTALL):
        return f"{place} must {found[1]}" + ("" if ", " in found[1] else f", not {short(value)}")
    return f"{place}: {error['msg']}"


class _Place(NamedTuple):
    """The path of a value, and the key in it that is missing or unknown, if an error is about one.

    ``union``: the path of the first value on the way that may have several forms; ``variant``: the form.
    """

    path: Path
    name: str | int | None
    union: Path = ()
    variant: str | int | None = None


def _place(error: Mapping[str, Any], payload: object) -> _Place:
    steps, name = error["loc"], None
    if error["type"] in ("missing", "extra_forbidden") and steps:
        *steps, name = steps
    path: Path = ()
    union: Path = ()
    variant = None
    for step in steps:  # the names of a union's variants stand among them
        if _look_up(payload, (*path, step))[0]:
            path = (*path, step)
        elif variant is None and step != "[key]":
            union, variant = path, step
    return _Place(path, name, union, variant)


def _at(event_type: type, path: Path) -> Node:
    """The schema of the value at ``path`` in events of a class; ``{}`` if it isn't known."""
    try:
        node = plain(generated(event_type))
    except Exception:  # noqa: BLE001 - not every class has a schema, and each library says so in its own way
        return Node({}, None)
    for step in path:
        properties = node.properties()
        if isinstance(step, str) and step in properties:
            node = plain(properties[step])
        else:
            further = node.get("additionalProperties" if isinstance(step, str) else "items")
            node = plain(node.inner(further if isinstance(further, dict) else {}))
    return node


def _names(event_type: type, path: Path) -> list[str]:
    return [*_at(event_type, path).properties()]


def _options(event_type: type, path: Path) -> list[Any]:
    if found := _at(event_type, path).get("enum"):
        return list(found)
    variants = (_at(event_type, path[:-1]).get("discriminator") or {}).get("mapping")
    return list(variants or ())
