"""Durations: one function for the file, the command line and ``register_async``."""

from __future__ import annotations

import contextlib
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.durations import MAX_WAIT, DurationError, format_duration, parse_duration


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0.0),
        (90, 90.0),
        (1.5, 1.5),
        ("90", 90.0),
        ("500ms", 0.5),
        ("10s", 10.0),
        ("5m", 300.0),
        ("2h", 7200.0),
        ("1d", 86400.0),
        ("1.5h", 5400.0),
        ("300ms", 0.3),
        ("365d", MAX_WAIT),
        (timedelta(minutes=2), 120.0),
    ],
)
def test_durations_are_read_in_seconds(value: object, seconds: float) -> None:
    assert parse_duration(value) == seconds


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("10 minutes", "`10m`"),
        ("3hrs", "`3h`"),
        ("10 S", "`10s`"),
        ("1h30m", "`90m`"),
        ("-5s", "must not be negative"),
        (-1, "must not be negative"),
        ("366d", "365 days"),
        (10**400, "365 days"),
        (-(10**400), "negative"),
        (float("inf"), "365 days"),
        (float("nan"), "`500ms`"),
        (True, "`500ms`"),
        (None, "`500ms`"),
        ([1], "`500ms`"),
        ("", "`500ms`"),
        ("soon", "`500ms`"),
        ("12:30", "`90m`"),
        ("1e3", "`500ms`"),
        ("٣s", "`500ms`"),
    ],
)
def test_what_is_no_duration_is_explained(value: object, words: str) -> None:
    with pytest.raises(DurationError) as caught:
        parse_duration(value)
    assert words in str(caught.value)


@given(st.floats(min_value=0, max_value=MAX_WAIT) | st.integers(min_value=0, max_value=int(MAX_WAIT)))
def test_what_is_written_is_read_back_as_the_same_number(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.text() | st.integers() | st.floats() | st.none() | st.booleans() | st.timedeltas())
def test_anything_is_a_duration_or_a_value_error(value: object) -> None:
    with contextlib.suppress(ValueError):
        assert 0 <= parse_duration(value) <= MAX_WAIT


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.5, "500ms"), (90, "90s"), (300, "5m"), (7200, "2h"), (86400, "1d"), (1.5, "1.5s")],
)
def test_durations_are_shown_in_the_largest_unit_that_fits(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("10 s", "10s"), ("10sec", "10s"), ("1h30m", "90m"), ("1 hour and 30 minutes", "90m"), ("1h, 5min", "65m"),
        ("2 weeks", "14d"), ("PT10S", "10s"), ("p1dt12h", "36h"), ("1_000", "1000s"), ("1,5", "1500ms"), ("+5", "5s"),
    ],
)  # fmt: skip
def test_what_was_meant_is_proposed(text: str, meant: str) -> None:
    with pytest.raises(DurationError) as caught:
        parse_duration(text)
    assert caught.value.hint in (f"write `{meant}`", f"write `{format_duration(parse_duration(meant))}`")


@given(st.text("0123456789 .,:_+-smhdwPT", max_size=12) | st.text(max_size=60))
def test_what_is_proposed_is_a_duration(text: str) -> None:
    try:
        parse_duration(text)
    except DurationError as error:
        proposed = (error.hint or "").partition("write `")[2].partition("`")[0]
    else:
        return
    assert not proposed or parse_duration(proposed) > 0 or "0" in text
