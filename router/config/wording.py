"""jsonschema's errors as problems in words for people: what is wanted, what is there instead, how to mend it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from router.config.construction import UNUSABLE
from router.config.problems import Path, Problem, did_you_mean

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

_LATER = (
    "when",
    "tags",
    "schedule",
)
_LATER_HINT = "this version of the router can't do that yet: remove it"
_OPTIONS = (
    *("queue", "delay", "retries", "backoff", "backoffSeconds", "timeout", "onFailure", "onRetry"),
    *("maxBackoffSeconds", "jitter", "retryOn", "dontRetryOn", "expires"),
    *("uniqueJob", "uniqueBy", "uniqueLockTimeout", "uniqueUntil", "onMissing"),
)
_DEFAULTS = ("default_queue", "tries", "backoff_strategy", *_OPTIONS)
_ATTEMPTS = ("tries", "attempts", "max_attempts", "maxAttempts", "retry", "max_retries", "maxRetries", "max_tries")
_WAITS = ("retry_after", "retryAfter", "retry_delay", "retryDelay", "default_retry_delay", "retry_backoff")
_POINTS = ("events", "points", "hooks", "listeners", "subscribers", "routes")
_CALLABLES = ("function", "class", "callable", "callback", "listener", "service", "task")
_EVERYWHERE = {
    **dict.fromkeys(_WAITS, "the wait before a retry is `{waits}`; before the first attempt, `delay`"),
    "countdown": "it is called `delay`",
    **dict.fromkeys(("time_limit", "soft_time_limit", "max_runtime"), "it is called `timeout`"),
    **dict.fromkeys(("unique", "isUnique"), "it is called `uniqueJob`"),
    **dict.fromkeys(("uniqueFor", "unique_for"), "it is called `uniqueLockTimeout`"),
    **dict.fromkeys(("uniqueId", "unique_id", "unique_key"), "it is called `uniqueBy`: paths into the payload"),
    "concurrency": "it is a setting of the queue: `queues: {{NAME: {{concurrency: …}}}}`",
}
_TOP_LEVEL = {
    **{name: hint.format(waits="backoff") for name, hint in _EVERYWHERE.items()},
    **dict.fromkeys(("retries", *_ATTEMPTS[1:]), "the attempts of handlers that give none are `tries`"),
    "queue": "the queue of handlers that name none is `default_queue`",
    "backoffSeconds": "the default backoff is `backoff`",
    "onError": "`onError` is an option of a synchronous handler",
    "priority": "each handler has its own `priority`",
}
_IN_ASYNC = {
    **{name: hint.format(waits="backoffSeconds") for name, hint in _EVERYWHERE.items()},
    **dict.fromkeys(_ATTEMPTS[1:], "it is called `retries`: attempts in all, the first included"),
    "tries": "in a handler it is called `retries`",
    "default_queue": "in a handler it is called `queue`",
    "routing_key": "it is called `queue`",
    "backoff_strategy": "in a handler it is called `backoff`",
    "onError": "`onError` is for synchronous handlers; an asynchronous one has `retries` and `onFailure`",
    "async": "the options stand directly under `async`: `async: {queue: …}`",
    **dict.fromkeys(("handler", "id", "priority"), "put it beside `async`, not under it"),
}
_IN_HANDLER = {
    **{name: f"put it under `async`: `async: {{{name}: …}}`" for name in _OPTIONS},
    **dict.fromkeys(_ATTEMPTS, "put it under `async`, where it is called `retries`"),
    **dict.fromkeys(_CALLABLES, "it is called `handler`"),
    **dict.fromkeys(
        ("description", "event", "schema", "version", "upcasters", "interruptible"),
        "put it beside `handlers`, not under it",
    ),
    **dict.fromkeys(("order", "weight"), "it is called `priority`: lower runs first"),
    "handlers": "this is one of a list of handlers already: write `- handler: …`",
    "method": "it is a part of `handler`: `shop.mail:Mailer.send`",
    "name": "a stable name for this handler is called `id`",
}
_IN_POINT = {
    **dict.fromkeys(
        ("id", "priority", "onError", "async", *_OPTIONS), "each handler has its own: put it under `- handler: …`"
    ),
    **dict.fromkeys(("listeners", "subscribers"), "they are called `handlers`"),
    **dict.fromkeys(("type", "class", "model"), "the type that handlers get is called `event`"),
    "handler": "put it into the list `handlers`: `handlers: [{handler: …}]`",
    "include": "`include` stands at the top level, not under `extensions`",
}
_IN_ANY_FILE = {
    **dict.fromkeys(_POINTS, "extension points stand under `extensions`"),
    "handlers": "handlers stand under their extension point: `extensions: {order.placed: {handlers: […]}}`",
    "concurrency": "put it under `queues`, below the name of a queue",
}
_IN_FILE = {
    **dict.fromkeys(_DEFAULTS, "defaults of asynchronous handlers stand under `async`"),
    **dict.fromkeys(("retries", *_ATTEMPTS[1:]), "put it under `async`, where it is called `tries`"),
    **_IN_ANY_FILE,
    "queue": "put it under `async`, where it is called `default_queue`; settings of a queue stand under `queues`",
    "import": "it is called `include`",
    "imports": "it is called `include`",
    "namespace": "put it under `broker`",
    "url": "put it under `broker`",
}
_MAIN = "put it into the main file"
_IN_URL = "it is a part of `url`, as user, password, host and port are: `{}://…@host:{}`"
_IN_QUEUE = {
    **dict.fromkeys(("workers", "processes", "max", "limit"), "it is called `concurrency`"),
    **dict.fromkeys(("priority", "timeout", "delay", "retries"), "it is an option of each handler"),
}
_SERVER = ("host", "hostname", "port", "user", "username", "password", "vhost", "db", "type", "driver", "scheme")
_HINTS = {
    "in `async` of a handler": _IN_ASYNC,
    "in a handler": _IN_HANDLER,
    "in the top-level `async`": _TOP_LEVEL,
    "at the top level": _IN_FILE,
    "in an included file": _IN_ANY_FILE
    | dict.fromkeys(("broker", "locks", "async", "bootstrap", "pythonpath", "unknownRouteFor"), _MAIN),
    "in an overlay": _IN_FILE | {"include": _MAIN},
    "in an extension point": _IN_POINT,
    "in a queue": _IN_QUEUE,
    "in `broker`": dict.fromkeys(_SERVER, _IN_URL.format("amqp", "5672/vhost"))
    | {"prefix": "it is called `namespace`"},
    "in `locks`": dict.fromkeys(_SERVER, _IN_URL.format("redis", "6379/0")),
}
_WANTED = {
    "in an included file": "a mapping with `extensions`, `queues` or `include`",
    "in an overlay": "a mapping of what is to change",
}
_PATH = r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*"
_EMPTY_ASYNC = "write `async: true`, or leave it out for a synchronous handler"
_DASH = "an item of a list starts with a dash and a space: `- `"
_ITEM = "write `- handler: shop.mail:send`"
_NO_REFERENCE = "`${…}` works in values only: write the key itself"
_FALLBACKS = {
    "in a handler": _ITEM,
    "in an extension point": "list its handlers: `handlers: [{handler: shop.mail:send}]`",
}
_MISPLACED = {
    "handlers": "indent `handlers` further, so that it belongs to the extension point above",
    "include": "`include` stands at the top level, not under `extensions`",
}
_YES, _NO = ("yes", "on", "y"), ("no", "off", "n")


def problems(errors: Iterable[ValidationError]) -> Iterator[Problem]:
    """Each mistake that jsonschema found; values that are reported already are passed over."""
    found: list[Problem] = []
    for error in errors:
        if error.instance is not UNUSABLE:
            found += _TRANSLATIONS.get(str(error.validator), _unknown)(error, tuple(error.absolute_path))
    return _without_consequences(found)


def _without_consequences(found: list[Problem]) -> Iterator[Problem]:
    """Options that stand below an empty `async`, but not in it, are one mistake together."""
    empty = {problem.path[:-1]: list[str]() for problem in found if problem.hint == _EMPTY_ASYNC}
    for problem in found if empty else ():
        if problem.on_key and problem.path[:-1] in empty and problem.path[-1] in _OPTIONS:
            empty[problem.path[:-1]].append(f"`{problem.path[-1]}`")
    for problem in found:
        options = empty.get(problem.path[:-1], [])
        if problem.hint == _EMPTY_ASYNC and options:
            hint = f"indent {', '.join(options)} further than `async`, so that it contains them"
            yield Problem(problem.message, hint, problem.path)
        elif not (options and problem.on_key and problem.path[-1] in _OPTIONS):
            yield problem


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
        return "a fraction" if math.isfinite(value) else "`.nan`" if math.isnan(value) else "infinity"
    for types, words in ((str, "text"), (dict, "a mapping"), (list, "a list"), ((int, float), "a number")):
        if isinstance(value, types):
            return words
    return type(value).__name__


def _type(error: ValidationError, path: Path) -> Iterator[Problem]:
    value, wanted = error.instance, _wanted(error, path)
    derived = False
    hint: str | None
    if isinstance(value, str):
        hint, derived = _instead_of_text(value, error, path)
    elif isinstance(value, dict):
        hint = _instead_of_mapping(value, error, path)
    elif isinstance(value, list):
        hint = _instead_of_list(error, path)
    elif path[-1:] == ("async",) and value is None:
        hint = _EMPTY_ASYNC
    elif kind(value) in ("a number", "a fraction") and _types(_schema(error)) == ["string"] and not _is_path(wanted):
        hint, derived = f'put quotes around it if it is meant as text: `"{value}"`', True
    else:
        hint = _FALLBACKS.get(_context(_schema(error))) or _example(error, path)
    message = f"{label(path)} must be {wanted}, not {kind(value)}"
    if value is None:
        message = f"{label(path)} is empty; it must be {wanted}"
    elif _context(_schema(error)) == "in an extension point" and path[-1] in _MISPLACED:
        message = f"{label(path)} stands where the name of an extension point should be"
        hint = _MISPLACED[str(path[-1])]
    yield Problem(message, hint, path, derived=derived)


def _instead_of_text(text: str, error: ValidationError, path: Path) -> tuple[str | None, bool]:
    """A hint, and whether it was made out of the text."""
    schema, word = _schema(error), text.lower()
    types = _types(schema)
    if "array" in types and "string" not in types and re.match(r"-\S", text):
        return _DASH, False
    if "object" in types and (spaced := _space_missing(text, schema)):
        return spaced, True
    if not path:
        return "write `key: value`" + (", with a colon in place of `=`" if "=" in text else " in each line"), False
    if schema.get("x-context") == "in a handler":
        if "required" not in schema:
            return f"write `- id: {text}`, and below it what is to change", True
        return (f"write `- handler: {text}`", True) if re.fullmatch(_PATH, text) else (_ITEM, False)
    if schema.get("x-context") == "in an extension point" and re.fullmatch(_PATH, text):
        return f"list its handlers: `handlers: [{{handler: {text}}}]`", True
    if schema.get("x-context") == "in an extension point":
        return f"without handlers, write just `{path[-1]}:`", False
    if "string" in _types(schema.get("items", {})):
        return f"write `{path[-1]}: [{text[:40]}]`", True
    if "boolean" in types and word in (*_NO, "false", "none", "never") and path[-1:] == ("async",):
        return "leave `async` out: a handler without it is synchronous", False
    if "boolean" in types and word in (*_YES, *_NO):
        return f"`{text}` is text in YAML 1.2; write `{'true' if word in _YES else 'false'}`", False
    if "boolean" in types and text in ("true", "false"):
        return "write it without quotes", False
    if "integer" in types and re.fullmatch(r"[-+]?[0-9]{1,9}", text):
        return "write it without quotes", False
    if "integer" in types and re.fullmatch(r"[0-9]{1,3}([_,'][0-9]{3}){1,3}", text):
        return f"write `{re.sub('[^0-9]', '', text)}`", True
    return _example(error, path), False


def _instead_of_mapping(mapping: dict[str, Any], error: ValidationError, path: Path) -> str | None:
    schema = _schema(error)
    if _is_path(_wanted(error)) and len(mapping) == 1:
        return "no blank after the colon: `shop.mail:send`"
    if "array" in _types(schema) and any(re.match(r"-", key) for key in mapping):
        return _DASH
    if _context(schema.get("items", {})) == "in a handler":
        item = _ITEM.removeprefix("write ") if "required" in schema["items"] else "`- id: confirmation`"
        return f"put a `- ` before each handler: {item}"
    return _example(error, path)


def _instead_of_list(error: ValidationError, path: Path) -> str | None:
    schema = _schema(error)
    context = _context(schema)
    if not path:
        return "write its keys without a `- ` before them"
    if context == "in an extension point":
        return "put the list under `handlers:`"
    if context == "in a handler":
        return "one `-` is enough for each handler; an alias that stands for a list can't be an item of another"
    if _is_path(_wanted(error)):
        return "write an entry for each: `- handler: …`" if path[-1] == "handler" else "only one is possible here"
    return _example(error, path)


def _is_path(wanted: str) -> bool:
    return "import path" in wanted


def _space_missing(text: str, schema: Mapping[str, Any]) -> str | None:
    """A hint if ``text`` is a known key, a colon, and its value, with no blank between."""
    name, _, value = text.partition(":")
    if value.strip() and name in schema.get("properties", {}):
        return f"a space is missing after the colon: write `{name}: {value.strip()}`"
    return None


def _allowed(error: ValidationError, path: Path) -> Iterator[Problem]:
    value, schema = error.instance, _schema(error)
    there = " is empty; it must be" if value is None else " must be"
    message = f"{label(path)}{there} {_wanted(error)}"
    if error.validator == "const":
        yield Problem(message, "this router reads version 1 of the format: write `version: 1`", path)
        return
    known = [str(option) for option in schema["enum"]]
    guess = did_you_mean(value, known) if isinstance(value, str) else None
    hint = guess or _example(error, path) or f"for example `{known[0]}`"
    if "exponential" in known and re.match(r"[\[0-9]", str(value)):
        hint = "`backoff` is the strategy; the waits go into `backoffSeconds`"
        if path[:1] == ("async",):
            hint = "`backoff_strategy` is the strategy; the waits go into `backoff`"
    yield Problem(message, hint, path)


def _required(error: ValidationError, path: Path) -> Iterator[Problem]:
    instance, schema = _instance(error), _schema(error)
    for name in schema["required"]:
        if name in instance or _is_misspelt(name, instance, schema, path):
            continue
        if name == "version":
            yield Problem("`version` is missing", "add `version: 1`", path)
        else:
            hint = f"add `{name}: shop.mail:send`"
            if path[-1]:
                hint += ", or remove the `-` if this belongs to the item above"
            yield Problem(f"`{name}` is missing in this handler", hint, path)


def _is_misspelt(name: str, instance: dict[str, Any], schema: dict[str, Any], path: Path) -> bool:
    """Whether an unknown key is there whose hint names the one that is missing: the same mistake."""
    known = schema.get("properties", {})
    hints = (_way_out(key, instance, schema, path) for key in instance if key not in known)
    return any(hint and (hint == _NO_REFERENCE or re.search(rf"`(?:- )?{name}\b", hint)) for hint in hints)


def _unknown_keys(error: ValidationError, path: Path) -> Iterator[Problem]:
    instance, schema = _instance(error), _schema(error)
    known = schema.get("properties", {})
    context = schema.get("x-context", "in this mapping")
    for key in instance:
        if key not in known:
            hint = _way_out(key, instance, schema, path) or f"known here: {', '.join(f'`{name}`' for name in known)}"
            yield Problem(f"unknown key `{key}` {context}", hint, (*path, key), on_key=True)


def _way_out(key: str, instance: dict[str, Any], schema: dict[str, Any], path: Path) -> str | None:
    """What is to be done about an unknown key, if that can be guessed."""
    value, context, known = instance[key], _context(schema), list(schema.get("properties", {}))
    if "${" in key:
        return _NO_REFERENCE
    if key in _LATER and context != "at the top level":
        return _LATER_HINT
    if hint := _HINTS.get(context, {}).get(key) or _space_missing(key, schema):
        return hint
    if context == "in a handler" and re.fullmatch(_PATH, key):
        return f"write `- handler: {key}`, and its options below it"
    if hint := did_you_mean(key, known):
        return hint
    longer = [name for name in known if len(key) > 2 and name.startswith(key)]
    if len(longer) == 1:
        return f"did you mean `{longer[0]}`?"
    if context == "in an extension point" and isinstance(value, dict | None) and re.fullmatch(r"[\w.-]+", key):
        above = path[-1]
        return f"line it up with `{above}`" if "." in key else f"write the name of an event in one: `{above}.{key}:`"
    if not path and (key.startswith(("x-", ".")) or key == "anchors"):
        return "no key is free for anchors: put the `&` where the value is used first"
    if not path and isinstance(value, dict | None) and ("." in key or "handlers" in (value or ())):
        return "if it is an extension point, indent it below `extensions:`"
    return None


def _range(error: ValidationError, path: Path) -> Iterator[Problem]:
    wanted, value = _wanted(error), _instance(error)
    if "duration" in wanted and value < 0:
        yield Problem(f"{label(path)} must not be negative", _example(error, path), path)
    elif "duration" in wanted:
        yield Problem(
            f"{label(path)} is longer than 365 days, the longest that is allowed", _example(error, path), path
        )
    elif isinstance(value, float) and value % 1 != 0 and "number" not in _types(_schema(error)):
        return  # the type is wrong, and reported
    else:
        bound = "at least" if error.validator == "minimum" else "at most"
        hint = _example(error, path)
        if "attempts" in wanted and value < 1:
            hint = f"the first attempt counts too: `{path[-1]}: 1` means that nothing is retried"
        yield Problem(f"{label(path)} must be {bound} {error.validator_value}", hint, path)


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


def _context(schema: Mapping[str, Any]) -> str:
    return str(schema.get("x-context", ""))


def _wanted(error: ValidationError, path: Path | None = None) -> str:
    schema = _schema(error)
    of_file = _WANTED.get(_context(schema)) if path == () else None
    return of_file or str(schema.get("x-wanted", "something else"))


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
