"""A TCP proxy on loopback that can be made to misbehave: cut, stall, be half-open, be out of order."""

from __future__ import annotations

import selectors
import socket
import struct
import threading
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

_LINGER_OFF = struct.pack("ii", 1, 0)
CHUNK = 65536


@dataclass(eq=False)
class _Pair:
    client: socket.socket
    server: socket.socket
    waiting: dict[socket.socket, bytearray] = field(default_factory=dict)

    def other(self, side: socket.socket) -> socket.socket:
        return self.server if side is self.client else self.client


def through(url: str, port: int, **options: object) -> str:
    """The same address, but at another port (a proxy's), and with these options."""
    parts = urlsplit(url)
    user = parts.netloc.rpartition("@")[0]
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{port}", query=query))


class Proxy:
    """Passes connections to 127.0.0.1:``target`` on, from `port`. All methods may be called from any thread."""

    def __init__(self, target: int, host: str = "127.0.0.1") -> None:
        self._target = target
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self.port: int = self._listener.getsockname()[1]
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._pairs: list[_Pair] = []
        self._lock = threading.RLock()
        self._stalled: set[str] = set()
        self._refusing = False
        self._cut_after: int | None = None
        self._ended = False
        self.accepted = 0
        self.to_server = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Reset every connection; new ones are taken."""
        with self._lock:
            for pair in list(self._pairs):
                self._reset(pair)

    def half_close(self) -> None:
        """Tell the clients of every connection that the server has nothing more to say; the server hears nothing."""
        with self._lock:
            for pair in list(self._pairs):
                pair.client.shutdown(socket.SHUT_WR)

    def refuse(self, refusing: bool = True) -> None:
        """Reset new connections at once."""
        with self._lock:
            self._refusing = refusing

    def stall(self, *directions: str) -> None:
        """Pass nothing on in these directions (``to_server``, ``to_client``; none named: both), on any connection."""
        with self._lock:
            self._stalled = set(directions or ("to_server", "to_client"))

    def resume(self) -> None:
        """Pass everything on again."""
        with self._lock:
            self._stalled.clear()

    def cut_after(self, size: int) -> None:
        """Reset all connections once ``size`` more bytes have gone to the server, in the middle of a frame or not."""
        with self._lock:
            self._cut_after = size

    def close(self) -> None:
        """End it."""
        self._ended = True
        self._thread.join(5)

    def _run(self) -> None:
        while not self._ended:
            for key, _ in self._selector.select(0.02):
                with self._lock:
                    if key.fileobj is self._listener:
                        self._accept()
                    elif isinstance(key.fileobj, socket.socket):
                        self._read(key.fileobj, key.data)
            with self._lock:
                self._watch()
        self.cut()
        self._listener.close()
        self._selector.close()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        self.accepted += 1
        if self._refusing:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_OFF)
            client.close()
            return
        try:
            server = socket.create_connection(("127.0.0.1", self._target), 1.0)
        except OSError:
            client.close()
            return
        client.settimeout(2.0)
        server.settimeout(2.0)
        pair = _Pair(client, server)
        self._pairs.append(pair)
        for side in (client, server):
            self._selector.register(side, selectors.EVENT_READ, pair)

    def _is_stalled(self, pair: _Pair, side: socket.socket) -> bool:
        return ("to_server" if side is pair.client else "to_client") in self._stalled

    def _watch(self) -> None:
        """Sockets of stalled directions are not looked at, so that TCP's own windows fill up."""
        for pair in self._pairs:
            for side in (pair.client, pair.server):
                watched = side in self._selector.get_map()
                if watched and self._is_stalled(pair, side):
                    self._selector.unregister(side)
                elif not watched and not self._is_stalled(pair, side):
                    self._selector.register(side, selectors.EVENT_READ, pair)

    def _read(self, side: socket.socket, pair: _Pair) -> None:
        if pair not in self._pairs or self._is_stalled(pair, side):
            return
        try:
            data = side.recv(CHUNK)
            if side is pair.client:
                self.to_server += len(data)
                if self._cut_after is not None:
                    if len(data) >= self._cut_after:
                        pair.server.sendall(data[: self._cut_after])
                        self._cut_after = None
                        for each in list(self._pairs):
                            self._reset(each)
                        return
                    self._cut_after -= len(data)
            if data:
                pair.other(side).sendall(data)
                return
        except OSError:
            pass
        self._reset(pair)

    def _reset(self, pair: _Pair) -> None:
        if pair in self._pairs:
            self._pairs.remove(pair)
        for side in (pair.client, pair.server):
            if side in self._selector.get_map():
                self._selector.unregister(side)
            side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_OFF)
            side.close()
