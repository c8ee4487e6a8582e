"""A file that was read: its text, its nodes with their places, and its plain data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from router.config.construction import PLAIN_TAG, Constructor, TooManyValues
from router.config.diagnostics import Diagnostic, Source
from router.config.problems import Path, Problem

_Entry = tuple[Node, Node]


class Document:
    """``data`` is the plain data after interpolation; ``mistakes`` what was wrong with the YAML itself."""

    def __init__(self, source: Source, root: Node, environ: Mapping[str, str]) -> None:
        self.source = source
        self.root = root
        self.mistakes: list[Diagnostic] = []
        self.complete = True
        self._entries: dict[int, dict[str, _Entry]] = {}
        try:
            self.data = Constructor(environ, self._report).build(root)
        except TooManyValues:
            self.data = None
            self.complete = False

    @property
    def text(self) -> str:
        """The file's text, as it was read."""
        return self.source.text

    def diagnose(self, path: Path, message: str, hint: str | None = None, *, on_key: bool = False) -> Diagnostic:
        """The mistake at ``path``, or at the nearest thing above it that is in the file.

        ``on_key``: the caret stands under the key instead of its value.
        """
        key, node = self._find(path)
        return self._at(key if on_key and key is not None else node, message, hint)

    def report(self, problem: Problem) -> Diagnostic:
        """The problem at its place. A value that came from the environment is shown as the file writes it."""
        message, hint = problem.message, problem.hint
        key, node = self._find(problem.path)
        if isinstance(node, ScalarNode) and "${" in node.value:
            value = self._value(problem.path)
            message = message.replace(f"`{value}`", f"`{node.value}`")
            hint = None if problem.derived else hint
        return self._at(key if problem.on_key and key is not None else node, message, hint)

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

    def _report(self, node: Node, message: str, hint: str | None = None) -> None:
        self.mistakes.append(self._at(node, message, hint))

    def _at(self, node: Node, message: str, hint: str | None) -> Diagnostic:
        start, end = node.start_mark, node.end_mark
        if isinstance(node, MappingNode) and node.value and not node.flow_style:
            end = node.value[0][0].end_mark
        elif isinstance(node, SequenceNode) and not node.flow_style:
            end = start
        length = end.column - start.column if end.line == start.line else len(self.source.line(start.line + 1).rstrip())
        return self.source.diagnostic(start.line + 1, start.column + 1, max(1, length), message, hint)


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
