"""``${VAR}``, ``${VAR:-default}``, ``${VAR:?message}`` inside a text; ``$${`` is a literal ``${``.

As in bash, ``:-`` and ``:?`` apply to a variable that is unset or empty, and a default may hold further ``${…}``, which
are looked at only if the default is needed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

FORMS = "`${NAME}`, `${NAME:-default}` and `${NAME:?message}` work; `$${` is a literal `${`"
MAX_NESTING = 16

_OPENING = re.compile(r"\$\$\{|\$\{")
_BRACE = re.compile(r"\$\{|\}")
_ALMOST = re.compile(
    r"\{?\s*(?:(?:env|secrets|vars|var)[.:])?([A-Za-z_][A-Za-z0-9_]*)\s*(?:(?::?[-=|]|:(?![?+])|\|\|?)\s*([^{}]+?)\s*)?"
)
_REFERENCE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:(:-|:\?)(.*))?", re.DOTALL)


class InterpolationError(Exception):
    """A reference can't be resolved; ``hint`` says what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def interpolate(text: str, environ: Mapping[str, str], *, nesting: int = 0) -> str:
    """``text`` with its references replaced. Raises InterpolationError for the first that can't be."""
    pieces: list[str] = []
    position = 0
    while opening := _OPENING.search(text, position):
        pieces.append(text[position : opening.start()])
        if opening.group() == "$${":
            pieces.append("${")
            position = opening.end()
        else:
            end = _closing_brace(text, opening.end())
            pieces.append(_resolved(text[opening.end() : end], environ, nesting))
            position = end + 1
    pieces.append(text[position:])
    return "".join(pieces)


def is_single_reference(text: str) -> bool:
    """Whether ``text`` is exactly one ``${…}``."""
    return text.startswith("${") and text.endswith("}") and _closing_brace(text, 2) == len(text) - 1


def _closing_brace(text: str, start: int) -> int:
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += 1 if brace.group() == "${" else -1
        if depth == 0:
            return brace.start()
    raise InterpolationError("this `${` is never closed", "close it with `}`; a literal `${` is written `$${`")


def _resolved(reference: str, environ: Mapping[str, str], nesting: int) -> str:
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise InterpolationError("this `${…}` can't be understood", _meant(reference) or FORMS)
    name, operator, rest = match.groups()
    value = environ.get(name)
    if value is None and operator is None:
        raise InterpolationError(
            f"the environment variable `{name}` is not set", f"set it, or give a default: `${{{name}:-default}}`"
        )
    if value and not _is_text(value):
        raise InterpolationError(f"the environment variable `{name}` is not UTF-8", "set it to text in UTF-8")
    if value or operator is None:
        return value or ""
    if operator == ":-":
        if nesting >= MAX_NESTING:
            raise InterpolationError("defaults are nested too deeply", f"at most {MAX_NESTING} levels are allowed")
        return interpolate(rest, environ, nesting=nesting + 1)
    state = "not set" if value is None else "empty"
    raise InterpolationError(f"the environment variable `{name}` is {state}", rest or f"set `{name}` to a value")


def _is_text(value: str) -> bool:
    """Whether it can be written as UTF-8: bytes of the environment that are none come as surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _meant(reference: str) -> str | None:
    """A hint for the way in which a shell or another program would write it."""
    match = _ALMOST.fullmatch(reference)
    if match is None:
        return None
    name, default = match.groups()
    return f"write `${{{name}}}`" if default is None else f"write `${{{name}:-{default}}}`"
