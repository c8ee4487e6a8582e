"""Unions in pydantic models: which of their types a value has, JSON may not tell, and the worker may take another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from functools import cache
from itertools import repeat
from types import NoneType, UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from router.routing import models
from router.routing.derived import all_classes, declared_classes
from router.routing.encoding import Path
from router.routing.references import travels_by_value

_TOLD_APART = {bool, int, float, str, NoneType}
"""Pydantic takes each of these for itself."""


class Changed(NamedTuple):
    """A value of a union that would arrive as another of its types."""

    path: Path
    cls: type
    arriving: type

    def words(self) -> str:
        """Why it can't travel, and what to do."""
        from router.routing.mistakes import label  # only where something is wrong

        name, other = self.cls.__qualname__, self.arriving.__qualname__
        hint = "declare one type there, or models that a `discriminator` tells apart"
        problem = f"{label(self.path)} is of `{name}`, and a job would read it as `{other}`, which is in its union too"
        return f"{problem}; {hint}"


@cache
def has_unions(cls: type) -> bool:
    """Whether values of this model, or in it, may be of one of several types that only their JSON is to tell."""
    declared = [models.declared_fields(each).values() for each in all_classes(cls) if models.is_model(each)]
    return any(_has_union(annotation) for annotations in declared for annotation in annotations)


def find_changed(event: Any, arriving: Any) -> Iterator[Changed]:
    """What is of another type in the model that a worker would read."""
    yield from _changed(type(event), event, arriving, ())


def _changed(annotation: Any, value: Any, arriving: Any, path: Path) -> Iterator[Changed]:
    options = _options(annotation)
    if type(value) is not type(arriving):
        is_base = isinstance(value, type(arriving)) and travels_by_value(type(arriving))  # no field is lost: `derived`
        if len(options) > 1 and not is_base:
            yield Changed(path, type(value), type(arriving))
        return
    inner: Iterator[tuple[Any, str | int, Any, Any]] = iter(())
    if models.is_model(value):
        cls: type = type(value)
        fields = _fields_with_unions(cls).items()
        inner = ((of, name, getattr(value, name, None), getattr(arriving, name, None)) for name, of in fields)
    elif len(options) == 1 and (arguments := get_args(options[0])):
        if isinstance(value, Mapping):
            inner = ((arguments[-1], str(key), child, arriving.get(key, child)) for key, child in value.items())
        elif isinstance(value, Set):
            pairs = zip(_by_type(value), _by_type(arriving), strict=False)
            inner = ((arguments[0], number, *pair) for number, pair in enumerate(pairs))
        elif isinstance(value, Sequence):
            each = repeat(arguments[0]) if len(arguments) != len(value) or ... in arguments else iter(arguments)
            inner = ((next(each), number, *pair) for number, pair in enumerate(zip(value, arriving, strict=False)))
    for of, step, child, other in inner:
        yield from _changed(of, child, other, (*path, step))


@cache
def _fields_with_unions(cls: type) -> dict[str, Any]:
    """The fields of a model that are to be looked at, with what they are declared as."""
    return {
        name: of
        for name, of in models.declared_fields(cls).items()
        if _has_union(of) or any(map(has_unions, declared_classes(cls)[name]))
    }


def _by_type(values: Set[Any]) -> list[Any]:
    return sorted(values, key=lambda value: type(value).__qualname__)


def _options(annotation: Any) -> list[Any]:
    """The types that a value may have, beside null."""
    while get_origin(annotation) is Annotated or hasattr(annotation, "__value__"):  # the latter of a `type` statement
        annotation = annotation.__origin__ if get_origin(annotation) is Annotated else annotation.__value__
    if get_origin(annotation) in (Union, UnionType):
        return [option for option in get_args(annotation) if option is not NoneType]
    return [annotation]


def _has_union(annotation: Any) -> bool:
    seen: list[Any] = []
    rest = [annotation]
    while rest:
        part = rest.pop()
        if any(part is one for one in seen):  # types may be recursive
            continue
        seen.append(part)
        options = _options(part)
        if len(options) > 1 and not set(map(id, options)) <= set(map(id, _TOLD_APART)):
            return True
        rest += [*options, *get_args(part)]
    return False
