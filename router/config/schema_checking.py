"""What is wrong with a JSON Schema, in words for people."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from router.config.problems import Problem, closest, did_you_mean
from router.config.values import MAX_ALTERNATIVES, TYPE_WORDS, alternatives, short, there, type_words
from router.errors import in_words

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

_MAX_ERRORS = 1000
_MAX_SHOWN = 5
_WORDS = {**TYPE_WORDS, "object": "an object"}
_PYTHON_TYPES = {
    **dict.fromkeys(("int", "long"), "integer"),
    **dict.fromkeys(("float", "decimal", "double"), "number"),
    **dict.fromkeys(("str", "text", "date", "datetime", "uuid"), "string"),
    **dict.fromkeys(("list", "tuple", "set"), "array"),
    **dict.fromkeys(("dict", "mapping", "map"), "object"),
    **dict.fromkeys(("none", "nil"), "null"),
    "bool": "boolean",
}
_DRAFT_4 = (
    'it is a number; `true` is draft 4, which a schema names: `"$schema": "http://json-schema.org/draft-04/schema#"`'
)
_HINTS: Mapping[object, str] = {
    ("required", bool): '`required` stands beside `properties` and lists their names: `"required": ["order_id"]`',
    ("items", list): "since draft 2020-12 a list of schemas, one for each item, is called `prefixItems`",
    ("exclusiveMinimum", bool): _DRAFT_4,
    ("exclusiveMaximum", bool): _DRAFT_4,
    "required": 'for example `"required": ["order_id"]`',
    "properties": 'for example `"properties": {"order_id": {"type": "integer"}}`',
    "enum": 'for example `"enum": ["new", "paid"]`',
}
_REGEX_HINT = (
    "it is read by Python's `re`, which differs from JavaScript: no `\\p{…}`, and named groups are `(?P<name>…)`"
)
_SCHEMA_HINT = 'a schema is an object, for example `{"type": "string"}`'
_REF_STANDS_ALONE = ("draft-03", "draft-04", "draft-06", "draft-07")
_Mistake = tuple[str, str | None]
"""What is wrong, and a hint."""


def is_too_deep(error: BaseException) -> bool:
    """Whether this is what becomes of a value, or of a schema, that is nested too deeply or without end.

    Where the interpreter's limit is met in jsonschema's parts in Rust, they panic, and a panic is no Exception.
    """
    return isinstance(error, RecursionError) or type(error).__name__ == "PanicException"


def schema_problem(schema: dict[str, Any] | bool, path: str) -> Problem | None:
    """What is wrong with ``schema``: all of it in one problem, because the file that names it has one place for it."""
    try:
        found = list(dict.fromkeys(_mistakes(schema)))
    except BaseException as error:
        if not isinstance(error, Exception) and not is_too_deep(error):
            raise
        found = [("it is nested too deeply" if is_too_deep(error) else in_words(error)[:100], None)]
    if not found:
        return None
    (text, hint), *others = found
    if others:  # each hint beside what it is about
        texts = [text + (f": {hint}" if hint else "") for text, hint in found[:_MAX_SHOWN]]
        texts += [f"and {len(found) - _MAX_SHOWN} more"] if len(found) > _MAX_SHOWN else []
        text, hint = "; ".join(texts), None
    return Problem(f"`{path}` is not a valid JSON Schema: {text}", hint)


def _mistakes(schema: dict[str, Any] | bool) -> Iterator[_Mistake]:
    from jsonschema import Draft202012Validator  # slow to import, and only needed where a file is read
    from jsonschema.validators import validator_for

    if isinstance(schema, bool):
        return
    named = isinstance(schema.get("$schema", ""), str)
    draft = validator_for(cast(Any, schema if named else {}), default=Draft202012Validator)
    yield from [_worded(error) for error in _errors(schema, draft)] or _References(schema, draft).mistakes()


def _errors(schema: Any, draft: Any) -> list[ValidationError]:
    """The first errors of ``schema`` against the schema of its draft; ``check_schema`` tells only one."""
    from jsonschema.validators import validator_for

    meta: Any = validator_for(draft.META_SCHEMA, default=draft)
    checker = meta(draft.META_SCHEMA, format_checker=meta.FORMAT_CHECKER)
    found: list[ValidationError] = list(islice(checker.iter_errors(schema), _MAX_ERRORS))
    # In the order of jsonschema, which goes through some keywords as a set, each run would tell something else.
    return sorted(found, key=lambda error: [str(step) for step in error.absolute_path])


def _worded(error: ValidationError, above: str = "") -> _Mistake:
    """``above``: the place of the schema in which the path of the error begins."""
    while error.context:  # of a value that may have several forms, the form that it is nearest to
        error = max(error.context, key=lambda one: (len(one.path), one.validator in ("enum", "const")))
    path, value, wanted = [*error.absolute_path], cast(Any, error.instance), cast(Any, error.validator_value)
    hint = None
    match error.validator:
        case "type":
            types = [wanted] if isinstance(wanted, str) else list(wanted)
            wants = "a schema" if {"object", "boolean"} <= {*types} else type_words(types, _WORDS)
            text = f"must be {wants}, not {there(value)}"
            if "object" in types and isinstance(value, str) and value in TYPE_WORDS:
                hint = f'write `{{"type": "{value}"}}`'
            elif path:
                hint = _HINTS.get((path[-1], type(value))) or _HINTS.get(path[-1])
            hint = hint or (_SCHEMA_HINT if wants == "a schema" else None)
        case "enum":
            text = f"must be {alternatives([f'`{one}`' for one in wanted])}, not {short(value)}"
            hint = did_you_mean(_PYTHON_TYPES.get(value.lower(), value), wanted) if isinstance(value, str) else None
        case "format" if wanted == "regex":
            path += [value] if path[-1:] == ["patternProperties"] else []
            text, hint = _no_regex(error.cause)
        case "minimum" | "exclusiveMinimum":
            text = f"must be {'at least' if error.validator == 'minimum' else 'more than'} {wanted}, not {short(value)}"
        case "uniqueItems":
            text = "must not have the same entry twice"
        case "minItems":
            text = "must not be empty"
        case _:
            text = f"must not be {short(value)}"
    return f"`{_pointer(above, path)}` {text}", hint


def _no_regex(error: object) -> _Mistake:
    foreign = any(words in str(error) for words in ("bad escape", "unknown extension"))
    return f"is no regular expression: {error}", _REGEX_HINT if foreign else None


class _References:
    """Follows every reference of a schema. What stands in other documents is passed over: nothing is fetched."""

    def __init__(self, schema: dict[str, Any], draft: Any) -> None:
        from jsonschema_specifications import REGISTRY
        from referencing.jsonschema import specification_with

        self._draft = draft
        self._specification = specification_with(draft.ID_OF(draft.META_SCHEMA))
        objects = list(_objects(schema))
        self._places = {id(found): place for found, place in objects}
        # Some part of the schema may say where it stands on the web, so that relative references lead there.
        self._has_address = any(_is_absolute(found.get(key)) for found, _ in objects for key in ("$id", "id"))
        self._seen: set[int] = set()
        root: Any = self._specification.create_resource(schema)
        self._schemas = deque([(schema, REGISTRY.resolver_with_root(root))])
        self._targets: deque[tuple[Any, Any]] = deque()
        self._applied: dict[int, list[int]] = {}
        """The schemas that are applied to a value whenever another one is, by their ids."""

    def mistakes(self) -> Iterator[_Mistake]:
        """References that lead nowhere, and what is wrong where they lead to what nobody has taken for a schema yet."""
        while self._schemas or self._targets:
            checked = bool(self._schemas)
            schema, resolver = self._schemas.popleft() if checked else self._targets.popleft()
            if id(schema) not in self._places or id(schema) in self._seen:
                continue
            self._seen.add(id(schema))
            wrong = (
                [] if checked else [_worded(error, self._places[id(schema)]) for error in _errors(schema, self._draft)]
            )
            yield from wrong or self._in(schema, resolver)
        try:
            TopologicalSorter(self._applied).prepare()
        except CycleError as error:
            place = min(self._places[schema] for schema in error.args[1])
            yield f"`{place or '/'}` comes back to itself without end", None

    def _in(self, schema: dict[str, Any], resolver: Any) -> Iterator[_Mistake]:
        resource = self._specification.create_resource(schema)
        resolver = resolver.in_subresource(resource)
        for keyword in ("$ref", "$dynamicRef"):
            if isinstance(reference := schema.get(keyword), str):
                yield from self._follow(reference, resolver, schema, keyword)
        if "$ref" in schema and self._specification.name in _REF_STANDS_ALONE:
            return
        always = [*schema.get("allOf", ()), *(schema[key] for key in ("not", "if") if key in schema)]
        always += [schema[key][0] for key in ("anyOf", "oneOf") if schema.get(key)]
        self._apply(schema, always)
        for pattern in schema.get("patternProperties", ()):  # which the schemas of old drafts let pass
            try:
                re.compile(pattern)
            except re.error as error:
                place = _pointer(self._places[id(schema)], ("patternProperties", pattern))
                text, hint = _no_regex(error)
                yield f"`{place}` {text}", hint
        self._schemas.extend((each.contents, resolver) for each in resource.subresources())

    def _apply(self, schema: dict[str, Any], others: Iterable[Any]) -> None:
        ours = (id(other) for other in others if id(other) in self._places)
        self._applied.setdefault(id(schema), []).extend(ours)

    def _follow(self, reference: str, resolver: Any, schema: dict[str, Any], keyword: str) -> Iterator[_Mistake]:
        from referencing.exceptions import Unresolvable

        place = _pointer(self._places[id(schema)], (keyword,))
        try:
            target = resolver.lookup(reference)
        except (Unresolvable, LookupError, ValueError, TypeError) as error:
            if type(error) is not Unresolvable:
                yield f"`{place}` leads nowhere: the file has no {short(reference)}", self._nearest(reference)
            elif not _is_absolute(reference) and not self._has_address:
                hint = 'put what it names under `$defs`, and refer to it by `"$ref": "#/$defs/NAME"`'
                yield f"`{place}` leads to another file, {short(reference)}, which is not read", hint
        else:
            self._targets.append((target.contents, target.resolver))
            self._apply(schema, [target.contents] if keyword == "$ref" else [])
            if not isinstance(target.contents, dict | bool):
                yield f"`{place}` must lead to a schema, not to {there(target.contents)}", None

    def _nearest(self, reference: str) -> str | None:
        """The definition that is probably meant."""
        places = [place for place in self._places.values() if place.split("/")[-2:-1] in (["$defs"], ["definitions"])]
        names = {place.rsplit("/", 1)[1]: place for place in places}
        name = closest(re.split("[/#]", reference)[-1], names)
        if name:
            return f"did you mean `#{names[name]}`?"
        known = ", ".join(f"`#{place}`" for place in places[:MAX_ALTERNATIVES])
        return f"known here: {known}" if known else None


def _is_absolute(reference: object) -> bool:
    return isinstance(reference, str) and re.match("[A-Za-z][A-Za-z0-9+.-]*:", reference) is not None


def _objects(value: object, place: str = "") -> Iterator[tuple[dict[str, Any], str]]:
    """Each object in ``value``, and the JSON pointer that leads to it."""
    if isinstance(value, dict):
        yield value, place
    for key, inner in value.items() if isinstance(value, dict) else enumerate(cast("list[Any]", value)):
        if isinstance(inner, dict | list):
            yield from _objects(inner, _pointer(place, (key,)))


def _pointer(above: str, path: Iterable[str | int]) -> str:
    steps = (str(step).replace("~", "~0").replace("/", "~1") for step in path)
    return "/".join((above, *steps)) or "/"
