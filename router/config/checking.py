"""Document → Settings: the schema first, then everything that one value means for another."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

from router.config import wording
from router.config.diagnostics import Diagnostic
from router.config.document import Document
from router.config.durations import parse_duration
from router.config.names import id_problem, import_path_problem, name_problem, point_problem
from router.config.options import duration_problem, is_duration, resolve_defaults, resolve_options
from router.config.payload_schemas import PayloadSchemas
from router.config.problems import Path as ValuePath
from router.config.problems import Problem
from router.config.schema import file_validator
from router.config.settings import (
    DEFAULT_BROKER_URL,
    DEFAULT_NAMESPACE,
    DEFAULT_PRIORITY,
    DEFAULT_PUBLISH_TIMEOUT,
    DEFAULT_UNKNOWN_ROUTE_FOR,
    AsyncDefaults,
    AsyncOptions,
    Point,
    Route,
    Settings,
)
from router.config.urls import absolute_path, absolute_url, broker_problem, locks_problem

_EMPTY: Mapping[str, Any] = {}


def check(document: Document, path: Path, content: bytes) -> tuple[Settings | None, list[Diagnostic]]:
    """The settings of the file at the absolute ``path``, or None and every mistake in it, in the order of the file."""
    found = list(document.mistakes)
    settings = None
    if document.complete:
        checker = _Checker(document.data, path)
        settings = checker.settings(content)
        found.extend(document.report(problem) for problem in checker.problems)
    # An alias brings the same mistake up once for each place that uses it.
    unique = {(mistake.line, mistake.column, mistake.message): mistake for mistake in found}
    return (None if unique else settings), [unique[key] for key in sorted(unique)]


class _Checker:
    """Walks the data once. Values of a wrong type are the schema's business: they are passed over here."""

    def __init__(self, data: object, path: Path) -> None:
        self.problems: list[Problem] = list(wording.problems(file_validator().iter_errors(data)))
        self._reported = {problem.path for problem in self.problems}
        self._data: Mapping[str, Any] = _mapping(data)
        self._path = path
        self._folder = path.parent
        self._schemas = PayloadSchemas()
        self._event_owners: dict[str, str] = {}
        self._needs_locks: ValuePath | None = None

    def settings(self, content: bytes) -> Settings:
        data = self._data
        broker, locks = _mapping(data.get("broker")), _mapping(data.get("locks"))
        broker_url = _text(broker.get("url"))
        locks_url = _text(locks.get("url"))
        defaults = self._defaults()
        points = self._points(defaults)
        self._report(broker_url and broker_problem(broker_url), "broker", "url")
        self._report(locks_url and locks_problem(locks_url), "locks", "url")
        namespace = _text(broker.get("namespace"))
        self._report(namespace and name_problem("`namespace`", namespace), "broker", "namespace")
        self._check_locks(broker.get("url", DEFAULT_BROKER_URL), locks)
        return Settings(
            path=str(self._path),
            hash=self._hash(content),
            broker_url=absolute_url(broker_url or DEFAULT_BROKER_URL, self._folder),
            namespace=namespace or DEFAULT_NAMESPACE,
            publish_timeout=self._duration(DEFAULT_PUBLISH_TIMEOUT, "broker", "publishTimeout", positive=True),
            locks_url=absolute_url(locks_url, self._folder) if locks_url else None,
            defaults=defaults,
            bootstrap=self._import_path(data, "bootstrap"),
            pythonpath=tuple(
                absolute_path(folder, self._folder)
                for folder in _list(data.get("pythonpath"))
                if isinstance(folder, str)
            ),
            unknown_route_for=self._duration(DEFAULT_UNKNOWN_ROUTE_FOR, "unknownRouteFor"),
            concurrency=self._concurrency(),
            points=points,
        )

    def _hash(self, content: bytes) -> str:
        digest = hashlib.sha256(content)
        for schema in self._schemas.contents:
            digest.update(schema)
        return digest.hexdigest()

    def _defaults(self) -> AsyncDefaults:
        defaults, problems = resolve_defaults(_mapping(self._data.get("async")))
        for problem in problems:
            self._report(problem, "async")
        return defaults

    def _duration(self, default: float, *place: str, positive: bool = False) -> float:
        """The duration that stands at ``place``, in seconds; ``positive``: 0 is not allowed."""
        *outer, name = place
        value = reduce(lambda data, key: _mapping(data.get(key)), outer, self._data).get(name)
        if not is_duration(value):
            return default
        problem = duration_problem(f"`{name}`", value, positive=positive)
        self._report(problem, *place)
        return default if problem else parse_duration(value)

    def _concurrency(self) -> dict[str, int]:
        limits = {}
        for name, queue in _mapping(self._data.get("queues")).items():
            problem = name_problem("the name of a queue", name)
            if problem:
                self.problems.append(Problem(problem.message, problem.hint, ("queues", name), on_key=True))
            limit = _mapping(queue).get("concurrency")
            if isinstance(limit, int | float):
                limits[name] = _whole(limit)
        return limits

    def _points(self, defaults: AsyncDefaults) -> tuple[Point, ...]:
        points = _mapping(self._data.get("extensions"))
        return tuple(self._point(name, _mapping(point), defaults) for name, point in points.items())

    def _point(self, name: str, point: Mapping[str, Any], defaults: AsyncDefaults) -> Point:
        path: ValuePath = ("extensions", name)
        if problem := point_problem(name):
            self.problems.append(Problem(problem.message, problem.hint, path, on_key=True))
        return Point(
            name=name,
            routes=self._routes(name, _list(point.get("handlers")), defaults),
            description=_text(point.get("description")),
            event=self._event(name, point),
            schema=self._payload_schema(point, path),
            interruptible=point.get("interruptible") is True,
        )

    def _event(self, name: str, point: Mapping[str, Any]) -> str | None:
        event = self._import_path(point, "event", "extensions", name)
        if event is not None:
            owner = self._event_owners.setdefault(event, name)
            if owner != name:
                message = f"the event type `{event}` already belongs to `{owner}`"
                hint = "an event type finds its extension point, so it can belong to one only: give each its own"
                self._report(Problem(message, hint), "extensions", name, "event")
        return event

    def _payload_schema(self, point: Mapping[str, Any], path: ValuePath) -> dict[str, Any] | bool | None:
        file = _text(point.get("schema"))
        if not file:
            return None
        schema, problem = self._schemas.get(absolute_path(file, self._folder))
        self._report(problem, *path, "schema")
        return schema

    def _routes(self, point: str, handlers: list[Any], defaults: AsyncDefaults) -> tuple[Route, ...]:
        routes: list[Route] = []
        ids: dict[str, int] = {}
        for number, handler in enumerate(handlers):
            given = _mapping(handler)
            path: ValuePath = ("extensions", point, "handlers", number)
            route = self._route(point, given, path, defaults)
            if route is not None:
                routes.append(route)
                first = ids.setdefault(route.id, number)
                if first != number:
                    self._same_id(route.id, "id" in given, first, path)
        routes.sort(key=lambda route: route.priority)
        return tuple(routes)

    def _same_id(self, route: str, given: bool, first: int, path: ValuePath) -> None:
        if given:
            message, hint = (
                f"the id `{route}` is taken by handler {first + 1} of this list",
                "give this one another `id`",
            )
        else:
            message = f"`{route}` is handler {first + 1} of this list already, so their ids are the same"
            hint = "give one of them an `id` of its own, for example `id: second`"
        self._report(Problem(message, hint), *path, "id" if given else "handler")

    def _route(self, point: str, given: Mapping[str, Any], path: ValuePath, defaults: AsyncDefaults) -> Route | None:
        handler = self._import_path(given, "handler", *path)
        name = _text(given.get("id"))
        self._report(name is not None and id_problem("`id`", name), *path, "id")
        options = self._options(given, path, defaults)
        if handler is None:
            return None
        priority = given.get("priority", DEFAULT_PRIORITY)
        return Route(
            id=name or handler,
            point=point,
            handler=handler,
            priority=_whole(priority) if isinstance(priority, int | float) else DEFAULT_PRIORITY,
            on_error="continue" if given.get("onError") == "continue" else "stop",
            options=options,
        )

    def _options(self, given: Mapping[str, Any], path: ValuePath, defaults: AsyncDefaults) -> AsyncOptions | None:
        value = given.get("async")
        if value is False:
            message, hint = "`async` can't be `false`", "leave `async` out: a handler without it is synchronous"
            self._report(Problem(message, hint), *path, "async")
        if value is not True and not isinstance(value, dict):
            return None
        if "onError" in given:
            message = "`onError` is for synchronous handlers, and this one is asynchronous"
            hint = "remove it; `onFailure` under `async` is called when the job has finally failed"
            self.problems.append(Problem(message, hint, (*path, "onError"), on_key=True))
        options, problems = resolve_options(_mapping(value), defaults)
        for problem in problems:
            self._report(problem, *path, "async")
        if options.unique and self._needs_locks is None:
            own = isinstance(value, dict) and "uniqueJob" in value
            self._needs_locks = (*path, "async", "uniqueJob") if own else ("async", "uniqueJob")
        return options

    def _check_locks(self, broker_url: object, locks: Mapping[str, Any]) -> None:
        """SQLite and memory brokers bring their own locks."""
        if self._needs_locks is None or locks.get("url") is not None or not isinstance(broker_url, str):
            return
        if broker_url.startswith(("amqp://", "amqps://")):
            message = "`uniqueJob` needs `locks.url`, because RabbitMQ can't keep locks"
            hint = 'add `locks: {url: "redis://localhost:6379/0"}` (`sqlite:///` works if all workers are on one host)'
            self.problems.append(Problem(message, hint, self._needs_locks, on_key=True))

    def _import_path(self, given: Mapping[str, Any], key: str, *path: str | int) -> str | None:
        value = _text(given.get(key))
        self._report(value is not None and import_path_problem(f"`{key}`", value), *path, key)
        return value

    def _report(self, problem: Problem | bool | str | None, *path: str | int) -> None:
        """Adds a problem, seen from ``path``, unless the schema has found one in the same place."""
        if isinstance(problem, Problem) and (*path, *problem.path) not in self._reported:
            self.problems.append(problem.under(*path))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else _EMPTY


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _whole(number: int | float) -> int:
    return int(number) if number % 1 == 0 else 0
