"""One file with those that it includes and its overlay, as plain data that knows where each piece of it stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import Any

from router.config import lint
from router.config.diagnostics import Diagnostic, Related
from router.config.document import Document
from router.config.problems import Path, Problem, did_you_mean

Place = tuple[Document, Path]


@dataclass(slots=True)
class _Part:
    """A value, where it stands, and the parts of it that stand elsewhere, by key or index.

    ``owned``: the value was copied, so it may be changed; else it is the document's, where an alias may share it.
    """

    value: Any
    place: Place
    owned: bool = False
    elsewhere: dict[str | int, _Part] = field(default_factory=dict)

    def own(self) -> None:
        """Make the value one that may be changed; what is neither a mapping nor a list becomes an empty mapping."""
        if not self.owned:
            self.owned = True
            self.value = list(self.value) if isinstance(self.value, list) else dict(self.value or {})

    def put(self, step: Any, value: object, place: Place) -> None:
        """Let ``value`` stand at ``step``: a key, or the index behind the last item."""
        if isinstance(self.value, list):
            self.value.append(value)
        else:
            self.value[step] = value
        self.elsewhere[step] = _Part(value, place)

    def open(self, step: Any) -> _Part:
        """The mapping or list at ``step``, to be changed; an empty mapping where there is none."""
        part = self.elsewhere.get(step)
        if part is None:
            document, path = self.place
            value = self.value[step] if isinstance(self.value, list) else self.value.get(step)  # None: to be made
            part = self.elsewhere[step] = _Part(value, (document, (*path, step)))
        part.own()
        self.value[step] = part.value
        return part


class Composition:
    """What a file says with what it includes, under its overlay.

    ``data`` is plain, after interpolation; ``documents`` are the files, the main one first; ``mistakes`` what was wrong
    with their YAML and with putting them together, warnings included.
    """

    def __init__(self, main: Document) -> None:
        self.documents = [main]
        self.mistakes: list[Diagnostic] = [*main.mistakes]
        self._root = _Part(main.data, (main, ()))

    @property
    def data(self) -> Any:
        """The plain data of all files together."""
        return self._root.value

    def place(self, path: Path) -> Place:
        """The file in which the value at ``path`` stands, and its path there."""
        part = self._root
        for depth, step in enumerate(path):
            inner = part.elsewhere.get(step)
            if inner is None:
                document, above = part.place
                return document, (*above, *path[depth:])
            part = inner
        return part.place

    def folder(self, path: Path) -> File:
        """What a relative path that stands at ``path`` is relative to."""
        return self.place(path)[0].folder

    def diagnose(self, path: Path, message: str, hint: str | None = None) -> Diagnostic:
        """The mistake at ``path``, or at the nearest thing above it that is in a file."""
        return self.report(Problem(message, hint, path))

    def report(self, problem: Problem) -> Diagnostic:
        """The problem in its place, with the places that it is also about."""
        place = self.place(problem.path)
        if any(self._is_same(place, self.place(path)) for path, _ in problem.related):
            place = self.place(problem.path[:-1])
        return reported(problem, place, [self._note(*also) for also in problem.related])

    def _is_same(self, place: Place, other: Place) -> bool:
        """Whether an alias or a merge key lets both stand in the same place."""
        return place[0] is other[0] and place[0].same(place[1], other[1])

    def _note(self, path: Path, message: str) -> Related:
        document, inner = self.place(path)
        return document.note(inner, message)

    def ordered(self, found: Iterable[Diagnostic]) -> list[Diagnostic]:
        """In the order of the files, each once, without the warnings that a comment silences."""
        # An alias brings the same mistake up once for each place that uses it.
        unique = {(one.file, one.line, one.column, one.message): one for one in found}
        numbers = {document.name: number for number, document in enumerate(self.documents)}
        last = len(numbers)
        ordered = [unique[key] for key in sorted(unique, key=lambda key: (numbers.get(key[0], last), *key))]
        return lint.unsilenced(ordered, {document.name: document.source for document in self.documents})

    def add(self, document: Document) -> None:
        """Join the points and queues of an included file: handlers are appended, nothing else is set twice."""
        self._take(document)
        for section in ("queues", "extensions"):
            present = mapping(self.data).get(section)
            if present is not None and not isinstance(present, dict):
                continue  # of a wrong type, and reported
            for name, value in mapping(mapping(document.data).get(section)).items():
                there = self._root.open(section)
                if there.value.get(name) is None:
                    there.put(name, value, (document, (section, name)))
                elif isinstance(value, dict) and isinstance(there.value[name], dict):
                    self._join(there.open(name), value, document, (section, name))

    def _join(self, there: _Part, given: Mapping[str, Any], document: Document, path: Path) -> None:
        for key, value in given.items():
            present, at = there.value.get(key), (*path, key)
            if present is None:
                there.put(key, value, (document, at))
            elif key == "handlers" and isinstance(value, list) and isinstance(present, list):
                handlers = there.open(key)
                for number, handler in enumerate(value):
                    handlers.put(len(handlers.value), handler, (document, (*at, number)))
            elif value is not None:
                kind = "extension point" if path[0] == "extensions" else "queue"
                message = f"`{key}` of the {kind} `{path[1]}` is set in two files"
                hint = "handlers of one point may come from several files; everything else about it stands in one"
                problem = Problem(message, hint if kind == "extension point" else "remove one of them", on_key=True)
                self.mistakes.append(reported(problem, (document, at), [self._note(at, "first set here")]))

    def overlay(self, document: Document) -> None:
        """Let ``document`` change what it names: mappings key by key, handlers by id, everything else as a whole."""
        self._take(document)
        if isinstance(document.data, dict):
            self._change(self._root, document.data, document, ())

    def _change(self, there: _Part, given: Mapping[str, Any], document: Document, path: Path) -> None:
        for key, value in given.items():
            present, at = there.value.get(key), (*path, key)
            if isinstance(value, dict) and (isinstance(present, dict) or (present is None and at[0] == "extensions")):
                if present is None and path == ("extensions",) and self._is_no_point(key, value, there.value, document):
                    continue
                if present is None:
                    there.put(key, {}, (document, at))
                self._change(there.open(key), value, document, at)
            elif key == "handlers" and isinstance(value, list) and isinstance(present, list | None) and len(path) == 2:
                if present is None:
                    there.put(key, [], (document, at))
                self._change_handlers(there.open(key), value, document, at)
            elif value is not None or present is None:
                there.put(key, value, (document, at))

    def _change_handlers(self, there: _Part, given: list[Any], document: Document, path: Path) -> None:
        known = [id_of(handler) for handler in there.value]
        seen: dict[str, int] = {}
        for index, handler in enumerate(given):
            at, name = (*path, index), id_of(handler)
            if name is not None and seen.setdefault(name, index) != index:
                first = document.note((*path, seen[name]), "first changed here")
                problem = Problem(f"this overlay has the handler `{name}` twice", "put all its changes into one entry")
                self.mistakes.append(reported(problem, (document, at), [first]))
            elif name is not None and name in known:
                self._change(there.open(known.index(name)), handler, document, at)
            elif name is not None and "handler" not in handler:
                message = f"`{path[1]}` has no handler `{name}` to change"
                hint = did_you_mean(name, filter(None, known)) or "give it a `handler` to make it a new one"
                self.mistakes.append(reported(Problem(message, hint), (document, (*at, "id")), ()))
            elif isinstance(handler, dict) and not {"id", "handler"} & handler.keys():
                message, hint = "nothing says which handler this changes", "add its `id`, which is else its import path"
                self.mistakes.append(reported(Problem(message, hint), (document, at), ()))
            else:
                there.put(len(there.value), handler, (document, at))

    def _is_no_point(self, name: str, value: Mapping[str, Any], points: Mapping[str, Any], document: Document) -> bool:
        """Whether handlers are to be changed, and none added, in an extension point that there is not: reported."""
        handlers = value.get("handlers")
        changes = handlers and isinstance(handlers, list) and not any("handler" in mapping(each) for each in handlers)
        if changes:
            hint = did_you_mean(name, points) or "give its handlers a `handler` to make it a new one"
            problem = Problem(f"there is no extension point `{name}` to change", hint, on_key=True)
            self.mistakes.append(reported(problem, (document, ("extensions", name)), ()))
        return bool(changes)

    def _take(self, document: Document) -> None:
        self.documents.append(document)
        self.mistakes += document.mistakes
        if self._root.value is None or isinstance(self._root.value, dict):
            self._root.own()


def id_of(handler: object) -> str | None:
    """The id of a handler in the file: its ``id``, else its import path; None where it has neither."""
    if not isinstance(handler, dict):
        return None
    name = handler.get("id", handler.get("handler"))
    return name if isinstance(name, str) else None


def reported(problem: Problem, place: Place, related: list[Related] | tuple[()]) -> Diagnostic:
    """The problem at a place in one of the files."""
    document, path = place
    return document.report(problem.at(path), related)


def mapping(value: object) -> Mapping[str, Any]:
    """``value`` if it is a mapping; what is of a wrong type, or missing, counts as an empty one."""
    return value if isinstance(value, dict) else {}
