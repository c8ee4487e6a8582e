"""A declarative event router: ``extensions.yaml`` says which handlers run for each event, now and on a queue."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from router.errors import (
    BrokerError,
    BrokerRefused,
    BrokerUnavailable,
    ChildDied,
    ConfigError,
    ConfigNotFound,
    DispatchError,
    Fail,
    HandlerImportError,
    InvalidPayload,
    JobError,
    JobExpired,
    JobTimeout,
    LocksUnavailable,
    ReferenceMissing,
    RegistrationError,
    Retry,
    RouterError,
    UnknownPoint,
)

if TYPE_CHECKING:
    from router.app.context import Context
    from router.app.default import (
        adispatch,
        after_commit,
        configure,
        dispatch,
        dispatch_many,
        on,
        register,
        register_async,
        register_reference,
        reload,
        resend,
    )
    from router.app.dispatch import Dispatch
    from router.app.router import Router
    from router.app.tracing import trace_context
    from router.jobs.following import LifecycleEvent

__all__ = [
    "BrokerError",
    "BrokerRefused",
    "BrokerUnavailable",
    "ChildDied",
    "ConfigError",
    "ConfigNotFound",
    "Context",
    "Dispatch",
    "DispatchError",
    "Fail",
    "HandlerImportError",
    "InvalidPayload",
    "JobError",
    "JobExpired",
    "JobTimeout",
    "LifecycleEvent",
    "LocksUnavailable",
    "ReferenceMissing",
    "RegistrationError",
    "Retry",
    "Router",
    "RouterError",
    "UnknownPoint",
    "adispatch",
    "after_commit",
    "configure",
    "dispatch",
    "dispatch_many",
    "on",
    "register",
    "register_async",
    "register_reference",
    "reload",
    "resend",
    "trace_context",
]

_WHERE = (
    "router.app.context",
    "router.app.tracing",
    "router.jobs.following",
    "router.app.dispatch",
    "router.app.router",
    "router.app.default",
)
"""Where the names come from that aren't here yet, what is quick to import first: `import router` costs next to nothing,
and each process imports only what it uses."""


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in map(import_module, _WHERE):
            if hasattr(module, name):
                globals()[name] = getattr(module, name)
                return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
