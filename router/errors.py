"""Every exception of the router, in one tree.

::

    RouterError
    ├── ConfigError          the file is wrong; ``diagnostics`` says what, where and how to mend it
    ├── ConfigNotFound       there is no such file
    ├── UnknownPoint         nobody declared or registered this extension point
    ├── InvalidPayload       the payload does not fit the point
    ├── RegistrationError    ``register`` or ``register_async`` was called wrongly
    ├── HandlerImportError   an import path leads nowhere, or to something that can't be called; ``bootstrap`` fails
    ├── DispatchError        some jobs were not confirmed; ``confirmed`` and ``unconfirmed`` say which
    ├── BrokerError
    │   ├── BrokerUnavailable    out of reach or busy: worth another try
    │   └── BrokerRefused        wrong set-up: trying again changes nothing
    ├── LocksUnavailable     the lock store is out of reach; nothing was queued unlocked
    ├── EndlessJobs          ``TestRouter.run_jobs``: jobs that make jobs without end
    └── JobError             given to ``onFailure`` and ``onRetry`` where the original exception is gone
        ├── JobTimeout
        ├── JobExpired
        ├── ReferenceMissing     what the event refers to is gone
        └── ChildDied

    Retry, Fail              raised *by* handlers; not errors of the router, so not under RouterError
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, SupportsFloat

from router.durations import DurationError, parse_duration


def in_words(error: BaseException) -> str:
    """``ValueError: text``, for users, of an exception that isn't ours: also where it has no text, or can't tell it."""
    try:
        text = str(error)
    except Exception as broken:  # noqa: BLE001 - user code
        text = f"(its text can't be had: __str__ raises {type(broken).__name__})"
    return f"{type(error).__name__}: {text}".removesuffix(": ")


class RouterError(Exception):
    """Base of everything that the router raises on its own account."""


class ConfigError(RouterError):
    """The file can't be used.

    ``diagnostics`` holds every mistake found (``router.config.diagnostics.Diagnostic``), in the order of the file;
    ``str()`` shows them all with line, caret and hint. ``watched`` (``router.config.watched.Watched``, or None): the
    files that were asked for, a change of which may mend it. ``settings`` (``router.config.settings.Settings``, or
    None): what is certain in spite of the mistakes, if the connections are; good enough to look at the jobs that there
    are.
    """

    def __init__(self, diagnostics: Sequence[Any], watched: Any = None, settings: Any = None) -> None:
        super().__init__(diagnostics)
        self.diagnostics = tuple(diagnostics)
        self.watched = watched
        self.settings = settings

    def __str__(self) -> str:
        return "\n\n".join(str(diagnostic) for diagnostic in self.diagnostics)


class ConfigNotFound(RouterError):
    """No configuration file where one was expected."""


class UnknownPoint(RouterError, LookupError):
    """The extension point was neither declared in the file nor registered."""


class InvalidPayload(RouterError, ValueError):
    """The payload is not JSON, too large, or does not fit the point's ``event`` type, ``schema`` or ``uniqueBy``."""


class RegistrationError(RouterError, ValueError):
    """A programmatic route was described wrongly."""


class HandlerImportError(RouterError, ImportError):
    """An import path ``package.module:attribute`` can't be imported, or what it names can't be called as a handler.

    Also where ``bootstrap`` raises something, which is the ``__cause__``.
    """


class DispatchError(RouterError):
    """Not every job of a dispatch was confirmed by the broker.

    ``confirmed`` are the ids of jobs that are safe; ``unconfirmed`` are the others, to be handed to
    ``Router.resend``, which publishes only those, with the same ids.
    """

    def __init__(self, message: str, *, confirmed: Sequence[str] = (), unconfirmed: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.confirmed = tuple(confirmed)
        self.unconfirmed = tuple(unconfirmed)


class BrokerError(RouterError):
    """The broker could not do what was asked."""


class BrokerUnavailable(BrokerError):
    """The broker is out of reach, or busy for longer than the deadline; the same call may succeed later."""


class BrokerRefused(BrokerError):
    """The broker can't be used as it is set up; only a change of the set-up helps."""


class LocksUnavailable(RouterError):
    """The lock store of unique jobs is out of reach."""


class JobError(RouterError):
    """What callbacks get where the original exception no longer exists."""


class JobTimeout(JobError):
    """The handler ran longer than its ``timeout`` and was killed, or cancelled."""


class JobExpired(JobError):
    """No attempt of the job could be started before it expired."""


class ReferenceMissing(JobError):
    """What the event refers to is gone: a row that was deleted, say. See ``onMissing``."""


class ChildDied(JobError):
    """The process in which the handler ran ended before the handler did."""


_Delay = SupportsFloat | str | timedelta


class Retry(Exception):
    """Raised by a handler: try this job again after ``delay``.

    That is in seconds, a text such as ``"2h"``, or a timedelta; None: what the route's backoff says.

    It uses up an attempt; on the last one the job fails. ``raise Retry(...) from error`` keeps the cause.
    """

    delay: float | None = None

    def __init__(self, reason: str = "asked for a retry", *, delay: _Delay | None = None) -> None:
        super().__init__(reason)
        if delay is not None:
            self.delay = _seconds(delay)


def _seconds(delay: _Delay) -> float:
    try:
        if isinstance(delay, str):
            return parse_duration(delay)
        seconds = delay.total_seconds() if isinstance(delay, timedelta) else float(delay)
    except DurationError as error:
        raise ValueError(f"Retry: delay={delay!r} {error}") from None
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"Retry: a delay is a number of seconds, 0 or more, or a text such as '2h', not {delay!r}")
    return seconds


class Fail(Exception):
    """Raised by a handler: this job has failed, now; no attempts are left."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
