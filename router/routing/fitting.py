"""Event classes that don't fit: a payload that is no event of its class, a class that is at odds with a schema.

Imported only where something is wrong, or to check a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from types import EllipsisType
from typing import Any, NamedTuple

import msgspec

from router.config.payload_schemas import TYPE_WORDS, alternatives, short, there, type_words
from router.config.problems import closest, counted, did_you_mean
from router.routing.payloads import MAX_SHOWN, Path, label, listed, missing, unknown, wrong_option

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
_MAX_STEPS = 100
_MAX_MISFITS = 50


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
            texts = [f"{type(error).__name__}: {error}"]
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


class _Node(NamedTuple):
    """A schema, and what its references are looked up with."""

    schema: Any
    resolver: Any

    @classmethod
    def root(cls, schema: Any) -> _Node:
        from referencing import Registry
        from referencing.jsonschema import DRAFT202012

        registry: Registry[Any] = Registry()
        return cls(schema, registry.resolver_with_root(DRAFT202012.create_resource(schema)))

    def inner(self, schema: Any) -> _Node:
        """A schema that stands in this one."""
        from referencing.jsonschema import DRAFT202012

        if not isinstance(schema, dict) or not isinstance(schema.get("$id"), str):
            # In draft 4, `id` is what references below it start from; nothing is known about them here.
            return _Node(
                {} if isinstance(schema, dict) and isinstance(schema.get("id"), str) else schema, self.resolver
            )
        return _Node(schema, self.resolver.in_subresource(DRAFT202012.create_resource(schema)))

    def target(self) -> _Node | None:
        """Where ``$ref`` leads. None: nowhere, or to another document."""
        from referencing.exceptions import Unresolvable

        try:
            found = self.resolver.lookup(self.schema["$ref"])
        except (Unresolvable, LookupError, ValueError, TypeError):
            return None
        return _Node(found.contents, found.resolver)

    def get(self, key: str) -> Any:
        """The value of a keyword; None if it isn't there."""
        return self.schema.get(key) if isinstance(self.schema, dict) else None

    def properties(self) -> dict[str, _Node]:
        """The schemas of the keys of a mapping."""
        found = self.get("properties")
        return {name: self.inner(schema) for name, schema in found.items()} if isinstance(found, dict) else {}


def _generated(event_type: Any, *, written: bool = False, by_name: bool = False) -> _Node:
    """The schema of an event class. ``written``: of the JSON that is made of an event, not of what an event is made of.
    ``by_name``: with the names that fields have in Python."""
    if hasattr(event_type, "model_json_schema"):
        mode = "serialization" if written else "validation"
        return _Node.root(event_type.model_json_schema(mode=mode, by_alias=not by_name))
    return _Node.root(msgspec.json.schema(event_type))


def _plain(node: _Node) -> _Node:
    """What ``node`` stands for: where a reference leads, what may be left out as null."""
    for _ in range(_MAX_STEPS):
        inner = None
        if isinstance(node.get("$ref"), str):
            inner = node.target()
        else:
            for key in ("allOf", "anyOf", "oneOf"):
                options = [one for one in node.get(key) or () if one != {"type": "null"}]
                inner = node.inner(options[0]) if len(options) == 1 else inner
        if inner is None:
            return node
        node = inner
    return node


def _at(event_type: type, path: Path) -> _Node:
    """The schema of the value at ``path`` in events of a class; ``{}`` if it isn't known."""
    try:
        node = _plain(_generated(event_type))
    except Exception:  # noqa: BLE001 - not every class has a schema, and each library says so in its own way
        return _Node({}, None)
    for step in path:
        properties = node.properties()
        if isinstance(step, str) and step in properties:
            node = _plain(properties[step])
        else:
            further = node.get("additionalProperties" if isinstance(step, str) else "items")
            node = _plain(node.inner(further if isinstance(further, dict) else {}))
    return node


def _names(event_type: type, path: Path) -> list[str]:
    return [*_at(event_type, path).properties()]


def _options(event_type: type, path: Path) -> list[Any]:
    if found := _at(event_type, path).get("enum"):
        return list(found)
    variants = (_at(event_type, path[:-1]).get("discriminator") or {}).get("mapping")
    return list(variants or ())


class _Misfit(NamedTuple):
    """``words`` go on after the name of what is at ``path``."""

    path: Path
    kind: str
    words: str


def misfits(event_type: type, schema: dict[str, Any] | bool) -> list[str]:
    """Where events of a class can't fit a JSON Schema, in words for people; empty if nothing is known to be wrong.

    Names are those of the JSON. What can't be understood for sure is passed over: ``anyOf``, other documents, classes
    with code that reads JSON in its own way. Never raises.
    """
    try:
        views = [_generated(event_type)]
        if hasattr(event_type, "model_json_schema"):
            reading = _Reading.of(event_type)
            if reading.is_own:
                return []
            views.append(_generated(event_type, written=True))
            if reading.by_name:
                views += [_generated(event_type, written=written, by_name=True) for written in (False, True)]
        # What is read and what is written may differ; only what fits neither is wrong.
        found = [list(_Comparison(event_type.__name__).of(view, _Node.root(schema))) for view in views]
        common = set.intersection(*({(one.path, one.kind) for one in each} for each in found))
        texts = (f"{label(one.path)} {one.words}" for one in found[0] if (one.path, one.kind) in common)
        return list(dict.fromkeys(texts))
    except Exception:  # noqa: BLE001 - advice must not break what it is advice about
        return []


class _Reading(NamedTuple):
    """How a pydantic model reads JSON: with code of its own; by the names of its fields too."""

    is_own: bool
    by_name: bool

    @classmethod
    def of(cls, model: Any) -> _Reading:
        is_own = by_name = False
        todo: list[Any] = [model.__pydantic_core_schema__]
        while todo:
            part = todo.pop()
            if isinstance(part, dict):
                kind, alias = part.get("type"), part.get("validation_alias")
                is_own |= kind in ("function-before", "function-wrap", "function-plain")
                is_own |= alias is not None and not isinstance(alias, str)
                by_name |= bool(part.get("populate_by_name") or part.get("validate_by_name"))
                todo.extend(part.values())
            elif isinstance(part, list | tuple):
                todo.extend(part)
        return cls(is_own, by_name)


class _Comparison:
    """Of a class, called ``name``, with a schema."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._done: dict[tuple[int, int], list[_Misfit]] = {}

    def of(self, own: _Node, other: _Node) -> Iterator[_Misfit]:
        """The misfits below two schemas, with paths that begin there."""
        for part in _parts(other):
            have, want = _types(own), _types(part)
            if have and want and not _wide(have) & _wide(want):
                words = f"is {type_words(have)} in {self._name} and {type_words(want)} in the schema"
                yield _Misfit((), "type", words)
            else:
                yield from self._inside(_plain(own), part)

    def _inside(self, own: _Node, other: _Node) -> list[_Misfit]:
        """Each pair is compared once, because both may have themselves inside."""
        pair = (id(own.schema), id(other.schema))
        if pair not in self._done:
            self._done[pair] = []
            self._done[pair] = list(islice(self._compare(own, other), _MAX_MISFITS))
        return self._done[pair]

    def _compare(self, own: _Node, other: _Node) -> Iterator[_Misfit]:
        if isinstance(own.get("properties"), dict):
            yield from self._keys(own, other)
        elif all(isinstance(one.get("items"), dict) and not one.get("prefixItems") for one in (own, other)):
            yield from self._under(..., own.inner(own.get("items")), other.inner(other.get("items")))

    def _keys(self, own: _Node, other: _Node) -> Iterator[_Misfit]:
        ours, theirs = own.properties(), other.properties()
        required = other.get("required")
        for key in required if isinstance(required, list) and not own.get("additionalProperties") else ():
            if isinstance(key, str) and key not in ours:
                meant = closest(key, [each for each in ours if each not in theirs])
                hint = f"; it has `{meant}`" if meant else ""
                yield _Misfit(
                    (key,), "required", f"is required by the schema, and {self._name} has no such field{hint}"
                )
        for key in own.get("required") or ():
            if _forbids(other, key):
                meant = closest(key, [each for each in theirs if each not in ours])
                hint = f"; it has `{meant}`" if meant else ""
                yield _Misfit((key,), "forbidden", f"has no default in {self._name}, and the schema forbids it{hint}")
        for key in [key for key in ours if key in theirs]:
            yield from self._under(key, ours[key], theirs[key])

    def _under(self, step: str | EllipsisType, own: _Node, other: _Node) -> Iterator[_Misfit]:
        return (_Misfit((step, *path), kind, words) for path, kind, words in self.of(own, other))


def _forbids(schema: _Node, key: str) -> bool:
    properties = schema.properties()
    if key in properties:
        return properties[key].schema is False
    patterns = schema.get("patternProperties") or ()
    return schema.get("additionalProperties") is False and not any(re.search(pattern, key) for pattern in patterns)


def _parts(node: _Node) -> Iterator[_Node]:
    """The schemas that a value must all fit in order to fit ``node``."""
    todo, seen = [node], set[int]()
    while todo:
        node = todo.pop(0)
        if not isinstance(node.schema, dict) or id(node.schema) in seen:
            continue
        seen.add(id(node.schema))
        if isinstance(node.get("$ref"), str):  # up to draft 7, what stands beside it doesn't count
            todo += [target] if (target := node.target()) else []
            continue
        yield node
        todo += [node.inner(each) for each in node.get("allOf") or ()]


def _types(node: _Node, known: dict[int, list[str]] | None = None) -> list[str]:
    """The JSON types that values of ``node`` can have; empty if that isn't known. ``known``: of what was looked at."""
    known = {} if known is None else known
    if not isinstance(node.schema, dict):
        return []
    if id(node.schema) not in known:
        known[id(node.schema)] = []  # what comes back to itself isn't known
        known[id(node.schema)] = _types_by_keyword(node, known)
    return known[id(node.schema)]


def _types_by_keyword(node: _Node, known: dict[int, list[str]]) -> list[str]:
    if isinstance(node.get("$ref"), str):
        return _types(target, known) if (target := node.target()) else []
    if "type" in node.schema:
        names = node.get("type")
        names = names if isinstance(names, list) else [names]
        # msgspec and pydantic write decimal numbers as text, and read numbers too.
        names = [*names, "number"] if node.get("format") == "decimal" else names
        return names if all(name in TYPE_WORDS for name in names) else []
    if "const" in node.schema or isinstance(node.get("enum"), list):
        values = [node.get("const")] if "const" in node.schema else node.get("enum")
        return list(dict.fromkeys(map(_type_of, values)))
    for key in ("anyOf", "oneOf"):
        if isinstance(options := node.get(key), list):
            types = [_types(node.inner(option), known) for option in options]
            return list(dict.fromkeys(name for each in types for name in each)) if all(types) else []
    return []


def _type_of(value: object) -> str:
    kinds = {bool: "boolean", str: "string", int: "integer", float: "number", dict: "object", list: "array"}
    return kinds.get(type(value), "null")


def _wide(types: list[str]) -> set[str]:
    """With what JSON doesn't tell apart."""
    return {*types, "number", "integer"} if {"number", "integer"} & {*types} else {*types}
