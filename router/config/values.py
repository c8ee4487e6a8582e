"""Values and their types, as people say them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from router.config.wording import kind

MAX_ALTERNATIVES = 8
"""How many of the values that would do are named."""

MAX_VALUE = 40
"""Characters of a value that are shown."""

TYPE_WORDS = {
    "string": "text",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "object": "a mapping",
    "array": "a list",
    "null": "null",
}


def type_words(types: Iterable[str], words: Mapping[str, str] = TYPE_WORDS) -> str:
    """JSON Schema's names of types as people say them: ``an integer or null``."""
    return alternatives([words.get(name, f"`{name}`") for name in types])


def alternatives(items: Sequence[str]) -> str:
    """``a``, ``a or b``, ``a, b or c``; of many, the first ones."""
    if len(items) > MAX_ALTERNATIVES:
        items = [*items[: MAX_ALTERNATIVES - 1], f"one of {len(items) - MAX_ALTERNATIVES + 1} others"]
    return " or ".join(filter(None, (", ".join(items[:-1]), *items[-1:])))


def short(value: object) -> str:
    """``value`` in little more than `MAX_VALUE` characters; mappings and lists are named, not shown."""
    if isinstance(value, str):
        shown = msgspec.json.encode(value[:MAX_VALUE].encode("utf-8", "replace").decode()).decode()
        return shown if len(value) <= MAX_VALUE else f'{shown[:-1]}…"'
    if isinstance(value, dict | list):
        return f"{'a' if value else 'an empty'} {'mapping' if isinstance(value, dict) else 'list'}"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, int | float):
        shown = repr(value)
        return shown if len(shown) <= MAX_VALUE else f"{shown[:MAX_VALUE]}…"
    return kind(value)


def there(value: object) -> str:
    """What ``value`` is, where something of another kind is wanted: ``text ("seven")``."""
    if isinstance(value, str):
        return f"text ({short(value)})" if value else "empty text"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"a number ({short(value)})"
    return short(value)
