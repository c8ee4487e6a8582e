"""Names: what is proposed in the place of a wrong one is a right one, and what only looks right is named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.config.names import id_problem, import_path_problem, name_problem, point_problem
from router.config.problems import Problem, lookalike


@pytest.mark.parametrize(
    "text",
    [
        *("shop.mail.send", "shop.mail::send", "shop.mail:send()", "shop.mail:send(order)", "shop.mail: send"),
        *("shop/mail.py:send", "./shop/mail.py::send", "../shop/mail.py:send", "shop\\mail.py:send", ".shop.mail:send"),
        *("shop.mail@send", "shop.mail#send", "shop.mail->send", "shop:mail:send", "from shop.mail import send"),
        *(" shop.mail:send ", "file:///shop/mail.py:send"),
    ],
)
def test_an_import_path_as_others_write_it_is_understood(text: str) -> None:
    problem = import_path_problem("`handler`", text)
    assert problem is not None
    assert problem.hint == "did you mean `shop.mail:send`?"
    assert problem.derived


def _import_path(text: str) -> Problem | None:
    return import_path_problem("x", text)


def _name(text: str) -> Problem | None:
    return name_problem("x", text)


def _id(text: str) -> Problem | None:
    return id_problem("x", text)


_TEXT = st.text("ab.:-_/# ()@>\\é1", max_size=15) | st.text(max_size=30)


@pytest.mark.parametrize("check", [_import_path, _name, _id, point_problem])
@given(text=_TEXT)
def test_what_is_proposed_is_right(check: Callable[[str], Problem | None], text: str) -> None:
    problem = check(text)
    hint = problem.hint if problem else None
    for start in ("did you mean `", "for example `"):
        if hint and hint.startswith(start):
            assert check(hint.removeprefix(start).rstrip("?").rstrip("`")) is None


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a\N{NO-BREAK SPACE}\N{NO-BREAK SPACE}b", (1, 3), "U+00A0 (no-break space)"),
        ("a\N{IDEOGRAPHIC SPACE}b", (1, 2), "type a plain space"),
        ("\N{LEFT DOUBLE QUOTATION MARK}x", (0, 1), 'type `"`'),
        ("it\N{RIGHT SINGLE QUOTATION MARK}s", (2, 3), "type `'`"),
        ("\N{EM DASH} x", (0, 1), "type `-`"),
        ("x\N{FULLWIDTH COLON} 1", (1, 2), "type `:`"),
        ("x\N{ZERO WIDTH SPACE}", (1, 2), "delete it"),
        ("x\N{SOFT HYPHEN}", (1, 2), "U+00AD (soft hyphen)"),
    ],
)
def test_characters_that_only_look_right_are_named(text: str, place: tuple[int, int], words: str) -> None:
    found = lookalike(text)
    assert found is not None
    assert found[:2] == place
    assert words in found[2]


@pytest.mark.parametrize("text", ["", "a b", "a\tb", "é", "注文", "🎉", "a:b - 'c' \"d\"", "\x07"])
def test_other_characters_are_left_alone(text: str) -> None:
    assert lookalike(text) is None
