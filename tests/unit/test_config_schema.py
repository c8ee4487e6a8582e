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
from jsonschema import Draft7Validator
from msgspec import structs
from typer.testing import CliRunner

from router.cli.main import app
from router.config import load, schema_text
from router.config.names import id_problem, import_path_problem, name_problem, point_problem
from router.config.options import duration_problem
from router.config.schema import file_validator, joined, options_validator
from router.config.settings import Settings

ROOT = Path(__file__).parents[2]
SCHEMA: dict[str, Any] = msgspec.json.decode(schema_text())
DEFINITIONS: dict[str, Any] = SCHEMA["definitions"]
FILES = [
    *(ROOT / "tests/cases/valid").rglob("*.yaml"),
    *(ROOT / "config").glob("extensions.yaml"),
    *(ROOT / "examples").rglob("extensions.yaml"),
]
WORDS = {"title", "description", "default", "examples"}


def _nodes(node: object) -> Iterator[dict[str, Any]]:
    """Every mapping of the schema; those that map names to schemas are among them."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from _nodes(value)


def _properties(node: object) -> Iterator[tuple[str, dict[str, Any]]]:
    for found in _nodes(node):
        if isinstance(found.get("properties"), dict):
            yield from found["properties"].items()


def test_it_is_a_valid_schema() -> None:
    assert SCHEMA["$schema"] == Draft7Validator.META_SCHEMA["$schema"]
    Draft7Validator.check_schema(SCHEMA)
    Draft7Validator.check_schema(file_validator().schema)
    Draft7Validator.check_schema(options_validator().schema)


def test_nothing_stands_beside_a_reference_where_draft_7_would_ignore_it() -> None:
    assert [node for node in _nodes(SCHEMA) if "$ref" in node and len(node) > 1] == []


def test_a_definition_has_no_words_where_the_setting_has_its_own() -> None:
    # Editors would show those of the definition: it is the first that they meet.
    for node in _nodes(SCHEMA):
        if "allOf" in node:
            (reference,) = node["allOf"]
            assert not WORDS & joined(reference, DEFINITIONS).keys(), reference


@pytest.mark.parametrize(("name", "value"), list(_properties(SCHEMA)))
def test_every_key_helps_the_editor(name: str, value: dict[str, Any]) -> None:
    setting = joined(value, DEFINITIONS)
    assert setting["title"]
    assert setting["description"]
    assert setting["x-wanted"]
    assert setting["examples"]
    validator = Draft7Validator(setting | {"definitions": DEFINITIONS})
    for example in setting["examples"]:
        validator.validate(example)
    if "default" in setting:
        validator.validate(setting["default"])


def test_editors_say_what_is_wrong_with_a_text_instead_of_showing_a_pattern() -> None:
    for node in _nodes(SCHEMA):
        if isinstance(node.get("pattern"), str) and node is not DEFINITIONS["interpolated"]:
            assert node["patternErrorMessage"].startswith("Must ")


def _defaults(section: dict[str, Any]) -> dict[str, Any]:
    """Every default that the schema gives for the settings of one section."""
    settings = {name: joined(value, DEFINITIONS) for name, value in section["properties"].items()}
    return {name: setting["default"] for name, setting in settings.items() if "default" in setting}


@pytest.mark.parametrize("unique", [{}, {"uniqueJob": True}], ids=["usual", "unique"])
def test_a_file_that_spells_out_every_default_means_the_same_as_one_that_gives_none(
    unique: dict[str, Any], tmp_path: Path
) -> None:
    top = SCHEMA["properties"]
    handler = DEFINITIONS["handler"]
    options = handler["properties"]["async"]

    def settings(spelt_out: bool) -> Settings:
        def given(section: dict[str, Any]) -> dict[str, Any]:
            return _defaults(section) if spelt_out else {}

        content = given(SCHEMA) | {
            "version": 1,
            "broker": given(top["broker"]),
            "locks": given(top["locks"]),
            "async": given(top["async"]) | unique,
            "queues": {"heavy": given(top["queues"]["additionalProperties"])},
            "extensions": {
                "order.placed": given(DEFINITIONS["point"])
                | {
                    "handlers": [
                        given(handler) | {"handler": "shop:now"},
                        {"handler": "shop:later", "async": (given(options) | unique) or True},
                    ]
                }
            },
        }
        file = tmp_path / "extensions.yaml"
        file.write_bytes(msgspec.json.encode(content))
        return structs.replace(load(file, environ={}).settings, hash="")

    assert settings(spelt_out=True) == settings(spelt_out=False)


def test_every_other_setting_has_a_default() -> None:
    without = {name for name, value in _properties(SCHEMA) if "default" not in joined(value, DEFINITIONS)}
    assert without == {
        *("broker", "locks", "async", "queues", "extensions", "handlers"),  # what stands in them may have one
        *("bootstrap", "pythonpath", "include", "description", "event", "schema", "upcasters", "onFailure", "onRetry"),
        *("handler", "id", "concurrency", "uniqueBy", "url"),  # the last is that of `locks`
        *("maxBackoffSeconds", "retryOn", "dontRetryOn", "expires"),
    }


@pytest.mark.parametrize("file", sorted(FILES), ids=lambda file: str(file.relative_to(ROOT)))
def test_editors_accept_files_with_references(file: Path) -> None:
    if file.stem != "core_types":  # PyYAML's own loader, used here, reads YAML 1.1
        assert list(Draft7Validator(SCHEMA).iter_errors(yaml.safe_load(file.read_text()))) == []


def test_async_is_no_alternative_of_two_schemas() -> None:
    assert DEFINITIONS["handler"]["properties"]["async"]["type"] == ["boolean", "object"]


def test_nothing_for_editors_only_is_left_at_run_time() -> None:
    text = msgspec.json.encode(file_validator().schema).decode()
    for word in ("$ref", "allOf", "anyOf", "definitions", "interpolated", '"pattern', "Snippets"):
        assert word not in text


def test_the_command_prints_it_as_it_is_published() -> None:
    result = CliRunner().invoke(app, ["schema"])
    assert result.exit_code == 0
    assert result.stdout == (ROOT / "schemas/extensions.schema.json").read_text(encoding="utf-8")


_TEXT = st.text(st.characters(max_codepoint=127), max_size=20) | st.text("ab1.:-_/ ", max_size=12)


def _accepts(pattern: str, text: str) -> bool:
    # \Z, because Python's $ also stands before a final line break, which JSON Schema's does not.
    return re.search(pattern.replace("$|", r"\Z|"), text) is not None


@given(_TEXT)
def test_editors_and_router_agree_on_texts(text: str) -> None:
    if "${" in text:
        return
    assert _accepts(DEFINITIONS["name"]["pattern"], text) == (name_problem("x", text) is None)
    assert _accepts(DEFINITIONS["importPath"]["pattern"], text) == (import_path_problem("x", text) is None)
    assert _accepts(DEFINITIONS["handler"]["properties"]["id"]["pattern"], text) == (id_problem("x", text) is None)
    points = SCHEMA["properties"]["extensions"]["propertyNames"]["pattern"].removesuffix("$") + "$|x^"
    assert _accepts(points, text) == (point_problem(text) is None)


@given(st.text("0123456789.msdh ", max_size=5))
def test_editors_and_router_agree_on_durations(text: str) -> None:
    pattern = DEFINITIONS["duration"]["pattern"]
    problem = duration_problem("x", text)
    if _accepts(pattern, text):
        assert problem is None or "365 days" in problem.message
    else:
        assert problem is not None
