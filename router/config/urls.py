"""URLs of brokers and lock stores: which are understood, where relative files lie, how passwords stay hidden."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from router.config.problems import Problem, did_you_mean

MASK = "***"
_SQLITE = "three slashes for a path relative to this file (`sqlite:///router.db`), four for an absolute one"
_ENCODED = "special characters in a password must be percent-encoded: `/` as `%2F`, `@` as `%40`, `#` as `%23`"
BROKER_SCHEMES = ("sqlite", "amqp", "amqps", "memory")
LOCKS_SCHEMES = ("sqlite", "redis", "rediss")

_URL_START = re.compile(
    r"(?:\b(?:amqps?|rediss?|sqlite|memory|https?|postgres(?:ql)?|mysql|mongodb)|(?:^|(?<=[\s\"'-]))[A-Za-z][\w+.]{0,20})"
    r":\\?/\\?/"  # in double quotes `/` may be written `\/`, as PHP does it in JSON
)
_SECRET_PARAMETER = re.compile(r"[?&](?:password|passwd|pwd|secret|token)=([^&\s\"'#]+)", re.IGNORECASE)
_SECRET_KEY = re.compile(
    r"(?m)(?:^|[{,])[ \t]*(?:- )*[\"']?(?:password|passwd|pwd|secret|token)[\"']?[ \t]*:[ \t]+(?!\$\{)"
    r"(\"[^\"\n]*\"|'[^'\n]*'|[^\s\"',{}#][^\n,}]*)",
    re.IGNORECASE,
)
_MANY = re.compile(r"[,;]\s*[A-Za-z][\w+.-]*://")


_AMQP_FILES = ("cacertfile", "certfile", "keyfile")
_AMQP_OPTIONS = ("heartbeat", "connection_timeout", *_AMQP_FILES)


def secret_spans(text: str) -> list[tuple[int, int]]:
    """The (start, end) of every URL password in ``text``, and of every value of a key like ``password:``, in order.

    Errs on the side of hiding: everything from the first colon of the user part up to the last ``@`` before the next
    URL counts, because passwords that were not percent-encoded may contain ``/``, ``@``, ``:`` and blanks.
    """
    spans = [match.span(1) for match in _SECRET_PARAMETER.finditer(text)] if "=" in text else []
    named = [match.span(1) for match in _SECRET_KEY.finditer(text)]
    if "@" in text:
        starts = [match for match in _URL_START.finditer(text) if not match.group().startswith("sqlite")]
        for number, start in enumerate(starts):
            end = starts[number + 1].start() if number + 1 < len(starts) else len(text)
            colon = text.find(":", start.end(), end)
            at = text.rfind("@", start.end(), end)
            if 0 <= colon < at:
                spans = [span for span in spans if not (colon < span[0] < at)]
                spans.append((colon + 1, at))
    apart = [span for span in named if not any(start < span[1] and span[0] < end for start, end in spans)]
    return sorted([*spans, *apart])


def mask_url(url: str) -> str:
    """``url`` (or several, comma-separated, or any text with URLs in it) with ``***`` for each password."""
    for start, end in reversed(secret_spans(url)):
        url = url[:start] + MASK + url[end:]
    return url


def broker_problem(url: str) -> Problem | None:
    """What is wrong with the URL of a broker; None: nothing."""
    if _MANY.search(url):
        return Problem(
            "several broker URLs are not supported yet", "give one URL; a load balancer in front of RabbitMQ works"
        )
    problem = _problem(
        url, BROKER_SCHEMES, "broker", "RabbitMQ is `amqp://host`, the embedded broker `sqlite:///router.db`"
    )
    return problem or (amqp_options_problem(url) if url.startswith("amqp") else None)


def amqp_options_problem(url: str) -> Problem | None:
    """What is wrong behind the ``?`` in a URL of RabbitMQ. No value is shown: a password may have a ``?`` in it."""
    for name, value in parse_qsl(urlsplit(url).query, keep_blank_values=True):
        if name == "heartbeat" and not _is_number(value, int, 1, 600):
            return Problem("`heartbeat` must be a whole number of seconds, from 1 to 600", "for example `heartbeat=10`")
        if name == "connection_timeout" and not _is_number(value, float, 1, 600_000):
            message = "`connection_timeout` must be a number of milliseconds, from 1 to 600000"
            return Problem(message, "for example `connection_timeout=5000`")
        if name in _AMQP_FILES and not value:
            return Problem(f"`{name}` names no file", f"for example `{name}=/etc/ssl/rabbitmq.pem`")
        if name not in _AMQP_OPTIONS:
            if not name.isidentifier() or "@" in value:
                return Problem("this URL can't be read: what follows its `?` is no option", _ENCODED)
            known = ", ".join(f"`{option}`" for option in _AMQP_OPTIONS)
            hint = did_you_mean(name, _AMQP_OPTIONS, form="`{}`") or f"there are {known}"
            return Problem(f"the URL of RabbitMQ has no option `{name}`", hint)
    return None


def _is_number(text: str, kind: Callable[[str], float], least: float, most: float) -> bool:
    try:
        return least <= kind(text) <= most
    except ValueError:
        return False


def locks_problem(url: str) -> Problem | None:
    """What is wrong with the URL of a lock store; None: nothing."""
    return _problem(url, LOCKS_SCHEMES, "lock store", "for example `redis://localhost:6379/0`, or `sqlite:///locks.db`")


def absolute_url(url: str, folder: Path) -> str:
    """A SQLite URL with its path made absolute, relative to ``folder``; any other URL as it is.

    ``sqlite:///var/router.db`` is relative, ``sqlite:////var/router.db`` absolute.
    """
    path = url.removeprefix("sqlite:///")
    return url if path == url else f"sqlite:///{absolute_path(path, folder)}"


def absolute_path(path: str, folder: Path) -> str:
    """``path`` relative to ``folder``, without ``..``, links left alone."""
    return os.path.abspath(folder / path)


def _problem(url: str, schemes: tuple[str, ...], what: str, otherwise: str) -> Problem | None:
    scheme, colon, rest = url.partition("://")
    known = " or ".join((", ".join(f"`{name}://`" for name in schemes[:-1]), f"`{schemes[-1]}://`"))
    if not colon:
        start = re.match(r"[A-Za-z]*", url)
        if start and (word := start.group()) in schemes:
            otherwise = f"write `{word}://`" + ("" if word == "memory" else ", with two slashes, before the host")
            if word == "sqlite":
                otherwise = _SQLITE
        elif url.endswith((".db", ".sqlite", ".sqlite3")):
            otherwise = _SQLITE
        return Problem(f"this is not a URL: a {what} starts with {known}", otherwise)
    if scheme not in schemes:
        message = f"unknown kind of {what}: its URL must start with {known}"
        return Problem(message, did_you_mean(scheme, schemes, form="`{}://`") or otherwise)
    if scheme == "sqlite":
        return _sqlite_problem(rest)
    if scheme == "memory":
        return Problem("nothing may follow `memory://`", "write just `memory://`") if rest else None
    return _server_problem(url, f"for example `{scheme}://localhost`")


def _server_problem(url: str, example: str) -> Problem | None:
    if re.search(r"\s", url):
        return Problem("a URL can't contain blanks", "remove it; in a password, write `%20`")
    try:
        parts = urlsplit(url)
    except ValueError:
        return Problem("this URL can't be read", _ENCODED if "@" in url else example)
    try:
        if parts.port == 0:
            raise ValueError
    except ValueError:
        message = "this URL can't be read: its port is not a number from 1 to 65535"
        return Problem(message, _ENCODED if "@" in url else example)
    if not parts.hostname:
        return Problem("this URL names no host", example)
    if "," in parts.hostname or ";" in parts.hostname:
        return Problem("this URL names several hosts", f"one host is possible, {example}")
    return None


def _sqlite_problem(rest: str) -> Problem | None:
    if not rest.startswith("/"):
        return Problem("a SQLite URL has at least three slashes", _SQLITE)
    path = rest[1:]
    if path in ("", "/", ":memory:") or path.endswith("/"):
        hint = "for example `sqlite:///router.db`; for a broker in memory write `memory://`"
        return Problem("this SQLite URL names no file", hint)
    if "?" in path or "#" in path or "\0" in path:
        return Problem(
            "a SQLite URL takes no options: `?` and `#` are not allowed in it", "write only the path of the file"
        )
    return None
