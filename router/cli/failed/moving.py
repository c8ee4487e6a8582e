"""``router failed export | import``: failed jobs as lines of a file, and back."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Annotated

import typer

from router.app.router import topology
from router.brokers.base import Broker, Decision, FailedJob, Keep
from router.cli.common import ConfigOption, UsageError, open_broker
from router.cli.failed.forgetting import forgetting
from router.cli.failed.lines import from_line, to_line
from router.cli.failed.selecting import (
    ErrorOption,
    Filters,
    HandlerOption,
    LimitOption,
    PointOption,
    QueueOption,
    ReasonOption,
    SinceOption,
    digest,
    selection,
)
from router.cli.failed.sweeping import browse, carry_out, finish, progress
from router.cli.interrupting import interrupted
from router.config import counted
from router.errors import BrokerError, RouterError

BATCH = 500
BATCH_BYTES = 16 * 1024 * 1024
"""Jobs, and bytes of their bodies, that are restored together."""


def export(
    target: Annotated[str, typer.Argument(metavar="[FILE|-]", help="Where to; - is stdout.")] = "-",
    point: PointOption = None,
    handler: HandlerOption = None,
    queue: QueueOption = None,
    error: ErrorOption = None,
    since: SinceOption = None,
    reason: ReasonOption = None,
    limit: LimitOption = None,
    forget: Annotated[bool, typer.Option("--forget", help="Delete from the broker what is safe in FILE.")] = False,
    config: ConfigOption = None,
) -> None:
    """Write failed jobs, all or those that fit, as JSON, one a line; `router failed import` puts them back."""
    if target == "-" and forget:
        raise UsageError("--forget needs a FILE: nobody can tell whether what goes to stdout is kept")
    if not target:
        raise UsageError("an empty name is no file")  # as of a shell's variable that isn't set
    if target != "-" and os.path.lexists(target):
        raise UsageError(f"{target} is there already, perhaps the only copy of other jobs; name another file")
    filters = Filters(point, handler, queue, error, since, reason, limit)
    with open_broker(config, in_spite_of_mistakes=True) as router:
        chosen = selection(router, None, not filters.given, filters)
        written: set[bytes] = set()
        count = 0
        with _written_whole(target) as file:

            def visit(failed: FailedJob) -> None:
                nonlocal count
                if chosen.fits(failed):
                    file.write(to_line(failed))
                    written.add(digest(failed))
                    count += 1

            browse(router.broker, visit)
        if target == "-":
            typer.echo(f"exported: {counted(count, 'job')}", err=True)
            return
        typer.echo(f"exported: {counted(count, 'job')} to {target}")
        if not forget:
            return

        def decide(failed: FailedJob) -> Decision:
            # One that was retried meanwhile, and has failed again, is another one.
            return forgetting(failed) if digest(failed) in written else Keep()

        tally = carry_out(router.broker, decide, "forgetting")
    finish(tally, f"forgotten: {counted(tally.forgotten, 'job')}", [])


def import_failed(
    source: Annotated[str, typer.Argument(metavar="FILE|-", help="What an export has written; - is stdin.")],
    config: ConfigOption = None,
) -> None:
    """Put exported jobs back among the failed jobs. One that is there already stays as it is."""
    with ExitStack() as stack:
        lines = sys.stdin.buffer if source == "-" else stack.enter_context(_opened(source))
        router = stack.enter_context(open_broker(config))
        there: set[str] = set()
        browse(router.broker, lambda failed: there.add(failed.id))
        router.broker.declare(topology(router.table))
        restoring = _Restoring(router.broker, there)
        advance = stack.enter_context(progress("importing", lambda: None))
        try:
            for line in lines:
                restoring.add(line)
                advance(1)
            restoring.flush()
        except KeyboardInterrupt:
            interrupted(f"{restoring.result()}; the same command again goes on")
        except ValueError as error:
            restoring.flush()
            where = f"{'stdin' if source == '-' else source}:{restoring.lines}"
            raise RouterError(
                f"{where}: {error}\n{restoring.result()} from the lines before it; mend the line and import again: "
                "what is there already is left alone"
            ) from error
        except BrokerError as error:
            raise RouterError(f"{error}\n{restoring.result()}; the same command again goes on") from error
    typer.echo(restoring.result())


class _Restoring:
    """Restores some at a time, of so many ``lines``, what isn't ``there``."""

    def __init__(self, broker: Broker, there: set[str]) -> None:
        self._broker = broker
        self._there = there
        self._batch: list[FailedJob] = []
        self._size = 0
        self._restored = 0
        self._skipped = 0
        self.lines = 0

    def add(self, line: bytes) -> None:
        """The next line. Raises ValueError for one that can't be used."""
        self.lines += 1
        if not line.strip():
            return
        failed = from_line(line)
        if failed.id in self._there:
            self._skipped += 1
            return
        self._there.add(failed.id)
        self._batch.append(failed)
        self._size += len(failed.body)
        if len(self._batch) >= BATCH or self._size >= BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Restore what was added and isn't yet."""
        if self._batch:
            self._broker.restore(self._batch)
        self._restored += len(self._batch)
        self._batch, self._size = [], 0

    def result(self) -> str:
        """What was done, in words."""
        there = f"; {self._skipped} were there already" if self._skipped else ""
        return f"imported: {counted(self._restored, 'job')}{there}"


@contextmanager
def _written_whole(target: str) -> Iterator[IO[bytes]]:
    """A file that has its name only when all of it is on the disk. For stdout: written in one go at the end, since
    whoever reads slowly would else keep everybody from the failed jobs."""
    if target == "-":
        with tempfile.TemporaryFile() as spool:
            try:
                yield spool
                spool.seek(0)
            except OSError as error:
                raise RouterError(
                    f"a file in {tempfile.gettempdir()}, where it is put together, can't be written: {error.strerror}; "
                    "name another folder by $TMPDIR"
                ) from error
            shutil.copyfileobj(spool, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        return
    path = Path(target)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            with open(part, "xb", opener=_for_ourselves) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            _name(part, path)
        finally:
            part.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except FileExistsError as error:
        raise RouterError(f"{target} was made by somebody else meanwhile; nothing was exported") from error
    except OSError as error:
        raise RouterError(
            f"{target} can't be written: {error.strerror}; nothing was exported, all jobs stay failed"
        ) from error


def _for_ourselves(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _name(part: Path, path: Path) -> None:
    try:
        os.link(part, path)  # unlike a rename it never takes another file's place
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        os.rename(part, path)


def _opened(source: str) -> IO[bytes]:
    try:
        return open(source, "rb")
    except OSError as error:
        raise UsageError(f"{source} can't be read: {error.strerror}") from error
