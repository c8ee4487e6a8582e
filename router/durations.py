"""Durations as people write them: ``90``, ``500ms``, ``10s``, ``5m``, ``2h``, ``1d``."""

from __future__ import annotations

import math
import re
from datetime import timedelta

MAX_WAIT = 365 * 86_400.0
"""Longest delay, backoff or timeout that may be asked for, in seconds."""

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
FORMS = "write a number of seconds, or a number with a unit: `500ms`, `10s`, `5m`, `2h`, `1d`"
_TOO_LONG = "is longer than 365 days, the longest that is allowed"

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)?")
_PIECE = r"([0-9]+(?:[.,][0-9]+)?)\s*([A-Za-z]+)\.?"
_PIECES = re.compile(rf"(?:{_PIECE}(?:\s*,\s*|\s+and\s+|\s*))+")
_ISO = re.compile(r"P(?:([0-9]+)D)?(?:T(?:([0-9]+)H)?(?:([0-9]+)M)?(?:([0-9]+)S)?)?", re.IGNORECASE)
_MEANT = {
    "ms": ("millisecond", "milliseconds", "msec", "msecs", "millis"),
    "s": ("sec", "secs", "second", "seconds"),
    "m": ("min", "mins", "minute", "minutes"),
    "h": ("hr", "hrs", "hour", "hours"),
    "d": ("day", "days"),
}
_SECONDS = {name: UNITS[unit] for unit, names in _MEANT.items() for name in (unit, *names)} | dict.fromkeys(
    ("w", "week", "weeks"), 7 * UNITS["d"]
)


class DurationError(ValueError):
    """Not a duration; ``message`` says why, ``hint`` (or None) what to write, ``str()`` both."""

    def __init__(self, message: str, hint: str | None = FORMS) -> None:
        super().__init__(f"{message}: {hint}" if hint else message)
        self.message = message
        self.hint = hint


def parse_duration(value: object) -> float:
    """``value`` in seconds: a number of seconds, a text such as ``"10s"``, or a timedelta.

    Raises DurationError, which is a ValueError for people to read, for anything else, for negative values, and for
    more than 365 days.
    """
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, str):
        match = _DURATION.fullmatch(value)
        if match is None:
            raise _what_is_wrong(value)
        number, unit = match.groups()
        # Milliseconds are divided, so that 0.3 s and 300ms are the same float.
        seconds = float(number) / 1000 if unit == "ms" else float(number) * UNITS[unit or "s"]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = _as_float(value)
    else:
        raise DurationError("is not a duration")
    if math.isnan(seconds):
        raise DurationError("is not a duration")
    if seconds < 0:
        raise DurationError("must not be negative", None)
    if seconds > MAX_WAIT:
        raise DurationError(_TOO_LONG, None)
    return seconds


def format_duration(seconds: float) -> str:
    """The shortest exact text in one unit; ``parse_duration`` reads it back as the same number."""
    for unit in ("d", "h", "m"):
        if seconds and seconds % UNITS[unit] == 0:
            return f"{seconds / UNITS[unit]:.0f}{unit}"
    if seconds % 1 == 0:
        return f"{seconds:.0f}s"
    if seconds < 1 and (text := f"{seconds * 1000:.0f}ms") and parse_duration(text) == seconds:
        return text
    return f"{_plain(seconds)}s"


def _plain(number: float) -> str:
    text = repr(number)
    return text if "e" not in text else f"{number:.400f}".rstrip("0").rstrip(".")


def _as_float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _what_is_wrong(text: str) -> DurationError:
    text = text.strip()[:50]
    if re.fullmatch(r"-[0-9.]+\s*[a-z]*", text):
        return DurationError("must not be negative", None)
    if (seconds := _seconds_meant(text)) is not None:
        if seconds > MAX_WAIT:
            return DurationError(_TOO_LONG, None)
        several = len(re.findall(_PIECE, text)) > 1
        message = "is not a duration in a single unit" if several else "is not a duration as it is written here"
        return DurationError(message, f"write `{format_duration(seconds)}`")
    if re.fullmatch(r"[0-9]+(?::[0-9]{2}){1,2}", text):
        return DurationError("is not a duration as it is written here", "write one number with a unit: `90s`, `90m`")
    if text.lower() in ("fixed", "linear", "exponential"):
        hint = "here stands how long to wait; the strategy goes into `backoff` (`backoff_strategy` in the defaults)"
        return DurationError("is not a duration", hint)
    if re.fullmatch(r"[0-9]+[a-z]*(?:[\s,;]+[0-9]+[a-z]*)+", text):
        return DurationError("is not a duration", "a list of waits stands in brackets: `[10, 30s, 5m]`")
    return DurationError("is not a duration")


def _seconds_meant(text: str) -> float | None:
    """What was meant by `1h30m`, `10 minutes`, `2 weeks`, `PT10S`, `1_000` or `1,5`; None where that is not clear."""
    if iso := _ISO.fullmatch(text):
        seconds = sum(int(number) * unit for number, unit in zip(iso.groups(0), (86_400, 3600, 60, 1), strict=True))
        return float(seconds) or None
    if re.fullmatch(r"[0-9]{1,3}(_[0-9]{3})+|\+[0-9]+|[0-9]+,[0-9]{1,2}", text):
        return float(text.replace("_", "").replace(",", "."))
    pieces = re.findall(_PIECE, text)
    if not _PIECES.fullmatch(text) or any(unit.lower() not in _SECONDS for _, unit in pieces):
        return None
    return math.fsum(float(number.replace(",", ".")) * _SECONDS[unit.lower()] for number, unit in pieces)
