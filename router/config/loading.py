"""Path → Loaded: finding and reading the file, and telling apart all the ways in which that can fail."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from router.config.checking import Checker
from router.config.composition import Composition
from router.config.diagnostics import Diagnostic, Source
from router.config.document import Document
from router.config.including import Includer
from router.config.places import ENV_VARIABLE, current_folder, existing_overlay
from router.config.problems import Path as ValuePath
from router.config.settings import Route, Settings
from router.config.syntax import YamlError, compose
from router.config.watched import Watched
from router.errors import ConfigError, ConfigNotFound

MAX_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file without mistakes: what it says, the composition that knows the place of everything in it, where each route
    is in that, what is legal but probably wrong, and what was read for it."""

    settings: Settings
    composition: Composition
    routes: tuple[tuple[ValuePath, Route], ...]
    warnings: tuple[Diagnostic, ...]
    watched: Watched


def load(path: str | os.PathLike[str], environ: Mapping[str, str] | None = None, env: str | None = None) -> Loaded:
    """Reads and checks the file, what it includes, and its overlay for ``env`` (default ``$ROUTER_ENV``; none: no
    overlay). ``environ`` (default ``os.environ``) is what ``${VAR}`` refers to.

    Nothing is imported and nothing is connected to. Raises ConfigError with every mistake, in the order of the files,
    and ConfigNotFound if there is no such file or overlay.
    """
    environ = os.environ if environ is None else environ
    return _Loading(os.fspath(path), environ, env or environ.get(ENV_VARIABLE) or None).run()


class _Loading:
    """One load, which remembers every file that it has asked for."""

    def __init__(self, file: str, environ: Mapping[str, str], env: str | None) -> None:
        self._file = file
        self._environ = environ
        self._env = env
        self._asked: dict[str, str | None] = {}
        self._contents: list[bytes] = []
        self._globs: dict[str, tuple[str, ...]] = {}

    def run(self) -> Loaded:
        try:
            return self._load()
        except ConfigError as error:
            raise ConfigError(error.diagnostics, self._watched(), error.settings) from None

    def _load(self) -> Loaded:
        composition = Composition(self._read(self._file))
        includer = Includer(composition, self._read)
        self._globs = includer.globs
        includer.run()
        overlay = self._overlay()
        if overlay is not None:
            composition.overlay(overlay)
        checker = Checker(composition, overlay, Path(os.path.abspath(self._file)), self._env)
        try:
            settings, found = checker.check(self._contents)
        finally:
            self._asked |= checker.schema_files
        return Loaded(settings, composition, tuple(checker.routes), tuple(found), self._watched())

    def _overlay(self) -> Document | None:
        return None if self._env is None else self._read(existing_overlay(self._file, self._env))

    def _read(self, file: str) -> Document:
        path = os.path.abspath(file) if "\0" not in file else file
        self._asked[path] = None
        content = _content(file)
        self._asked[path] = hashlib.sha256(content).hexdigest()
        source = Source(file, _text(content, file))
        try:
            root = compose(source)
        except YamlError as error:
            raise ConfigError([error.diagnostic]) from None
        if root is None:
            what = "empty" if not source.text.strip() else "empty but for comments"
            raise ConfigError([source.unshown(f"the file is {what}", "the smallest file that works is `version: 1`")])
        self._contents.append(content)
        return Document(source, root, self._environ, Path(os.path.abspath(file)).parent)

    def _watched(self) -> Watched:
        return Watched(self._asked, self._globs)


def _content(file: str) -> bytes:
    if "\0" in file:
        raise ConfigNotFound(f"there is no file {file!r}")
    try:
        with open(file, "rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigNotFound(f"there is no file {file!r}; looked in {current_folder()}") from None
    except IsADirectoryError:
        hint = f"name the file in it: {os.path.join(file, 'extensions.yaml')}"
        raise ConfigError([_of_file(file, "this is a directory, not a file", hint)]) from None
    except PermissionError:
        raise ConfigError(
            [_of_file(file, "the file can't be read: permission denied", "check its owner and mode")]
        ) from None
    except OSError as error:
        raise ConfigError([_of_file(file, f"the file can't be read: {error.strerror}")]) from None
    if len(content) > MAX_BYTES:
        message = f"the file is larger than {MAX_BYTES // 1024 // 1024} MiB"
        raise ConfigError([_of_file(file, message, "is this the right file?")])
    return content


def _text(content: bytes, file: str) -> str:
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        start = content.rfind(b"\n", 0, error.start) + 1
        line = content.count(b"\n", 0, error.start) + 1
        column = len(content[start : error.start].decode("utf-8", "replace")) + 1
        message = f"the file is not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start}"
        hint = "save the file as UTF-8"
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            message, hint = "the file is UTF-16, not UTF-8", "save the file as UTF-8"
        raise ConfigError([Source(file, "").unshown(message, hint, line, column)]) from None


def _of_file(file: str, message: str, hint: str | None = None) -> Diagnostic:
    return Source(file, "").unshown(message, hint)
