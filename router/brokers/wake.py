"""Waking a loop that waits on descriptors."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Wake:
    """A descriptor that becomes readable when another thread has something for the loop."""

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)
        self._lock = threading.Lock()
        self._closed = False
        self.woken = False
        """`set` was called since the last `clear`. Signals don't show here."""

    def fileno(self) -> int:
        """To be waited on for reading."""
        return self._receiver.fileno()

    def wakeup_fd(self) -> int:
        """For `signal.set_wakeup_fd`: signals wake the loop too."""
        return self._sender.fileno()

    def set(self) -> None:
        """Wake the loop; from any thread."""
        with self._lock:
            if not self._closed:
                with suppress(BlockingIOError):  # it is full, and so readable
                    self._sender.send(b"!")
                self.woken = True

    def clear(self) -> None:
        """The loop is awake."""
        self.woken = False
        try:
            while self._receiver.recv(4096):
                pass
        except BlockingIOError:
            return

    def close(self) -> None:
        """Wakes nobody any more."""
        with self._lock:
            self._closed = True
            self._sender.close()
            self._receiver.close()
