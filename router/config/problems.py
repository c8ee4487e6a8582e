"""A mistake before it has a place in a file: what the checks yield, whether there is a file or not."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import msgspec

Path = tuple[str | int, ...]
"""Where a value is: keys and indexes from the top of the file, ``("extensions", "order.placed", "handlers", 0)``."""


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
