"""Names in the file: import paths, points, queues, ids. Each check yields a Problem, or None if all is well."""

from __future__ import annotations

import re

from router.config.problems import Problem

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_POINT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_][A-Za-z0-9_-]*)*")
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*")
_FILE = re.compile(r"(?:file:/*)?(?:\.{0,2}/)*([\w/-]+)(?:\.py)?(?::([\w.]+))?")
_EXAMPLES = {"`event`": "shop.events:OrderPlaced", "`bootstrap`": "shop.extensions:setup"}
_IMPORT = re.compile(r"from (\S+) import (\w+)")
_SEPARATOR = re.compile(r"\s*(?:::+|->|[:#@])\s*")
MAX_NAME = 100
MAX_POINT = 200
MAX_ID = 200
MAX_MEANT = 300
"""Longest text of which we guess what was meant by it."""


def import_path_problem(label: str, text: str) -> Problem | None:
    """``package.module:attribute``, where both sides may be dotted."""
    module, colon, attribute = text.partition(":")
    if colon and _dotted(module) and _dotted(attribute):
        return None
    hint, derived = f"for example `{_EXAMPLES.get(label, 'shop.mail:send')}`", False
    file = _FILE.fullmatch(text) if "/" in text and len(text) <= MAX_MEANT else None
    if rewritten := _import_path_meant(text):
        hint, derived = f"did you mean `{rewritten}`?", True
    elif colon and not attribute:
        hint = "name the function or class behind the colon: `shop.mail:send`"
    elif file and not file[2]:
        hint = "name the module as in an import, and the function in it: `shop.mail:send`"
    elif "," in text:
        hint = "only one is possible here"
    elif "lambda" in text:
        hint = "only what has a name in a module can be named here: `shop.mail:send`"
    return Problem(f"{label} must be an import path `package.module:attribute`", hint, derived=derived)


def _import_path_meant(text: str) -> str | None:
    if len(text) > MAX_MEANT:
        return None
    text = re.sub(r"\(.*\)$", "", text.strip().replace("\\", "/"))
    if imported := _IMPORT.fullmatch(text):
        text = f"{imported[1]}:{imported[2]}"
    text = _SEPARATOR.sub(":", text)
    if "/" in text and (file := _FILE.fullmatch(text)):
        if not file[2] and ".py" in text:
            return None
        text = file[1].replace("/", ".") + (f":{file[2]}" if file[2] else "")
    text = text.replace(".py:", ":").replace("-", "_").lstrip(".")
    if ":" not in text and "." in text:
        text = ":".join(text.rsplit(".", 1))
    elif text.count(":") > 1:
        first, _, rest = text.partition(":")
        text = f"{first}:{rest.replace(':', '.')}" if "." in first else text.replace(":", ".", text.count(":") - 1)
    module, colon, attribute = text.partition(":")
    return text if colon and _dotted(module) and _dotted(attribute) else None


def _dotted(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def name_problem(label: str, text: str) -> Problem | None:
    """Queues and the namespace: they become parts of names on the broker, so a dot is not allowed."""
    message = f"{label} must consist of letters, digits, `_` and `-`, and start with a letter or digit"
    if len(text) > MAX_NAME:
        return Problem(f"{label} is longer than {MAX_NAME} characters", "choose a shorter name")
    if _NAME.fullmatch(text):
        return None
    if "${" in text:
        return Problem(message, "`${…}` works in values only: write the name itself")
    meant = re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-_") if text.isascii() else ""
    return Problem(message, f"for example `{meant or 'notifications'}`", derived=bool(meant))


def point_problem(text: str) -> Problem | None:
    """Extension points: words with dots between them."""
    if "${" in text:
        return Problem(f"`{text}` is a key, and `${{…}}` works in values only", "write the name of the event itself")
    if len(text) > MAX_POINT:
        return Problem(f"the name of an extension point is longer than {MAX_POINT} characters", "choose a shorter name")
    if _POINT.fullmatch(text):
        return None
    message = (
        f"`{text}` can't be the name of an extension point: use words of letters, digits, `_`, `-`, with dots between"
    )
    if "*" in text:
        return Problem(message, "there are no patterns: list the handler below each of its events")
    words = [word for word in re.split(r"[^A-Za-z0-9_-]+", text) if word.strip("-")]
    meant = ".".join(word.lstrip("-") for word in words) if text.isascii() else ""
    return Problem(message, f"for example `{meant or 'order.placed'}`")


def id_problem(label: str, text: str) -> Problem | None:
    """Ids of handlers."""
    if len(text) > MAX_ID:
        return Problem(f"{label} is longer than {MAX_ID} characters", "choose a shorter id")
    if _ID.fullmatch(text):
        return None
    meant = re.sub(r"[^A-Za-z0-9_.:-]+", "-", text).replace(":-", ":").strip("-.:") if text.isascii() else ""
    return Problem(
        f"{label} must consist of letters, digits, `_`, `-`, `.` and `:`, and start with a letter, a digit or `_`",
        f"for example `{meant or 'confirmation'}`",
        derived=bool(meant),
    )
