"""The program that checks a file: ``python -m router.worker.checker FD PARENT FILE ENV``. It writes a `Checked`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress

import msgspec

from router.app.default import set_default
from router.app.imports import import_mistakes
from router.app.router import Router, extend_import_path
from router.config import Diagnostic, Loaded, load
from router.config.problems import Problem
from router.errors import ConfigError, HandlerImportError, RouterError, in_words
from router.routing.events import import_event_type
from router.routing.misfits import misfits
from router.worker.checking import Checked
from router.worker.processes import die_with_parent, leave_signals_to_parent, take_over


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
    diagnostics = [*loaded.warnings, *import_mistakes(composition, later=True), *_misfits(loaded)]
    table = None
    try:
        router = Router.from_settings(loaded.settings)
        set_default(router)
        table = router.table
    except Exception as error:  # noqa: BLE001 - bootstrap is user code; what it raises is the answer
        words = str(error) if isinstance(error, HandlerImportError) else in_words(error)
        diagnostics.append(composition.diagnose(("bootstrap",), f"bootstrap fails: {words}"))
    return Checked(table, tuple(composition.ordered(diagnostics)), watched=loaded.watched)


def _misfits(loaded: Loaded) -> Iterator[Diagnostic]:
    """Warnings about event types whose fields don't fit the JSON Schema of their point."""
    for point in loaded.settings.points:
        if point.event is None or point.schema is None:
            continue
        try:
            event_type = import_event_type(point.event, travels=False)
        except HandlerImportError:
            continue  # reported as what it is
        at = ("extensions", point.name)
        note = ((*at, "schema"), "the schema that it doesn't fit")
        for misfit in misfits(event_type, point.schema):
            hint = "events of this type may be refused when they are dispatched: change the type or the schema"
            problem = Problem(misfit, hint, (*at, "event"), code="event-does-not-fit-schema", related=(note,))
            yield loaded.composition.report(problem)


def main() -> int:
    """The program."""
    fd, parent = map(int, sys.argv[1:3])
    die_with_parent(parent)
    leave_signals_to_parent()
    with take_over(fd) as sock, suppress(BrokenPipeError):  # nobody wants to know it any more
        sock.sendall(msgspec.json.encode(check_file(sys.argv[3], sys.argv[4] or None)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
