"""No SQLite connection is open at the moment of a fork.

SQLite counts its locks per process and file, in memory that a forked child inherits: a connection that the child opens
itself then believes it holds the parent's locks, so it takes none of its own (or waits for ever for one that another
thread of the parent held). Never closing what was inherited doesn't help against that; so the gate waits until nobody
uses a connection, and closes all of them before the fork. Both sides open anew when they need to.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

FORK_PATIENCE = 2.0
"""Seconds that a fork waits for calls under way; a call holds a connection for little more than 0.5 s."""


class Closable(Protocol):
    def close(self) -> None: ...


class ForkGate:
    """A context manager around every use of a connection; any number of threads may be inside. Not reentrant."""

    def __init__(self) -> None:
        self._connections: weakref.WeakSet[Closable] = weakref.WeakSet()
        self._reset()

    def _reset(self) -> None:
        self._condition = threading.Condition(threading.Lock())
        self._inside = 0
        self._forking = False

    def __enter__(self) -> None:
        with self._condition:
            while self._forking:
                self._condition.wait()
            self._inside += 1

    def __exit__(self, *exc: object) -> None:
        with self._condition:
            self._inside -= 1
            if self._forking:
                self._condition.notify_all()

    def opened(self, connection: Closable) -> None:
        """Close ``connection`` before the next fork. To be called inside the gate."""
        with self._condition:
            self._connections.add(connection)

    def before_fork(self) -> None:
        self._condition.acquire()
        while self._forking:
            self._condition.wait()
        self._forking = True
        if self._condition.wait_for(lambda: self._inside == 0, FORK_PATIENCE):
            for connection in list(self._connections):
                connection.close()
            self._connections.clear()

    def after_fork_in_parent(self) -> None:
        self._forking = False
        self._condition.notify_all()
        self._condition.release()

    def after_fork_in_child(self) -> None:
        self._connections.clear()
        self._reset()


gate = ForkGate()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=gate.before_fork,
        after_in_parent=gate.after_fork_in_parent,
        after_in_child=gate.after_fork_in_child,
    )
