"""``${VAR}`` in values: bash's rules, YAML types, and nothing secret in messages."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.config import load
from router.config.interpolation import InterpolationError, interpolate, is_single_reference
from router.errors import ConfigError

ENVIRON = {"A": "1", "EMPTY": "", "HOST": "rabbit", "BYTES": "a\udcff"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${A}", "1"),
        ("x${A}y${HOST}z", "x1yrabbitz"),
        ("${EMPTY}", ""),
        ("${A:-2}", "1"),
        ("${EMPTY:-2}", "2"),
        ("${NONE:-2}", "2"),
        ("${NONE:-}", ""),
        ("${NONE:-a:-b}", "a:-b"),
        ("${NONE:-${HOST}}", "rabbit"),
        ("${NONE:-x${NONE:-${A}}y}", "x1y"),
        ("${A:-${NONE}}", "1"),
        ("${A:?must be set}", "1"),
        ("$${A}", "${A}"),
        ("$$${A}", "$${A}"),
        ("$A $ {A} $", "$A $ {A} $"),
        ("", ""),
    ],
)
def test_references_are_resolved_as_bash_would(text: str, expected: str) -> None:
    assert interpolate(text, ENVIRON) == expected


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("${NONE}", "`NONE` is not set", "${NONE:-default}"),
        ("${NONE:?where is it?}", "`NONE` is not set", "where is it?"),
        ("${EMPTY:?where is it?}", "`EMPTY` is empty", "where is it?"),
        ("${EMPTY:?}", "`EMPTY` is empty", "set `EMPTY`"),
        ("${BYTES}", "`BYTES` is not UTF-8", "text in UTF-8"),
        ("x${NONE:-${BYTES:-y}}", "`BYTES` is not UTF-8", "text in UTF-8"),
        ("${A", "never closed", "$${"),
        ("${}", "can't be understood", "${NAME}"),
        ("${1A}", "can't be understood", "${NAME}"),
        ("${A-b}", "can't be understood", "`${A:-b}`"),
        ("${A:=b}", "can't be understood", "`${A:-b}`"),
        ("${ A }", "can't be understood", "`${A}`"),
        ("${env.A}", "can't be understood", "`${A}`"),
        ("${{ secrets.A }}", "can't be understood", "`${A}`"),
        ("${A/b/c}", "can't be understood", "${NAME}"),
        ("${NONE:-" * 40 + "}" * 40, "nested too deeply", "16"),
    ],
)
def test_a_reference_that_cannot_be_resolved_says_what_to_do(text: str, message: str, hint: str) -> None:
    with pytest.raises(InterpolationError) as caught:
        interpolate(text, ENVIRON)
    assert message in str(caught.value)
    assert hint in caught.value.hint


def test_a_value_that_looks_like_a_reference_is_not_resolved_again() -> None:
    assert interpolate("${A}", {"A": "${B}", "B": "secret"}) == "${B}"


def test_single_references_are_told_from_several() -> None:
    assert is_single_reference("${A}")
    assert is_single_reference("${A:-${B}}")
    assert not is_single_reference("${A}${B}")
    assert not is_single_reference("$${A}")
    assert not is_single_reference(" ${A}")


@given(st.text())
def test_any_text_is_resolved_or_explained(text: str) -> None:
    with contextlib.suppress(InterpolationError):
        interpolate(text, {})


def _handler(tmp_path: Path, options: str) -> Path:
    file = tmp_path / "extensions.yaml"
    file.write_text(f"version: 1\nextensions:\n  a:\n    handlers:\n      - handler: m:f\n{options}", encoding="utf-8")
    return file


def test_a_plain_reference_gets_its_type_after_it_is_resolved(tmp_path: Path) -> None:
    file = _handler(tmp_path, "        priority: ${PRIORITY}\n")
    assert load(file, {"PRIORITY": "7"}).settings.points[0].routes[0].priority == 7


def test_a_quoted_reference_stays_text(tmp_path: Path) -> None:
    file = _handler(tmp_path, '        priority: "${PRIORITY}"\n')
    with pytest.raises(ConfigError, match="whole number"):
        load(file, {"PRIORITY": "7"})


def test_no_value_of_the_environment_injects_yaml(tmp_path: Path) -> None:
    file = _handler(tmp_path, "        id: ${ID}\n    description: ${TEXT}\n")
    settings = load(file, {"ID": "x", "TEXT": "[a]\nb: {c: *d}"}).settings
    assert settings.points[0].description == "[a]\nb: {c: *d}"


@pytest.mark.parametrize(
    "line",
    [
        "broker: {url: '${SECRET}'}",
        "locks: {url: '${SECRET}'}",
        "broker: {namespace: '${SECRET}'}",
        "bootstrap: ${SECRET}",
        "async: {timeout: '${SECRET}'}",
        "async: {backoff: ['${SECRET}']}",
        "async: {backoff_strategy: '${SECRET}'}",
        "pythonpath: ${SECRET}",
        "include: ['${SECRET}']",
        "include: ['none/../${SECRET}']",
        "async: {uniqueJob: '${SECRET}'}",
        "extensions: {a: {handlers: ['${SECRET}']}}",
        "extensions: {a: {event: '${SECRET}'}}",
        "extensions: {a: {handlers: [{handler: 'm:f', id: '${SECRET}'}, {handler: 'm:g', id: '${SECRET}'}]}}",
    ],
)
@pytest.mark.parametrize("secret", ["hunter 2", "amqp://u:hunter2@h:x", "hunter.two", "-hunter2", "hunter2://x"])
def test_values_of_the_environment_do_not_appear_in_messages(tmp_path: Path, line: str, secret: str) -> None:
    file = tmp_path / "extensions.yaml"
    file.write_text(f"version: 1\n{line}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(file, {"SECRET": secret})
    assert "hunter" not in str(caught.value)
    assert "${SECRET}" in str(caught.value)
