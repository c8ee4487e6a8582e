"""The JSON Schema of the file: how it is found, and what of it applies once ``${…}`` is resolved.

The published schema serves editors, which see ``${…}`` where a number will stand. Here everything that exists for them
is taken away: the alternative "a text with ``${``", and the patterns of texts, which ``router.config.names`` and
``router.config.durations`` check with better messages. ``$ref`` is resolved beforehand because jsonschema takes most
of its time for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

_FILE = "extensions.schema.json"
_NOT_AT_RUN_TIME = ("$defs", "propertyNames", "pattern", "title", "description", "default")
_INTERPOLATED = {"$ref": "#/$defs/interpolated"}


def schema_text() -> str:
    """The published schema: from the package, or in a checkout from ``schemas/``."""
    packaged = files("router.config") / _FILE
    if packaged.is_file():
        return packaged.read_text(encoding="utf-8")
    return (Path(__file__).parents[2] / "schemas" / _FILE).read_text(encoding="utf-8")


@cache
def file_validator() -> Draft202012Validator:
    """The validator of a whole file."""
    return _validator(_runtime_schema())


@cache
def options_validator() -> Draft202012Validator:
    """The validator of one handler's ``async`` mapping."""
    handler = _runtime_schema()["properties"]["extensions"]["additionalProperties"]["properties"]["handlers"]["items"]
    return _validator(handler["properties"]["async"])


def _validator(schema: Any) -> Draft202012Validator:
    from jsonschema import Draft202012Validator  # slow to import, and a worker's processes read no file

    return Draft202012Validator(schema)


@cache
def _runtime_schema() -> dict[str, Any]:
    published = msgspec.json.decode(schema_text())
    schema: dict[str, Any] = _resolved(published, published["$defs"])
    return schema


def _resolved(node: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(node, list):
        return [_resolved(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    node = dict(node)
    while reference := node.pop("$ref", None):
        node = definitions[reference.rpartition("/")[2]] | node
    alternatives = node.get("anyOf", [])
    if _INTERPOLATED in alternatives:
        node |= next(alternative for alternative in alternatives if alternative != _INTERPOLATED)
        del node["anyOf"]
    return {
        key: _properties(value, definitions) if key == "properties" else _resolved(value, definitions)
        for key, value in node.items()
        if key not in _NOT_AT_RUN_TIME
    }


def _properties(properties: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _resolved(value, definitions) for name, value in properties.items()}
