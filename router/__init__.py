"""A declarative event router: ``extensions.yaml`` says which handlers run for each event, now and on a queue."""

from router.app.context import Context
from router.app.default import adispatch, configure, dispatch, dispatch_many, register, register_async, resend
from router.app.dispatch import Dispatch
from router.app.router import Router
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
    JobTimeout,
    LocksUnavailable,
    RegistrationError,
    Retry,
    RouterError,
    UnknownPoint,
)

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
    "JobTimeout",
    "LocksUnavailable",
    "RegistrationError",
    "Retry",
    "Router",
    "RouterError",
    "UnknownPoint",
    "adispatch",
    "configure",
    "dispatch",
    "dispatch_many",
    "register",
    "register_async",
    "resend",
]
