"""Objects that travel by reference: as their type and key, and are loaded again by the worker.

On the wire: ``{"$reference": "shop.models:Order", "key": 7}``. The name is looked up among the registered classes and
those derived from them; nothing is ever imported because of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from router.errors import HandlerImportError, InvalidPayload, ReferenceMissing, RegistrationError
from router.routing.handlers import check_function

NAME, KEY = "$reference", "key"
_MARK = b'"$reference":'

KeyOf = Callable[[Any], Any]
Load = Callable[[type, Any], Any]


@dataclass(frozen=True, slots=True)
class _Kind:
    base: type
    key: KeyOf
    load: Load


class References:
    """The classes whose objects travel by reference, in this process."""

    def __init__(self) -> None:
        self._kinds: dict[type, _Kind] = {}
        self.encoder = msgspec.json.Encoder(enc_hook=self.refer)
        """Writes values as JSON."""

    def add(self, base: type, key: KeyOf, load: Load) -> None:
        """``base`` and what is derived from it. Raises RegistrationError."""
        if not isinstance(base, type):
            raise RegistrationError(f"register_reference takes a class, not {base!r}")
        if by_value := next((cls for cls in _family(base) if travels_by_value(cls)), None):
            raise RegistrationError(
                f"{_path_of(by_value)} is a dataclass or a model, whose objects travel by value, with all they have: "
                "register other classes only"
            )
        name = f"register_reference of {_path_of(base)}"
        try:
            check_function(key, f"{name}, key", "key", "the object")
            check_function(load, f"{name}, load", "load", "the class", "the key")
        except HandlerImportError as error:
            raise RegistrationError(str(error)) from error
        self._kinds[base] = _Kind(base, key, load)

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def covers(self, value: object) -> bool:
        """Whether ``value`` is an object that travels by reference."""
        return self._kind_of(value.__class__) is not None

    def refer(self, value: object) -> dict[str, Any]:
        """What travels instead of ``value``. Raises TypeError for any other object, as encoders do; ValueError."""
        cls = value.__class__  # of a lazy object, such as Django's request.user, that of what it stands for
        kind = self._kind_of(cls)
        if kind is None:
            raise TypeError(f"Encoding objects of type {type(value).__qualname__} is unsupported")
        path = _path_of(cls)
        if path.startswith("__main__:") or "<" in path:
            raise ValueError(f"a worker can't find {path}: such a class lives at the top level of a module")
        key = kind.key(value)
        if key is None:
            raise ValueError(f"this {cls.__qualname__} has no key yet: save (or flush) it first")
        return {NAME: path, KEY: key}

    def check(self, payload: Any, point: str) -> None:
        """Raises InvalidPayload where a reference in ``payload``, as decoded, is of no known class."""
        for name, _ in _references(payload):
            self._find(name, point)

    def resolve(self, payload: Any, point: str, known: Callable[[Any], Any] | None = None) -> Any:
        """``payload``, as decoded, with each reference replaced by its object. ``known``: asked first for a reference.

        Raises ReferenceMissing, InvalidPayload, and whatever loading raises.
        """
        if isinstance(payload, list):
            return [self.resolve(item, point, known) for item in payload]
        if not isinstance(payload, dict):
            return payload
        if NAME not in payload:
            return {name: self.resolve(item, point, known) for name, item in payload.items()}
        found = known(payload) if known else None
        if found is not None:
            return found
        name, key = payload[NAME], payload.get(KEY)
        cls, kind = self._find(name, point)
        loaded = kind.load(cls, key)
        if loaded is None:
            raise ReferenceMissing(f"{name} {_shown(key)} is gone")
        return loaded

    def stand_in(self, reference: dict[str, Any], point: str) -> object:
        """What passes for the object of a reference that somebody wrote, which isn't loaded. Raises InvalidPayload."""
        cls, _ = self._find(reference[NAME], point)
        if reference.keys() != {NAME, KEY} or reference[KEY] is None:
            wanted = f'{{"{NAME}": "{_path_of(cls)}", "{KEY}": ...}}'
            raise InvalidPayload(f"{point}: a reference is {wanted}, not {msgspec.json.encode(reference).decode()}")
        return _StandIn(cls)

    def _kind_of(self, cls: type) -> _Kind | None:
        return next((self._kinds[base] for base in cls.__mro__ if base in self._kinds), None)

    def _find(self, name: object, point: str) -> tuple[type, _Kind]:
        for kind in self._kinds.values():
            for cls in _family(kind.base):
                if _path_of(cls) == name:
                    return cls, self._kind_of(cls) or kind
        hint = "it is registered by `register_reference` in the file's `bootstrap`, and its module imported there"
        raise InvalidPayload(f"{point}: nobody here knows what {name} refers to; {hint}")


class _StandIn:
    """An instance of ``cls`` for whoever asks what it is."""

    def __init__(self, cls: type) -> None:
        self._cls = cls

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return self._cls


def has_references(data: bytes) -> bool:
    """Whether there is a reference in a payload, encoded."""
    return _MARK in data


def _references(payload: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(payload, dict):
        if NAME in payload:
            yield payload[NAME], payload.get(KEY)
            return
        payload = list(payload.values())
    if isinstance(payload, list):
        for item in payload:
            yield from _references(item)


def _family(base: type) -> Iterator[type]:
    yield base
    derived: list[type] = type.__subclasses__(base)
    for cls in derived:
        yield from _family(cls)


def _path_of(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def travels_by_value(cls: type) -> bool:
    """Whether objects of ``cls`` are written as their fields."""
    return (
        dataclasses.is_dataclass(cls)
        or issubclass(cls, msgspec.Struct)
        or hasattr(cls, "__attrs_attrs__")
        or hasattr(cls, "model_dump_json")
    )


def _shown(key: object) -> str:
    return str(key) if isinstance(key, str | int) else msgspec.json.encode(key).decode()
