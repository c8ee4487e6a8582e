"""Composition → Settings: the schema first, then everything that one value means for another."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any, cast

import msgspec

from router.config import lint, wording
from router.config.composition import Composition, mapping
from router.config.diagnostics import Diagnostic
from router.config.document import Document
from router.config.fitting import Validator
from router.config.names import id_problem, import_path_problem, name_problem, point_problem
from router.config.options import duration_problem, is_duration, resolve_defaults, resolve_options
from router.config.payload_schemas import PayloadSchemas
from router.config.problems import Path as ValuePath
from router.config.problems import Problem, counted
from router.config.schema import file_validator, included_validator, overlay_validator
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
from router.durations import parse_duration
from router.errors import ConfigError


class Checker:
    """Walks the data once. Values of a wrong type are the schema's business: they are passed over here.

    ``path``: the absolute path of the main file; ``overlay``: the last document, where that is one.
    """

    def __init__(self, composition: Composition, overlay: Document | None, path: Path, env: str | None) -> None:
        self._composition = composition
        self._overlay = overlay
        self._data: Mapping[str, Any] = mapping(composition.data)
        self._path = path
        self._env = env
        self._schemas = PayloadSchemas()
        self._problems: list[Problem] = []
        self._reported: set[tuple[int, ValuePath]] = set()
        self._event_owners: dict[str, str] = {}
        self._needs_locks: ValuePath | None = None
        self.routes: list[tuple[ValuePath, Route]] = []
        """Every route, and where in the composition it is; filled by `check`."""

    @property
    def schema_files(self) -> dict[str, str | None]:
        """The payload schemas that the files name: absolute path → SHA-256, or None where there is nothing to read."""
        return self._schemas.digests

    def check(self, contents: list[bytes]) -> tuple[Settings, list[Diagnostic]]:
        """The settings, and what is to be warned of, in the order of the files.

        Raises ConfigError with every mistake, and with the settings if the connections in them are certain.
        """
        composition = self._composition
        found = [*composition.mistakes, *self._against_schema()]
        settings = self._settings(contents)
        self._problems += lint.of_queues(self.routes, settings)
        found += map(composition.report, self._problems)
        for document in composition.documents:
            found += lint.unknown_codes(document.source)
        ordered = composition.ordered(found)
        errors = [mistake for mistake in ordered if mistake.severity == "error"]
        if errors:
            raise ConfigError(errors, settings=settings if self._connections_are_certain() else None)
        return settings, ordered

    def _connections_are_certain(self) -> bool:
        """Whether nothing is wrong with `broker` and `locks`, nor at the top level, where they may be misspelt."""
        wrong = [path for _, path in self._reported] + [one.path for one in self._problems if one.code is None]
        if any(len(path) < 2 or path[0] in ("broker", "locks") for path in wrong):
            return False
        broker, locks = mapping(self._data.get("broker")), mapping(self._data.get("locks"))
        values = (broker.get("url"), broker.get("namespace"), locks.get("url"))
        return bool(self._data) and all(value is None or isinstance(value, str) for value in values)

    def _against_schema(self) -> list[Diagnostic]:
        found: list[Diagnostic] = []
        for document in filter(lambda document: document.complete, self._composition.documents):
            for problem in wording.problems(self._validator(document).iter_errors(cast(Any, document.data))):
                self._reported.add((id(document), problem.path))
                found.append(document.report(problem))
        return found

    def _validator(self, document: Document) -> Validator:
        if document is self._composition.documents[0]:
            return file_validator()
        return overlay_validator() if document is self._overlay else included_validator()

    def _settings(self, contents: list[bytes]) -> Settings:
        data = self._data
        folder = self._composition.folder
        broker, locks = mapping(data.get("broker")), mapping(data.get("locks"))
        broker_url = _text(broker.get("url"))
        locks_url = _text(locks.get("url"))
        defaults = self._defaults()
        points = self._points(defaults)
        # An empty text, of a variable that is set to nothing, say, is none of them either: no default takes its place.
        self._report(broker_url is not None and broker_problem(broker_url), "broker", "url")
        self._report(locks_url is not None and locks_problem(locks_url), "locks", "url")
        namespace = _text(broker.get("namespace"))
        self._report(namespace is not None and name_problem("`namespace`", namespace), "broker", "namespace")
        self._check_queue_names()
        self._check_locks(broker.get("url", DEFAULT_BROKER_URL), locks)
        return Settings(
            path=str(self._path),
            hash=self._hash(contents),
            env=self._env,
            broker_url=absolute_url(broker_url or DEFAULT_BROKER_URL, folder(("broker", "url"))),
            namespace=namespace or DEFAULT_NAMESPACE,
            publish_timeout=self._duration(DEFAULT_PUBLISH_TIMEOUT, "broker", "publishTimeout", positive=True),
            locks_url=absolute_url(locks_url, folder(("locks", "url"))) if locks_url else None,
            defaults=defaults,
            bootstrap=self._import_path(data, "bootstrap"),
            pythonpath=tuple(
                absolute_path(path, folder(("pythonpath",)))
                for path in _list(data.get("pythonpath"))
                if isinstance(path, str)
            ),
            unknown_route_for=self._duration(DEFAULT_UNKNOWN_ROUTE_FOR, "unknownRouteFor"),
            concurrency=self._queues("concurrency"),
            async_concurrency={queue: many for queue, many in self._queues("asyncConcurrency").items() if many > 1},
            points=points,
        )

    def _hash(self, contents: list[bytes]) -> str:
        digest = hashlib.sha256()
        for content in (*contents, *self._schemas.contents):
            digest.update(content)
        return digest.hexdigest()

    def _defaults(self) -> AsyncDefaults:
        defaults, problems = resolve_defaults(mapping(self._data.get("async")))
        for problem in problems:
            self._report(problem, "async")
        return defaults

    def _duration(self, default: float, *place: str, positive: bool = False) -> float:
        """The duration that stands at ``place``, in seconds; ``positive``: 0 is not allowed."""
        *outer, name = place
        value = reduce(lambda data, key: mapping(data.get(key)), outer, self._data).get(name)
        if not is_duration(value):
            return default
        problem = duration_problem(f"`{name}`", value, positive=positive)
        self._report(problem, *place)
        return default if problem else parse_duration(value)

    def _queues(self, key: str) -> dict[str, int]:
        """The number under ``key`` of each queue that has one."""
        queues = mapping(self._data.get("queues"))
        numbers = {name: mapping(queue).get(key) for name, queue in queues.items()}
        return {name: _whole(number) for name, number in numbers.items() if isinstance(number, int | float)}

    def _check_queue_names(self) -> None:
        for name in mapping(self._data.get("queues")):
            problem = name_problem("the name of a queue", name)
            if problem:
                self._problems.append(Problem(problem.message, problem.hint, ("queues", name), on_key=True))

    def _points(self, defaults: AsyncDefaults) -> tuple[Point, ...]:
        points = mapping(self._data.get("extensions"))
        return tuple(self._point(name, mapping(point), defaults) for name, point in points.items())

    def _point(self, name: str, point: Mapping[str, Any], defaults: AsyncDefaults) -> Point:
        path: ValuePath = ("extensions", name)
        if problem := point_problem(name):
            self._problems.append(Problem(problem.message, problem.hint, path, on_key=True))
        found = Point(
            name=name,
            description=_text(point.get("description")),
            event=self._event(name, point),
            schema=self._payload_schema(point, path),
            version=self._version(point),
            upcasters=self._upcasters(point, path),
            interruptible=point.get("interruptible") is True,
            on_failure=self._import_path(point, "onFailure", *path),
            on_retry=self._import_path(point, "onRetry", *path),
        )
        routes = self._routes(name, _list(point.get("handlers")), found.defaults(defaults))
        return msgspec.structs.replace(found, routes=routes)

    def _event(self, name: str, point: Mapping[str, Any]) -> str | None:
        event = self._import_path(point, "event", "extensions", name)
        if event is not None:
            owner = self._event_owners.setdefault(event, name)
            if owner != name:
                message = f"the event type `{event}` already belongs to `{owner}`"
                hint = "an event type finds its extension point, so it can belong to one only: give each its own"
                first = ((("extensions", owner, "event"), "first used here"),)
                self._problems.append(Problem(message, hint, ("extensions", name, "event"), related=first))
        return event

    def _version(self, point: Mapping[str, Any]) -> int:
        version = point.get("version")
        return _whole(version) or 1 if isinstance(version, int | float) and not isinstance(version, bool) else 1

    def _upcasters(self, point: Mapping[str, Any], path: ValuePath) -> tuple[str, ...]:
        upcasters = _list(point.get("upcasters"))
        for number, upcaster in enumerate(upcasters):
            name = wording.label(("upcasters", number))
            self._report(isinstance(upcaster, str) and import_path_problem(name, upcaster), *path, "upcasters", number)
        steps = self._version(point) - 1
        if len(upcasters) > steps:
            given, needed = counted(len(upcasters), "upcaster"), counted(steps, "step")
            message = f"{given} given, but from version 1 to `version: {steps + 1}` it is {needed}"
            hint = f"each lifts a payload by one version, the last to `version`: write `version: {len(upcasters) + 1}`"
            self._report(Problem(message, hint, on_key=True), *path, "upcasters")
        return tuple(upcaster for upcaster in upcasters if isinstance(upcaster, str))

    def _payload_schema(self, point: Mapping[str, Any], path: ValuePath) -> dict[str, Any] | bool | None:
        file = _text(point.get("schema"))
        if not file:
            return None
        schema, problem = self._schemas.get(absolute_path(file, self._composition.folder((*path, "schema"))))
        self._report(problem, *path, "schema")
        return schema

    def _routes(self, point: str, handlers: list[Any], defaults: AsyncDefaults) -> tuple[Route, ...]:
        placed: list[tuple[ValuePath, Route]] = []
        ids: dict[str, ValuePath] = {}
        for number, handler in enumerate(handlers):
            given = mapping(handler)
            path: ValuePath = ("extensions", point, "handlers", number)
            route = self._route(point, given, path, defaults)
            if route is not None:
                place = (*path, "id" if "id" in given else "handler")
                first = ids.setdefault(route.id, place)
                if first == place:
                    placed.append((path, route))
                else:
                    self._same_id(route.id, first, place)
        self._problems += lint.of_point(placed)
        self.routes += placed
        return tuple(sorted((route for _, route in placed), key=lambda route: route.priority))

    def _same_id(self, route: str, first: ValuePath, place: ValuePath) -> None:
        if place[-1] == "id":
            message, hint = f"the id `{route}` is taken", "give this handler another `id`"
        else:
            message = f"the handler `{route}` is here twice, so their ids are the same"
            hint = "give one of them an `id` of its own, for example `id: second`"
        self._problems.append(Problem(message, hint, place, related=((first, "first used here"),)))

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
            self._problems.append(Problem(message, hint, (*path, "onError"), on_key=True))
        options, problems = resolve_options(mapping(value), defaults)
        for problem in (*problems, *lint.of_options(mapping(value), options)):
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
            self._problems.append(Problem(message, hint, self._needs_locks, on_key=True))

    def _import_path(self, given: Mapping[str, Any], key: str, *path: str | int) -> str | None:
        value = _text(given.get(key))
        self._report(value is not None and import_path_problem(f"`{key}`", value), *path, key)
        return value

    def _report(self, problem: Problem | bool | str | None, *path: str | int) -> None:
        """Adds a problem, seen from ``path``, unless the schema has found one in the same place."""
        if isinstance(problem, Problem):
            problem = problem.under(*path)
            document, place = self._composition.place(problem.path)
            if (id(document), place) not in self._reported:
                self._problems.append(problem)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _whole(number: int | float) -> int:
    return int(number) if number % 1 == 0 else 0
