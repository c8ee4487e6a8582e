"""Diagnostics: the caret stands where it should, and nothing dangerous or secret reaches the terminal."""

from __future__ import annotations

import unicodedata

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.config import did_you_mean
from router.config.diagnostics import MAX_EXCERPT, Source


def _shown(line: str, piece: str, message: str = "wrong", hint: str | None = None) -> list[str]:
    return str(Source("f.yaml", line).diagnostic(1, line.index(piece) + 1, len(piece), message, hint)).split("\n")


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in text)


def test_a_diagnostic_is_shown_as_a_compiler_would() -> None:
    source = Source("extensions.yaml", "version: 1\nasync: {tires: 3}\n")
    assert str(source.diagnostic(2, 9, 5, "unknown key `tires`", "did you mean `tries`?")) == (
        "extensions.yaml:2:9: error: unknown key `tires`\n"
        "   2 | async: {tires: 3}\n"
        "     |         ^^^^^\n"
        "  hint: did you mean `tries`?"
    )


def test_a_mistake_without_a_line_shows_none() -> None:
    assert str(Source("f.yaml", "").unshown("the file is empty")) == "f.yaml:1:1: error: the file is empty"


@pytest.mark.parametrize("line", ["\tkey: here", "a\tb\there", "名前: here", "e\u0301\u0301: here", "🎉🎉 here"])
def test_tabs_and_wide_characters_do_not_misplace_the_caret(line: str) -> None:
    _, excerpt, carets = _shown(line, "here")
    assert _width(carets[: carets.index("^")]) == _width(excerpt[: excerpt.index("here")])
    assert carets.count("^") == 4


def test_wide_characters_are_underlined_in_their_full_width() -> None:
    assert _shown("id: 注文", "注文")[2].count("^") == 4


def test_long_lines_are_cut_around_the_caret() -> None:
    _, excerpt, carets = _shown("a" * 5000 + "here" + "b" * 5000, "here")
    assert len(excerpt) <= MAX_EXCERPT + 10
    assert excerpt[carets.index("^") :].startswith("here")
    assert excerpt.count("…") == 2


def test_the_caret_stays_right_behind_a_masked_password() -> None:
    line = 'broker: {url: "amqp://u:a-very-long-password@h", namespace: here}'
    _, excerpt, carets = _shown(line, "here")
    assert "password" not in excerpt
    assert excerpt[carets.index("^") :].startswith("here")


def test_the_column_is_that_of_the_file_even_behind_a_masked_password() -> None:
    line = 'x: "amqp://u:a-very-long-password@h" here'
    diagnostic = Source("f", line).diagnostic(1, line.index("here") + 1, 4, "wrong")
    assert diagnostic.column == line.index("here") + 1
    assert diagnostic.excerpt[diagnostic.caret - 1 :][: diagnostic.length] == "here"


def test_passwords_in_messages_and_hints_are_masked() -> None:
    shown = "\n".join(_shown("x", "x", "can't use amqp://u:secret@h", "try redis://:secret@h"))
    assert "secret" not in shown
    assert shown.count("***") == 2


@given(st.text(min_size=1), st.text(), st.text())
def test_control_characters_never_reach_the_terminal(line: str, message: str, file: str) -> None:
    shown = str(Source(file, line).diagnostic(1, 1, 3, message, message))
    assert all(character.isprintable() or character == "\n" for character in shown)


@given(st.text(), st.integers(1, 300), st.integers(1, 300), st.integers(0, 300))
def test_any_place_can_be_shown(text: str, line: int, column: int, length: int) -> None:
    assert str(Source("f", text).diagnostic(line, column, length, "wrong"))


def test_lines_are_counted_as_libyaml_counts_them() -> None:
    source = Source("f", "a\r\nb\rc\nd\x85e\u2028f\x0cg")
    assert [source.line(number) for number in range(1, 8)] == ["a", "b", "c", "d", "e", "f\x0cg", ""]
    assert source.position(source.text.index("e")) == (5, 1)


def test_a_diagnostic_has_a_dict_form() -> None:
    diagnostic = Source("f.yaml", "version: 2").diagnostic(1, 10, 1, "wrong", "write 1")
    assert msgspec.json.decode(msgspec.json.encode(diagnostic)) == {
        "file": "f.yaml",
        "line": 1,
        "column": 10,
        "length": 1,
        "message": "wrong",
        "hint": "write 1",
        "excerpt": "version: 2",
        "caret": 10,
        "severity": "error",
        "code": None,
        "related": [],
    }


@pytest.mark.parametrize(
    ("word", "meant"), [("retires", "retries"), ("on_failure", "onFailure"), ("ONFAILURE", "onFailure"), ("zzz", None)]
)
def test_names_that_were_meant_are_found(word: str, meant: str | None) -> None:
    assert did_you_mean(word, ["retries", "onFailure"]) == (f"did you mean `{meant}`?" if meant else None)
