"""Pydantic models as events: written and read back so that the worker gets what was dispatched."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, get_args

from router.routing.references import References

Model = Any
"""A pydantic BaseModel, or a class of one; pydantic is not ours to import."""

MASK = "**********"
"""What pydantic writes for a secret."""

_BOTH = "a job's event is written at dispatch and read by the worker"


def is_model(value: object) -> bool:
    """Whether it is a pydantic model, or a class of one."""
    return hasattr(value, "model_dump_json")


def is_checked_dataclass(cls: type) -> bool:
    """Whether it is a dataclass made by `pydantic.dataclasses`."""
    return "__pydantic_validator__" in vars(cls) and not is_model(cls)


def is_masked(value: object) -> bool:
    """Whether it is a `SecretStr` or another secret of pydantic's that isn't empty."""
    return hasattr(type(value), "get_secret_value") and MASK in str(value)


def dump(model: Model, references: References, fields: set[str] | None = None) -> bytes:
    """The model as JSON that `load` reads: by alias, without computed fields. ``fields``: only these.

    Raises what pydantic raises."""
    more = {"fallback": references.refer} if references else {}  # from pydantic 2.10 on
    text: str = model.model_dump_json(by_alias=True, round_trip=True, include=fields, **more)
    return text.encode()


def load(data: bytes, cls: Model) -> Model:
    """The model of JSON; fields are known by their aliases and, from pydantic 2.11 on, by their names."""
    return cls.model_validate_json(data, **_by_name())


def convert(payload: object, cls: Model) -> Model:
    """The model of a payload that has objects in it already."""
    return cls.model_validate(payload, **_by_name())


def is_of_own_code(error: Any) -> bool:
    """Whether it was validators of the model that have raised, and nothing else."""
    return all(one["type"] in ("value_error", "assertion_error") for one in error.errors(include_url=False))


def declared_fields(cls: Model) -> dict[str, Any]:
    """What each field of a model is declared as."""
    if cls.model_fields:  # not BaseModel itself, which can't be rebuilt
        cls.model_rebuild(raise_errors=False)  # what it names may have come later
    return {name: field.annotation for name, field in cls.model_fields.items()}


def unreadable(cls: Model) -> str | None:
    """Which field wouldn't be written as it is read, and what to do, in words."""
    for model in _models(cls, set()):
        for name, field in model.model_fields.items():
            read = _names(name, field, model)
            written = field.serialization_alias or name
            if read and written not in read:
                other = " or ".join(f"`{alias}`" for alias in sorted(read))
                problem = f"{model.__qualname__}.{name} is written as `{written}`, but read as {other}"
                return f"{problem}; {_BOTH}: give the field one alias for both"
            if field.is_required() and (field.exclude or getattr(field, "exclude_if", None)):  # the latter from 2.12 on
                problem = f"{model.__qualname__}.{name} is left out where it is written (`exclude`), but required"
                return f"{problem}; {_BOTH}: give the field a default"
    return None


def _models(cls: Model, seen: set[Any]) -> Iterator[Model]:
    if is_model(cls) and isinstance(cls, type) and cls not in seen:
        seen.add(cls)
        declared = declared_fields(cls)
        yield cls
        for annotation in declared.values():
            yield from _models(annotation, seen)
    for argument in get_args(cls):
        yield from _models(argument, seen)


def _names(name: str, field: Any, model: Model) -> set[str]:
    alias = field.validation_alias
    if alias is None:
        return {name}
    choices = getattr(alias, "choices", [alias])
    if not all(isinstance(choice, str) for choice in choices):
        return set()  # paths into the payload: nobody can say
    by_name = bool(_by_name()) or model.model_config.get("populate_by_name")
    return {*choices, *([name] if by_name else [])}


@cache
def _by_name() -> dict[str, bool]:
    from pydantic import VERSION

    known = tuple(map(int, VERSION.split(".")[:2])) >= (2, 11)
    return {"by_alias": True, "by_name": True} if known else {}
