"""From import path to callable."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import CoroutineType, TracebackType
from typing import Any, NoReturn

from router.config.problems import did_you_mean
from router.errors import HandlerImportError, in_words

_PACKAGE = os.path.dirname(os.path.dirname(__file__))
OURS = os.path.join(_PACKAGE, "")
"""What the file names of the router's own code begin with."""

_CALLERS = (
    __file__,
    os.path.join(_PACKAGE, "worker", ""),
    os.path.join(_PACKAGE, "testing", ""),
    os.path.join(os.path.dirname(os.__file__), "asyncio", ""),
    os.path.join(os.path.dirname(os.__file__), "concurrent", "futures", ""),
)
"""Where the code is that calls handlers."""

WANTS = "a function, an `async def`, a class with handle(event), or a class whose instances can be called"


@dataclass(frozen=True, slots=True)
class Handler:
    """Something that handles events. ``call`` takes the event, and ``context=`` too if ``wants_context``; it returns an
    awaitable if ``is_async``."""

    call: Callable[..., Any]
    is_async: bool
    wants_context: bool

    def call_with(self, context: object, *arguments: Any) -> Any:
        """`call`, with the context too if it wants that. Raises TypeError where what it returns would never run."""
        result = self.call(*arguments, context=context) if self.wants_context else self.call(*arguments)
        if type(result) is CoroutineType and not self.is_async:
            refuse_coroutine(result)
        return result


def refuse_coroutine(result: CoroutineType[Any, Any, Any]) -> NoReturn:
    """Raises TypeError: what a handler that is no ``async def`` has returned would never run."""
    result.close()
    raise TypeError(
        f"{result.__qualname__} is an `async def` behind something that is none, so that nobody awaits it: "
        "let what wraps it be an `async def` too"
    )


def own_frames(trace: TracebackType | None) -> TracebackType | None:
    """A traceback from the handler's own frame on, without the frames of what called it."""
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_CALLERS):
        trace = trace.tb_next
    return trace


def import_object(path: str) -> Any:
    """What ``package.module:attribute`` names. Raises HandlerImportError with what is wrong and what may be meant."""
    module_name, _, attributes = path.partition(":")
    if not module_name or not attributes:
        raise HandlerImportError(f"{path!r} is not an import path; write package.module:attribute")
    found: Any = _import_module(path, module_name)
    for attribute in attributes.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            hint = did_you_mean(attribute, (name for name in dir(found) if name[0] != "_"), form="'{}'")
            owner = f"module {module_name}" if inspect.ismodule(found) else repr(found)
            raise HandlerImportError(f"{path}: {owner} has no {attribute!r}" + (f"; {hint}" if hint else "")) from None
        except (Exception, SystemExit) as error:  # a `__getattr__` of a module that imports what is asked for, say
            words = f"{in_words(error)}{where(error)}"
            raise HandlerImportError(f"{path}: looking up {attribute!r} fails: {words}") from error
    return found


def _import_module(path: str, module_name: str) -> Any:
    try:
        return sys.modules["__main__"] if is_main(module_name) else importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise HandlerImportError(f"{path}: there is no module {error.name!r} on the import path") from error
        raise HandlerImportError(f"{path}: importing {module_name} fails: {error}{where(error)}") from error
    except (Exception, SystemExit) as error:  # a script that ends the process when it is imported
        words = f"{in_words(error)}{where(error)}"
        raise HandlerImportError(f"{path}: importing {module_name} fails: {words}") from error


def where(error: BaseException) -> str:
    """The line at which importing or ``bootstrap`` failed, in words; none of ours."""
    files = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    lines = [f" (at {file}:{line})" for file, line in files if "importlib" not in file and not file.startswith(OURS)]
    return lines[-1] if lines else ""


def is_main(module_name: str) -> bool:
    """Whether that module is the running script, which must not be imported a second time under its own name."""
    if module_name == "__main__":
        return True
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    if file is None or module_name in sys.modules:
        return False
    spec = importlib.util.find_spec(module_name)
    return spec is not None and spec.origin is not None and os.path.realpath(spec.origin) == os.path.realpath(file)


def import_handler(path: str) -> Handler:
    """The handler at ``path``. Raises HandlerImportError."""
    return as_handler(import_object(path), path)


def as_handler(found: Any, path: str) -> Handler:
    """``found`` made callable: a class is instantiated, once per process. Raises HandlerImportError."""
    call = _callable(found, path, method="handle")
    _refuse_generator(call, path)
    return Handler(call, is_async(call), _wants_context(call, path))


def import_callback(path: str) -> Handler:
    """The ``onFailure`` or ``onRetry`` at ``path``: takes two arguments. Raises HandlerImportError."""
    wanted = "two arguments: onFailure (exception, event), onRetry (attempt, exception)"
    call = import_callable(path, ("first", "second"), wanted)
    _refuse_generator(call, path)
    return Handler(call, is_async(call), wants_context=False)


def import_bootstrap(path: str) -> Callable[..., Any]:
    """The ``bootstrap`` at ``path``: takes the router. Raises HandlerImportError."""
    found = import_object(path)
    check_function(found, path, "bootstrap", "the router")
    return found  # type: ignore[no-any-return]


def check_function(found: Any, name: str, what: str, *arguments: str) -> None:
    """That ``found``, called ``name``, is a plain function that takes these arguments, each in words, as ``what`` has
    to be. Raises HandlerImportError."""
    takes = " and ".join(arguments)
    if not callable(found):
        kind = type(found).__name__
        raise HandlerImportError(f"{name}: a {kind} can't be called; {what} is a function that takes {takes}")
    if is_async(found):
        raise HandlerImportError(f"{name}: nobody awaits an `async def` here; {what} is a plain function")
    _refuse_generator(found, name)
    count = "one argument" if len(arguments) == 1 else "two arguments"
    _check_arguments(found, name, arguments, f"{count}, {takes}")


def import_callable(path: str, arguments: tuple[str, ...], wanted: str) -> Callable[..., Any]:
    """What can be called at ``path`` with such arguments, ``wanted`` in words. Raises HandlerImportError."""
    call = _callable(import_object(path), path, method="__call__")
    _check_arguments(call, path, arguments, wanted)
    return call


def import_exception(path: str) -> type[BaseException]:
    """The exception class at ``path``. Raises HandlerImportError."""
    found = import_object(path)
    if not (inspect.isclass(found) and issubclass(found, BaseException)):
        raise HandlerImportError(f"{path}: this is no exception, that is no class derived from BaseException")
    return found


_instances: dict[type, Any] = {}


def _callable(found: Any, path: str, method: str) -> Callable[..., Any]:
    if inspect.isclass(found):
        if not (hasattr(found, method) or "__call__" in _methods(found)):
            raise HandlerImportError(
                f"{path}: class {found.__name__} has neither {method}() nor __call__(); {WANTS} will do"
            )
        if found not in _instances:
            try:
                made = found()
            except (Exception, SystemExit) as error:
                words = in_words(error)
                raise HandlerImportError(
                    f"{path}: {found.__name__}() fails: {words}; it is made with no arguments"
                ) from error
            # Where another thread was faster, its instance is the one; a lock could wait for what user code waits for.
            _instances.setdefault(found, made)
        instance = _instances[found]
        return getattr(instance, method, None) or instance  # type: ignore[no-any-return]
    if not callable(found):
        raise HandlerImportError(f"{path}: a {type(found).__name__} can't be called; {WANTS} will do")
    return found  # type: ignore[no-any-return]


def _methods(cls: type) -> set[str]:
    return {name for base in cls.__mro__[:-1] for name in vars(base)}


def is_async(call: Callable[..., Any]) -> bool:
    """Whether it is an ``async def``, or an object whose ``__call__`` is."""
    return any(map(inspect.iscoroutinefunction, _ways_to_call(call)))


def _ways_to_call(call: Callable[..., Any]) -> tuple[Any, Any]:
    return call, getattr(call, "__call__", None)  # noqa: B004


def _refuse_generator(call: Callable[..., Any], path: str) -> None:
    ways = _ways_to_call(call)
    if any(map(inspect.isgeneratorfunction, ways)) or any(map(inspect.isasyncgenfunction, ways)):
        raise HandlerImportError(f"{path}: it has a `yield`, so that nothing of it runs when it is called")


def _wants_context(call: Callable[..., Any], path: str) -> bool:
    signature = _signature(call)
    wants = signature is not None and "context" in signature.parameters
    _check_arguments(
        call, path, ("event",), "one argument, the event (and `context`, if it likes)", wants_context=wants
    )
    return wants


def _check_arguments(
    call: Callable[..., Any], path: str, arguments: tuple[str, ...], wanted: str, *, wants_context: bool = False
) -> None:
    signature = _signature(call)
    if signature is None:
        return
    try:
        signature.bind(*arguments, **({"context": None} if wants_context else {}))
    except TypeError as error:
        raise HandlerImportError(f"{path}{signature}: {error}; it is called with {wanted}") from None


def _signature(call: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(call)
    except (TypeError, ValueError):  # some callables written in C don't tell
        return None
