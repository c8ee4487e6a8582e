"""A mistake before it has a place in a file: what the checks yield, whether there is a file or not."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable

import msgspec

Path = tuple[str | int, ...]
"""Where a value is: keys and indexes from the top of the file, ``("extensions", "order.placed", "handlers", 0)``."""


_TYPED = {
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb", '"'),
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u2039\u203a", "'"),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u2022", "-"),
    **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},
}
_LOOKALIKE = re.compile(
    rf"(?P<blank>[^\S \t\n\r]+)|(?P<invisible>[\u00ad\u200b-\u200f\u2060\ufeff]+)|[{''.join(_TYPED)}]"
)


class Problem(msgspec.Struct, frozen=True):
    """What is wrong at ``path`` and how to mend it. Names and values in ``message`` and ``hint`` stand in backticks.

    ``on_key``: the key is meant, not its value. ``derived``: the hint was made out of the value, so it must not be
    shown where the value came from the environment. ``code``: this is legal, and only warned of. ``related``: the
    other places that this is about, and what is to be said about each.
    """

    message: str
    hint: str | None = None
    path: Path = ()
    on_key: bool = False
    derived: bool = False
    code: str | None = None
    related: tuple[tuple[Path, str], ...] = ()

    def at(self, path: Path) -> Problem:
        """The same problem, elsewhere."""
        return msgspec.structs.replace(self, path=path)

    def as_line(self) -> str:
        """All that is to be said where there is no file to show."""
        return f"{self.message} (hint: {self.hint})" if self.hint else self.message

    def under(self, *prefix: str | int) -> Problem:
        """The same problem, seen from further up."""
        return msgspec.structs.replace(
            self,
            path=prefix + self.path,
            related=tuple((prefix + path, message) for path, message in self.related),
        )


def closest(word: str, known: Iterable[str]) -> str | None:
    """The one of ``known`` that was probably meant by ``word``; case, ``_`` and ``-`` hardly count."""

    def plain(name: str) -> str:
        return name.lower().replace("_", "").replace("-", "")

    names = {plain(name): name for name in known}
    found = difflib.get_close_matches(plain(word[:100]), names, n=1, cutoff=0.66)
    return names[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str], *, form: str = "`{}`") -> str | None:
    """A hint ``did you mean `x`?``, or None if nothing is close."""
    match = closest(word, known)
    return f"did you mean {form.format(match)}?" if match else None


def lookalike(text: str) -> tuple[int, int, str] | None:
    """Where ``text`` has a character that only looks like one that YAML knows: from, to, and a hint that names it."""
    match = _LOOKALIKE.search(text)
    if match is None:
        return None
    character = match.group()[0]
    name = f"U+{ord(character):04X} ({unicodedata.name(character, 'without a name').lower()})"
    if match["blank"]:
        hint = f"this blank is {name}, which YAML takes for text: type a plain space"
    elif match["invisible"]:
        hint = f"an invisible {name} is part of the text here: delete it"
    else:
        hint = f"this is {name}, which YAML takes for text: type `{_TYPED[character]}`"
    return match.start(), match.end(), hint


def counted(number: int, word: str) -> str:
    """``1 job``, ``2 jobs``."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
