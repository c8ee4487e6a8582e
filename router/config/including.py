"""``include``: which files it names, in which order they are read, and what can be wrong with that."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from router.config.composition import Composition, Place, reported
from router.config.document import Document
from router.config.places import overlay_path, overlays
from router.config.problems import Problem, closest
from router.config.watched import matches
from router.errors import ConfigError, ConfigNotFound

MAX_FILES = 1_000

Read = Callable[[str], Document]
"""Reads one file. Raises ConfigError, or ConfigNotFound where there is none."""


@dataclass(frozen=True, slots=True)
class _Open:
    """A file that is just being read, and where it was asked for; the main file was asked for nowhere."""

    real: str
    place: Place | None


class Includer:
    """Adds to a composition what its main file includes, depth first; of a glob in the order of the names."""

    def __init__(self, composition: Composition, read: Read) -> None:
        self._composition = composition
        self._read = read
        self._known: dict[str, Place | None] = {}
        main = composition.documents[0].source.file
        self._overlays = {os.path.realpath(overlay_path(main, env)): env for env in overlays(main)}
        self.globs: dict[str, tuple[str, ...]] = {}
        """Absolute patterns and what fitted them; a new file that fits one belongs to the composition too."""

    def run(self) -> None:
        """Read everything; mistakes are added to those of the composition."""
        main = self._composition.documents[0]
        real = os.path.realpath(main.source.file)
        self._known[real] = None
        self._follow(main, (_Open(real, None),))

    def _follow(self, document: Document, chain: tuple[_Open, ...]) -> None:
        data = document.data
        patterns = data.get("include") if isinstance(data, dict) else None
        for number, pattern in enumerate(patterns if isinstance(patterns, list) else ()):
            if isinstance(pattern, str) and pattern:
                place: Place = (document, ("include", number))
                for file in self._files(pattern, place):
                    self._include(file, place, chain)

    def _files(self, pattern: str, place: Place) -> Iterator[str]:
        document, _ = place
        folder = os.path.dirname(document.source.file)
        if not glob.has_magic(pattern) or "\0" in pattern:
            yield os.path.join(folder, pattern)
            return
        absolute = os.path.join(glob.escape(str(document.folder)), pattern)
        self.globs[absolute] = matches(absolute)
        own = os.path.realpath(document.source.file)
        found = [name for name in self.globs[absolute] if not os.path.isdir(name) and os.path.realpath(name) != own]
        if not found:
            self._unused(place, f"no file fits `{pattern}`")
        beside = "" if os.path.isabs(pattern) else os.path.join(document.folder, "")
        for name in found:
            yield os.path.join(folder, name.removeprefix(beside))

    def _include(self, file: str, place: Place, chain: tuple[_Open, ...]) -> None:
        real = os.path.realpath(file) if "\0" not in file else file
        if any(opened.real == real for opened in chain):
            self._cycle(file, real, place, chain)
            return
        if real in self._known:
            first = self._known[real]
            self._unused(place, f"`{_shown(file, place)}` is included already", first)
            return
        if len(self._known) > MAX_FILES:
            self._mistake(place, f"more than {MAX_FILES:,} files are included", "is this the right pattern?")
            return
        self._known[real] = place
        if os.path.isdir(real):
            pattern = os.path.join(os.path.normpath(file), "*.yaml")
            hint = f"`{pattern}` includes all files in it"
            self._mistake(place, f"`{_shown(file, place)}` is a directory, not a file", hint, derived=True)
            return
        try:
            document = self._read(file)
        except ConfigNotFound:
            guess = _similar(file, str(place[0].folder))
            hint = f"did you mean `{guess}`?" if guess else f"it is relative to {place[0].folder}"
            self._mistake(place, f"there is no file `{_shown(file, place)}`", hint, derived=guess is not None)
            return
        except ConfigError as error:
            self._composition.mistakes += error.diagnostics
            return
        if env := self._overlays.get(real):
            problem = Problem(
                f"`{_shown(file, place)}` is the overlay for {env}; included, it is in force in every environment",
                "let the pattern name a folder of its own, or give the file another name",
                code="included-overlay",
            )
            self._composition.mistakes.append(reported(problem, place, ()))
        if isinstance(document.data, dict) and not {"extensions", "queues", "include"} & document.data.keys():
            self._unused(place, f"`{_shown(file, place)}` has neither `extensions` nor `queues`")
        self._composition.add(document)
        self._follow(document, (*chain, _Open(real, place)))

    def _cycle(self, file: str, real: str, place: Place, chain: tuple[_Open, ...]) -> None:
        start = next(number for number, opened in enumerate(chain) if opened.real == real)
        places = [opened.place for opened in chain[start + 1 :] if opened.place is not None]
        message = f"`{_shown(file, place)}` includes itself" + (", through this file" if places else "")
        notes = [document.note(path, "included here") for document, path in places]
        problem = Problem(message, "remove one of these includes" if places else "remove it")
        self._composition.mistakes.append(reported(problem, place, notes))

    def _unused(self, place: Place, message: str, first: Place | None = None) -> None:
        notes = [first[0].note(first[1], "first included here")] if first else []
        problem = Problem(message, "remove it", code="unused-include")
        self._composition.mistakes.append(reported(problem, place, notes))

    def _mistake(self, place: Place, message: str, hint: str, *, derived: bool = False) -> None:
        self._composition.mistakes.append(reported(Problem(message, hint, derived=derived), place, ()))


def _shown(file: str, place: Place) -> str:
    """The name of a file in a message; as it was asked for, if the environment has a part in it."""
    document, path = place
    return document.written(path) or os.path.normpath(file)


def _similar(file: str, folder: str) -> str | None:
    """A file beside the one that is missing, with a similar name, as a path relative to ``folder``."""
    directory, name = os.path.split(os.path.abspath(file))
    try:
        names = {os.path.splitext(each)[0]: each for each in os.listdir(directory)}
    except (OSError, ValueError):
        return None
    # Without the suffix, which is the same of most files.
    guess = closest(os.path.splitext(name)[0], names)
    return os.path.relpath(os.path.join(directory, names[guess]), folder) if guess else None
