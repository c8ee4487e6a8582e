"""How long to wait before something that has failed again and again is tried once more."""

from __future__ import annotations


def doubled(first: float, times: int, longest: float) -> float:
    """Seconds: ``first``, doubled ``times`` times, ten at most, and never more than ``longest``.

    Written out, ``2**times`` overflows a float after a night of failures.
    """
    return min(longest, first * 2.0 ** min(times, 10))
