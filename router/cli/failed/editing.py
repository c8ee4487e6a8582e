"""``router failed retry --edit``: the payload of one failed job, in the operator's editor."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import typer

from router.app.plan import make_plan
from router.app.router import Router
from router.cli.common import error, on_terminal
from router.config.settings import Point
from router.errors import InvalidPayload, RouterError
from router.jobs.job import Job
from router.jobs.unique import lock_key
from router.routing.events import EventReader


def edit(router: Router, job: Job) -> Job | None:
    """The job with its payload as it was edited, checked as a dispatch would; None where nothing was changed.

    A mistake is shown, and the editor offered again where somebody is there. Raises RouterError.
    """
    point = router.table.points.get(job.point)
    if point is None:
        raise RouterError(
            f"the file has no point {job.point!r}, so that nobody can check an edited payload; put it back into the "
            "file, or retry without --edit"
        )
    job = _of_this_version(router, point, job)
    before = msgspec.json.format(bytes(job.event), indent=2).decode() + "\n"
    text = before
    while True:
        text = _in_editor(text, job.job)
        if not text.strip() or text == before:
            return None
        try:
            return _with_payload(router, point, job, text)
        except InvalidPayload as problem:
            error(str(problem))
            if not (on_terminal() and sys.stdin.isatty()) or not typer.confirm("Edit again?", default=True, err=True):
                raise RouterError("the edited payload can't be used; nothing was done, the job stays failed") from None


def _of_this_version(router: Router, point: Point, job: Job) -> Job:
    if job.event_version == point.version:
        return job
    try:
        data = EventReader(point, None, router.references).upcast(bytes(job.event), job.event_version)
    except InvalidPayload as problem:
        raise RouterError(f"{problem}; nothing was done, the job stays failed") from problem
    return msgspec.structs.replace(job, event=msgspec.Raw(data), event_version=point.version)


def _with_payload(router: Router, point: Point, job: Job, text: str) -> Job:
    payload = _parse(text, job.point)
    later = tuple(route for route in point.routes if route.options is not None)
    # Without the synchronous handlers, which nobody needs here, and which may not be importable here.
    data = make_plan(msgspec.structs.replace(point, routes=later), {}, router.references).check(payload)
    lock = job.lock
    route = router.table.find(job.point, job.route)
    if route is not None and route.options is not None and route.options.unique is not None:
        lock = lock_key(router.table.settings.namespace, job.point, job.route, route.options.unique, data)
    return msgspec.structs.replace(job, event=msgspec.Raw(data), lock=lock)


def _parse(text: str, point: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError) as problem:
        try:
            json.loads(text)
            where = str(problem)
        except (ValueError, RecursionError) as located:
            where = str(located)  # with line and column
        raise InvalidPayload(f"{point}: the payload is no JSON: {where}") from problem


def _in_editor(text: str, job: str) -> str:
    """The text as the operator leaves it."""
    command = _editor()
    with tempfile.TemporaryDirectory(prefix="router-") as folder:  # for the operator's eyes only
        file = Path(folder) / f"{job}.json"
        try:
            file.write_text(text, encoding="utf-8")
        except OSError as problem:
            raise RouterError(
                f"{file} can't be written: {problem.strerror}; name another folder by $TMPDIR"
            ) from problem
        # Ctrl-C in the editor is the editor's. No SIG_IGN, which it would inherit.
        before = signal.signal(signal.SIGINT, lambda *_: None)
        try:
            code = subprocess.call([*command, str(file)])
        except OSError as problem:
            raise _no_editor(command[0], problem.strerror) from problem
        finally:
            signal.signal(signal.SIGINT, before)
        if code:
            raise RouterError(f"the editor ended with code {code}; nothing was done, the job stays failed")
        try:
            return file.read_text(encoding="utf-8-sig")  # some editors put a byte order mark before it
        except FileNotFoundError:
            return ""
        except OSError as problem:
            raise RouterError(f"{file} can't be read: {problem.strerror}; nothing was done") from problem
        except UnicodeDecodeError as problem:
            raise RouterError(f"what the editor has written is no UTF-8: {problem}; nothing was done") from problem


def _editor() -> list[str]:
    """The command of the operator's editor. Raises RouterError."""
    text = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        command = shlex.split(text)
    except ValueError as problem:
        raise _no_editor(text, problem) from problem
    if not command:
        raise _no_editor(text, "it names no program")
    return command


def _no_editor(command: str, why: object) -> RouterError:
    return RouterError(f"the editor {command!r} can't be started: {why}; set $VISUAL or $EDITOR to one")
