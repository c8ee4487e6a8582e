"""Between payloads as they travel and the events that handlers get."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from router.config.settings import Point
from router.errors import HandlerImportError, InvalidPayload, in_words
from router.routing import models
from router.routing.derived import all_classes
from router.routing.handlers import import_callable, import_object
from router.routing.references import References, has_references

Upcaster = Callable[[Any], Any]

_CONTAINERS = (dict, list, tuple, set, frozenset)


def import_event_type(path: str, *, travels: bool = True) -> type:
    """The dataclass, msgspec.Struct or pydantic model at ``path``. Raises HandlerImportError.

    ``travels``: there are jobs with it, so a worker must be able to read what a dispatch writes.
    """
    found = import_object(path)
    if not isinstance(found, type) or not (
        dataclasses.is_dataclass(found) or issubclass(found, msgspec.Struct) or models.is_model(found)
    ):
        raise HandlerImportError(f"{path}: an event type is a dataclass, a msgspec.Struct or a pydantic model")
    _refuse_pydantic_dataclass(found, path)
    if travels:
        _check_readable(found, path)
    return found


def _check_readable(event_type: type, path: str) -> None:
    if models.is_model(event_type):
        if problem := models.unreadable(event_type):
            raise HandlerImportError(f"{path}: {problem}")
        return
    try:
        msgspec.json.Decoder(event_type)
        kinds = _kinds_of_containers(event_type)
    except NameError as error:
        hint = "import it outside of `if TYPE_CHECKING`, and declare its classes at the top level of a module"
        raise HandlerImportError(f"{path}: a worker can't tell the types of its fields: {error}; {hint}") from error
    except Exception as error:  # annotations are user code
        hint = "declare such a field as one type that JSON can tell, such as `str`, or make the event a pydantic model"
        raise HandlerImportError(f"{path}: a worker can't read it from JSON: {error}; {hint}") from error
    if kinds:
        kind, plain = kinds[0]
        words = f"`{kind.__qualname__}` is written as any other {plain}; declare it as `{plain}`"
        raise HandlerImportError(f"{path}: a worker can't read it from JSON: {words}")
    for each in all_classes(event_type):
        _refuse_pydantic_dataclass(each, path)


def _refuse_pydantic_dataclass(cls: type, path: str) -> None:
    """Msgspec takes it for a dataclass: without its checks, and with pydantic's descriptions of fields as defaults."""
    if models.is_checked_dataclass(cls):
        hint = "make it a pydantic BaseModel, or a dataclass of the standard library"
        raise HandlerImportError(f"{path}: `{cls.__qualname__}` is a dataclass of pydantic's; {hint}")


def _kinds_of_containers(event_type: type) -> list[tuple[type, str]]:
    """The classes derived from a container that fields declare, each with what its objects are written as."""
    from msgspec import inspect

    found = []
    rest: list[object] = [inspect.type_info(event_type)]
    seen: dict[int, object] = {}
    while rest:
        part = rest.pop()
        if id(part) in seen:  # types may be recursive
            continue
        seen[id(part)] = part
        if isinstance(part, inspect.CustomType):
            found += [(part.cls, plain.__name__) for plain in _CONTAINERS if issubclass(part.cls, plain)]
        elif isinstance(part, tuple):
            rest += part
        elif isinstance(part, inspect.Type | inspect.Field):
            rest += [getattr(part, name) for name in part.__struct_fields__]
    return found


def import_upcaster(path: str) -> Upcaster:
    """The function at ``path`` that lifts a payload by one version. Raises HandlerImportError."""
    return import_callable(path, ("payload",), "one argument, the payload, and returns the next version of it")


@dataclasses.dataclass(frozen=True, slots=True)
class Unread:
    """An event of which all is done but loading what it refers to.

    ``payload``: the event itself where it refers to nothing, else the payload as it travels.
    """

    payload: Any
    _load: Callable[[], Any] | None = None

    @property
    def refers(self) -> bool:
        """Whether there is something to be loaded."""
        return self._load is not None

    def load(self) -> Any:
        """The event. Raises ReferenceMissing, InvalidPayload, and whatever loading raises."""
        return self.payload if self._load is None else self._load()


class EventReader:
    """Reads the payloads of one point: of this version, or of an earlier one for which there are upcasters."""

    def __init__(self, point: Point, event_type: type | None, references: References) -> None:
        """Raises HandlerImportError."""
        self.event_type = event_type
        self._point = point
        self._references = references
        self._upcasters = [import_upcaster(path) for path in point.upcasters]

    @property
    def runs_user_code(self) -> bool:
        """Whether reading does."""
        return self.event_type is not None or bool(self._upcasters)

    def read(self, data: bytes, version: int) -> Unread:
        """The event of an encoded payload of that version. Raises InvalidPayload where none can be made of it here."""
        name = self._point.name
        if version != self._point.version:
            data = self.upcast(data, version)
        if not has_references(data):
            return Unread(build_event(data, self.event_type, name))
        payload = msgspec.json.decode(data)
        self._references.check(payload, name)

        def load() -> Any:
            return fit_event(self._references.resolve(payload, name), data, self.event_type, name)

        return Unread(payload, load)

    def upcast(self, data: bytes, version: int) -> bytes:
        """A payload of that version as one of the point's own. Raises InvalidPayload."""
        point = self._point
        first = point.version - len(self._upcasters)
        if version > point.version:
            raise InvalidPayload(f"{point.name}: the payload is of version {version}, this file's of {point.version}")
        if version < first:
            raise InvalidPayload(
                f"{point.name}: the payload is of version {version}, this file's of {point.version}; its `upcasters` "
                f"begin with version {first}"
            )
        payload = msgspec.json.decode(data)
        for number in range(version, point.version):
            path = point.upcasters[number - first]
            try:
                payload = self._upcasters[number - first](payload)
            except Exception as error:  # user code
                why = in_words(error)
                raise InvalidPayload(f"{point.name}: the upcaster {path} raised {why} (version {number})") from error
            if not isinstance(payload, Mapping):
                kind = type(payload).__name__
                raise InvalidPayload(f"{point.name}: the upcaster {path} returned {kind}, no mapping")
        try:
            return msgspec.json.encode(payload)
        except (TypeError, ValueError) as error:
            last = point.upcasters[-1]
            raise InvalidPayload(f"{point.name}: what the upcaster {last} returned is no JSON: {error}") from error


def build_event(data: bytes, event_type: type | None, point: str) -> Any:
    """The event that handlers get, from its JSON. Raises InvalidPayload where it does not fit ``event_type``."""
    try:
        if event_type is None:
            return msgspec.json.decode(data)
        if models.is_model(event_type):
            return models.load(data, event_type)
        return msgspec.json.decode(data, type=event_type)
    except Exception as error:  # what the class itself checks may raise anything
        raise _unfit(error, data, event_type, point) from error


def fit_event(payload: Any, data: bytes, event_type: type | None, point: str) -> Any:
    """`build_event` of a payload that is decoded already, with objects in the place of its references."""
    try:
        if event_type is None:
            return payload
        if models.is_model(event_type):
            return models.convert(payload, event_type)
        return msgspec.convert(payload, event_type, dec_hook=_as_it_is, str_keys=True)
    except Exception as error:  # as above
        raise _unfit(error, data, event_type, point) from error


def check_fields(payload: Any, data: bytes, event_type: type | None, point: str) -> None:
    """`fit_event` of a payload with stand-ins for its objects: whatever the class's own code says of those is passed
    over. Raises InvalidPayload."""
    try:
        fit_event(payload, data, event_type, point)
    except InvalidPayload as error:
        if not _is_of_own_code(error.__cause__):
            raise


def _is_of_own_code(error: BaseException | None) -> bool:
    if isinstance(error, msgspec.ValidationError):
        return error.__cause__ is not None and not isinstance(error.__cause__, _Misplaced)
    return not hasattr(error, "errors") or models.is_of_own_code(error)


def _unfit(error: Exception, data: bytes, event_type: type | None, point: str) -> InvalidPayload:
    from router.routing.fitting import unfit  # only where something is wrong

    return InvalidPayload(unfit(error, data, event_type, point))


class _Misplaced(ValueError):
    """An object where another one belongs."""


def _as_it_is(wanted: type, value: Any) -> Any:
    if isinstance(value, wanted):
        return value
    raise _Misplaced(f"Expected `{wanted.__qualname__}`, got `{type(value).__name__}`")
