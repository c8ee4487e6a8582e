"""Objects of derived classes in an event: what they add to the class that is declared, a worker doesn't read."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from router.routing import models
from router.routing.encoding import Path, children, field_names
from router.routing.references import travels_by_value


class Derived(NamedTuple):
    """An object of a class that has more fields than the one that is declared where it stands."""

    path: Path
    cls: type
    declared: type

    def words(self) -> str:
        """Why it can't travel, and what to do."""
        from router.routing.mistakes import label  # only where something is wrong

        kept = declared_classes(self.declared)
        lost = " and ".join(f"`{name}`" for name in declared_classes(self.cls) if name not in kept)
        name, declared = self.cls.__qualname__, self.declared.__qualname__
        hint = f"declare `{name}` there, in a union if others may come too, or send a `{declared}`"
        return f"{label(self.path)} is of `{name}` where `{declared}` is declared: a job would lose its {lost}; {hint}"


def find_derived(event: object, event_type: type) -> list[Derived]:
    """All of them in ``event``. Costs next to nothing where no class of the event has others derived from it."""
    if not any(type.__subclasses__(cls) for cls in all_classes(event_type)):
        return []
    found = []
    rest: list[tuple[Path, object, frozenset[type]]] = [((), event, frozenset((event_type,)))]
    while rest:
        path, value, declared = rest.pop()
        cls: type = type(value)
        fields = declared_classes(cls)
        if fields:
            base = next((base for base in cls.__mro__ if base in declared), cls)
            if not fields.keys() <= declared_classes(base).keys():
                found.append(Derived(path, cls, base))
            rest += [((*path, name), getattr(value, name, None), inner) for name, inner in fields.items() if inner]
        elif value is not None:
            rest += [((*path, step), child, declared) for step, child in children(value)]
    return found


@cache
def all_classes(cls: type) -> set[type]:
    """``cls`` and the classes whose objects travel by value in its fields, and in theirs."""
    found, rest = {cls}, [cls]
    while rest:
        for classes in declared_classes(rest.pop()).values():
            rest += classes - found
            found |= classes
    return found


@cache
def declared_classes(cls: type) -> dict[str, frozenset[type]]:
    """The fields of a class whose objects travel by value, with the classes of that kind that each declares."""
    if not travels_by_value(cls):
        return {}
    hints = _hints(cls)
    names = hints if models.is_model(cls) else field_names(cls)
    return {name: frozenset(_classes(hints.get(name))) for name in names}


def _hints(cls: type) -> dict[str, Any]:
    if models.is_model(cls):
        return models.declared_fields(cls)
    try:
        return get_type_hints(cls)
    except NameError:  # in a class that pydantic reads, of names that only pydantic knows
        return {}


def _classes(annotation: object) -> Iterator[type]:
    seen: dict[int, object] = {}
    rest = [annotation]
    while rest:
        part = rest.pop()
        if id(part) in seen:  # types may be recursive
            continue
        seen[id(part)] = part
        if isinstance(part, type) and travels_by_value(part):
            yield part
        elif isinstance(part, type) and issubclass(part, dict | tuple):  # perhaps a TypedDict or a NamedTuple
            rest += _hints(part).values()
        rest += (*get_args(part), get_origin(part), getattr(part, "__value__", None))  # the last of a `type` statement
