"""Text → YAML nodes, by libyaml, and libyaml's messages in words for people."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml
from yaml._yaml import CParser
from yaml.nodes import Node, ScalarNode

from router.config.construction import PLAIN_TAG, TAG_PREFIX
from router.config.diagnostics import Diagnostic, Source, attached
from router.config.problems import lookalike

MAX_PIECES = 600_000
"""Most lines, entries and brackets together: 10,000 handlers have about 150,000. Bounds time and memory."""

_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_PIECES = ("\n", "\r", ",", ": ", "- ", "? ", "[", "{", "*")
_CONFLICT = re.compile(r"^<{7}(?= |$).*$", re.MULTILINE)
_NO_TEMPLATE = "the file is no template: `${NAME}` stands for a value of the environment"
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
    if code == 0xFEFF:
        message = "a byte order mark (U+FEFF), which may stand at the very start of a file only"
        return source.diagnostic(line, column, 1, message, "delete this invisible character")
    message = f"the control character U+{code:04X} is not allowed in YAML"
    return source.diagnostic(line, column, 1, message, f'remove it, or write it as "\\u{code:04x}" in double quotes')


def _translated(source: Source, error: yaml.MarkedYAMLError) -> Diagnostic:
    if conflict := _CONFLICT.search(source.text):
        line, column = source.position(conflict.start())
        message = "an unresolved conflict of a merge"
        hint = "keep one of the two versions, and remove the lines `<<<<<<<`, `=======` and `>>>>>>>`"
        return source.diagnostic(line, column, len(conflict.group()), message, hint)
    found = _Translation(source, error).diagnostic()
    text = source.line(found.line)[found.column - 1 :][: found.length]
    if (character := lookalike(text)) and not re.match(r"\s*[\"'].*[\"']$", text):
        start, end, hint = character
        return source.diagnostic(found.line, found.column + start, end - start, found.message, hint)
    return found


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

    def _before(self) -> str:
        return self._line()[: self._at[1] - 1]

    def _rest(self) -> str:
        return self._line()[self._at[1] - 1 :]

    def _line_above(self, number: int) -> int:
        """The nearest line above that is neither blank nor a comment; 0 if there is none."""
        number -= 1
        while number > 0 and (not (text := self._source.line(number).strip()) or text.startswith("#")):
            number -= 1
        return number

    def _whole_line(self, number: int, message: str, hint: str) -> Diagnostic:
        text = self._source.line(number)
        content = text.strip()
        return self._source.diagnostic(number, _indentation(text) + 1, len(content), message, hint)

    def _tokens(self) -> Iterator[Any]:
        """libyaml's tokens, as far as it could read them."""
        scanner = CParser(self._source.text)
        try:
            while (token := scanner.get_token()) is not None:
                yield token
        except yaml.YAMLError:
            pass
        finally:
            scanner.dispose()

    def bad_start(self) -> Diagnostic:
        rest = self._rest()
        if rest.startswith("\t"):
            return self.tab()
        if rest.startswith("```"):
            return self._here("a fence of Markdown, not YAML", "remove this line", 3)
        if rest.startswith("%") and self._before().endswith("{"):
            return self._source.diagnostic(self._at[0], self._at[1] - 1, 2, "a template, not YAML", _NO_TEMPLATE)
        hint = "put quotes around the whole value"
        if rest.startswith("`"):
            return self._here("a value can't start with a backtick", "remove the backticks, or " + hint)
        if match := re.match(r"%(\w+)%", rest):
            hint = f"a value of the environment is written `${{{match[1]}}}`"
        return self._here(f"a value can't start with `{rest[:1]}`", hint)

    def tab(self) -> Diagnostic:
        line = self._line()
        column = line.find("\t") + 1
        length = len(line[column - 1 :]) - len(line[column - 1 :].lstrip("\t"))
        hint = "indent with spaces; most editors can convert a whole file"
        return self._source.diagnostic(self._at[0], max(1, column), length, "a tab is used for indentation", hint)

    def no_colon(self) -> Diagnostic:
        return self._missing_colon(self._began[0])

    def _missing_colon(self, number: int) -> Diagnostic:
        text = self._source.line(number)
        above = self._source.line(self._line_above(number))
        if re.match(r"\s*-[^\s-]", text):
            return self._no_blank_after_dash(number)
        if re.search(r"^[^#]*:\s*$", above) and _indentation(text) <= _indentation(above):
            hint = "put it on the line of its key, or indent it further than the key"
            return self._whole_line(number, "this stands below a key, but it is not indented", hint)
        if match := re.match(r"""(\s*(?:- )*("[^"]*"|'[^']*'|[\w.-]+)):(?!//)(\S.*)$""", text):
            hint = f"write `{match[2]}: {match[3].rstrip()}`"
            return self._source.diagnostic(number, len(match[1]) + 1, 1, "a space is missing after the colon", hint)
        hint = "write `key: value`, or `key:` with its content below"
        if match := re.match(r"""\s*(["'])([\w.-]+): (.*)\1\s*$""", text):
            hint = f"put quotes around the value only: `{match[2]}: {match[1]}{match[3]}{match[1]}`"
        elif re.match(r"\s*(//|/\*|--|;)", text):
            hint = "a comment starts with `#` in YAML"
        elif re.match(r"\s*[\w.-]+\s*=", text):
            hint = "write `key: value`, with a colon in place of `=`"
        elif re.search(r":\s+[^\s#|>]", above) and " " in text.strip():
            hint = "indent it further than the key above if it continues its value; else write `key: value`"
        return self._whole_line(number, "a colon is missing in this line", hint)

    def _no_blank_after_dash(self, number: int) -> Diagnostic:
        text = self._source.line(number)
        hint = f"write `- {text.strip()[1:]}`"
        return self._source.diagnostic(number, _indentation(text) + 1, 1, "a space is missing after the dash", hint)

    def mapping_not_allowed(self) -> Diagnostic:
        before, rest = self._before(), self._rest()[1:].strip()
        if re.search(r":\s", before) or re.match(r"\s*(?:- )?\S+:$", before):
            hint = "put quotes around the value, or start a new line after the first colon"
            if not rest:
                hint = "remove this colon, or put quotes around the value"
            elif re.search(r":\s+\w+(\.\w+)+$", before) and re.match(r"[\w.]+$", rest):
                hint = f"no blank after this colon: `{before.split()[-1]}:{rest}`; any other value needs quotes"
            return self._here("a second `: ` in one line", hint)
        number = self._line_above(self._at[0])
        above = self._source.line(number)
        if number and not re.search(r":(?:\s|$)", above):
            return self._missing_colon(number)
        if re.match(r"\s*-[^\s-]", above):
            return self._no_blank_after_dash(number)
        hint = "line it up with the keys it belongs to; the line above has its value already"
        return self._whole_line(self._at[0], "this line is indented too far", hint)

    def no_comma(self) -> Diagnostic:
        opening = "[" if "sequence" in self._context else "{"
        closing = "]" if opening == "[" else "}"
        line, rest = self._line(), self._rest()
        if rest.startswith("{") and line[self._at[1] - 2 : self._at[1] - 1] == "$":
            at = self._source.diagnostic
            if re.match(r"\{[^{}]*\}\s*:", rest):
                hint = "write the key itself"
                return at(self._at[0], self._at[1] - 1, 2, "`${…}` works in values only, not in keys", hint)
            message = f"inside `{opening} {closing}` a `${{…}}` needs quotes"
            return at(self._at[0], self._at[1] - 1, 2, message, 'write `"${NAME}"`, or use a block without braces')
        if rest[:1] in ("]", "}"):
            hint = f"write `{closing}` here, or open what `{rest[0]}` should close"
            return self._here(f"this `{rest[0]}` does not close the `{opening}` of {self._place_of_opening()}", hint)
        if rest.strip() and (self._at[0] == self._began[0] or self._is_closed()):
            hint = f"the `{opening}` was opened in {self._place_of_opening()}"
            start, length = self._at[1], 1
            if rest.startswith(":"):
                start = max(map(self._before().rfind, " \t")) + 2
                length = self._at[1] - start
            if comment := self._slashes():
                return self._source.diagnostic(*comment, 2, "`//` starts no comment in YAML", "write `#` instead")
            message = f"a comma or the closing `{closing}` is missing before this"
            return self._source.diagnostic(self._at[0], start, length, message, hint)
        hint = f"add the `{closing}`, or the comma that is missing between two entries"
        first = self._source.line(self._began[0])[self._began[1] :]
        if closing in first.partition(" #")[2]:
            hint = f"what follows ` #` is a comment, and so is the `{closing}` in it"
        return self._there(f"this `{opening}` is never closed", hint)

    def _place_of_opening(self) -> str:
        line, column = self._began
        return f"column {column}" if line == self._at[0] else f"line {line}"

    def _slashes(self) -> tuple[int, int] | None:
        """Where a comment as in other languages stands, in the line of the mistake or in the one above it."""
        for number in (self._line_above(self._at[0]), self._at[0]):
            if number >= self._began[0] and (match := re.search(r"(?:^|(?<=\s))//", self._source.line(number))):
                return number, match.start() + 1
        return None

    def _is_closed(self) -> bool:
        """Whether the bracket that was open has its counterpart further down."""
        depth = 0
        for token in self._tokens():
            if (token.start_mark.line + 1, token.start_mark.column + 1) < self._began:
                continue
            if isinstance(token, yaml.FlowSequenceStartToken | yaml.FlowMappingStartToken):
                depth += 1
            elif isinstance(token, yaml.FlowSequenceEndToken | yaml.FlowMappingEndToken):
                depth -= 1
                if depth == 0:
                    return True
        return False

    def no_content(self) -> Diagnostic:
        if self._rest()[:1] in ("]", "}"):
            return self._here(f"this `{self._rest()[0]}` closes nothing that is open here", "remove it")
        if "flow" not in self._context:
            hint = "indent it further than the `-` or the key that it belongs to"
            return self._whole_line(self._at[0], "this stands where a value should be", hint)
        rest = self._rest()
        if rest.startswith(","):
            return self._here("a comma, and nothing before it", "remove it")
        if rest.startswith("-"):
            return self._here(
                "a `-` inside of brackets", "between `[` and `]`, or `{` and `}`, only commas part entries"
            )
        return self._here("a value is missing here", "write one, or `null`")

    def no_key(self) -> Diagnostic:
        before, rest = self._before(), self._rest()
        if before.strip() and before.rstrip()[-1] in "\"'":
            return self._after_quote()
        if rest[:1] in ("]", "}"):
            return self._here(f"this `{rest[0]}` closes nothing", "remove it")
        if before.strip():
            last = before.rstrip()[-1]
            message = f"text after the closing `{last}`" if last in "]}" else "this can't follow what stands before it"
            hint = _NO_TEMPLATE if before.rstrip().endswith("}}") else "put quotes around the whole value"
            return self._here(message, hint, len(rest.rstrip()))
        if rest.startswith("-"):
            above = self._source.line(self._line_above(self._at[0])).strip()
            hint = "line it up with the other items of its list, or indent it below the key of its list"
            if above.startswith("<<:"):
                hint = "`<<` merges mappings, not lists: write out the items of the list"
            return self._whole_line(self._at[0], "a list item where a key is expected", hint)
        return self._whole_line(
            self._at[0], "the indentation of this line matches no line above", "line it up with the keys it belongs to"
        )

    def _after_quote(self) -> Diagnostic:
        """Text behind a quote: of the same line; or a quote of a line above lacks its end, and this one gave it."""
        quoted = None
        for token in self._tokens():
            if (token.start_mark.line + 1, token.start_mark.column + 1) >= self._at:
                break
            if isinstance(token, yaml.ScalarToken) and not token.plain:
                quoted = token
        if quoted is not None and quoted.start_mark.line + 1 < self._at[0]:
            self._began = quoted.start_mark.line + 1, quoted.start_mark.column + 1
            return self.open_quote()
        hint = 'put quotes around the whole value; inside of double quotes, a `"` is written `\\"`'
        if self._before().rstrip().endswith("'"):
            hint = "inside of single quotes, a `'` is written `''`; or put quotes around the whole value"
        return self._here("text after the closing quote", hint)

    def no_dash(self) -> Diagnostic:
        if re.match(r"-\S", self._rest()):
            return self._no_blank_after_dash(self._at[0])
        hint = "start it with `- `, or indent it like the rest of the item above"
        return self._whole_line(self._at[0], "a list item is expected here", hint)

    def open_quote(self) -> Diagnostic:
        line, column = self._began
        quote = self._source.line(line)[column - 1 : column]
        return self._there("this quote is never closed", f"add a closing `{quote}` at the end of the value")

    def bad_name(self) -> Diagnostic:
        """A ``*`` or ``&`` that was meant as text."""
        line = self._source.line(self._began[0])[self._began[1] - 1 :]
        sign, text = line[:1], re.split(r"[\s,\]}]", line)[0]
        what = "an alias" if sign == "*" else "an anchor"
        hint = f"a text that starts with `{sign}` needs quotes: `'{text.rstrip(':')}'`"
        if apart := re.match(r"[*&] +([\w-]+)", line):
            hint = f"write `{sign}{apart[1]}`; a text that starts with `{sign}` needs quotes"
        return self._there(
            f"`{sign}` starts {what} in YAML, whose name is letters, digits, `_` and `-`", hint, len(text)
        )

    def unknown_alias(self) -> Diagnostic:
        match = re.match(r"\*[\w-]*", self._rest())
        name = match.group()[1:] if match else ""
        hint = f"define it above with `&{name}`; if a text that starts with `*` is meant, put quotes around it"
        return self._here(f"the alias `*{name}` stands for nothing", hint, len(name) + 1)

    def escape(self) -> Diagnostic:
        line, hint = self._line(), "write `\\\\` for a backslash, or use single quotes"
        start = max(0, line.rfind("\\", 0, self._at[1]))
        digits = {"x": 2, "u": 4, "U": 8}.get(line[start + 1 : start + 2], 0)
        piece = line[start : start + 2 + digits].split('"')[0]
        message = f"unknown escape `{piece}` in double quotes"
        if digits:
            message = f"`{piece}` stands for no character"
            hint = f"`{piece[:2]}` takes {digits} hexadecimal digits; {hint}"
        return self._source.diagnostic(self._at[0], start + 1, len(piece), message, hint)

    def duplicate_anchor(self) -> Diagnostic:
        match = re.match(r"&[\w-]*", self._rest())
        name = match.group() if match else "&"
        place = self._source.related(*self._at, len(name), f"the anchor `{name}` is defined twice")
        first = self._source.related(*self._began, len(name), "first defined here")
        return attached(place, "give one of them another name", related=[first])

    def second_document(self) -> Diagnostic:
        return self._here(
            "a second YAML document starts here", "one file holds one document: remove this line and the rest", 3
        )

    def text_after_end(self) -> Diagnostic:
        above = self._line_above(self._at[0])
        text = self._source.line(above)
        if text.startswith("..."):
            hint = f"the `...` of line {above} ends the document: remove it"
        elif section := re.match(r"\[([\w.-]+)\]\s*$", text):
            hint = f"a section is written `{section[1]}:`, with its keys below it, indented: `key: value`"
        elif self._source.line(self._first_line())[:1] == " ":
            hint = f"line it up with line {self._first_line()}: the keys of the top level start in the same column"
        else:
            hint = "the file is a mapping: lines of `key: value`, or everything inside of one `{ }`"
        return self._whole_line(self._at[0], "this stands behind the end of the document", hint)

    def _first_line(self) -> int:
        lines = range(1, self._at[0] + 1)
        return next((number for number in lines if re.match(r"\s*[^\s#%-]", self._source.line(number))), self._at[0])

    def nesting(self) -> Diagnostic:
        return self._here("nested far too deeply", "no setting needs more than 7 levels; is a bracket left open?")

    def dash_not_allowed(self) -> Diagnostic:
        return self._here("a list can't start on the line of its key", "start a new line before the `-`, and indent it")

    def colon_not_allowed(self) -> Diagnostic:
        return self._here("a colon at the end of a value", "remove it, or put quotes around the value")

    def question_mark(self) -> Diagnostic:
        return self._here("a `?` before a blank starts a key in YAML", "put quotes around the whole value")

    def directive(self) -> Diagnostic:
        return self._there("this `%` line is not understood", "remove it", len(self._source.line(self._began[0])))

    def tag(self) -> Diagnostic:
        return self._there("a tag (`!…`) is not allowed here", "remove it; a text that starts with `!` needs quotes")

    def block_header(self) -> Diagnostic:
        return self._here("text after `|` or `>`", "put it on the next line, indented, or remove the sign before it")


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip(" \t"))


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
    ("invalid Unicode character escape code", _Translation.escape),
    ("did not find expected '-' indicator", _Translation.no_dash),
    ("undefined alias", _Translation.unknown_alias),
    ("while scanning an alias", _Translation.bad_name),
    ("while scanning an anchor", _Translation.bad_name),
    ("duplicate anchor", _Translation.duplicate_anchor),
    ("found another document", _Translation.second_document),
    ("block sequence entries are not allowed", _Translation.dash_not_allowed),
    ("incompatible YAML document", _Translation.directive),
    ("while scanning a directive", _Translation.directive),
    ("duplicate %", _Translation.directive),
    ("while scanning a %", _Translation.directive),
    ("while parsing a %", _Translation.directive),
    ("while parsing a tag", _Translation.tag),
    ("undefined tag handle", _Translation.tag),
    ("while scanning a tag", _Translation.tag),
    ("while scanning a block scalar", _Translation.block_header),
    ("mapping keys are not allowed", _Translation.question_mark),
    ("found unexpected ':'", _Translation.colon_not_allowed),
    ("did not find expected node content", _Translation.no_content),
    ("did not find expected <document start>", _Translation.text_after_end),
    ("did not find expected key", _Translation.no_key),
)
