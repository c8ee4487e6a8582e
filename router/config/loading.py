"""Path → Loaded: finding and reading the file, and telling apart all the ways in which that can fail."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from router.config.checking import check
from router.config.diagnostics import Diagnostic, Source
from router.config.document import Document
from router.config.settings import Settings
from router.config.syntax import YamlError, compose
from router.errors import ConfigError, ConfigNotFound

DEFAULT_PLACES = ("extensions.yaml", "config/extensions.yaml")
VARIABLE = "ROUTER_CONFIG"
MAX_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file without mistakes: what it says, and the document that knows the place of everything in it."""

    settings: Settings
    document: Document


def find(path: str | None = None, *, environ: Mapping[str, str] | None = None) -> Path:
    """The file to use: ``path``, else ``$ROUTER_CONFIG``, else the first default place where there is one.

    Raises ConfigNotFound, which says where it looked.
    """
    environ = os.environ if environ is None else environ
    if path:
        return _existing(path, "")
    if named := environ.get(VARIABLE):
        return _existing(named, f" (from ${VARIABLE})")
    for place in DEFAULT_PLACES:
        if Path(place).exists():
            return Path(place)
    places = " and ".join(DEFAULT_PLACES)
    raise ConfigNotFound(
        f"no configuration file: looked for {places} in {Path.cwd()}.\n"
        f"Name one with --config FILE or ${VARIABLE}, or make one with `router init`."
    )


def load(path: str | os.PathLike[str], environ: Mapping[str, str] | None = None) -> Loaded:
    """Reads and checks the file. ``environ`` (default ``os.environ``) is what ``${VAR}`` refers to.

    Nothing is imported and nothing is connected to. Raises ConfigError with every mistake, in the order of the file,
    and ConfigNotFound if there is no such file.
    """
    file = os.fspath(path)
    content = _content(file)
    source = Source(file, _text(content, file))
    try:
        root = compose(source)
    except YamlError as error:
        raise ConfigError([error.diagnostic]) from None
    if root is None:
        what = "empty" if not source.text.strip() else "empty but for comments"
        raise ConfigError([source.unshown(f"the file is {what}", "the smallest file that works is `version: 1`")])
    document = Document(source, root, os.environ if environ is None else environ)
    settings, mistakes = check(document, Path(os.path.abspath(file)), content)
    if settings is None:
        raise ConfigError(mistakes)
    return Loaded(settings, document)


def _existing(path: str, origin: str) -> Path:
    if "\0" not in path and os.path.lexists(path):
        return Path(path)
    raise ConfigNotFound(f"there is no file {path!r}{origin}; looked in {Path.cwd()}")


def _content(file: str) -> bytes:
    if "\0" in file:
        raise ConfigNotFound(f"there is no file {file!r}")
    try:
        with open(file, "rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigNotFound(f"there is no file {file!r}; looked in {Path.cwd()}") from None
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
