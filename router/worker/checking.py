"""Checking a file in a fresh, short-lived process, so that this one imports no user code and sees every edit."""

from __future__ import annotations

import select
import socket
import subprocess
import time

import msgspec

from router.config.diagnostics import Diagnostic
from router.config.watched import Watched
from router.routing.table import RoutingTable
from router.worker.processes import describe_exit, kill, start_program

CHECK_WITHIN = 60.0
ENDS_WITHIN = 0.5


class Checked(msgspec.Struct, frozen=True):
    """What came of a check: the table, or the mistakes, or why there was neither; and what was read for it, where that
    is known. A table may come with warnings, and with mistakes in import paths."""

    table: RoutingTable | None = None
    diagnostics: tuple[Diagnostic, ...] = ()
    error: str | None = None
    watched: Watched | None = None

    @property
    def sound(self) -> RoutingTable | None:
        """The table, if nothing is wrong with the file; warnings don't count."""
        wrong = self.error is not None or any(one.severity == "error" for one in self.diagnostics)
        return None if wrong else self.table

    def problems(self) -> str:
        """All that is wrong, for people; without warnings."""
        texts = [str(diagnostic) for diagnostic in self.diagnostics if diagnostic.severity == "error"]
        return "\n\n".join([*texts, self.error] if self.error else texts)


class Check:
    """One check under way. Wait for `fileno` to become readable, and ask `poll`."""

    def __init__(self, path: str, env: str | None = None) -> None:
        self._sock, theirs = socket.socketpair()
        self._sock.setblocking(False)
        try:
            self._process = start_program("router.worker.checker", path, env or "", hand_over=theirs)
        except OSError:
            self._sock.close()
            raise
        finally:
            theirs.close()
        self._data = bytearray()
        self._give_up_at = time.monotonic() + CHECK_WITHIN

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._sock.fileno()

    def poll(self) -> Checked | None:
        """The result, once it is there; the process is gone then."""
        try:
            while data := self._sock.recv(1 << 20):
                self._data += data
        except BlockingIOError:
            if time.monotonic() < self._give_up_at:
                return None
            self._process.kill()
        self._sock.close()
        late = time.monotonic() >= self._give_up_at
        try:
            code: int | None = self._process.wait(ENDS_WITHIN)
        except subprocess.TimeoutExpired:  # it has said what it had to say; a thread of a handler's module goes on
            code = kill(self._process)
        if late:
            return Checked(
                error=f"checking the file took longer than {CHECK_WITHIN:g} s: a handler's module hangs on import"
            )
        try:
            return msgspec.json.decode(self._data, type=Checked)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            why = f"{describe_exit(code)}, and its answer can't be read ({error}); its output may say more"
            return Checked(error=f"the process that checks the file {why}")

    def wait(self) -> Checked:
        """Wait for the result, at most a minute."""
        while True:
            select.select([self], [], [], 1.0)
            result = self.poll()
            if result is not None:
                return result

    def cancel(self) -> None:
        """End it; nobody wants the result any more."""
        kill(self._process)
        self._sock.close()


def check(path: str, env: str | None = None) -> Checked:
    """Check a file, under its overlay for ``env`` (default ``$ROUTER_ENV``), and wait for that, at most a minute."""
    return Check(path, env).wait()
