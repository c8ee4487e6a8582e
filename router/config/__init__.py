"""``extensions.yaml``: found, read, checked, and turned into frozen Settings, with every mistake in its place."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from router.config.composition import Composition
    from router.config.diagnostics import Diagnostic
    from router.config.loading import Loaded, load
    from router.config.options import async_options
    from router.config.places import find
    from router.config.problems import counted, did_you_mean
    from router.config.schema import schema_text
    from router.config.settings import AsyncOptions
    from router.config.urls import mask_url
    from router.config.watched import Look, Watched

__all__ = [
    "find",
    "load",
    "Loaded",
    "Composition",
    "Diagnostic",
    "async_options",
    "mask_url",
    "did_you_mean",
    "counted",
    "schema_text",
    "AsyncOptions",
    "Look",
    "Watched",
]

_WHERE = {
    "router.config.composition": "Composition",
    "router.config.diagnostics": "Diagnostic",
    "router.config.loading": "Loaded load",
    "router.config.places": "find",
    "router.config.options": "async_options",
    "router.config.problems": "counted did_you_mean",
    "router.config.schema": "schema_text",
    "router.config.settings": "AsyncOptions",
    "router.config.urls": "mask_url",
    "router.config.watched": "Look Watched",
}
"""Where the names come from. Imported when asked for: a worker's children read no file, so they need no YAML."""


def __getattr__(name: str) -> Any:
    for module, names in _WHERE.items():
        if name in names.split():
            globals()[name] = getattr(import_module(module), name)
            return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
