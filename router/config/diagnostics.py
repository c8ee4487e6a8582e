"""Mistakes with their place in the file, shown with the line, a caret and the way out."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from typing import Literal

import msgspec

from router.config.urls import MASK, mask_url, secret_spans

Severity = Literal["error", "warning"]

MAX_EXCERPT = 110
"""Longest excerpt, in characters; longer lines are cut around the caret."""

# What libyaml counts as a line break, so that its line numbers and ours agree.
_LINE_BREAK = re.compile(r"\r\n|[\n\r\x85\u2028\u2029]")
_TAB = "    "
_ELLIPSIS = "…"


class Related(msgspec.Struct, frozen=True):
    """A place in a file, and what is to be said about it.

    ``line`` and ``column`` count from 1, in characters of the file. ``excerpt`` is the line without passwords and
    control characters, cut if it is long; it is empty where no line can be shown. ``caret`` is the column (from 1) in
    the excerpt, ``length`` how many of the excerpt's characters are meant.
    """

    file: str
    line: int
    column: int
    length: int
    message: str
    excerpt: str = ""
    caret: int = 1

    def lines(self, word: str) -> list[str]:
        """As a compiler would show it; ``word`` stands before the message."""
        lines = [f"{self.file}:{self.line}:{self.column}: {word}: {self.message}"]
        if self.excerpt:
            before = self.excerpt[: self.caret - 1]
            piece = self.excerpt[self.caret - 1 : self.caret - 1 + self.length]
            gutter = f"{self.line:>4}"
            lines.append(f"{gutter} | {_expanded(self.excerpt)}")
            lines.append(f"{' ' * len(gutter)} | {' ' * _width(before)}{'^' * max(1, _width(piece))}")
        return lines


class Diagnostic(Related, frozen=True, kw_only=True):
    """One mistake in a file. ``str()`` shows it as a compiler would; ``msgspec.to_builtins`` makes a dict of it.

    A warning has a ``code`` (`router.config.lint.CODES`), by which a comment silences it; an error has none.
    ``related``: the other places that it is about.
    """

    hint: str | None = None
    severity: Severity = "error"
    code: str | None = None
    related: tuple[Related, ...] = ()

    def __str__(self) -> str:
        lines = self.lines(f"{self.severity}[{self.code}]" if self.code else self.severity)
        for place in self.related:
            lines += place.lines("note")
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)


class Source:
    """A file's text, from which diagnostics are made. ``file`` is the name that people see."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.text = text
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._lines: dict[int, tuple[str, list[tuple[int, int]]]] = {}

    def position(self, index: int) -> tuple[int, int]:
        """Line and column, both from 1, of the character with this index."""
        self._split()
        line = bisect_right(self._starts, index)
        return line, index - self._starts[line - 1] + 1

    def line(self, number: int) -> str:
        """The text of a line, from 1, without its line break; empty if there is no such line."""
        self._split()
        return self.text[self._starts[number - 1] : self._ends[number - 1]] if 0 < number <= len(self._starts) else ""

    def diagnostic(self, line: int, column: int, length: int, message: str, hint: str | None = None) -> Diagnostic:
        """The mistake at this place, with its excerpt. ``length`` is cut at the end of the line, and at least 1."""
        return attached(self.related(line, column, length, message), hint)

    def related(self, line: int, column: int, length: int, message: str) -> Related:
        """The place, with its excerpt. ``length`` is cut at the end of the line, and at least 1."""
        masked, spans = self._masked(line)
        start = _shifted(column - 1, spans)
        end = max(start + 1, min(_shifted(column - 1 + length, spans), len(masked)))
        excerpt, start, end = _cut(masked, start, end)
        return Related(
            file=clean(self.file),
            line=line,
            column=column,
            length=end - start,
            message=clean(mask_url(message)),
            excerpt=_clean_excerpt(excerpt),
            caret=start + 1,
        )

    def unshown(self, message: str, hint: str | None = None, line: int = 1, column: int = 1) -> Diagnostic:
        """A mistake of the file as a whole, or in a line that can't be shown."""
        return attached(Related(clean(self.file), line, column, 1, clean(mask_url(message))), hint)

    def _split(self) -> None:
        if not self._starts:
            breaks = [match.span() for match in _LINE_BREAK.finditer(self.text)]
            self._starts = [0, *(end for _, end in breaks)]
            self._ends = [*(start for start, _ in breaks), len(self.text)]

    def _masked(self, number: int) -> tuple[str, list[tuple[int, int]]]:
        if number not in self._lines:
            line = self.line(number)
            self._lines[number] = mask_url(line), secret_spans(line)
        return self._lines[number]


def attached(
    place: Related, hint: str | None = None, code: str | None = None, related: Sequence[Related] = ()
) -> Diagnostic:
    """The mistake at ``place``; a warning where it has a ``code``."""
    return Diagnostic(
        place.file,
        place.line,
        place.column,
        place.length,
        place.message,
        place.excerpt,
        place.caret,
        hint=clean(mask_url(hint)) if hint else None,
        severity="warning" if code else "error",
        code=code,
        related=tuple(related),
    )


def clean(text: str) -> str:
    """``text`` with each control character replaced by one that can be seen."""
    return text if text.isprintable() else "".join(map(_visible, text))


def _clean_excerpt(text: str) -> str:
    # Tabs stay, because a mistake may be about them.
    return "\t".join(map(clean, text.split("\t")))


def _visible(character: str) -> str:
    # Cc, Cf (bidirectional overrides, zero width), surrogates, private use, unassigned, line separators: none of them
    # may reach a terminal.
    if character.isprintable():
        return character
    if character == "\x7f":
        return "␡"
    return chr(0x2400 + ord(character)) if ord(character) < 0x20 else "�"


def _shifted(offset: int, spans: list[tuple[int, int]]) -> int:
    """Where ``offset`` of a line is once its secrets are masked."""
    shift = 0
    for start, end in spans:
        if offset <= start:
            break
        if offset < end:
            return start + shift
        shift += len(MASK) - (end - start)
    return offset + shift


def _cut(line: str, start: int, end: int) -> tuple[str, int, int]:
    """At most MAX_EXCERPT characters of ``line`` around the piece, and where the piece is in them."""
    if len(line) <= MAX_EXCERPT:
        return line, start, end
    end = min(end, start + MAX_EXCERPT // 2)
    first = max(0, min(start - (MAX_EXCERPT - (end - start)) // 2, len(line) - MAX_EXCERPT))
    last = first + MAX_EXCERPT
    before, after = _ELLIPSIS if first else "", _ELLIPSIS if last < len(line) else ""
    return before + line[first:last] + after, start - first + len(before), end - first + len(before)


def _expanded(text: str) -> str:
    return text.replace("\t", _TAB)


def _width(text: str) -> int:
    """How many columns of a terminal ``text`` takes."""
    return sum(_character_width(character) for character in _expanded(text))


def _character_width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
