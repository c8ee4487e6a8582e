"""Which file it is, and which overlay: where they are looked for, and what names them."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping
from pathlib import Path

from router.errors import ConfigNotFound

DEFAULT_PLACES = ("extensions.yaml", "config/extensions.yaml")
VARIABLE = "ROUTER_CONFIG"
ENV_VARIABLE = "ROUTER_ENV"


def find(path: str | None = None, env: str | None = None, *, environ: Mapping[str, str] | None = None) -> Path:
    """The file to use: ``path``, else ``$ROUTER_CONFIG``, else the first default place where there is one.

    Raises ConfigNotFound, which says where it looked; also where ``env``, else ``$ROUTER_ENV``, names an overlay that
    is not there.
    """
    environ = os.environ if environ is None else environ
    file = _find(path, environ)
    if env := env or environ.get(ENV_VARIABLE):
        existing_overlay(str(file), env)
    return file


def _find(path: str | None, environ: Mapping[str, str]) -> Path:
    if path:
        return _existing(path, "")
    if named := environ.get(VARIABLE):
        return _existing(named, f" (from ${VARIABLE})")
    for place in DEFAULT_PLACES:
        if Path(place).exists():
            return Path(place)
    places = " and ".join(DEFAULT_PLACES)
    raise ConfigNotFound(
        f"no configuration file: looked for {places} in {current_folder()}.\n"
        f"Name one with --config FILE or ${VARIABLE}, or make one with `router init`."
    )


def existing_overlay(file: str, env: str) -> str:
    """The overlay of ``file`` for that environment. Raises ConfigNotFound, which says which ones there are."""
    path = overlay_path(file, env)
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", env) and os.path.lexists(path):
        return path
    known = ", ".join(overlays(file))
    there = f"it has overlays for {known}" if known else "it has no overlay"
    raise ConfigNotFound(f"{file} has no overlay for the environment {env!r} (that would be {path!r}); {there}")


def current_folder() -> str:
    """The current directory, as messages name it."""
    try:
        return os.getcwd()
    except OSError:
        return "a current directory that was deleted"


def _existing(path: str, origin: str) -> Path:
    if "\0" not in path and os.path.lexists(path):
        return Path(path)
    raise ConfigNotFound(f"there is no file {path!r}{origin}; looked in {current_folder()}")


def overlay_path(file: str, env: str) -> str:
    """The overlay of ``file`` for that environment: ``extensions.yaml`` → ``extensions.production.yaml``."""
    stem, suffix = os.path.splitext(file)
    return f"{stem}.{env}{suffix}"


def overlays(file: str) -> list[str]:
    """The environments for which ``file`` has an overlay beside it."""
    stem, suffix = os.path.splitext(file)
    found = glob.glob(f"{glob.escape(stem)}.*{glob.escape(suffix)}")
    return sorted(name[len(stem) + 1 : len(name) - len(suffix)] for name in found)
