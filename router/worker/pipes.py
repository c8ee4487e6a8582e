"""Messages over a pair of sockets: blocking in the child, never blocking in the parent.

A frame is the length of a message, as four bytes, and the message in MessagePack. Ours rather than
`multiprocessing.connection`, whose reads and writes block: a stopped child must not stop its parent.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

import msgspec

from router.forks import in_forked_children
from router.worker.messages import Raised, ToChild, ToParent

log = logging.getLogger("router.worker.child")

_length = struct.Struct(">I")
_CHUNK = 256 * 1024


def _frame(message: ToChild | ToParent) -> bytes:
    body = msgspec.msgpack.encode(message)
    return _length.pack(len(body)) + body


def _messages(data: bytearray, decoder: msgspec.msgpack.Decoder[Any], into: Callable[[Any], None]) -> None:
    """Take every message that is whole off the front of ``data``. Raises msgspec.DecodeError after those before."""
    start = 0
    try:
        while len(data) - start >= 4:
            end = start + 4 + _length.unpack_from(data, start)[0]
            if len(data) < end:
                break
            into(decoder.decode(memoryview(data)[start + 4 : end]))
            start = end
    finally:
        del data[:start]


class ChildPipe:
    """The child's end. Used from one thread."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._in = bytearray()
        self._arrived: deque[ToChild] = deque()
        self._out = bytearray()
        self._decoder = msgspec.msgpack.Decoder(ToChild)
        self._is_copy = False
        in_forked_children(self, ChildPipe._let_go)

    def _let_go(self) -> None:
        # A copy of the child, forked by a handler: it must neither speak for the child nor take what is sent to it.
        self._sock.close()
        self._is_copy = True

    def _end_copy(self, left: str) -> NoReturn:
        """At once: an event loop shares what it waits by with the child's, and the caller's frames are the child's."""
        log.warning("process %d, which a handler had forked, has left the handler (%s) and ends", os.getpid(), left)
        with suppress(Exception):
            sys.stdout.flush()
        os._exit(1)

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._sock.fileno()

    def post(self, message: ToParent) -> None:
        """Send it with the next message, or before the next wait: one write is cheaper than two."""
        if self._is_copy:
            self._end_copy(message.error.partition("\n")[0] if isinstance(message, Raised) else "it returned")
        self._out += _frame(message)

    def send(self, message: ToParent) -> None:
        """Raises OSError where the parent is gone."""
        self.post(message)
        self.flush()

    def flush(self) -> None:
        """Send what was posted. Raises OSError where the parent is gone."""
        if self._out:
            data, self._out = self._out, bytearray()
            self._sock.sendall(data)

    def receive(self) -> ToChild:
        """The next message; blocks. Raises EOFError where the parent is gone."""
        while not self._arrived:
            self.flush()
            self._read()
        return self._arrived.popleft()

    def arrived(self) -> list[ToChild]:
        """Every message that is there already; doesn't block."""
        arrived, self._arrived = list(self._arrived), deque()
        return arrived

    def read(self) -> list[ToChild]:
        """Every message that is there, where something can be read. Raises EOFError where the parent is gone."""
        self._read()
        return self.arrived()

    def _read(self) -> None:
        if self._is_copy:
            self._end_copy("it waits")
        data = self._sock.recv(_CHUNK)
        if not data:
            raise EOFError("the parent is gone")
        self._in += data
        _messages(self._in, self._decoder, self._arrived.append)


class ParentPipe:
    """The parent's end. What can't be written now is kept, and goes out with the next `flush`."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._in = bytearray()
        self._out = bytearray()
        self._decoder = msgspec.msgpack.Decoder(ToParent)
        self.ended = False
        """The other end is closed, or broken. What it had said before can still be received."""
        self.garbled: str | None = None
        """Set when it has said what nobody understands; nothing is received any more."""
        self._drained = False

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._sock.fileno()

    @property
    def unsent(self) -> int:
        """Bytes that wait for the child to read."""
        return len(self._out)

    def post(self, message: ToChild) -> None:
        """Write it with the next `flush`; not at all, once the other end is closed."""
        if not self.ended:
            self._out += _frame(message)

    def send(self, message: ToChild) -> None:
        """Write it now, or as much of it as goes."""
        self.post(message)
        self.flush()

    def flush(self) -> None:
        """Write what waits, as far as it goes."""
        while self._out and not self.ended:
            try:
                sent = self._sock.send(self._out)
            except BlockingIOError:
                return
            except OSError:
                self.ended = True
                self._out.clear()
                return
            del self._out[:sent]

    def receive(self) -> list[ToParent]:
        """Every message that has arrived whole."""
        messages: list[ToParent] = []
        while not self._drained:
            try:
                data = self._sock.recv(_CHUNK)
            except BlockingIOError:
                break
            except OSError:
                self.ended = self._drained = True
                break
            if not data:
                self.ended = self._drained = True
            self._in += data
        if self.garbled is None:
            try:
                _messages(self._in, self._decoder, messages.append)
            except msgspec.DecodeError as error:
                self.garbled = str(error)
        return messages

    def close(self) -> None:
        """Close the parent's end."""
        self._sock.close()
