"""What `Router.register` and `register_async` are given, checked: what goes wrong later goes wrong in a worker."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any

from router.config.names import id_problem, import_path_problem, point_problem
from router.config.problems import Problem
from router.errors import RegistrationError
from router.routing.handlers import OURS


def path_of(handler: str | Callable[..., Any]) -> str:
    """The import path of a handler, be it a path or an object; of an instance, that of its class."""
    if isinstance(handler, str):
        return handler
    name = getattr(handler, "__qualname__", None)
    owner = handler if name else type(handler)
    return f"{owner.__module__}:{name or type(handler).__qualname__}"


def check_route(path: str, point: object, priority: object, id: object, on_error: object = "stop") -> None:
    """Raises RegistrationError, which says all that is wrong."""
    found = [problem.as_line() for problem in _problems(point, priority, id, on_error) if problem]
    if found:
        raise RegistrationError(f"{path}: {'; '.join(found)}")


def _problems(point: object, priority: object, id: object, on_error: object) -> Iterator[Problem | None]:
    if isinstance(point, str):
        yield point_problem(point)
    elif not isinstance(point, type):
        yield Problem(f"a point is named by text or by its event type, not by {point!r}")
    if not isinstance(priority, int) or isinstance(priority, bool):
        yield Problem(f"`priority` must be a whole number (lower runs first), not {priority!r}")
    if id is not None:
        yield id_problem("`id`", id) if isinstance(id, str) else Problem(f"`id` must be text, not {id!r}")
    if on_error not in ("stop", "continue"):
        yield Problem(f"`on_error` must be 'stop' or 'continue', not {on_error!r}")


def check_importable(handler: str | Callable[..., Any], path: str) -> None:
    """Raises RegistrationError where a worker that imports ``path`` doesn't get ``handler``."""
    if path.startswith("__main__:") or "<" in path:
        raise RegistrationError(
            f"a worker can't import {path}: an async handler lives at the top level of a module, "
            "not in the running script, a lambda or another function"
        )
    if isinstance(handler, str):
        if problem := import_path_problem("`handler`", handler):
            raise RegistrationError(f"{handler}: {problem.as_line()}")
    elif not _leads_to(path, handler):
        raise RegistrationError(
            f"a worker would import {path}, which is something else than {handler!r}: register a function or a "
            "class at the top level of a module, or its import path as a string"
        )


def _leads_to(path: str, handler: Callable[..., Any]) -> bool:
    """Whether who imports ``path`` gets ``handler``. Nothing is imported: its module is there, or made by hand."""
    module, _, attributes = path.partition(":")
    try:
        found = attrgetter(attributes)(sys.modules[module])
    except KeyError:
        return False
    except AttributeError:  # a decorator, or a module that is still being imported
        return True
    return bool(found == handler)  # no `is`: a class method is made anew each time it is asked for


def warn_caller(message: str) -> None:
    """Warn, in the line that called the package."""
    level, frame = 3, sys._getframe(1)
    while frame.f_back is not None and frame.f_back.f_code.co_filename.startswith(OURS):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
