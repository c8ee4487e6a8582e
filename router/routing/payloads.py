"""What a JSON Schema has against a payload, in words for people: each mistake with the path of the value.

Imported only where something is wrong, or where a point has a schema.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from router.config.problems import counted, did_you_mean
from router.config.schema_checking import is_too_deep
from router.config.values import MAX_ALTERNATIVES, alternatives, short, there, type_words
from router.errors import InvalidPayload
from router.routing.mistakes import (
    MAX_COUNTED,
    MAX_SHOWN,
    Path,
    dotted,
    in_full,
    label,
    listed,
    missing,
    unknown,
    wrong_option,
)

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator


def check_schema(validator: Validator, data: bytes, point: str) -> None:
    """Raises InvalidPayload, which lists the mistakes, where the JSON ``data`` doesn't fit the validator's schema."""
    try:
        payload = msgspec.json.decode(data)
        errors = list(islice(validator.iter_errors(payload), MAX_COUNTED))
        if not errors:
            return
        text = listed(f"{point}: the payload does not fit its schema", schema_mistakes(errors, payload))
    except BaseException as error:
        # A schema fails in many ways: without end, elsewhere, by its patterns.
        if not isinstance(error, Exception) and not is_too_deep(error):
            raise
        raise InvalidPayload(f"{point}: the payload can't be checked by its schema: {_failure(error)}") from error
    raise InvalidPayload(text)


class _Mistake(NamedTuple):
    """One error of jsonschema.

    ``name``: the key that is missing or unknown, if the error is about one; it ends the path. ``on_key``: the key that
    ends the path is wrong, not its value. ``either``: mending any of these would do.
    """

    path: Path
    error: Any
    name: str | None = None
    on_key: bool = False
    either: tuple[_Mistake, ...] = ()

    def text(self) -> str:
        place = f"the key {label(self.path)}" if self.on_key else label(self.path)
        words = _WORDS.get(str(self.error.validator), _other)
        return words(self, place)


def schema_mistakes(errors: Iterable[ValidationError], payload: object) -> Iterator[str]:
    """The errors in words, in the order of the payload; after `MAX_SHOWN` of them, how many more there are."""
    errors = list(errors)
    found = [mistake for error in errors for mistake in _mistakes(error, payload)]
    mistyped = {one.path for one in found if one.error.validator == "type" and not one.on_key}
    found = [
        one for one in found if one.error.validator == "type" or one.name or one.on_key or one.path not in mistyped
    ]
    keys: dict[int, dict[str, int]] = {}
    found.sort(key=lambda mistake: _position(mistake.path, payload, keys))
    texts: dict[str, None] = {}
    for number, mistake in enumerate(found):
        if len(texts) == MAX_SHOWN:
            yield f"and {'at least ' if len(errors) >= MAX_COUNTED else ''}{len(found) - number} more"
            return
        text = mistake.text()
        if text not in texts:
            texts[text] = None
            yield text


def _mistakes(error: Any, payload: object) -> Iterator[_Mistake]:
    path, value, wanted = tuple(error.absolute_path), error.instance, error.validator_value
    names: Iterable[str] = ()
    match error.validator:
        case "anyOf" | "oneOf" if _branches(error) and not _wants(error):
            nearest = _nearest(error, payload)
            if len(nearest) == 1:
                yield from nearest[0]
            else:
                yield _Mistake(path, error, either=tuple(mistake for branch in nearest for mistake in branch))
            return
        case "additionalProperties":
            names = _unexpected(value, error.schema)
        case "unevaluatedProperties":
            names = sorted((key for key in value if repr(key) in error.message), key=str)
            if f"({', '.join(map(repr, names))} " not in error.message:
                names = ()
        case "required" if isinstance(wanted, list):
            absent = [name for name in wanted if name not in value]
            names = [name for name in absent if error.message.startswith(f"{name!r} is ")] or absent
        case "dependentRequired" | "dependencies":
            needed = [names for key, names in wanted.items() if key in value and isinstance(names, list)]
            absent = [name for name in chain(*needed) if name not in value]
            names = [name for name in absent if error.message.startswith(f"{name!r} is ")] or absent
    named = [_Mistake((*path, name), error, name) for name in names]
    if named:
        yield from named
        return
    holder = _value(payload, path)
    if error.schema is False and (within := _steps_to(value, holder)):  # jsonschema leaves the last step out
        yield _Mistake((*path, *within), error)
    else:
        # Under `propertyNames` a key is checked, by the path of its mapping.
        on_key = isinstance(value, str) and isinstance(holder, dict)
        yield _Mistake((*path, value) if on_key else path, error, on_key=on_key)


def _steps_to(value: object, holder: object) -> Path:
    """The step from ``holder`` to ``value``, if there is just one."""
    inner = holder.items() if isinstance(holder, dict) else enumerate(holder) if isinstance(holder, list) else ()
    steps = [step for step, each in inner if each is value]
    return tuple(steps) if len(steps) == 1 else ()


def _unexpected(value: dict[str, Any], schema: Mapping[str, Any]) -> list[str]:
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    return [key for key in value if key not in known and not any(re.search(each, key) for each in patterns)]


def _nearest(error: Any, payload: object) -> list[list[_Mistake]]:
    """What is wrong by those schemas under ``anyOf`` or ``oneOf`` that ``error`` came closest to.

    Several only where each has one mistake, so that they can be told in one breath.
    """
    branches = _branches(error)
    best = min(map(_distance, branches))
    nearest = [
        [mistake for inner in branch for mistake in _mistakes(inner, payload)]
        for branch in branches
        if _distance(branch) == best
    ]
    return nearest if all(len(mistakes) == 1 for mistakes in nearest) else nearest[:1]


def _branches(error: Any) -> list[list[Any]]:
    """What is wrong by each schema under ``anyOf`` or ``oneOf``, except for those that are just ``false``."""
    branches: dict[object, list[Any]] = {}
    for inner in error.context:
        if inner.schema_path:
            branches.setdefault(inner.schema_path[0], []).append(inner)
    return list(branches.values())


def _distance(branch: list[Any]) -> tuple[bool, int, int]:
    """How far a value is from a schema: of another kind; of another variant, which one key tells; by its mistakes."""
    kinds = any(error.validator == "type" and not error.path for error in branch)
    variants = sum(error.validator in ("const", "enum") and len(error.path) <= 1 for error in branch)
    return kinds, variants, len(branch)


def _wants(error: Any) -> list[str]:
    """What ``anyOf`` or ``oneOf`` allows, if only kinds and options are wrong with the value itself; else nothing."""
    wants: list[str] = []
    for branch in _branches(error):
        options: list[str] = []
        kinds: list[str] = []
        for inner in branch:
            if inner.path or inner.validator not in ("type", "enum", "const", "anyOf", "oneOf"):
                return []
            match inner.validator:
                case "type":
                    kinds += [type_words([name]) for name in _list(inner.validator_value)]
                case "anyOf" | "oneOf":
                    if not (deeper := _wants(inner)):
                        return []
                    options += deeper
                case _:
                    options += [in_full(option) for option in _options(inner)]
        wants += options or kinds
    return list(dict.fromkeys(wants))


def _options(error: Any) -> list[Any]:
    return [error.validator_value] if error.validator == "const" else list(error.validator_value)


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


def _value(payload: Any, path: Path) -> object:
    for step in path:
        payload = payload[step]
    return payload


def _position(path: Path, payload: Any, keys: dict[int, dict[str, int]]) -> list[int]:
    """What the mistakes are sorted by. ``keys`` remembers the numbers of the keys of each mapping, by its id."""
    position = []
    for step in path:
        if isinstance(payload, dict) and isinstance(step, str):
            numbers = keys.setdefault(id(payload), {key: number for number, key in enumerate(payload)})
            position.append(numbers.get(step, len(numbers)))
            payload = payload.get(step)
        elif isinstance(payload, list) and isinstance(step, int):
            position.append(step)
            payload = payload[step]
    return position


def _failure(error: BaseException) -> str:
    if is_too_deep(error):
        return "one of them is nested too deeply, or the schema refers to itself without end"
    if reference := getattr(error, "ref", None):
        pointer = "#" if str(reference).startswith("/") else ""
        return f"the schema refers to {short(f'{pointer}{reference}')}, which can't be found"
    if isinstance(error, re.error):
        return f"a pattern in the schema is no regular expression: {error}"
    first, *_ = str(error).splitlines() or [""]  # further lines of jsonschema's have the schema and the payload
    return f"{type(error).__name__}: {first[:160]}"


def _type(mistake: _Mistake, place: str) -> str:
    names = [name if isinstance(name, str) else "something else" for name in _list(mistake.error.validator_value)]
    return f"{place} must be {type_words(names)}, not {there(mistake.error.instance)}"


def _option(mistake: _Mistake, place: str) -> str:
    return wrong_option(place, mistake.error.instance, _options(mistake.error))


def _missing(mistake: _Mistake, place: str) -> str:
    if mistake.name is None:
        return f"{place} is missing"
    schema, value = mistake.error.schema, mistake.error.instance
    # Where unknown keys are mistakes, the one that was meant is told already.
    spare = _unexpected(value, schema) if schema.get("additionalProperties") is not False else ()
    return missing(mistake.path[:-1], mistake.name, spare)


def _needed(mistake: _Mistake, place: str) -> str:
    if mistake.name is None:
        return _other(mistake, place)
    needs = mistake.error.validator_value.items()
    given = [(key, names) for key, names in needs if key in mistake.error.instance and isinstance(names, list)]
    owner = next(key for key, names in given if mistake.name in names)
    return f"{place} is missing; it goes with `{dotted((*mistake.path[:-1], owner))}`"


def _unknown(mistake: _Mistake, place: str) -> str:
    if mistake.name is None:
        return _other(mistake, place)
    schema = mistake.error.schema
    parts = [part for key in ("allOf", "anyOf", "oneOf") for part in schema.get(key, ()) if isinstance(part, dict)]
    known = dict.fromkeys(name for part in (schema, *parts) for name in part.get("properties", ()))
    text = unknown(mistake.path[:-1], mistake.name, list(known))
    patterns = [f"`{pattern[:60]}`" for pattern in schema.get("patternProperties", ())]
    return text if known or not patterns else f"{text}; keys match {alternatives(patterns)}"


def _bound(mistake: _Mistake, place: str) -> str:
    error = mistake.error
    keyword = str(error.validator)
    if error.schema.get(f"exclusive{keyword.capitalize()}") is True:  # in draft 4 it is a switch beside `minimum`
        keyword = f"exclusive{keyword.capitalize()}"
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "more than",
        "maximum": "at most",
        "exclusiveMaximum": "less than",
        "multipleOf": "a multiple of",
    }
    return f"{place} must be {words[keyword]} {short(error.validator_value)}, not {short(error.instance)}"


def _length(mistake: _Mistake, place: str) -> str:
    error = mistake.error
    keyword, limit, length = str(error.validator), error.validator_value, len(error.instance)
    if length == 0 and limit == 1:
        return f"{place} must not be empty"
    shown = f" ({short(error.instance)})" if isinstance(error.instance, str) else ""
    return f"{place} must have {_amount(keyword, limit)}, not {length}{shown}"


def _amount(keyword: str, limit: int) -> str:
    unit = {"Length": "character", "Items": "item", "Properties": "key"}[keyword[3:]]
    return f"{'at least' if keyword.startswith('min') else 'at most'} {counted(limit, unit)}"


def _too_many(mistake: _Mistake, place: str) -> str:
    error = mistake.error
    keyword = "prefixItems" if error.validator == "items" else "items"
    limit = len(error.schema.get(keyword, ()))
    return f"{place} must have {_amount('maxItems', limit)}, not {len(error.instance)}"


def _unevaluated(mistake: _Mistake, place: str) -> str:
    return f"{place} has items that its schema doesn't provide for"


def _pattern(mistake: _Mistake, place: str) -> str:
    pattern = str(mistake.error.validator_value)
    shown = pattern if len(pattern) <= 80 else f"{pattern[:80]}…"
    return f"{place} must match the pattern `{shown}`, not {short(mistake.error.instance)}"


def _format(mistake: _Mistake, place: str) -> str:
    return f"{place} must be of the format `{mistake.error.validator_value}`, not {short(mistake.error.instance)}"


def _twice(mistake: _Mistake, place: str) -> str:
    seen: dict[bytes, int] = {}
    for number, item in enumerate(mistake.error.instance):
        first = seen.setdefault(msgspec.json.encode(item, order="deterministic"), number)
        if first != number:
            return f"{label((*mistake.path, number))} repeats {label((*mistake.path, first))}"
    return f"{place} must not have the same item twice"


def _contains(mistake: _Mistake, place: str) -> str:
    error = mistake.error
    count = error.validator_value
    if error.validator == "contains":
        what = _described(count)
        return f"{place} must have an item that {f'is {what}' if what else 'fits the schema under `contains`'}"
    amount = _amount({"minContains": "minItems"}.get(error.validator, "maxItems"), count)
    return f"{place} must have {amount} fitting the schema under `contains`"


def _not(mistake: _Mistake, place: str) -> str:
    schema, value = mistake.error.validator_value, mistake.error.instance
    if what := _described(schema):
        return f"{place} must not be {what}" + ("" if short(value) in what else f", but is {short(value)}")
    names = schema.get("required") if isinstance(schema, dict) and len(schema) == 1 else None
    if names:
        shown = " and ".join(f"`{name}`" for name in names[:MAX_ALTERNATIVES])
        return f"{place} must not have {shown}{' together' * (len(names) > 1)}"
    return f"{place} fits the schema under `not`, and must not fit it"


def _described(schema: object) -> str | None:
    """A schema that has only a type or only options, in a word or two."""
    if isinstance(schema, dict) and len(schema) == 1:
        match schema:
            case {"type": str() | list() as names}:
                return type_words(name for name in _list(names) if isinstance(name, str))
            case {"const": option}:
                return in_full(option)
            case {"enum": [_, *_] as options}:
                return alternatives([in_full(option) for option in options])
    return None


def _alternative(mistake: _Mistake, place: str) -> str:
    error = mistake.error
    if not error.context:
        return f"{place} fits several of the schemas under `oneOf`, and must fit exactly one"
    if wants := _wants(error):
        options = [inner for inner in error.context if inner.validator in ("enum", "const")]
        words = [word for inner in options for word in _options(inner) if isinstance(word, str)]
        hint = did_you_mean(error.instance, words, form='"{}"') if isinstance(error.instance, str) else None
        return f"{place} must be {alternatives(wants)}, not {there(error.instance)}" + (f"; {hint}" if hint else "")
    if not mistake.either:
        return f"{place} is not allowed"
    texts = dict.fromkeys(one.text() for one in mistake.either)
    return ", or ".join(islice(texts, 3)) + (f", or {len(texts) - 3} other ways" * (len(texts) > 3))


def _other(mistake: _Mistake, place: str) -> str:
    error = mistake.error
    if error.validator is None:
        return f"{place} is not allowed" if error.instance is None or mistake.path else "no payload is allowed"
    shown = repr(error.instance)
    rest = error.message.removeprefix(shown)
    text = f"{place}{rest}" if rest != error.message else f"{place}: {error.message}"
    text = text.replace(shown, short(error.instance)) if isinstance(error.instance, dict | list | str) else text
    return text if len(text) <= 240 else f"{text[:240]}…"


_WORDS: dict[str, Callable[[_Mistake, str], str]] = {
    "type": _type,
    **dict.fromkeys(("enum", "const"), _option),
    "required": _missing,
    **dict.fromkeys(("dependentRequired", "dependencies"), _needed),
    **dict.fromkeys(("additionalProperties", "unevaluatedProperties"), _unknown),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), _bound),
    **dict.fromkeys((f"{end}{what}" for end in ("min", "max") for what in ("Length", "Items", "Properties")), _length),
    **dict.fromkeys(("items", "additionalItems"), _too_many),
    "unevaluatedItems": _unevaluated,
    "pattern": _pattern,
    "format": _format,
    "uniqueItems": _twice,
    **dict.fromkeys(("contains", "minContains", "maxContains"), _contains),
    "not": _not,
    **dict.fromkeys(("anyOf", "oneOf"), _alternative),
}
