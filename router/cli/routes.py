"""``router routes``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from router.cli.common import ConfigOption, Format, FormatOption, UsageError, open_router, print_json
from router.config import did_you_mean
from router.config.settings import AsyncOptions, Point, Route
from router.durations import format_duration
from router.routing.table import RoutingTable, schedule

_SHOWN_WAITS = 8


def routes(
    point: Annotated[str | None, typer.Argument(help="Only this extension point.")] = None,
    config: ConfigOption = None,
    format: FormatOption = Format.TEXT,
) -> None:
    """Show the compiled table: for each point, in order, what runs at once and what runs later."""
    with open_router(config) as router:
        table = router.table
    if point is not None and point not in table.points:
        raise UsageError(f"unknown point {point!r}{_meant(point, table)}")
    points = [table.points[name] for name in sorted(table.points) if point in (None, name)]
    if format is Format.JSON:
        print_json([_as_data(route) for found in points for route in found.routes])
        return
    for index, found in enumerate(points):
        if index:
            typer.echo()
        for line in _describe(found):
            typer.echo(line)


def _meant(name: str, table: RoutingTable) -> str:
    near = did_you_mean(name, table.points)
    return f"; {near}" if near else ""


def _as_data(route: Route) -> dict[str, Any]:
    data: dict[str, Any] = {
        "point": route.point,
        "id": route.id,
        "handler": route.handler,
        "priority": route.priority,
        "mode": "async" if route.options else "sync",
    }
    if route.options is None:
        return data | {"onError": route.on_error}
    options = route.options
    return data | {
        "queue": options.queue,
        "delay": options.delay,
        "retries": options.max_attempts,
        "waits": list(schedule(options)),
        "timeout": options.timeout,
        "onFailure": options.on_failure,
        "onRetry": options.on_retry,
        "uniqueJob": options.unique is not None,
        "uniqueBy": list(options.unique.by) if options.unique else None,
        "uniqueLockTimeout": options.unique.lock_timeout if options.unique else None,
        "uniqueUntil": options.unique.until if options.unique else None,
        "jitter": options.backoff.jitter,
        "retryOn": list(options.retry_on),
        "dontRetryOn": list(options.dont_retry_on),
        "expires": options.expires,
        "onMissing": options.on_missing,
    }


def _describe(point: Point) -> Iterator[str]:
    about = [point.description or "", f"event {point.event}" if point.event else ""]
    about += [f"version {point.version}"] if point.version > 1 else []
    about += ["interruptible"] if point.interruptible else []
    yield "  ".join([typer.style(point.name, bold=True), *filter(None, about)])
    if not point.routes:
        yield "        (no handlers)"
    # What runs at once always runs before anything is queued.
    for route in sorted(point.routes, key=lambda route: route.options is not None):
        name = route.handler if route.id == route.handler else f"{route.handler} as {route.id}"
        where = f"queue {route.options.queue}" if route.options else "sync"
        more = ", its errors don't stop the others" if route.on_error == "continue" else ""
        yield f"  {route.priority:>4}  {where:<20}  {name}{more}"
        if route.options is not None:
            yield f"        {'':<20}  {_options(route.options)}"


def _options(options: AsyncOptions) -> str:
    parts = [f"after {format_duration(options.delay)}"] if options.delay else []
    parts.append(f"{options.max_attempts} attempts" if options.max_attempts > 1 else "1 attempt")
    waits = schedule(options)
    if waits:
        shown = ", ".join(format_duration(wait) for wait in waits[:_SHOWN_WAITS])
        jitter = f", less up to {options.backoff.jitter:.0%}" if options.backoff.jitter else ""
        parts.append(f"waits {shown}" + (", ..." if len(waits) > _SHOWN_WAITS else "") + jitter)
    parts.append(f"timeout {format_duration(options.timeout)}")
    if options.unique is not None:
        by = ", ".join(options.unique.by) or "the whole payload"
        until = " until it starts" if options.unique.until == "start" else ""
        parts.append(f"unique by {by}{until} for {format_duration(options.unique.lock_timeout)}")
    parts += [f"retried only on {', '.join(options.retry_on)}"] if options.retry_on else []
    parts += [f"not retried on {', '.join(options.dont_retry_on)}"] if options.dont_retry_on else []
    parts += [f"expires after {format_duration(options.expires)}"] if options.expires else []
    parts += ["dropped if what it refers to is gone"] if options.on_missing == "drop" else []
    parts += [f"onRetry {options.on_retry}"] if options.on_retry else []
    parts += [f"onFailure {options.on_failure}"] if options.on_failure else []
    return "; ".join(parts)
