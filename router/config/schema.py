"""The JSON Schema of the file: how it is found, and what of it applies once ``${…}`` is resolved.

The published schema serves editors, which see ``${…}`` where a number will stand. Here everything that exists for them
is taken away: the alternative "a text with ``${``", and the patterns of texts, which ``router.config.names`` and
``router.durations`` check with better messages. ``$ref`` is resolved beforehand because jsonschema takes most
of its time for it.

The published one is draft 7, which editors know best. There nothing counts beside a ``$ref``, so what refers to a
definition and has something to add does it by ``allOf``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from router.config.fitting import Validator

_FILE = "extensions.schema.json"
_NOT_AT_RUN_TIME = (
    *("definitions", "propertyNames", "pattern", "patternErrorMessage"),
    *("title", "description", "default", "defaultSnippets"),
)
_INTERPOLATED = {"$ref": "#/definitions/interpolated"}


def schema_text() -> str:
    """The published schema: from the package, or in a checkout from ``schemas/``."""
    packaged = files("router.config") / _FILE
    if packaged.is_file():
        return packaged.read_text(encoding="utf-8")
    return (Path(__file__).parents[2] / "schemas" / _FILE).read_text(encoding="utf-8")


@cache
def file_validator() -> Validator:
    """The validator of a whole file."""
    return Validator(_runtime_schema())


@cache
def included_validator() -> Validator:
    """The validator of a file that is included."""
    schema = _runtime_schema()
    known = {key: schema["properties"][key] for key in ("version", "include", "queues", "extensions")}
    return Validator(schema | {"required": [], "properties": known, "x-context": "in an included file"})


@cache
def overlay_validator() -> Validator:
    """The validator of an overlay, which has only what it changes."""
    schema = _not_required(_runtime_schema())
    known = {key: value for key, value in schema["properties"].items() if key != "include"}
    return Validator(schema | {"properties": known, "x-context": "in an overlay"})


@cache
def options_validator() -> Validator:
    """The validator of one handler's ``async`` mapping."""
    handler = _runtime_schema()["properties"]["extensions"]["additionalProperties"]["properties"]["handlers"]["items"]
    return Validator(handler["properties"]["async"])


def joined(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``node``, put together with the definition that it refers to."""
    if "$ref" in node:
        return joined(definitions[node["$ref"].rpartition("/")[2]], definitions)
    if "allOf" in node:
        (reference,) = node["allOf"]
        return joined(reference, definitions) | {key: value for key, value in node.items() if key != "allOf"}
    return dict(node)


@cache
def _runtime_schema() -> dict[str, Any]:
    published = msgspec.json.decode(schema_text())
    schema: dict[str, Any] = _resolved(published, published["definitions"])
    return schema


def _resolved(node: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(node, list):
        return [_resolved(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    node = joined(node, definitions)
    alternatives = node.get("anyOf", [])
    if _INTERPOLATED in alternatives:
        node |= next(alternative for alternative in alternatives if alternative != _INTERPOLATED)
        del node["anyOf"]
    return {
        key: _properties(value, definitions) if key == "properties" else _resolved(value, definitions)
        for key, value in node.items()
        if key not in _NOT_AT_RUN_TIME
    }


def _not_required(node: Any) -> Any:
    if isinstance(node, list):
        return [_not_required(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {key: _not_required(value) for key, value in node.items() if key != "required"}


def _properties(properties: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _resolved(value, definitions) for name, value in properties.items()}
