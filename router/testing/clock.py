"""Virtual time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from router.durations import parse_duration


class Clock:
    """A clock that stands until it is moved. Called, it tells the seconds since the epoch."""

    def __init__(self, start: float) -> None:
        # A whole second, so that what is due a minute later is due in 60 s and not in 59.99999998.
        self._now = float(int(start))

    def __call__(self) -> float:
        return self._now

    def move_to(self, when: float) -> None:
        """Let it be ``when``; it never goes back."""
        self._now = max(self._now, when)

    def end_of(self, until: float | str | timedelta | datetime) -> float:
        """A duration from now, or a point in time, as seconds since the epoch. Raises ValueError."""
        if not isinstance(until, datetime):
            return self._now + seconds_of("until", until)
        if until.tzinfo is None:
            raise ValueError("until= needs a time zone: router.now + timedelta(...)")
        if until.timestamp() < self._now:
            raise ValueError(f"until={until} has passed: it is {as_datetime(self._now)} for this router (router.now)")
        return until.timestamp()


def seconds_of(name: str, duration: float | str | timedelta) -> float:
    """The argument of that name, in seconds. Raises ValueError, which names it."""
    try:
        return parse_duration(duration)
    except ValueError as error:
        raise ValueError(f"{name}={duration!r} {error}") from None


def as_datetime(seconds: float) -> datetime:
    """Seconds since the epoch as a point in time, in UTC."""
    return datetime.fromtimestamp(seconds, UTC)
