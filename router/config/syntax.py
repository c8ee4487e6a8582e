"""Text → YAML nodes, by libyaml, and libyaml's messages in words for people."""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml._yaml import CParser
from yaml.nodes import Node, ScalarNode

from router.config.construction import PLAIN_TAG, TAG_PREFIX
from router.config.diagnostics import Diagnostic, Source, attached

MAX_PIECES = 600_000
"""Most lines, entries and brackets together: 10,000 handlers have about 150,000. Bounds time and memory."""

_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_PIECES = ("\n", "\r", ",", ": ", "- ", "? ", "[", "{", "*")
_TAGS: dict[type[Node], str] = {yaml.MappingNode: TAG_PREFIX + "map", yaml.SequenceNode: TAG_PREFIX + "seq"}


class YamlError(Exception):
    """The text is not one YAML document. ``diagnostic`` says where and why."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        super().__init__(str(diagnostic))
        self.diagnostic = diagnostic


class _Composer(CParser):
    """libyaml's composer without PyYAML's YAML 1.1 types: what a plain scalar means is decided when data is built."""

    def resolve(self, kind: type[Node], value: str | None, implicit: Any) -> str:
        if kind is ScalarNode:
            return PLAIN_TAG if implicit[0] else TAG_PREFIX + "str"
        return _TAGS[kind]

    def descend_resolver(self, *_: Any) -> None:
        pass

    def ascend_resolver(self) -> None:
        pass


def compose(source: Source) -> Node | None:
    """The only document in ``source``; None if there is nothing but comments. Raises YamlError."""
    if forbidden := _FORBIDDEN.search(source.text):
        raise YamlError(_forbidden(source, forbidden))
    if sum(map(source.text.count, _PIECES)) > MAX_PIECES:
        message = f"the file has more than {MAX_PIECES:,} lines, entries and brackets"
        raise YamlError(source.unshown(message, "is this the right file?"))
    parser = _Composer(source.text)
    try:
        return parser.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise YamlError(_translated(source, error)) from None
    except yaml.YAMLError as error:
        raise YamlError(source.unshown(f"this is not valid YAML: {error}")) from None
    finally:
        parser.dispose()


def _forbidden(source: Source, match: re.Match[str]) -> Diagnostic:
    line, column = source.position(match.start())
    code = ord(match.group())
    if code == 0:
        return source.diagnostic(line, column, 1, "a NUL byte: this is not a text file", "is this the right file?")
    message = f"the control character U+{code:04X} is not allowed in YAML"
    return source.diagnostic(line, column, 1, message, f'remove it, or write it as "\\u{code:04x}" in double quotes')


def _translated(source: Source, error: yaml.MarkedYAMLError) -> Diagnostic:
    return _Translation(source, error).diagnostic()


class _Translation:
    """One error of libyaml. Its marks are where libyaml noticed (``problem``) and where what it was reading began."""

    def __init__(self, source: Source, error: yaml.MarkedYAMLError) -> None:
        self._source = source
        self._problem = error.problem or ""
        self._context = error.context or ""
        mark = error.problem_mark or error.context_mark
        self._at = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        began = error.context_mark or mark
        self._began = (began.line + 1, began.column + 1) if began else (1, 1)

    def diagnostic(self) -> Diagnostic:
        for words, translate in _TRANSLATIONS:
            if words in self._problem or words in self._context:
                return translate(self)
        reading = f" ({self._context})" if self._context else ""
        return self._here(f"this is not valid YAML: {self._problem}{reading}")

    def _here(self, message: str, hint: str | None = None, length: int = 1) -> Diagnostic:
        return self._source.diagnostic(*self._at, length, message, hint)

    def _there(self, message: str, hint: str | None = None, length: int = 1) -> Diagnostic:
        return self._source.diagnostic(*self._began, length, message, hint)

    def _line(self) -> str:
        return self._source.line(self._at[0])

    def _rest(self) -> str:
        return self._line()[self._at[1] - 1 :]

    def _line_above(self) -> int:
        """The nearest line above that is neither blank nor a comment; 0 if there is none."""
        number = self._at[0] - 1
        while number > 0 and (not (text := self._source.line(number).strip()) or text.startswith("#")):
            number -= 1
        return number

    def _whole_line(self, number: int, message: str, hint: str) -> Diagnostic:
        text = self._source.line(number)
        content = text.strip()
        return self._source.diagnostic(number, len(text) - len(text.lstrip()) + 1, len(content), message, hint)

    def bad_start(self) -> Diagnostic:
        rest = self._rest()
        if rest.startswith("\t"):
            return self.tab()
        return self._here(f"a value can't start with `{rest[:1]}`", "put quotes around the whole value")

    def tab(self) -> Diagnostic:
        line = self._line()
        column = line.find("\t") + 1
        length = len(line[column - 1 :]) - len(line[column - 1 :].lstrip("\t"))
        hint = "indent with spaces; most editors can convert a whole file"
        return self._source.diagnostic(self._at[0], max(1, column), length, "a tab is used for indentation", hint)

    def no_colon(self) -> Diagnostic:
        return self._missing_colon(self._began[0])

    def _missing_colon(self, number: int) -> Diagnostic:
        text = self._source.line(number).strip()
        if match := re.match(r"(?:- )*([\w.-]+):(\S+)$", text):
            hint = f"write `{match[1]}: {match[2]}`"
            return self._whole_line(number, "a space is missing after the colon", hint)
        return self._whole_line(
            number, "a colon is missing in this line", "write `key: value`, or `key:` with its content below"
        )

    def mapping_not_allowed(self) -> Diagnostic:
        before = self._line()[: self._at[1] - 1]
        if re.search(r":\s", before) or re.match(r"\s*(?:- )?\S+:$", before):
            return self._here(
                "a second `: ` in one line", "put quotes around the value, or start a new line after the first colon"
            )
        number = self._line_above()
        above = self._source.line(number)
        if number and not re.search(r":(?:\s|$)", above):
            return self._missing_colon(number)
        hint = "line it up with the keys it belongs to; the line above has its value already"
        return self._whole_line(self._at[0], "this line is indented too far", hint)

    def no_comma(self) -> Diagnostic:
        opening = "[" if "sequence" in self._context else "{"
        closing = "]" if opening == "[" else "}"
        line = self._line()
        if self._rest().startswith("{") and line[self._at[1] - 2 : self._at[1] - 1] == "$":
            at = self._source.diagnostic
            message = f"inside `{opening} {closing}` a `${{…}}` needs quotes"
            return at(self._at[0], self._at[1] - 1, 2, message, 'write `"${NAME}"`, or use a block without braces')
        if self._at[0] == self._began[0] and self._rest().strip():
            hint = f"the `{opening}` was opened in column {self._began[1]}"
            word = re.search(r"\S*$", line[: self._at[1] - 1]) if self._rest().startswith(":") else None
            start, length = (word.start() + 1, len(word.group())) if word else (self._at[1], 1)
            message = f"a comma or the closing `{closing}` is missing before this"
            return self._source.diagnostic(self._at[0], start, length, message, hint)
        hint = f"add the `{closing}`, or the comma that is missing between two entries"
        return self._there(f"this `{opening}` is never closed", hint)

    def no_key(self) -> Diagnostic:
        before = self._line()[: self._at[1] - 1]
        if before.strip() and before.rstrip()[-1] in "\"'":
            return self._here(
                "text after the closing quote",
                "put the whole value in quotes; inside them, double a `'` or write `\\\"`",
            )
        if self._rest().startswith("-"):
            return self._whole_line(
                self._at[0], "a list item where a key is expected", "indent it below the key whose list it belongs to"
            )
        if self._rest()[:1] in "]}":
            return self._here(f"this `{self._rest()[0]}` closes nothing", "remove it")
        return self._whole_line(
            self._at[0], "the indentation of this line matches no line above", "line it up with the keys it belongs to"
        )

    def no_dash(self) -> Diagnostic:
        hint = "start it with `- `, or indent it like the rest of the item above"
        return self._whole_line(self._at[0], "a list item is expected here", hint)

    def open_quote(self) -> Diagnostic:
        line, column = self._began
        quote = self._source.line(line)[column - 1 : column]
        return self._there("this quote is never closed", f"add a closing `{quote}` at the end of the value")

    def unknown_alias(self) -> Diagnostic:
        match = re.match(r"\*[^\s,\]}]*", self._rest())
        name = match.group()[1:] if match else ""
        hint = f"define it above with `&{name}`; if a text that starts with `*` is meant, put quotes around it"
        return self._here(f"the alias `*{name}` stands for nothing", hint, len(name) + 1)

    def escape(self) -> Diagnostic:
        piece = self._rest()[:2]
        return self._here(
            f"unknown escape `{piece}` in double quotes", "write `\\\\` for a backslash, or use single quotes", 2
        )

    def duplicate_anchor(self) -> Diagnostic:
        match = re.match(r"&[^\s,\]}]*", self._rest())
        name = match.group() if match else "&"
        place = self._source.related(*self._at, len(name), f"the anchor `{name}` is defined twice")
        first = self._source.related(*self._began, len(name), "first defined here")
        return attached(place, "give one of them another name", related=[first])

    def second_document(self) -> Diagnostic:
        return self._here(
            "a second YAML document starts here", "one file holds one document: remove this line and the rest", 3
        )

    def nesting(self) -> Diagnostic:
        return self._here("nested far too deeply", "no setting needs more than 7 levels; is a bracket left open?")

    def dash_not_allowed(self) -> Diagnostic:
        return self._here("a list can't start on the line of its key", "start a new line before the `-`, and indent it")

    def directive(self) -> Diagnostic:
        return self._there("this `%` line is not understood", "remove it", len(self._source.line(self._began[0])))

    def tag(self) -> Diagnostic:
        return self._there("a tag (`!…`) is not allowed here", "remove it; a text that starts with `!` needs quotes")

    def block_header(self) -> Diagnostic:
        return self._here("text after `|` or `>`", "put it on the next line, indented")


_TRANSLATIONS = (
    ("exceeded maximum nesting depth", _Translation.nesting),
    ("tab character", _Translation.tab),
    ("cannot start any token", _Translation.bad_start),
    ("could not find expected ':'", _Translation.no_colon),
    ("mapping values are not allowed", _Translation.mapping_not_allowed),
    ("did not find expected ','", _Translation.no_comma),
    ("while scanning a quoted scalar", _Translation.open_quote),
    ("unknown escape character", _Translation.escape),
    ("did not find expected hexdecimal number", _Translation.escape),
    ("did not find expected '-' indicator", _Translation.no_dash),
    ("undefined alias", _Translation.unknown_alias),
    ("duplicate anchor", _Translation.duplicate_anchor),
    ("found another document", _Translation.second_document),
    ("block sequence entries are not allowed", _Translation.dash_not_allowed),
    ("incompatible YAML document", _Translation.directive),
    ("while scanning a directive", _Translation.directive),
    ("while scanning a %", _Translation.directive),
    ("while parsing a tag", _Translation.tag),
    ("undefined tag handle", _Translation.tag),
    ("while scanning a tag", _Translation.tag),
    ("while scanning a block scalar", _Translation.block_header),
    ("did not find expected key", _Translation.no_key),
)
