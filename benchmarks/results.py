"""What was measured, and what follows from it. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

OURS = "router"


@dataclass(frozen=True)
class Spread:
    """The median of several rounds, with the smallest and the largest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def show(self, unit: str = "") -> str:
        """``2.6 (2.1 to 3.5)``, with the unit behind the median."""
        return f"{number(self.median)}{unit} ({number(self.low)} to {number(self.high)})"


@dataclass(frozen=True)
class Goal:
    """A bound for ours divided by theirs, round by round; or for ours alone, where ``theirs`` is empty.

    ``theirs``: of several, the best in each round counts.
    """

    bound: float
    theirs: tuple[str, ...] = ()
    at_least: bool = True
    ours: str = OURS

    def reached(self, spread: Spread) -> bool:
        """Whether the median is within the bound."""
        return spread.median >= self.bound if self.at_least else spread.median <= self.bound


@dataclass(frozen=True)
class Table:
    """One comparison: for each system a value a round.

    ``row``: the module of rows/ it comes from. ``more``: whether larger values are better.
    """

    row: str
    title: str
    unit: str
    values: Mapping[str, Sequence[float]]
    goals: Sequence[Goal] = ()
    more: bool = True
    notes: Sequence[str] = ()

    def ratio(self, goal: Goal) -> Spread:
        """What the goal bounds: the rounds' ratios, or ours alone."""
        ours = self.values[goal.ours]
        if not goal.theirs:
            return Spread.of(ours)
        best = max if self.more else min
        peers = [best(round_) for round_ in zip(*(self.values[name] for name in goal.theirs), strict=True)]
        return Spread.of([mine / theirs for mine, theirs in zip(ours, peers, strict=True)])

    def wording(self, goal: Goal) -> str:
        """The goal in words: ``at least 15 times Celery``."""
        much = f"at {'least' if goal.at_least else 'most'} {number(goal.bound)}"
        if not goal.theirs:
            return f"{much} {self.unit}"
        return f"{much} times {goal.theirs[0] if len(goal.theirs) == 1 else 'the best of ' + ', '.join(goal.theirs)}"


@dataclass(frozen=True)
class Failure:
    """A row that could not be measured."""

    row: str
    error: str


@dataclass
class Results:
    """One run."""

    machine: str
    when: str
    quick: bool
    tables: list[Table] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Results:
        """From what `to_json` made."""
        tables = [
            Table(**{**one, "goals": [Goal(**{**goal, "theirs": tuple(goal["theirs"])}) for goal in one["goals"]]})
            for one in data["tables"]
        ]
        failures = [Failure(**one) for one in data["failures"]]
        return cls(data["machine"], data["when"], data["quick"], tables, failures)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def number(value: float) -> str:
    """As many digits as mean something: 12,345; 123; 12.3; 1.23."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"
