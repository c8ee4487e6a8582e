"""The options of asynchronous handlers: of a handler in the file, of ``register_async``, and the file's defaults."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, cast

import msgspec

from router.config import wording
from router.config.names import import_path_problem, name_problem
from router.config.problems import Problem
from router.config.schema import options_validator
from router.config.settings import (
    MAX_RETRIES,
    AsyncDefaults,
    AsyncOptions,
    Backoff,
    OnMissing,
    Strategy,
    Unique,
)
from router.durations import MAX_WAIT, DurationError, parse_duration

_STRATEGIES = ("fixed", "linear", "exponential")
_UNIQUE = Unique()


def async_options(mapping: Mapping[str, object], defaults: AsyncDefaults) -> AsyncOptions:
    """The options of one asynchronous handler, given under the names that the file uses.

    Durations may be numbers of seconds, texts with a unit, or timedeltas; lists may be tuples. Raises ValueError that
    lists everything that is wrong.
    """
    given = {name: _plain(value) for name, value in mapping.items()}
    found = list(wording.problems(options_validator().iter_errors(given)))
    reported = {problem.path for problem in found}
    options, problems = resolve_options(given, defaults)
    found.extend(problem for problem in problems if problem.path not in reported)
    if found:
        raise ValueError("; ".join(problem.as_line() for problem in found))
    return options


def resolve_options(given: Mapping[str, object], defaults: AsyncDefaults) -> tuple[AsyncOptions, list[Problem]]:
    """The options of one handler, and what is wrong with them beyond what the schema finds."""
    reader = _Reader(given)
    waits = reader.waits("backoffSeconds")
    attempts = reader.attempts(
        "retries", len(waits) + 1 if waits and reader.is_list("backoffSeconds") else defaults.tries
    )
    options = AsyncOptions(
        queue=reader.name("queue", defaults.queue),
        delay=reader.duration("delay", defaults.delay),
        max_attempts=attempts,
        backoff=reader.bounded(reader.route_backoff(waits, defaults.backoff), defaults.backoff),
        timeout=reader.duration("timeout", defaults.timeout, positive=True),
        on_failure=reader.import_path("onFailure", defaults.on_failure),
        on_retry=reader.import_path("onRetry", defaults.on_retry),
        unique=reader.unique(defaults.unique),
        retry_on=reader.import_paths("retryOn", defaults.retry_on),
        dont_retry_on=reader.import_paths("dontRetryOn", defaults.dont_retry_on),
        expires=reader.optional_duration("expires", defaults.expires),
        on_missing=reader.on_missing(defaults.on_missing),
    )
    reader.check_longest_wait(options.backoff, attempts, ("retries", "backoffSeconds", "backoff"))
    return options, reader.problems


def resolve_defaults(given: Mapping[str, object]) -> tuple[AsyncDefaults, list[Problem]]:
    """The file's top-level ``async``, and what is wrong with it beyond what the schema finds."""
    reader = _Reader(given)
    standard = AsyncDefaults()
    strategy = given.get("backoff")
    if isinstance(strategy, str) and strategy in _STRATEGIES:
        hint = f"here `backoff` is how long to wait; write `backoff_strategy: {strategy}`"
        reader.problem("backoff", "`backoff` must be a duration, or a list of durations", hint)
        waits: tuple[float, ...] | None = None
    else:
        waits = reader.waits("backoff")
    many = reader.is_list("backoff")
    attempts = reader.attempts("tries", len(waits) + 1 if waits and many else standard.tries)
    if many and "backoff_strategy" in given:
        reader.contradiction("backoff_strategy", "backoff")
    chosen = given.get("backoff_strategy")
    grows = cast(Strategy, chosen) if chosen in _STRATEGIES else "exponential"
    defaults = AsyncDefaults(
        queue=reader.name("default_queue", standard.queue),
        tries=attempts,
        backoff=reader.bounded(
            Backoff(None if waits and many else grows, waits or standard.backoff.seconds), standard.backoff
        ),
        delay=reader.duration("delay", standard.delay),
        timeout=reader.duration("timeout", standard.timeout, positive=True),
        on_failure=reader.import_path("onFailure", None),
        on_retry=reader.import_path("onRetry", None),
        unique=reader.unique(None),
        retry_on=reader.import_paths("retryOn", ()),
        dont_retry_on=reader.import_paths("dontRetryOn", ()),
        expires=reader.optional_duration("expires", None),
        on_missing=reader.on_missing("fail"),
    )
    reader.check_longest_wait(defaults.backoff, attempts, ("tries", "backoff", "backoff_strategy"))
    return defaults, reader.problems


class _Reader:
    """Reads options out of a mapping. Values of a wrong type are the schema's business: they count as not given."""

    def __init__(self, given: Mapping[str, object]) -> None:
        self._given = given
        self.problems: list[Problem] = []

    def problem(self, key: str, message: str, hint: str | None = None, *, on_key: bool = False) -> None:
        self.problems.append(Problem(message, hint, (key,), on_key=on_key))

    def is_list(self, key: str) -> bool:
        return isinstance(self._given.get(key), list)

    def duration(self, key: str, default: float, *, positive: bool = False) -> float:
        value = self._given.get(key)
        if not is_duration(value):
            return default
        problem = duration_problem(f"`{key}`", value, positive=positive)
        if problem:
            self.problems.append(problem.under(key))
            return default
        return parse_duration(value)

    def optional_duration(self, key: str, default: float | None) -> float | None:
        """A duration longer than 0, or ``default``, which may be none."""
        return self.duration(key, 0.0, positive=True) or default

    def on_missing(self, default: OnMissing) -> OnMissing:
        value = self._given.get("onMissing")
        return value if value in ("fail", "drop") else default

    def bounded(self, backoff: Backoff, default: Backoff) -> Backoff:
        """``backoff`` with its longest wait and its jitter."""
        jitter = self._given.get("jitter")
        if isinstance(jitter, float) and math.isnan(jitter):  # which no bound of the schema keeps out
            self.problem("jitter", "`jitter` must be a number from 0 to 1, not `.nan`", "for example `jitter: 0.5`")
        fits = isinstance(jitter, int | float) and not isinstance(jitter, bool) and 0 <= jitter <= 1
        return msgspec.structs.replace(
            backoff,
            most=self.optional_duration("maxBackoffSeconds", default.most),
            jitter=float(jitter) if fits else default.jitter,  # type: ignore[arg-type]
        )

    def import_paths(self, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
        value = self._given.get(key)
        if not isinstance(value, list):
            return default
        for number, item in enumerate(value):
            if isinstance(item, str) and (problem := import_path_problem(wording.label((key, number)), item)):
                self.problems.append(problem.under(key, number))
        return tuple(item for item in value if isinstance(item, str))

    def name(self, key: str, default: str) -> str:
        value = self._given.get(key)
        if not isinstance(value, str):
            return default
        self._collect(key, name_problem(f"`{key}`", value))
        return value

    def import_path(self, key: str, default: str | None) -> str | None:
        value = self._given.get(key)
        if not isinstance(value, str):
            return default
        self._collect(key, import_path_problem(f"`{key}`", value))
        return value

    def attempts(self, key: str, default: int) -> int:
        value = self._given.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= MAX_RETRIES:
            return default
        return int(value)

    def waits(self, key: str) -> tuple[float, ...] | None:
        """The one duration under ``key``, or all of its list; None if it is absent or unusable."""
        value = self._given.get(key)
        if isinstance(value, list):
            waits = []
            for number, item in enumerate(value):
                if not is_duration(item):
                    return None
                if problem := duration_problem(wording.label((key, number)), item):
                    self.problems.append(problem.under(key, number))
                else:
                    waits.append(parse_duration(item))
            return tuple(waits) or None
        if not is_duration(value):
            return None
        if problem := duration_problem(f"`{key}`", value):
            self.problems.append(problem.under(key))
            return None
        return (parse_duration(value),)

    def route_backoff(self, waits: tuple[float, ...] | None, default: Backoff) -> Backoff:
        chosen = self._given.get("backoff")
        strategy = cast(Strategy, chosen) if isinstance(chosen, str) and chosen in _STRATEGIES else None
        if self.is_list("backoffSeconds"):
            if "backoff" in self._given:
                self.contradiction("backoff", "backoffSeconds")
            return Backoff(None, waits or default.seconds)
        if waits:
            return Backoff(strategy or default.strategy or "exponential", waits)
        if strategy and default.strategy is None and "backoffSeconds" not in self._given:
            hint = "give this handler a `backoffSeconds` of its own, or leave `backoff` out"
            message = f"`backoff: {strategy}` has nothing to grow from: the top-level `async.backoff` is a list"
            self.problem("backoff", message, hint)
            return default
        return Backoff(strategy, default.seconds[:1]) if strategy else default

    def contradiction(self, strategy: str, waits: str) -> None:
        hint = f"remove `{strategy}`, or give `{waits}` a single duration to grow from"
        self.problem(strategy, f"`{strategy}` contradicts `{waits}`: a list gives every wait itself", hint, on_key=True)

    def unique(self, default: Unique | None) -> Unique | None:
        wanted = self._given.get("uniqueJob", default is not None)
        by, until = self._given.get("uniqueBy"), self._given.get("uniqueUntil")
        start = default or _UNIQUE
        unique = Unique(
            by=self._payload_paths(by) if isinstance(by, list) else start.by,
            lock_timeout=self.duration("uniqueLockTimeout", start.lock_timeout, positive=True),
            until=until if until in ("start", "done") else start.until,
        )
        # An explicit false beside them is only spelled out, as on the seed page, unless it overrules the default.
        if wanted is False and ("uniqueJob" not in self._given or default is not None):
            for key in ("uniqueBy", "uniqueLockTimeout", "uniqueUntil"):
                if key in self._given:
                    message, hint = f"`{key}` means nothing without `uniqueJob: true`", "add `uniqueJob: true`"
                    self.problems.append(Problem(message, hint, (key,), on_key=True, code="unique-options-unused"))
        return unique if wanted is True else None

    def check_longest_wait(self, backoff: Backoff, attempts: int, blamed: tuple[str, ...]) -> None:
        key = next((key for key in blamed if key in self._given), None)
        if key is None or backoff.wait(attempts - 1 or 1) <= MAX_WAIT:
            return
        first = next(retry for retry in range(1, attempts) if backoff.wait(retry) > MAX_WAIT)
        slower = "`fixed`" if backoff.strategy == "linear" else "`linear` or `fixed`"
        growth = f"{backoff.strategy} from {backoff.seconds[0]:g} s"
        name = "tries" if "tries" in blamed else "retries"
        hint = f"`{name}: {first}` is the most that works here; or choose {slower}, or list the waits"
        self.problem(
            key, f"retry {first} would wait longer than 365 days, the longest that is allowed ({growth})", hint
        )

    def _payload_paths(self, items: list[Any]) -> tuple[str, ...]:
        for number, item in enumerate(items):
            if isinstance(item, str) and item and not all(item.split(".")):
                message = f"{wording.label(('uniqueBy', number))} must be a dotted path into the payload"
                self.problems.append(Problem(message, "for example `order.id`", ("uniqueBy", number)))
        return tuple(item for item in items if isinstance(item, str))

    def _collect(self, key: str, problem: Problem | None) -> None:
        if problem:
            self.problems.append(problem.under(key))


def is_duration(value: object) -> bool:
    """Whether ``value`` is of a type that a duration may have."""
    return isinstance(value, int | float | str) and not isinstance(value, bool)


def duration_problem(label: str, value: object, *, positive: bool = False) -> Problem | None:
    """What is wrong with a duration; ``positive``: 0 is not allowed."""
    try:
        seconds = parse_duration(value)
    except DurationError as error:
        return Problem(f"{label} {error.message}", error.hint, derived=True)
    return Problem(f"{label} must be longer than 0", "for example `10m`") if positive and seconds == 0 else None


def _plain(value: object) -> object:
    if isinstance(value, timedelta):
        return value.total_seconds()
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
