"""Messages over a pair of sockets: blocking in the child, never blocking in the parent.

A frame is the length of a message, as four bytes, and the message in MessagePack. Ours rather than
`multiprocessing.connection`, whose reads and writes block: a stopped child must not stop its parent.
"""

from __future__ import annotations

import socket
import struct

import msgspec

from router.worker.messages import ToChild, ToParent

_length = struct.Struct(">I")
_CHUNK = 256 * 1024


def _frame(message: ToChild | ToParent) -> bytes:
    body = msgspec.msgpack.encode(message)
    return _length.pack(len(body)) + body


class ChildPipe:
    """The child's end. Used from one thread."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._file = sock.makefile("rb", buffering=_CHUNK)
        self._decoder = msgspec.msgpack.Decoder(ToChild)

    def send(self, message: ToParent) -> None:
        """Raises OSError where the parent is gone."""
        self._sock.sendall(_frame(message))

    def receive(self) -> ToChild:
        """The next message; blocks. Raises EOFError where the parent is gone."""
        message: ToChild = self._decoder.decode(self._read(_length.unpack(self._read(4))[0]))
        return message

    def _read(self, size: int) -> bytes:
        data: bytes = self._file.read(size)
        if len(data) < size:
            raise EOFError("the parent is gone")
        return data


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
        self._drained = False

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._sock.fileno()

    @property
    def unsent(self) -> int:
        """Bytes that wait for the child to read."""
        return len(self._out)

    def send(self, message: ToChild) -> None:
        """Write one message, or as much of it as goes; nothing, once the other end is closed."""
        if not self.ended:
            self._out += _frame(message)
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
        messages: list[ToParent] = []
        start = 0
        while len(self._in) - start >= 4:
            end = start + 4 + _length.unpack_from(self._in, start)[0]
            if len(self._in) < end:
                break
            messages.append(self._decoder.decode(memoryview(self._in)[start + 4 : end]))
            start = end
        del self._in[:start]
        return messages

    def close(self) -> None:
        """Close the parent's end."""
        self._sock.close()
