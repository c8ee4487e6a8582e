"""Mistakes in a payload in words for people, whoever found them: each with the path of the value.

Imported only where something is wrong, or where a point has a schema.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import islice
from types import EllipsisType

import msgspec

from router.config.diagnostics import clean
from router.config.problems import closest, did_you_mean
from router.config.values import MAX_ALTERNATIVES, alternatives, short

MAX_SHOWN = 10
"""Mistakes that one text lists."""

MAX_COUNTED = 1000
"""Mistakes, or keys, that are looked at; a large payload may have millions."""

MAX_OPTION = 60
"""Characters of a value that would do."""

MAX_PATH = 160
"""Characters of a path that are shown."""

Path = tuple[str | int | EllipsisType, ...]
"""Where a value is; ``...`` stands for a step that isn't known, or for every item."""


def listed(head: str, texts: Iterable[str]) -> str:
    """``head`` and the mistakes below it, each once; a single one stands in the same line."""
    different = list(dict.fromkeys(clean(text) for text in texts))
    if len(different) == 1:
        return f"{head}: {different[0]}"
    return "\n  ".join([f"{head}:", *different])


def label(path: Path) -> str:
    """What people call the value at ``path``."""
    return f"`{dotted(path)}`" if path else "the payload"


def dotted(path: Path) -> str:
    """The path as people write it: ``items[0].quantity``."""
    text = ""
    for step in path:
        if not isinstance(step, str):
            text += f"[{'…' if step is ... else step}]"
        elif re.fullmatch(r"[\w$@-]{1,60}", step):
            text += f".{step}" if text else step
        else:
            text += f"[{short(step)}]"
    half = MAX_PATH // 2
    return text if len(text) <= MAX_PATH else f"{text[:half]}…{text[-half:]}"


def missing(path: Path, name: str, spare: Iterable[str] = ()) -> str:
    """That the mapping at ``path`` lacks a key. ``spare``: its keys that nobody knows."""
    meant = closest(name, islice(spare, MAX_COUNTED))
    return f"`{dotted((*path, name))}` is missing" + (f"; there is `{dotted((*path, meant))}`" if meant else "")


def unknown(path: Path, name: str, known: Sequence[str]) -> str:
    """That the mapping at ``path`` has a key that is none of the ``known`` ones."""
    more = len(known) - MAX_ALTERNATIVES
    names = ", ".join(f"`{dotted((each,))}`" for each in known[:MAX_ALTERNATIVES]) + (f" and {more} more" * (more > 0))
    hint = did_you_mean(name, known) or (f"known here: {names}" if known else None)
    return f"unknown key `{dotted((*path, name))}`" + (f"; {hint}" if hint else "")


def wrong_option(place: str, value: object, options: Sequence[object]) -> str:
    """That ``value`` is none of the values that are allowed."""
    shown = alternatives([in_full(option) for option in options])
    words = [option for option in options if isinstance(option, str)]
    hint = did_you_mean(value, words, form='"{}"') if isinstance(value, str) and len(options) > 1 else None
    return f"{place} must be {shown}, not {short(value)}" + (f"; {hint}" if hint else "")


def in_full(option: object) -> str:
    """A value of the schema, which may be shown in full as long as it is short."""
    text = f"`{msgspec.json.encode(option).decode()}`" if isinstance(option, dict | list) else short(option)
    return text if len(text) <= MAX_OPTION else f"a certain {short(option).split()[-1]}"
