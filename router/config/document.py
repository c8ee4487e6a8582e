"""A file that was read: its text, its nodes with their places, and its plain data."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path as Folder

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from router.config.construction import PLAIN_TAG, Constructor, TooManyValues
from router.config.diagnostics import Diagnostic, Related, Source, attached, clean
from router.config.problems import Path, Problem, lookalike

_Entry = tuple[Node, Node]
_FIXED_WORDS = ("true", "false")
"""Words of messages that are never there because a value of the environment is."""
_OTHER_REFERENCE = re.compile(r"\$\(?([A-Za-z_]\w*)\)?(?=$|[/:.])|%([A-Za-z_]\w*)%|#?\{([A-Za-z_]\w*)\}")
_OPENING = {"]": "[", "}": "{", ")": "("}
_Slip = tuple[int, int, str]
"""From where to where in a scalar, as it stands in the file, and a hint; to 0: the whole of it."""


class Document:
    """One file. ``data`` is its plain data after interpolation; ``mistakes`` what was wrong with the YAML itself;
    ``folder``, an absolute path, what relative paths in it are relative to."""

    def __init__(self, source: Source, root: Node, environ: Mapping[str, str], folder: Folder) -> None:
        self.source = source
        self.folder = folder
        self.root = root
        self.mistakes: list[Diagnostic] = []
        self.complete = True
        """Whether ``data`` is what the file says; if not, it is None, and nothing more can be said about it."""
        self._entries: dict[int, dict[str, _Entry]] = {}
        try:
            self.data = Constructor(environ, self._report).build(root)
        except TooManyValues:
            self.data = None
            self.complete = False

    @property
    def name(self) -> str:
        """The name of the file as diagnostics show it."""
        return clean(self.source.file)

    def note(self, path: Path, message: str) -> Related:
        """The key of the value at ``path`` (the value itself in a list), as a place that a mistake is also about."""
        key, node = self._find(path)
        return self._place(key or node, message)

    def same(self, path: Path, other: Path) -> bool:
        """Whether the values at both paths stand in the same place."""
        return path != other and self._find(path)[1] is self._find(other)[1]

    def written(self, path: Path) -> str | None:
        """The value at ``path`` as the file writes it, if it is a scalar that the environment has a part in."""
        _, node = self._find(path)
        return node.value if isinstance(node, ScalarNode) and "${" in node.value else None

    def report(self, problem: Problem, related: Sequence[Related] = ()) -> Diagnostic:
        """The problem at its place. A value that came from the environment is shown as the file writes it."""
        message, hint = problem.message, problem.hint
        key, node = self._find(problem.path)
        if isinstance(node, ScalarNode) and "${" in node.value:
            value = self._value(problem.path)
            if value not in _FIXED_WORDS and value not in problem.path:
                message = message.replace(f"`{value}`", f"`{node.value}`")
            hint = None if problem.derived else hint
        if problem.code:
            return attached(self._place(key if problem.on_key and key else node, message), hint, problem.code, related)
        if problem.on_key and key is not None:
            place, slip = self._narrowed(key, message, self._misread(key))
        else:
            place, slip = self._narrowed(node, message, self._misread(node) or self._slip(node))
        return attached(place, slip or hint, related=related)

    def _narrowed(self, node: Node, message: str, slip: _Slip | None) -> tuple[Related, str | None]:
        """The place of ``node``, or that part of it which a slip is about, and the hint of the slip."""
        place = self._place(node, message)
        if slip is None:
            return place, None
        start, end, hint = slip
        if end:
            place = self.source.related(place.line, place.column + start, end - start, message)
        return place, hint

    def _written(self, node: Node) -> str:
        """The text of a scalar as it stands in the file; empty if it takes several lines."""
        start, end = node.start_mark, node.end_mark
        return self.source.line(start.line + 1)[start.column : end.column] if start.line == end.line else ""

    def _misread(self, node: Node) -> _Slip | None:
        """A character that only looks like one of YAML, in a scalar or in the key that a block starts with."""
        if isinstance(node, MappingNode) and node.value and not node.flow_style:
            node = node.value[0][0]
        return lookalike(self._written(node)) if isinstance(node, ScalarNode) else None

    def _slip(self, node: Node) -> _Slip | None:
        """What about the way in which a wrong value is written probably explains why it is wrong."""
        if not isinstance(node, ScalarNode):
            return None
        text = self._written(node)
        if node.style in ("|", ">"):
            return 0, 0, f"`{node.style}` makes a text with a line break of the lines below it: remove it"
        start, end = node.start_mark, node.end_mark
        if node.tag == PLAIN_TAG and end.line > start.line and ": " in self.source.line(start.line + 1)[: start.column]:
            return 0, 0, f"the value goes on in line {end.line + 1}, because that is indented further than the key"
        if node.tag == PLAIN_TAG:
            # A plain value ends where a ` #` starts a comment, which is easily overlooked where no blank follows.
            rest = self.source.line(node.end_mark.line + 1)[node.end_mark.column :].strip()
            if re.match(r"#[^\s#!]", rest):
                return 0, 0, "what follows ` #` is a comment; if it belongs to the value, put quotes around the whole"
            if (sign := text.find("#")) > 0 and "://" not in text and not re.fullmatch(r"\w+(\.\w+)+#\w+", text):
                return sign, sign + 1, "a comment needs a blank before its `#`"
            if _has_leftover(text):
                return len(text) - 1, len(text), f"the `{text[-1]}` at the end is part of the value here: remove it"
        elif node.value != node.value.strip():
            end = "start" if node.value[:1].isspace() else "end"
            return 0, 0, f"the value has a blank at its {end}, inside the quotes: remove it"
        if match := _OTHER_REFERENCE.match(node.value):
            name = match[1] or match[2] or match[3]
            return 0, 0, f"a value of the environment is written `${{{name}}}`"
        return None

    def _value(self, path: Path) -> object:
        value: object = self.data
        for step in path:
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and isinstance(step, int):
                value = value[step]
        return value

    def _find(self, path: Path) -> tuple[Node | None, Node]:
        """The key (None in a list and at the top) and the value at ``path``, or at its nearest ancestor."""
        key: Node | None = None
        node = self.root
        for step in path:
            if isinstance(node, MappingNode):
                entry = self._mapping(node).get(str(step))
                if entry is None:
                    break
                key, node = entry
            elif isinstance(node, SequenceNode) and isinstance(step, int) and step < len(node.value):
                key, node = None, node.value[step]
            else:
                break
        return key, node

    def _mapping(self, node: MappingNode) -> dict[str, _Entry]:
        entries = self._entries.get(id(node))
        if entries is None:
            entries = self._entries[id(node)] = {}
            for key, value in _merged(node, set()):
                entries.setdefault(str(key.value), (key, value))
        return entries

    def _report(
        self,
        node: Node,
        message: str,
        hint: str | None = None,
        first: Node | None = None,
        note: str = "first used here",
    ) -> None:
        related = [self._place(first, note)] if first is not None else []
        place, slip = self._narrowed(node, message, self._misread(node))
        self.mistakes.append(attached(place, slip or hint, related=related))

    def _place(self, node: Node, message: str) -> Related:
        start, end = node.start_mark, node.end_mark
        if isinstance(node, MappingNode) and node.value and not node.flow_style:
            end = node.value[0][0].end_mark
        elif isinstance(node, SequenceNode) and not node.flow_style:
            end = start
        length = end.column - start.column if end.line == start.line else len(self.source.line(start.line + 1).rstrip())
        return self.source.related(start.line + 1, start.column + 1, max(1, length), message)


def _has_leftover(text: str) -> bool:
    """Whether a plain value ends with what other languages put behind a value, or with what closes nothing."""
    last = text[-1:] or " "
    if last in "\"'":
        return text.count(last) % 2 == 1
    return last in ",;" or text.count(last) > text.count(_OPENING.get(last, last))


def _merged(node: MappingNode, seen: set[int]) -> Iterator[_Entry]:
    """The entries of a mapping, its own before those that it merges, in the order in which they win."""
    if id(node) in seen:
        return
    seen.add(id(node))
    merged: list[Node] = []
    for key, value in node.value:
        if key.tag == PLAIN_TAG and key.value == "<<":
            merged.extend(value.value if isinstance(value, SequenceNode) else [value])
        else:
            yield key, value
    for source in merged:
        if isinstance(source, MappingNode):
            yield from _merged(source, seen)
