"""Importing what a file names, with every mistake in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from router.errors import HandlerImportError
from router.routing.events import import_event_type, import_upcaster
from router.routing.handlers import import_callback, import_exception, import_handler

if TYPE_CHECKING:
    from router.config import Composition, Diagnostic

_Path = tuple[str | int, ...]
_CALLBACKS = ("onFailure", "onRetry")
_EXCEPTIONS = ("retryOn", "dontRetryOn")
_Import = tuple[_Path, str, Callable[[str], object]]


def import_mistakes(composition: Composition, *, later: bool) -> Iterator[Diagnostic]:
    """Import event types and synchronous handlers; ``later``: what only workers need, too. Yields what fails."""
    for path, name, import_it in _imports(cast("dict[str, Any]", composition.data), later):
        try:
            import_it(name)
        except HandlerImportError as error:
            yield composition.diagnose(path, str(error))


def _imports(data: dict[str, Any], later: bool) -> Iterator[_Import]:
    """The import paths of the file, where they stand, and what imports them."""
    if later:
        yield from _of_options(data.get("async"), ("async",))
    for point_name, point in (data.get("extensions") or {}).items():
        at: _Path = ("extensions", point_name)
        if later:
            yield from _of_options(point, at)
        if point and (path := point.get("event")):
            travels = any(handler.get("async") is not None for handler in point.get("handlers") or ())
            yield (*at, "event"), path, partial(import_event_type, travels=travels)
        for number, path in enumerate((point or {}).get("upcasters") or () if later else ()):
            yield (*at, "upcasters", number), path, import_upcaster
        for index, handler in enumerate((point or {}).get("handlers") or ()):
            here = (*at, "handlers", index)
            options = handler.get("async")
            if later or options is None:
                yield (*here, "handler"), handler["handler"], import_handler
            if later:
                yield from _of_options(options, (*here, "async"))


def _of_options(options: object, at: _Path) -> Iterator[_Import]:
    """The callbacks and exceptions in a mapping that may have some."""
    if not isinstance(options, dict):
        return
    for name in _CALLBACKS:
        if path := options.get(name):
            yield (*at, name), path, import_callback
    for name in _EXCEPTIONS:
        for number, path in enumerate(options.get(name) or ()):
            yield (*at, name, number), path, import_exception
