"""A file that was read: its text, its nodes with their places, and its plain data."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path as Folder

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from router.config.construction import PLAIN_TAG, Constructor, TooManyValues
from router.config.diagnostics import Diagnostic, Related, Source, attached, clean
from router.config.problems import Path, Problem

_Entry = tuple[Node, Node]


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
            message = message.replace(f"`{value}`", f"`{node.value}`")
            hint = None if problem.derived else hint
        place = self._place(key if problem.on_key and key is not None else node, message)
        return attached(place, self._comment_hint(node) or hint, problem.code, related)

    def _comment_hint(self, node: Node) -> str | None:
        """A plain value ends where a ` #` starts a comment, which is easily overlooked where no blank follows."""
        if not isinstance(node, ScalarNode) or node.tag != PLAIN_TAG:
            return None
        rest = self.source.line(node.end_mark.line + 1)[node.end_mark.column :].strip()
        if not re.match(r"#[^\s#!]", rest):
            return None
        return "what follows ` #` is a comment; if it belongs to the value, put quotes around the whole"

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

    def _report(self, node: Node, message: str, hint: str | None = None, first: Node | None = None) -> None:
        related = [self._place(first, "first used here")] if first is not None else []
        self.mistakes.append(attached(self._place(node, message), hint, related=related))

    def _place(self, node: Node, message: str) -> Related:
        start, end = node.start_mark, node.end_mark
        if isinstance(node, MappingNode) and node.value and not node.flow_style:
            end = node.value[0][0].end_mark
        elif isinstance(node, SequenceNode) and not node.flow_style:
            end = start
        length = end.column - start.column if end.line == start.line else len(self.source.line(start.line + 1).rstrip())
        return self.source.related(start.line + 1, start.column + 1, max(1, length), message)


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
