"""``router dispatch``."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from codecs import BOM_UTF8
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Annotated, Any

import msgspec
import typer

from router.app.default import set_default
from router.app.dispatch import Dispatch, overrides
from router.app.router import BULK, Router
from router.cli.common import (
    ConfigOption,
    Format,
    FormatOption,
    UsageError,
    explained,
    open_router,
    print_json,
    progress_bar,
)
from router.cli.interrupting import CtrlC, interrupted
from router.errors import DispatchError, RouterError, in_words

_NO_JSON = (msgspec.DecodeError, UnicodeError, RecursionError)
"""What decoding raises; RecursionError where it is nested too deeply, as it says."""


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    point: str
    payload: dict[str, Any] = {}


def dispatch(
    point: Annotated[str | None, typer.Argument(help="The extension point.")] = None,
    payload: Annotated[
        str | None, typer.Option("--payload", "-p", metavar="JSON|@FILE|-", help="The payload; - reads stdin.")
    ] = None,
    delay: Annotated[str | None, typer.Option(metavar="DURATION", help="Let the jobs wait so long.")] = None,
    queue: Annotated[str | None, typer.Option(help="Put the jobs into this queue.")] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="FILE.jsonl|-", help='Many: a line is {"point": ..., "payload": {...}}.'),
    ] = None,
    skip: Annotated[int, typer.Option(min=0, help="With --from: leave out so many lines.")] = 0,
    config: ConfigOption = None,
    format: FormatOption = Format.TEXT,
) -> None:
    """Raise an extension point: run its synchronous handlers here, queue the others."""
    if (point is None) == (source is None):
        raise UsageError("give a POINT, or many by --from FILE.jsonl")
    if source is not None and (payload or delay or queue):
        raise UsageError("--payload, --delay and --queue go with a POINT, not with --from")
    with open_router(config) as router:
        set_default(router)
        if source is not None:
            _dispatch_file(router, source, skip, format)
        elif point is not None:
            _dispatch_one(router, point, _read_payload(payload), delay, queue, format)


def _dispatch_one(
    router: Router, point: str, payload: Any, delay: str | None, queue: str | None, format: Format
) -> None:
    try:
        wanted = overrides(delay, None, queue, router.table.queues(), time.time())
    except ValueError as error:
        raise UsageError(str(error)) from error
    try:
        done = router.dispatch(point, payload, delay=wanted.delay, queue=wanted.queue)
    except RouterError:
        raise
    except Exception as error:  # a handler's
        raise RouterError(f"{point}: {explained(error)}; nothing was queued (--verbose shows where)") from error
    if format is Format.JSON:
        print_json(_as_data(done))
        return
    typer.echo(f"dispatched {point}, event {done.event_id}")
    for route, result in done.results.items():
        typer.echo(f"  ran        {route} -> {_shown(result)}")
    for route, problem in done.errors.items():
        typer.echo(f"  error in   {route}: {in_words(problem)}")
    if done.stopped_by:
        typer.echo(f"  stopped by {done.stopped_by}: nothing was queued")
    for route, job in done.jobs.items():
        typer.echo(f"  queued     {route} job {job}")
    for route, holder in done.duplicates:
        typer.echo(f"  duplicate  {route}: job {holder} is not done yet")


def _shown(result: object) -> str:
    try:
        return repr(result)
    except Exception as problem:  # noqa: BLE001 - user code, and the jobs are queued
        return f"{type(result).__name__} (its __repr__ raises {in_words(problem)})"


def _as_data(done: Dispatch) -> dict[str, Any]:
    return {
        "event_id": done.event_id,
        "results": {route: _encodable(result) for route, result in done.results.items()},
        "errors": {route: in_words(error) for route, error in done.errors.items()},
        "jobs": dict(done.jobs),
        "duplicates": [list(pair) for pair in done.duplicates],
        "stopped_by": done.stopped_by,
    }


def _encodable(result: Any) -> Any:
    try:
        data = msgspec.to_builtins(result)
        json.dumps(data, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError):
        return repr(result)
    return data


def _read_payload(text: str | None) -> Any:
    if text is None:
        return {}
    data: str | bytes = text
    where = "--payload"
    if text == "-":
        data, where = sys.stdin.buffer.read(), "stdin"
    elif text.startswith("@"):
        where = text[1:]
        try:
            data = Path(where).read_bytes()
        except OSError as error:
            raise UsageError(f"--payload: {where} can't be read: {error}") from error
    try:
        return msgspec.json.decode(data.removeprefix(BOM_UTF8) if isinstance(data, bytes) else data)
    except _NO_JSON as error:
        raise UsageError(f"{where} is no JSON: {error}") from error


def _dispatch_file(router: Router, source: str, skip: int, format: Format) -> None:
    with ExitStack() as stack:
        lines = sys.stdin.buffer if source == "-" else stack.enter_context(_open(source))
        total = None
        if source != "-" and lines.seekable():
            total = sum(1 for _ in lines) - skip
            lines.seek(0)
        events = _Events(lines, skip, stack.enter_context(CtrlC()))
        try:
            jobs, duplicates = _dispatch_events(router, source, events, total)
        except KeyboardInterrupt:
            interrupted(events.so_far())
    count = events.number - skip
    if format is Format.JSON:
        print_json({"events": count, "jobs": jobs, "duplicates": duplicates})
    else:
        more = f", {duplicates} duplicates" if duplicates else ""
        typer.echo(f"dispatched {count} events: {jobs} jobs queued{more}")


def _dispatch_events(router: Router, source: str, events: _Events, total: int | None) -> tuple[int, int]:
    """How many jobs that made, and how many duplicates it found."""
    jobs = duplicates = 0
    with progress_bar() as progress:
        task = progress.add_task("dispatching", total=total)
        while True:
            try:
                done = router.dispatch_many(itertools.islice(events, BULK))
            except DispatchError as error:
                raise RouterError(
                    f"{source}: {error}. Of the lines {events.done + 1} to {events.number}, {len(error.confirmed)} "
                    f"jobs are queued and {len(error.unconfirmed)} aren't; all lines before them are done: "
                    f"--skip {events.done}"
                ) from error
            except Exception as error:
                raise RouterError(
                    f"{source}:{events.number}: {explained(error)}\n"
                    f"All lines before it are done; go on behind it with --skip {events.number}"
                ) from error
            if not done:
                return jobs, duplicates
            events.done = events.number
            jobs += sum(len(event.jobs) for event in done)
            duplicates += sum(len(event.duplicates) for event in done)
            progress.update(task, advance=len(done))


class _Events:
    """The events of a file, one a line; ``number`` is that of the line read last, ``done`` of the last one that was
    surely dispatched. Ctrl-C takes effect between two lines: what was read before is dispatched then."""

    def __init__(self, lines: IO[bytes], skip: int, ctrl_c: CtrlC) -> None:
        self._lines = itertools.islice(lines, skip, None)
        self._decoder = msgspec.json.Decoder(_Line)
        self._ctrl_c = ctrl_c
        self.number = self.done = skip

    def so_far(self) -> str:
        """What was done before Ctrl-C, and how to go on."""
        if not self._ctrl_c.insisted or self.done == self.number:
            return f"all lines up to {self.number} are done; go on with --skip {self.number}"
        return (
            f"surely done are the lines up to {self.done}, perhaps some of those up to {self.number}; "
            f"--skip {self.done} does these again"
        )

    def __iter__(self) -> _Events:
        return self

    def __next__(self) -> tuple[str, Any]:
        self._ctrl_c.may_take_effect_at_once()  # the line may be long in coming
        try:
            line = next(self._lines)
        finally:
            self._ctrl_c.may_take_effect()
        self.number += 1
        if self.number == 1:
            line = line.removeprefix(BOM_UTF8)
        try:
            event = self._decoder.decode(line)
        except _NO_JSON as error:
            raise RouterError(f'{error}; a line is {{"point": "order.placed", "payload": {{...}}}}') from error
        return event.point, event.payload


def _open(path: str) -> IO[bytes]:
    try:
        return open(path, "rb")
    except OSError as error:
        raise UsageError(f"--from: {path} can't be read: {os.strerror(error.errno or 0)}") from error
