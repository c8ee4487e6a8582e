"""Importing what a file names, with every mistake in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

from router.config import Composition, Diagnostic
from router.errors import HandlerImportError
from router.routing.events import import_event_type
from router.routing.handlers import import_callback, import_handler

_Path = tuple[str | int, ...]
_CALLBACKS = ("onFailure", "onRetry")


def import_mistakes(composition: Composition, *, later: bool) -> Iterator[Diagnostic]:
    """Import event types and synchronous handlers; ``later``: what only workers need, too. Yields what fails."""
    for path, name, import_it in _imports(cast("dict[str, Any]", composition.data), later):
        try:
            import_it(name)
        except HandlerImportError as error:
            yield composition.diagnose(path, str(error))


def _imports(data: dict[str, Any], later: bool) -> Iterator[tuple[_Path, str, Callable[[str], object]]]:
    """The import paths of the file, where they stand, and what imports them."""
    for name in _CALLBACKS if later else ():
        if path := (data.get("async") or {}).get(name):
            yield ("async", name), path, import_callback
    for point_name, point in (data.get("extensions") or {}).items():
        at: _Path = ("extensions", point_name)
        if point and (path := point.get("event")):
            yield (*at, "event"), path, import_event_type
        for index, handler in enumerate((point or {}).get("handlers") or ()):
            here = (*at, "handlers", index)
            options = handler.get("async")
            if later or options is None:
                yield (*here, "handler"), handler["handler"], import_handler
            for name in _CALLBACKS if later else ():
                if isinstance(options, dict) and (path := options.get(name)):
                    yield (*here, "async", name), path, import_callback
