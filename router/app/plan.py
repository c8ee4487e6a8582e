"""A point made ready for this process: handlers imported, the validator built."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from router.config.settings import AsyncOptions, Point, Route
from router.errors import InvalidPayload, RouterError
from router.routing.derived import find_derived
from router.routing.encoding import encode_event, originals
from router.routing.events import build_event, check_fields, fit_event, import_event_type
from router.routing.handlers import Handler, import_handler
from router.routing.references import References, has_references
from router.routing.unions import find_changed, has_unions

if TYPE_CHECKING:
    from jsonschema.protocols import Validator


@dataclass(frozen=True, slots=True)
class Step:
    """One synchronous handler."""

    route: Route
    handler: Handler


@dataclass(frozen=True, slots=True)
class Plan:
    """What a dispatch at one point does here.

    ``plain`` has the calls of a point where nothing but calling them is to be done (no type, no schema, no job, no
    context, nothing that stops early, nobody who follows it): the fast path.
    """

    point: Point
    steps: tuple[Step, ...]
    later: tuple[tuple[Route, AsyncOptions], ...]
    event_type: type | None
    validator: Validator | None
    references: References
    plain: tuple[tuple[str, Callable[[Any], Any]], ...] | None

    def prepare(self, event: Any) -> tuple[Any, bytes | None]:
        """The event as the synchronous handlers get it, and encoded if a job or a check needs that.

        Raises InvalidPayload.
        """
        name = self.point.name
        given = self.event_type is not None and isinstance(event, self.event_type)
        if not given and not isinstance(event, Mapping):
            wanted = "a mapping" + (f" or {self.event_type.__name__}" if self.event_type else "")
            raise InvalidPayload(f"{name}: the payload must be {wanted}, not {type(event).__name__}")
        data = None
        if self.later or self.validator is not None or (self.event_type is not None and not given):
            data = encode_event(event, name, self.references)
            if self.validator is not None:
                _check(self.validator, data, name)
            if self.event_type is not None and not given:
                event = self._read(event, data)
            elif self.event_type is not None and self.later:
                self._check_classes(event, data, self.event_type)
                self._check_unions(event, data, self.event_type)
        return event, data

    def check(self, payload: Any) -> bytes:
        """An edited payload, encoded; what references in it, spelled out, name isn't loaded. Raises InvalidPayload."""
        name = self.point.name
        if not isinstance(payload, dict):
            raise InvalidPayload(f"{name}: the payload must be a mapping, not {type(payload).__name__}")
        data = encode_event(payload, name, trusted=True)
        if self.validator is not None:
            _check(self.validator, data, name)
        if has_references(data):
            filled = self.references.resolve(payload, name, lambda found: self.references.stand_in(found, name))
            check_fields(filled, data, self.event_type, name)
        elif self.event_type is not None:
            build_event(data, self.event_type, name)
        return data

    def _read(self, event: Any, data: bytes) -> Any:
        """The event as a job has it, but with the objects of ``event`` in the place of the references to them."""
        name = self.point.name
        if not has_references(data):
            return build_event(data, self.event_type, name)
        known = originals(event, self.references)
        payload = self.references.resolve(msgspec.json.decode(data), name, known)
        return fit_event(payload, data, self.event_type, name)

    def _check_classes(self, event: Any, data: bytes, event_type: type) -> None:
        """Raises InvalidPayload where jobs would lose what a derived class adds to the one that is declared."""
        if derived := find_derived(event, event_type):
            arriving = find_derived(self._read(event, data), event_type)  # a model may read more than it declares
            if lost := [one for one in derived if one not in arriving]:
                raise InvalidPayload(f"{self.point.name}: {lost[0].words()}")

    def _check_unions(self, event: Any, data: bytes, event_type: type) -> None:
        """Raises InvalidPayload where a value of a union would arrive as another of its types."""
        if not has_unions(event_type):
            return
        try:
            arriving = self._read(event, data)
        except InvalidPayload:
            return  # which a worker will say: values aren't checked here
        for changed in find_changed(event, arriving):
            raise InvalidPayload(f"{self.point.name}: {changed.words()}")


def _check(validator: Validator, data: bytes, point: str) -> None:
    from router.routing.payloads import check_schema  # only where there is a schema

    check_schema(validator, data, point)


def make_plan(
    point: Point,
    registered: Mapping[tuple[str, str], Handler],
    references: References,
    *,
    followed: bool = False,
) -> Plan:
    """The plan of ``point``. ``registered``: handlers that were registered as objects, by (point, route id);
    ``references``: what travels by reference; ``followed``: each dispatch is told to somebody.

    Raises HandlerImportError.
    """
    steps = []
    for route in point.routes:
        if route.options is None:
            handler = registered.get((point.name, route.id)) or import_handler(route.handler)
            steps.append(Step(route, handler))
    later = tuple((route, route.options) for route in point.routes if route.options is not None)
    event_type = import_event_type(point.event, travels=bool(later)) if point.event else None
    validator = None
    if point.schema is not None:
        from jsonschema.validators import validator_for  # slow to import
        from jsonschema_specifications import REGISTRY

        # With a registry it fetches nothing from elsewhere, whatever the schema refers to.
        validator = validator_for(point.schema)(point.schema, registry=REGISTRY)
    special = followed or later or event_type or validator or point.interruptible
    plain = None
    if not special and not any(map(_is_special, steps)):
        plain = tuple((step.route.id, step.handler.call) for step in steps)
    return Plan(point, tuple(steps), later, event_type, validator, references, plain)


def _is_special(step: Step) -> bool:
    return step.handler.is_async or step.handler.wants_context or step.route.on_error == "continue"


def run_to_end(awaitable: Awaitable[Any], route_id: str) -> Any:
    """Run what an ``async def`` handler returned, from synchronous code."""
    import asyncio  # slow to import, and few need it

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_await(awaitable))
    if asyncio.iscoroutine(awaitable):
        awaitable.close()
    raise RouterError(
        f"{route_id} is an `async def` and an event loop is running here: use `await router.adispatch(...)`"
    )


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
