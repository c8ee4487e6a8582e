"""Names in the file: import paths, points, queues, ids. Each check yields a Problem, or None if all is well."""

from __future__ import annotations

import re

from router.config.problems import Problem

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_POINT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_][A-Za-z0-9_-]*)*")
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*")
_FILE = re.compile(r"(?:\./)?([\w/]+)\.py:([\w.]+)")
MAX_NAME = 100
MAX_POINT = 200
MAX_ID = 200


def import_path_problem(label: str, text: str) -> Problem | None:
    """``package.module:attribute``, where both sides may be dotted."""
    module, colon, attribute = text.partition(":")
    if colon and _dotted(module) and _dotted(attribute):
        return None
    hint, derived = "for example `shop.mail:send`", False
    if rewritten := _import_path_meant(text):
        hint, derived = f"did you mean `{rewritten}`?", True
    return Problem(f"{label} must be an import path `package.module:attribute`", hint, derived=derived)


def _import_path_meant(text: str) -> str | None:
    text = text.strip()
    if file := _FILE.fullmatch(text):
        text = f"{file[1].replace('/', '.')}:{file[2]}"
    text = re.sub(r"\(.*\)$", "", text).replace("::", ":").replace(": ", ":").lstrip(".")
    if ":" not in text and "." in text:
        text = ":".join(text.rsplit(".", 1))
    elif text.count(":") > 1:
        text = text.replace(":", ".", text.count(":") - 1)
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
    meant = re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-_")
    return Problem(message, f"for example `{meant or 'notifications'}`", derived=bool(meant))


def point_problem(text: str) -> Problem | None:
    """Extension points: words with dots between them."""
    if "${" in text:
        return Problem(f"`{text}` is a key, and `${{…}}` works in values only", "write the name of the event itself")
    if len(text) > MAX_POINT:
        return Problem(f"the name of an extension point is longer than {MAX_POINT} characters", "choose a shorter name")
    if _POINT.fullmatch(text):
        return None
    words = [word for word in re.split(r"[^A-Za-z0-9_-]+", text) if word.strip("-")]
    meant = ".".join(word.lstrip("-") for word in words) if text.isascii() else ""
    return Problem(
        f"`{text}` can't be the name of an extension point: use words of letters, digits, `_`, `-`, with dots between",
        f"for example `{meant or 'order.placed'}`",
    )


def id_problem(label: str, text: str) -> Problem | None:
    """Ids of handlers."""
    if len(text) > MAX_ID:
        return Problem(f"{label} is longer than {MAX_ID} characters", "choose a shorter id")
    if _ID.fullmatch(text):
        return None
    return Problem(
        f"{label} must consist of letters, digits, `_`, `-`, `.` and `:`, and start with a letter or digit",
        "for example `confirmation`",
    )
