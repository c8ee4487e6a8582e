"""jsonschema's errors as problems in words for people: what is wanted, what is there instead, how to mend it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from router.config.construction import UNUSABLE
from router.config.problems import Path, Problem, did_you_mean

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

_LATER = (
    "uniqueUntil",
    "retryOn",
    "dontRetryOn",
    "jitter",
    "maxBackoffSeconds",
    "expires",
    "onMissing",
    "when",
    "tags",
    "schedule",
)
_LATER_HINT = "this version of the router can't do that yet: remove it"
_OPTIONS = (
    *("queue", "delay", "retries", "backoff", "backoffSeconds", "timeout", "onFailure", "onRetry"),
    *("uniqueJob", "uniqueBy", "uniqueLockTimeout"),
)
_TOP_LEVEL = {
    "queue": "the queue of handlers that name none is `default_queue`",
    "retries": "the attempts of handlers that give none are `tries`",
    "backoffSeconds": "the default backoff is `backoff`",
    "onError": "`onError` is an option of a synchronous handler",
}
_IN_ASYNC = {
    "tries": "in a handler it is called `retries`",
    "attempts": "it is called `retries`: attempts in all, the first included",
    "max_attempts": "it is called `retries`: attempts in all, the first included",
    "maxAttempts": "it is called `retries`: attempts in all, the first included",
    "default_queue": "in a handler it is called `queue`",
    "backoff_strategy": "in a handler it is called `backoff`",
    "onError": "`onError` is for synchronous handlers; an asynchronous one has `retries` and `onFailure`",
    "priority": "put it beside `async`, not under it",
    "id": "put it beside `async`, not under it",
}
_IN_HANDLER = {
    **{name: f"put it under `async`: `async: {{{name}: …}}`" for name in _OPTIONS},
    "function": "it is called `handler`",
    "class": "it is called `handler`",
    "name": "a stable name for this handler is called `id`",
}
_IN_FILE = {
    "events": "extension points stand under `extensions`",
    "points": "extension points stand under `extensions`",
    "handlers": "handlers stand under their extension point: `extensions: {order.placed: {handlers: […]}}`",
    "namespace": "put it under `broker`",
    "url": "put it under `broker`",
    "concurrency": "put it under `queues`, below the name of a queue",
}
_MAIN = "put it into the main file"
_HINTS = {
    "in `async` of a handler": _IN_ASYNC,
    "in a handler": _IN_HANDLER,
    "in the top-level `async`": _TOP_LEVEL,
    "at the top level": _IN_FILE,
    "in an included file": dict.fromkeys(
        ("broker", "locks", "async", "bootstrap", "pythonpath", "unknownRouteFor"), _MAIN
    ),
    "in an overlay": {"include": _MAIN},
    "in an extension point": {"handler": "put it into the list `handlers`: `handlers: [{handler: …}]`"},
}


def problems(errors: Iterable[ValidationError]) -> Iterator[Problem]:
    """Each mistake that jsonschema found; values that are reported already are passed over."""
    for error in errors:
        if error.instance is not UNUSABLE:
            yield from _TRANSLATIONS.get(str(error.validator), _unknown)(error, tuple(error.absolute_path))


def label(path: Path) -> str:
    """What people call the value at ``path``: its key, or its number in the list of that key."""
    for distance, step in enumerate(reversed(path)):
        if isinstance(step, str):
            item = "".join(f"item {int(number) + 1} of " for number in reversed(path[len(path) - distance :]))
            return f"{item}`{step}`"
    return "the file"


def kind(value: object) -> str:
    """What ``value`` is, in a word or two, without showing it."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "`true`" if value else "`false`"
    if isinstance(value, float) and value % 1 != 0:
        return "a fraction" if value - value == 0 else "not a finite number"
    for types, words in ((str, "text"), (dict, "a mapping"), (list, "a list"), ((int, float), "a number")):
        if isinstance(value, types):
            return words
    return type(value).__name__


def _type(error: ValidationError, path: Path) -> Iterator[Problem]:
    value, schema, wanted = error.instance, _schema(error), _wanted(error)
    derived = False
    if path[-1:] == ("async",) and value is None:
        hint: str | None = "write `async: true`, or leave it out for a synchronous handler"
    elif isinstance(value, dict) and "import path" in wanted and len(value) == 1:
        hint = "no blank after the colon: `shop.mail:send`"
    elif isinstance(value, str) and schema.get("x-context") == "in a handler":
        hint = "write `- handler: shop.mail:send`"
    elif isinstance(value, list) and schema.get("x-context") == "in an extension point":
        hint = "put the list under `handlers:`"
    elif isinstance(value, str) and "string" in _types(schema.get("items", {})):
        hint, derived = f"write `{path[-1]}: [{value[:40]}]`", True
    elif kind(value) == "a number" and _types(schema) == ["string"] and "import path" not in wanted:
        hint, derived = f'put quotes around it if it is meant as text: `"{value}"`', True
    elif isinstance(value, str) and value.lower() in ("yes", "no", "on", "off") and "boolean" in _types(schema):
        hint = f"`{value}` is text in YAML 1.2; write `{'true' if value.lower() in ('yes', 'on') else 'false'}`"
    elif isinstance(value, str) and {"integer", "boolean"} & set(_types(schema)):
        hint = "write it without quotes" if value.isdigit() or value in ("true", "false") else _example(error, path)
    else:
        hint = _example(error, path)
    there = kind(value)
    message = (
        f"{label(path)} is empty; it must be {wanted}"
        if value is None
        else f"{label(path)} must be {wanted}, not {there}"
    )
    yield Problem(message, hint, path, derived=derived)


def _allowed(error: ValidationError, path: Path) -> Iterator[Problem]:
    value, schema = error.instance, _schema(error)
    if error.validator == "const":
        known: list[str] = []
        hint = "this router reads version 1 of the format: write `version: 1`"
        yield Problem(f"{label(path)} must be {_wanted(error)}", hint, path)
        return
    known = [str(option) for option in schema["enum"]]
    guess = did_you_mean(value, known) if isinstance(value, str) else None
    hint = guess or _example(error, path) or f"for example `{known[0]}`"
    if isinstance(value, int | float | list) and "exponential" in known:
        hint = "`backoff` is the strategy; the waits go into `backoffSeconds`"
        if path[:1] == ("async",):
            hint = "`backoff_strategy` is the strategy; the waits go into `backoff`"
    yield Problem(f"{label(path)} must be {_wanted(error)}", hint, path)


def _required(error: ValidationError, path: Path) -> Iterator[Problem]:
    instance = _instance(error)
    for name in _schema(error)["required"]:
        if name not in instance:
            where = "" if not path else " in this handler"
            example = "version: 1" if name == "version" else f"{name}: shop.mail:send"
            yield Problem(f"`{name}` is missing{where}", f"add `{example}`", path)


def _unknown_keys(error: ValidationError, path: Path) -> Iterator[Problem]:
    schema = _schema(error)
    known = list(schema.get("properties", {}))
    context = schema.get("x-context", "in this mapping")
    for key in _instance(error):
        if key not in known:
            yield Problem(f"unknown key `{key}` {context}", _way_out(key, known, context), (*path, key), on_key=True)


def _way_out(key: str, known: list[str], context: str) -> str:
    if key in _LATER:
        return _LATER_HINT
    if hint := _HINTS.get(context, {}).get(key):
        return hint
    if hint := did_you_mean(key, known):
        return hint
    names = ", ".join(f"`{name}`" for name in known)
    return f"known here: {names}"


def _range(error: ValidationError, path: Path) -> Iterator[Problem]:
    wanted, value = _wanted(error), _instance(error)
    if "duration" in wanted and value < 0:
        yield Problem(f"{label(path)} must not be negative", _example(error, path), path)
    elif "duration" in wanted:
        yield Problem(
            f"{label(path)} is longer than 365 days, the longest that is allowed", _example(error, path), path
        )
    elif isinstance(value, float) and value % 1 != 0:
        return  # the type is wrong, and reported
    else:
        bound = "at least" if error.validator == "minimum" else "at most"
        yield Problem(f"{label(path)} must be {bound} {error.validator_value}", _example(error, path), path)


def _length(error: ValidationError, path: Path) -> Iterator[Problem]:
    if error.validator in ("minItems", "minLength"):
        yield Problem(f"{label(path)} is empty; it must be {_wanted(error)}", _example(error, path), path)
    else:
        unit = "entries" if error.validator == "maxItems" else "characters"
        yield Problem(f"{label(path)} has more than {error.validator_value} {unit}", "make it shorter", path)


def _twice(error: ValidationError, path: Path) -> Iterator[Problem]:
    seen: list[Any] = []
    for number, item in enumerate(_instance(error)):
        if item in seen:
            yield Problem(f"{label((*path, number))} repeats item {seen.index(item) + 1}", "remove it", (*path, number))
        seen.append(item)


def _unknown(error: ValidationError, path: Path) -> Iterator[Problem]:
    yield Problem(f"{label(path)} must be {_wanted(error)}", _example(error, path), path)


def _instance(error: ValidationError) -> Any:
    return error.instance


def _schema(error: ValidationError) -> dict[str, Any]:
    return error.schema if isinstance(error.schema, dict) else {}


def _types(schema: dict[str, Any]) -> list[str]:
    types = schema.get("type", [])
    return [types] if isinstance(types, str) else list(types)


def _wanted(error: ValidationError) -> str:
    return str(_schema(error).get("x-wanted", "something else"))


def _example(error: ValidationError, path: Path) -> str | None:
    examples = _schema(error).get("examples")
    if not examples or not path:
        return None
    key = f"{path[-1]}: " if isinstance(path[-1], str) else ""
    return f"for example `{key}{_flow(examples[0])}`"


def _flow(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


_TRANSLATIONS: dict[str, Callable[[Any, Path], Iterator[Problem]]] = {
    "type": _type,
    "enum": _allowed,
    "const": _allowed,
    "required": _required,
    "additionalProperties": _unknown_keys,
    "minimum": _range,
    "maximum": _range,
    "minItems": _length,
    "maxItems": _length,
    "minLength": _length,
    "maxLength": _length,
    "uniqueItems": _twice,
}
