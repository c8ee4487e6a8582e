"""Which failed jobs a command is about: ids, or filters that mean the same in each command."""

from __future__ import annotations

import hashlib
import heapq
import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Generic, TypeVar, get_args

import typer

from router.app.router import Router
from router.brokers.base import FailedJob, Reason
from router.cli.common import UsageError
from router.cli.failed.sweeping import browse
from router.config import did_you_mean
from router.durations import parse_duration
from router.jobs.job import Job, UndecodableJob, decode
from router.routing.table import RoutingTable

T = TypeVar("T")

REASONS: tuple[str, ...] = get_args(Reason)


def _regex(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as problem:
        raise typer.BadParameter(f"{text!r} is no regular expression: {problem}") from None


def _since(text: str) -> float:
    """A point in time, in seconds since the epoch."""
    try:
        return datetime.fromisoformat(text).timestamp()  # first: 20260131 is no number of seconds
    except (ValueError, OverflowError):
        pass
    try:
        return time.time() - parse_duration(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is neither a duration (`30m`, `2h`, `1d`) nor a time (`2026-01-31`, `2026-01-31T04:00`)"
        ) from None


def _reason(text: str) -> str:
    if text not in REASONS:
        raise typer.BadParameter(f"{text!r} is no reason; there are {', '.join(REASONS)}")
    return text


Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Job ids, or unambiguous beginnings of them.")]
All = Annotated[bool, typer.Option("--all", help="Every failed job.")]
PointOption = Annotated[str | None, typer.Option("--point", help="Only of this extension point.")]
HandlerOption = Annotated[
    str | None, typer.Option("--handler", help="Only of this handler: the id of its route, or its import path.")
]
QueueOption = Annotated[str | None, typer.Option("--queue", "-q", help="Only of this queue.")]
ErrorOption = Annotated[
    re.Pattern[str] | None,
    typer.Option("--error", parser=_regex, metavar="REGEX", help="Only where this is found in the error's text."),
]
SinceOption = Annotated[
    float | None,
    typer.Option("--since", parser=_since, metavar="DURATION|TIME", help="Only what has failed since: 2h, 2026-01-31."),
]
ReasonOption = Annotated[
    str | None, typer.Option("--reason", parser=_reason, metavar="REASON", help=f"One of {', '.join(REASONS)}.")
]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="Only so many: those that failed last.")]


@dataclass(frozen=True, slots=True)
class Filters:
    """What is asked of a job. ``since``: in seconds since the epoch; ``limit``: how many, the newest failures."""

    point: str | None = None
    handler: str | None = None
    queue: str | None = None
    error: re.Pattern[str] | None = None
    since: float | None = None
    reason: str | None = None
    limit: int | None = None

    @property
    def given(self) -> bool:
        """Whether there is one."""
        return self != Filters()

    def fits(self, job: FailedJob, table: RoutingTable) -> bool:
        """Whether the job is one of those, leaving ``limit`` aside."""
        return (
            self.point in (None, job.point)
            and self.queue in (None, job.queue)
            and self.reason in (None, job.reason)
            and (self.since is None or job.failed_at >= self.since)
            and (self.handler is None or self.handler in (job.route, handler_of(job, table)))
            and (self.error is None or self.error.search(job.error) is not None)
        )

    def unknown(self, table: RoutingTable) -> Iterator[str]:
        """What is asked for and isn't in the file, where perhaps it was once: ``point `order.place` `` and a hint."""
        routes = list(table.async_routes())
        handlers = {name for route, _ in routes for name in (route.id, route.handler)}
        asked: Sequence[tuple[str, str | None, Collection[str]]] = (
            ("point", self.point, table.points),
            ("handler", self.handler, handlers),
            ("queue", self.queue, table.queues()),
        )
        for what, name, known in asked:
            if name is not None and name not in known:
                yield "; ".join(filter(None, (f"{what} `{name}`", did_you_mean(name, known))))


def handler_of(job: FailedJob, table: RoutingTable) -> str | None:
    """The import path of the job's handler; None where the file doesn't have its route any more."""
    route = table.find(job.point, job.route)
    return route.handler if route else None


def decoded(failed: FailedJob) -> Job | None:
    """The job; None where this version can't read it."""
    try:
        return decode(failed.body)
    except UndecodableJob:
        return None


def digest(failed: FailedJob) -> bytes:
    """The same for copies of one failed job, where it is there twice."""
    return hashlib.sha256(failed.id.encode() + b"\n" + failed.body).digest()


class Newest(Generic[T]):
    """The ``limit`` newest of what is added (None: all)."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._heap: list[tuple[float, int, T]] = []
        self.seen = 0

    def add(self, failed_at: float, value: T) -> None:
        """One that failed then."""
        self.seen += 1
        entry = (failed_at, self.seen, value)
        if self._limit is None:
            self._heap.append(entry)
        elif len(self._heap) < self._limit:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def in_order(self) -> list[T]:
        """Those, the longest failed first."""
        return [value for _, _, value in sorted(self._heap, key=lambda entry: entry[:2])]


@dataclass(frozen=True, slots=True)
class Selection:
    """``fits`` says whether a failed job is meant; ``ids`` of those, the longest failed first; None where nobody has
    looked yet, since ``fits`` can tell without."""

    fits: Callable[[FailedJob], bool]
    ids: tuple[str, ...] | None = None


def selection(
    router: Router, ids: list[str] | None, everything: bool, filters: Filters, *, look: bool = False
) -> Selection:
    """What the command is about; ``look``: the ids must be known. Raises UsageError."""
    if ids and (everything or filters.given):
        raise UsageError("give job ids, or --all and filters, not both")
    if ids:
        return of_ids(tuple(job.id for job in find(router, ids)))
    if not (everything or filters.given):
        raise UsageError("which jobs? Give ids, filters (--point, --handler, --queue, --error, --since …), or --all")
    table = router.table
    if filters.limit is None and not look:
        return Selection(lambda job: filters.fits(job, table))
    newest: Newest[str] = Newest(filters.limit)

    def visit(job: FailedJob) -> None:
        if filters.fits(job, table):
            newest.add(job.failed_at, job.id)

    browse(router.broker, visit)
    return of_ids(tuple(dict.fromkeys(newest.in_order())))


def of_ids(ids: tuple[str, ...]) -> Selection:
    """The failed jobs of these ids."""
    chosen = frozenset(ids)
    return Selection(lambda job: job.id in chosen, ids)


def find(router: Router, ids: list[str]) -> list[FailedJob]:
    """The failed jobs of these ids, or beginnings. Raises UsageError where one is unknown or ambiguous.

    Of a job that is there twice (see docs/guarantees.md) the newest.
    """
    if not all(ids):
        raise UsageError("an empty id names no job")  # as of a shell's variable that isn't set; it begins every id
    near: dict[str, dict[str, FailedJob]] = {wanted: {} for wanted in ids}

    def visit(job: FailedJob) -> None:
        for wanted, found in near.items():
            if job.id.startswith(wanted) and (len(found) < 2 or job.id in found or job.id == wanted):
                before = found.get(job.id)
                if before is None or before.failed_at <= job.failed_at:
                    found[job.id] = job

    browse(router.broker, visit)
    chosen = []
    for wanted, found in near.items():
        if wanted not in found and len(found) != 1:
            what = "begins several ids" if found else "is no failed job"
            raise UsageError(f"{wanted} {what}; see: router failed list")
        chosen.append(found[wanted] if wanted in found else next(iter(found.values())))
    return chosen
