"""What is legal but probably wrong. Each warning has a code, by which a comment silences it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from router.config.diagnostics import Diagnostic, Source, attached
from router.config.problems import Path, Problem, did_you_mean
from router.config.settings import AsyncOptions, Route, Settings
from router.durations import format_duration

CODES = {
    "backoff-unused": "A backoff beside a single attempt: nothing is ever retried.",
    "waits-unused": "A list of waits that is longer than the retries can use.",
    "lock-shorter-than-timeout": "The lock of a unique job may run out while the job runs.",
    "unique-options-unused": "`uniqueBy`, `uniqueLockTimeout` or `uniqueUntil` without `uniqueJob: true`.",
    "same-handler-twice": "The same handler twice in one extension point, under different ids.",
    "long-job-in-shared-queue": "Jobs that may run long share a queue with short ones, which wait behind them.",
    "unused-queue": "Settings for a queue that no handler uses.",
    "unused-include": "An include that adds nothing.",
    "included-overlay": "An include of the file that is put on top in one environment only.",
    "timeout-above-broker-limit": "The broker takes jobs back before this timeout is over (`validate --broker`).",
    "event-does-not-fit-schema": "The fields of the event type don't fit the JSON Schema of the point.",
    "unknown-code": "A comment that silences a warning which doesn't exist.",
}
"""Every warning and what it is about."""

LONG = 1800.0
SHORT = 600.0
"""Seconds: jobs that may run for longer than LONG don't belong into a queue with jobs that take at most SHORT. LONG is
how long RabbitMQ, as it is set up by default, waits for an ack. Source: design.md section 6."""

_IGNORE = re.compile(r"(?:^|(?<=\s))#\s*router:\s*ignore\[([^\]\n]*)\]")


def of_options(given: Mapping[str, Any], options: AsyncOptions) -> Iterator[Problem]:
    """Warnings about the options of one handler, seen from its ``async``."""
    waits = given.get("backoffSeconds")
    retries = [(("retries",), "the first attempt is the only one")] if "retries" in given else []
    if options.max_attempts == 1:
        for key in ("backoff", "backoffSeconds", "maxBackoffSeconds", "jitter", "retryOn", "dontRetryOn"):
            if key in given:
                message = f"`{key}` is never used: there is one attempt, so nothing is retried"
                hint = f"raise `retries`, or remove `{key}`"
                yield Problem(message, hint, (key,), on_key=True, code="backoff-unused", related=tuple(retries))
    elif isinstance(waits, list) and len(waits) >= options.max_attempts:
        used = options.max_attempts - 1
        message = (
            f"{len(waits)} waits, of which {used} can be used: {options.max_attempts} attempts have {used} between them"
        )
        hint = f"write `retries: {len(waits) + 1}`, or shorten the list"
        yield Problem(message, hint, ("backoffSeconds", used), code="waits-unused")
    if options.unique is not None and options.timeout > options.unique.lock_timeout:
        key = next((key for key in ("uniqueLockTimeout", "timeout") if key in given), "uniqueJob")
        lasts, runs = map(format_duration, (options.unique.lock_timeout, options.timeout))
        message = f"the lock lasts {lasts}, and the job may run for {runs}"
        hint = f"write `uniqueLockTimeout: {runs}` or more, so that a worker which can't renew the lock still holds it"
        yield Problem(message, hint, (key,), code="lock-shorter-than-timeout")


def of_point(routes: Iterable[tuple[Path, Route]]) -> Iterator[Problem]:
    """Warnings about the handlers of one extension point, each with its place."""
    first: dict[str, tuple[Path, Route]] = {}
    for path, route in routes:
        before, other = first.setdefault(route.handler, (path, route))
        if other.id != route.id:
            message = f"`{route.handler}` handles this extension point twice, as `{other.id}` and as `{route.id}`"
            note = ((*before, "handler"), "first used here")
            yield Problem(message, "remove one of them", (*path, "handler"), code="same-handler-twice", related=(note,))


def of_queues(routes: Iterable[tuple[Path, Route]], settings: Settings) -> Iterator[Problem]:
    """Warnings about who shares a queue, and about queues that nobody uses."""
    queues: dict[str, list[tuple[Path, AsyncOptions]]] = {}
    for path, route in routes:
        if route.options is not None:
            queues.setdefault(route.options.queue, []).append((path, route.options))
    for queue, members in queues.items():
        short = next((path for path, options in members if options.timeout <= SHORT), None)
        for path, options in members:
            if short is not None and options.timeout > LONG:
                runs = format_duration(options.timeout)
                message = (
                    f"a job that may run for {runs} shares the queue `{queue}` with short ones, which wait behind it"
                )
                note = ((*short, "handler"), f"at most {format_duration(SHORT)}, in the same queue")
                hint = "give it a queue of its own"
                at = (*path, "async", "timeout")
                yield Problem(message, hint, at, code="long-job-in-shared-queue", related=(note,))
    # What `bootstrap` registers may use any queue.
    for queue in {**settings.concurrency, **settings.async_concurrency} if settings.bootstrap is None else ():
        if queue not in queues and queue != settings.defaults.queue:
            hint = did_you_mean(queue, queues) or "remove it, or name it in the `queue` of a handler"
            yield Problem(
                f"no handler uses the queue `{queue}`", hint, ("queues", queue), on_key=True, code="unused-queue"
            )


def unsilenced(found: Iterable[Diagnostic], sources: Mapping[str, Source]) -> list[Diagnostic]:
    """Those that no comment ``# router: ignore[CODE]`` silences: on their line, or alone on the line above."""
    return [one for one in found if one.code is None or not _silenced(one, sources.get(one.file))]


def _silenced(found: Diagnostic, source: Source | None) -> bool:
    if source is None:
        return False
    above = source.line(found.line - 1)
    lines = [source.line(found.line), above if above.lstrip().startswith("#") else ""]
    return any(found.code in _codes(match) for line in lines for match in _IGNORE.finditer(line))


def _codes(match: re.Match[str]) -> list[str]:
    return [code.strip() for code in match[1].split(",")]


def unknown_codes(source: Source) -> Iterator[Diagnostic]:
    """Warnings about comments that silence what doesn't exist."""
    for match in _IGNORE.finditer(source.text):
        for code in _codes(match):
            if code not in CODES:
                line, column = source.position(match.start())
                place = source.related(line, column, len(match.group()), f"there is no warning `{code}` to be silenced")
                yield attached(place, did_you_mean(code, CODES) or "known: " + ", ".join(CODES), "unknown-code")
