"""The program that checks a file: ``python -m router.worker.checker FD PARENT FILE ENV``. It writes a `Checked`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, cast

import msgspec

from router.app.default import set_default
from router.app.router import Router, extend_import_path
from router.config import Composition, load
from router.config.diagnostics import Diagnostic
from router.errors import ConfigError, HandlerImportError, RouterError
from router.routing.events import import_event_type
from router.routing.handlers import import_callback, import_handler
from router.worker.checking import Checked
from router.worker.processes import die_with_parent, leave_signals_to_parent, take_over

_Path = tuple[str | int, ...]


def check_file(path: str, env: str | None) -> Checked:
    """Load, validate, compile, and import everything that the file names."""
    try:
        loaded = load(path, env=env)
    except ConfigError as error:
        return Checked(diagnostics=error.diagnostics, watched=error.watched)
    except RouterError as error:
        return Checked(error=str(error))
    extend_import_path(loaded.settings)
    composition = loaded.composition
    diagnostics = [*loaded.warnings, *_import_mistakes(composition)]
    table = None
    try:
        router = Router.from_settings(loaded.settings)
        set_default(router)
        table = router.table
    except Exception as error:  # noqa: BLE001 - bootstrap is user code; what it raises is the answer
        words = str(error) if isinstance(error, HandlerImportError) else f"{type(error).__name__}: {error}"
        diagnostics.append(composition.diagnose(("bootstrap",), f"bootstrap fails: {words}"))
    return Checked(table, tuple(composition.ordered(diagnostics)), watched=loaded.watched)


def _import_mistakes(composition: Composition) -> Iterator[Diagnostic]:
    for path, name, import_it in _imports(cast("dict[str, Any]", composition.data)):
        try:
            import_it(name)
        except HandlerImportError as error:
            yield composition.diagnose(path, str(error))


def _imports(data: dict[str, Any]) -> Iterator[tuple[_Path, str, Callable[[str], object]]]:
    """Every import path of the file, where it stands, and what imports it."""
    callbacks = ("onFailure", "onRetry")
    for name in callbacks:
        if path := (data.get("async") or {}).get(name):
            yield ("async", name), path, import_callback
    for point_name, point in (data.get("extensions") or {}).items():
        at: _Path = ("extensions", point_name)
        if point and (path := point.get("event")):
            yield (*at, "event"), path, import_event_type
        for index, handler in enumerate((point or {}).get("handlers") or ()):
            here = (*at, "handlers", index)
            yield (*here, "handler"), handler["handler"], import_handler
            options = handler.get("async")
            for name in callbacks:
                if isinstance(options, dict) and (path := options.get(name)):
                    yield (*here, "async", name), path, import_callback


def main() -> int:
    """The program."""
    fd, parent = map(int, sys.argv[1:3])
    die_with_parent(parent)
    leave_signals_to_parent()
    with take_over(fd) as sock:
        sock.sendall(msgspec.json.encode(check_file(sys.argv[3], sys.argv[4] or None)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
