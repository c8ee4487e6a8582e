"""``async_options``: the file's rules for ``register_async``."""

from __future__ import annotations

from datetime import timedelta

import pytest

from router.config import AsyncOptions, async_options
from router.config.settings import AsyncDefaults, Backoff, Unique
from router.durations import MAX_WAIT

DEFAULTS = AsyncDefaults()


def test_nothing_given_is_all_defaults() -> None:
    assert async_options({}, DEFAULTS) == AsyncOptions("default", 0.0, 3, Backoff("exponential", (10.0,)), 600.0)


def test_every_option_of_the_file_works() -> None:
    given = {
        "queue": "emails",
        "delay": "1m",
        "retries": 5,
        "backoff": "linear",
        "backoffSeconds": 2,
        "timeout": timedelta(hours=1),
        "onFailure": "m:failed",
        "onRetry": "m:retried",
        "uniqueJob": True,
        "uniqueBy": ("a.b",),
        "uniqueLockTimeout": 7,
    }
    assert async_options(given, DEFAULTS) == AsyncOptions(
        "emails", 60.0, 5, Backoff("linear", (2.0,)), 3600.0, "m:failed", "m:retried", Unique(("a.b",), 7.0)
    )


def test_a_list_of_waits_gives_the_attempts() -> None:
    options = async_options({"backoffSeconds": (1, timedelta(minutes=1))}, DEFAULTS)
    assert options.max_attempts == 3
    assert options.backoff == Backoff(None, (1.0, 60.0))


def test_everything_wrong_is_listed_with_hints() -> None:
    with pytest.raises(ValueError, match="unknown key") as caught:
        async_options({"queu": "a", "queue": "a.b", "delay": "10 minutes", "retries": 0, "onFailure": "m.f"}, DEFAULTS)
    for words in ("did you mean `queue`?", "`a-b`", "write `10m`", "`retries` must be at least 1", "`m:f`"):
        assert words in str(caught.value)


def test_each_mistake_is_listed_once() -> None:
    with pytest.raises(ValueError, match="negative") as caught:
        async_options({"delay": -1}, DEFAULTS)
    assert str(caught.value).count("`delay` must") == 1


@pytest.mark.parametrize("value", [object(), b"x", {"a": 1}, {1, 2}, print], ids=lambda value: type(value).__name__)
def test_values_of_any_type_are_explained(value: object) -> None:
    for name in ("queue", "delay", "retries", "backoff", "backoffSeconds", "onFailure", "uniqueJob", "uniqueBy"):
        with pytest.raises(ValueError, match=f"`{name}`"):
            async_options({name: value}, DEFAULTS)


@pytest.mark.parametrize(
    ("strategy", "waits"), [("fixed", [10, 10, 10]), ("linear", [10, 20, 30]), ("exponential", [10, 20, 40])]
)
def test_waits_follow_the_strategy(strategy: str, waits: list[float]) -> None:
    backoff = async_options({"backoff": strategy}, DEFAULTS).backoff
    assert [backoff.wait(retry) for retry in (1, 2, 3)] == waits


def test_the_last_wait_of_a_list_repeats() -> None:
    assert [Backoff(None, (1.0, 5.0)).wait(retry) for retry in (1, 2, 3, 999)] == [1, 5, 5, 5]


@pytest.mark.parametrize(("strategy", "most"), [("exponential", 22), ("linear", 1000), ("fixed", 1000)])
def test_the_most_attempts_that_are_allowed_wait_at_most_a_year(strategy: str, most: int) -> None:
    options = async_options({"retries": most, "backoff": strategy, "backoffSeconds": 10}, DEFAULTS)
    assert options.backoff.wait(most - 1) <= MAX_WAIT
    if most < 1000:
        with pytest.raises(ValueError, match="365 days"):
            async_options({"retries": most + 2, "backoff": strategy, "backoffSeconds": 10}, DEFAULTS)


@pytest.mark.parametrize(
    ("given", "defaults"),
    [
        ({"backoff": "linear", "backoffSeconds": [1]}, DEFAULTS),
        ({"backoff": "linear"}, AsyncDefaults(backoff=Backoff(None, (1.0, 2.0)))),
        ({"uniqueBy": ["a"]}, DEFAULTS),
        ({"uniqueJob": False, "uniqueLockTimeout": 5}, AsyncDefaults(unique=Unique())),
    ],
)
def test_options_that_contradict_each_other_are_refused(given: dict[str, object], defaults: AsyncDefaults) -> None:
    with pytest.raises(ValueError, match=r"contradicts|nothing"):
        async_options(given, defaults)
