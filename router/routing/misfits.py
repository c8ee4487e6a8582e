"""Event classes that are at odds with a schema. Imported only to check a file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from types import EllipsisType
from typing import Any, NamedTuple

from router.config.problems import closest
from router.config.values import TYPE_WORDS, type_words
from router.routing.class_schemas import Node, generated, plain
from router.routing.mistakes import Path, label

_MAX_MISFITS = 50


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
        views = [generated(event_type)]
        if hasattr(event_type, "model_json_schema"):
            reading = _Reading.of(event_type)
            if reading.is_own:
                return []
            views.append(generated(event_type, written=True))
            if reading.by_name:
                views += [generated(event_type, written=written, by_name=True) for written in (False, True)]
        # What is read and what is written may differ; only what fits neither is wrong.
        found = [list(_Comparison(event_type.__name__).of(view, Node.root(schema))) for view in views]
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

    def of(self, own: Node, other: Node) -> Iterator[_Misfit]:
        """The misfits below two schemas, with paths that begin there."""
        for part in _parts(other):
            have, want = _types(own), _types(part)
            if have and want and not _wide(have) & _wide(want):
                words = f"is {type_words(have)} in {self._name} and {type_words(want)} in the schema"
                yield _Misfit((), "type", words)
            else:
                yield from self._inside(plain(own), part)

    def _inside(self, own: Node, other: Node) -> list[_Misfit]:
        """Each pair is compared once, because both may have themselves inside."""
        pair = (id(own.schema), id(other.schema))
        if pair not in self._done:
            self._done[pair] = []
            self._done[pair] = list(islice(self._compare(own, other), _MAX_MISFITS))
        return self._done[pair]

    def _compare(self, own: Node, other: Node) -> Iterator[_Misfit]:
        if isinstance(own.get("properties"), dict):
            yield from self._keys(own, other)
        elif all(isinstance(one.get("items"), dict) and not one.get("prefixItems") for one in (own, other)):
            yield from self._under(..., own.inner(own.get("items")), other.inner(other.get("items")))

    def _keys(self, own: Node, other: Node) -> Iterator[_Misfit]:
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

    def _under(self, step: str | EllipsisType, own: Node, other: Node) -> Iterator[_Misfit]:
        return (_Misfit((step, *path), kind, words) for path, kind, words in self.of(own, other))


def _forbids(schema: Node, key: str) -> bool:
    properties = schema.properties()
    if key in properties:
        return properties[key].schema is False
    patterns = schema.get("patternProperties") or ()
    return schema.get("additionalProperties") is False and not any(re.search(pattern, key) for pattern in patterns)


def _parts(node: Node) -> Iterator[Node]:
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


def _types(node: Node, known: dict[int, list[str]] | None = None) -> list[str]:
    """The JSON types that values of ``node`` can have; empty if that isn't known. ``known``: of what was looked at."""
    known = {} if known is None else known
    if not isinstance(node.schema, dict):
        return []
    if id(node.schema) not in known:
        known[id(node.schema)] = []  # what comes back to itself isn't known
        known[id(node.schema)] = _types_by_keyword(node, known)
    return known[id(node.schema)]


def _types_by_keyword(node: Node, known: dict[int, list[str]]) -> list[str]:
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
