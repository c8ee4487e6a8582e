"""The routing table: every route, compiled and frozen. Replaced whole on reload, never changed.

It holds names and numbers only, so a process that must not import user code (a worker's parent) can have it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import msgspec

from router.config.settings import AsyncOptions, Point, Route, Settings


class RoutingTable(msgspec.Struct, frozen=True):
    """All points by name. ``hash`` identifies the content, ``generation`` counts the tables of one process from 1."""

    settings: Settings
    points: dict[str, Point]
    hash: str
    generation: int = 1

    def routes(self) -> Iterator[Route]:
        """Every route, points by name, routes in the order in which they run."""
        for name in sorted(self.points):
            yield from self.points[name].routes

    def async_routes(self) -> Iterator[tuple[Route, AsyncOptions]]:
        """Every route that runs later, with its options."""
        for route in self.routes():
            if route.options is not None:
                yield route, route.options

    def find(self, point: str, route_id: str) -> Route | None:
        """The route of that id at that point."""
        found = self.points.get(point)
        return next((route for route in found.routes if route.id == route_id), None) if found else None

    def queues(self) -> tuple[str, ...]:
        """Every queue that the file names or a route uses, sorted."""
        used = {options.queue for _, options in self.async_routes()}
        return tuple(
            sorted(used | {self.settings.defaults.queue, *self.settings.concurrency, *self.settings.async_concurrency})
        )

    def longest(self) -> float:
        """The longest timeout of a route, in seconds; 0 where none runs later."""
        return max((options.timeout for _, options in self.async_routes()), default=0.0)

    def waits(self) -> frozenset[float]:
        """Every wait, in seconds, that the routes can produce by ``delay`` and backoff."""
        waits = {wait for _, options in self.async_routes() for wait in (options.delay, *schedule(options))}
        return frozenset(wait for wait in waits if wait > 0)


def schedule(options: AsyncOptions) -> tuple[float, ...]:
    """The waits before each retry, in seconds: one fewer than there are attempts."""
    return tuple(options.backoff.wait(retry) for retry in range(1, options.max_attempts))


def compile_table(settings: Settings, registered: Iterable[Route] = (), generation: int = 1) -> RoutingTable:
    """The table of a file's settings and of the routes that were registered by code.

    Within a point routes run by priority; of equal priority those of the file come first, then the registered ones in
    their order. Raises ValueError where a registered route has the id of another one of its point.
    """
    points = {point.name: point for point in settings.points}
    digest = hashlib.sha256(settings.hash.encode())
    for route in registered:
        point = points.get(route.point) or Point(name=route.point)
        if any(other.id == route.id for other in point.routes):
            raise ValueError(f"{route.point} already has a route {route.id!r}; give one of them an id of its own")
        routes = sorted((*point.routes, route), key=lambda route: route.priority)
        points[route.point] = msgspec.structs.replace(point, routes=tuple(routes))
        digest.update(msgspec.json.encode(route))
    return RoutingTable(settings, points, digest.hexdigest(), generation)


def difference(old: RoutingTable, new: RoutingTable) -> list[str]:
    """What changed from ``old`` to ``new``, in words, a line for each route."""
    before = {(route.point, route.id): route for route in old.routes()}
    after = {(route.point, route.id): route for route in new.routes()}
    lines = [f"added {route} of {point}" for point, route in after if (point, route) not in before]
    lines += [f"removed {route} of {point}" for point, route in before if (point, route) not in after]
    lines += [f"changed {key[1]} of {key[0]}" for key in after if key in before and before[key] != after[key]]
    return lines
