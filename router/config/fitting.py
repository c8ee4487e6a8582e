"""Whether a value surely fits a JSON Schema of ours, found out without jsonschema: to import that takes longer than all
else that reading a file needs. What doesn't surely fit is looked at by jsonschema, which says what is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
    "null": (type(None),),
}
_SAYS_NOTHING = {"$id", "$schema", "examples", "x-context", "x-wanted"}


class Validator:
    """Like a validator of jsonschema for draft 7, as far as it is used here."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.schema = schema

    def iter_errors(self, value: Any) -> Iterable[ValidationError]:
        """What is wrong with the value."""
        if fits(value, self.schema):
            return ()
        from jsonschema import Draft7Validator

        return Draft7Validator(self.schema).iter_errors(value)


def fits(value: Any, schema: Any) -> bool:
    """True: ``value`` fits ``schema``, one of draft 7. False: perhaps it doesn't, or a keyword is unknown here."""
    return isinstance(schema, dict) and all(_fits(value, keyword, schema) for keyword in schema)


def _fits(value: Any, keyword: str, schema: dict[str, Any]) -> bool:
    wanted = schema[keyword]
    match keyword:
        case "type":
            types = (wanted,) if isinstance(wanted, str) else wanted
            return any(type(value) in _TYPES[name] for name in types)
        case "const":
            return type(value) is type(wanted) and bool(value == wanted)
        case "enum":
            return isinstance(value, str) and value in wanted
        case "minimum" | "maximum":
            if type(value) not in _TYPES["number"]:
                return True
            return bool(value >= wanted if keyword == "minimum" else value <= wanted)
        case "minLength" | "maxLength":
            return not isinstance(value, str) or _is_within(len(value), keyword, wanted)
        case "minItems" | "maxItems":
            return not isinstance(value, list) or _is_within(len(value), keyword, wanted)
        case "uniqueItems":
            if not wanted or not isinstance(value, list):
                return True
            return all(isinstance(item, str) for item in value) and len(set(value)) == len(value)
        case "items":
            return not isinstance(value, list) or all(fits(item, wanted) for item in value)
        case "required":
            return not isinstance(value, dict) or all(name in value for name in wanted)
        case "properties":
            return not isinstance(value, dict) or all(fits(value[key], wanted[key]) for key in wanted if key in value)
        case "additionalProperties":
            if not isinstance(value, dict):
                return True
            others = [key for key in value if key not in schema.get("properties", ())]
            return not others if wanted is False else wanted is True or all(fits(value[key], wanted) for key in others)
        case _:
            return keyword in _SAYS_NOTHING


def _is_within(length: int, keyword: str, limit: int) -> bool:
    return length >= limit if keyword.startswith("min") else length <= limit
