"""The published schema: complete for editors, and in step with what the code accepts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from router.config import schema_text
from router.config.names import id_problem, import_path_problem, name_problem, point_problem
from router.config.options import duration_problem
from router.config.schema import file_validator, options_validator

CASES = Path(__file__).parents[1] / "cases"
SCHEMA: dict[str, Any] = msgspec.json.decode(schema_text())


def _properties(node: object) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        for name, value in node.get("properties", {}).items() if isinstance(node.get("properties"), dict) else ():
            yield name, value
        for value in node.values():
            yield from _properties(value)


def test_it_is_a_valid_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    Draft202012Validator.check_schema(file_validator().schema)
    Draft202012Validator.check_schema(options_validator().schema)


@pytest.mark.parametrize(("name", "value"), list(_properties(SCHEMA)))
def test_every_key_helps_the_editor(name: str, value: dict[str, Any]) -> None:
    merged = SCHEMA["$defs"][value["$ref"].rpartition("/")[2]] | value if "$ref" in value else value
    assert merged["title"]
    assert merged["description"]
    if name not in ("async", "point"):
        assert merged["examples"]


@pytest.mark.parametrize("file", sorted((CASES / "valid").rglob("*.yaml")), ids=lambda file: file.stem)
def test_editors_accept_files_with_references(file: Any) -> None:
    if file.stem != "core_types":  # PyYAML's own loader, used here, reads YAML 1.1
        assert list(Draft202012Validator(SCHEMA).iter_errors(yaml.safe_load(file.read_text()))) == []


def test_async_is_no_alternative_of_two_schemas() -> None:
    assert SCHEMA["$defs"]["handler"]["properties"]["async"]["type"] == ["boolean", "object"]


def test_nothing_for_editors_only_is_left_at_run_time() -> None:
    text = msgspec.json.encode(file_validator().schema).decode()
    for word in ("$ref", "anyOf", "$defs", "interpolated", '"pattern"'):
        assert word not in text


_TEXT = st.text(st.characters(max_codepoint=127), max_size=20) | st.text("ab1.:-_/ ", max_size=12)


def _accepts(pattern: str, text: str) -> bool:
    # \Z, because Python's $ also stands before a final line break, which JSON Schema's does not.
    return re.search(pattern.replace("$|", r"\Z|"), text) is not None


@given(_TEXT)
def test_editors_and_router_agree_on_texts(text: str) -> None:
    if "${" in text:
        return
    definitions = SCHEMA["$defs"]
    assert _accepts(definitions["name"]["pattern"], text) == (name_problem("x", text) is None)
    assert _accepts(definitions["importPath"]["pattern"], text) == (import_path_problem("x", text) is None)
    assert _accepts(definitions["handler"]["properties"]["id"]["pattern"], text) == (id_problem("x", text) is None)
    points = SCHEMA["properties"]["extensions"]["propertyNames"]["pattern"].removesuffix("$") + "$|x^"
    assert _accepts(points, text) == (point_problem(text) is None)


@given(st.text("0123456789.msdh ", max_size=5))
def test_editors_and_router_agree_on_durations(text: str) -> None:
    pattern = SCHEMA["$defs"]["duration"]["pattern"]
    problem = duration_problem("x", text)
    assert _accepts(pattern, text) == (problem is None or "365 days" in problem.message)
