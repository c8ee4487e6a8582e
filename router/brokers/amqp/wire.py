"""py-amqp with its waits under control.

As it comes, py-amqp waits without end for every reply, blocks in `send`, spins on half a frame when not blocking, and
opens a channel that the server closed again, the same object with tags from 1. Here the socket never blocks, what
isn't sent yet is kept in a buffer, every wait has a deadline, and a closed channel stays closed.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import Any, ClassVar

from amqp import Message, spec
from amqp.exceptions import (
    AMQPError,
    ChannelError,
    RecoverableConnectionError,
    UnexpectedFrame,
    error_for_code,
)
from amqp.exceptions import ConnectionError as AMQPConnectionError
from amqp.transport import SSLTransport, TCPTransport
from kombu.transport import pyamqp

RECEIVE = 256 * 1024
SEND = 256 * 1024
FLUSH_OVER = 64 * 1024
"""Bytes in the send buffer from which on a write tries to hand them to the kernel."""

MAX_FRAME = 16 * 1024 * 1024
"""Nothing that RabbitMQ sends has larger frames; more means that we lost our place in the stream."""

UNREADABLE = "router_unreadable"
"""In the properties of a message whose real ones can't be read: why."""

_HEADER = struct.Struct(">BHI")
_FRAME_END = 0xCE
_END = b"\xce"
_METHOD, _HEADERS, _BODY, _HEARTBEAT = 1, 2, 3, 8
_CONTENT_HEADER = struct.Struct(">HHQ")
_METHOD_OF = struct.Struct(">HH")
_LONGLONG = struct.Struct(">Q")
_ACK = struct.Struct(">QB")
_PUBLISH = struct.pack(">HH", *spec.Basic.Publish)
_NO_LINGER = struct.pack("ii", 1, 0)


class _NonBlocking:
    """Mixed into py-amqp's transports: a socket that never blocks, with a buffer on either side."""

    sock: Any
    tells_by_less = True
    """Whether a read that brings less than was asked for has emptied the socket."""

    def _setup_transport(self) -> None:
        super()._setup_transport()  # type: ignore[misc]  # for TLS the handshake, under the connect timeout
        self.unsent = bytearray()
        self._received = b""
        self._at = 0
        self._emptied = False
        self._poller = select.poll()
        self.sock.setblocking(False)
        self._write = self._append

    def _append(self, data: bytes | memoryview) -> None:
        self.unsent += data
        if len(self.unsent) > FLUSH_OVER:
            self.flush()

    def flush(self) -> None:
        """Hand the kernel what it takes now."""
        unsent = self.unsent
        while unsent:
            try:
                sent = self.sock.send(bytes(unsent[:SEND]))
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                return
            del unsent[:sent]

    def read_frame(self, unpack: object = None) -> tuple[int, int, bytes]:
        """The next frame. Raises TimeoutError where it isn't here as a whole yet."""
        while True:
            data, at = self._received, self._at
            if len(data) - at >= _HEADER.size:
                kind, channel, size = _HEADER.unpack_from(data, at)
                end = at + _HEADER.size + size
                if end < len(data):
                    if data[end] != _FRAME_END:
                        raise UnexpectedFrame(f"a frame that ends in {data[end]:#04x}")
                    self._at = end + 1
                    return kind, channel, data[at + _HEADER.size : end]
                if size > MAX_FRAME:
                    raise UnexpectedFrame(f"a frame of {size} bytes")
            if self._emptied:
                self._emptied = False
                raise TimeoutError("nothing to read")
            try:
                more = self.sock.recv(RECEIVE)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
                raise TimeoutError("nothing to read") from error
            if not more:
                raise ConnectionResetError("the server closed the connection")
            self._emptied = self.tells_by_less and len(more) < RECEIVE
            self._received, self._at = data[at:] + more, 0

    def await_readable(self, limit: float) -> None:
        """Send, and wait until something can be read. TimeoutError at ``limit`` (monotonic)."""
        self._emptied = False
        while True:
            self.flush()
            left = limit - time.monotonic()
            if left <= 0:
                raise TimeoutError("no answer in time")
            self._poller.register(self.sock, select.POLLIN | (select.POLLOUT if self.unsent else 0))
            for _, event in self._poller.poll(left * 1000):
                if event & ~select.POLLOUT:
                    return


class _Plain(_NonBlocking, TCPTransport):  # type: ignore[misc]
    pass


class _Tls(_NonBlocking, SSLTransport):  # type: ignore[misc]
    tells_by_less = False

    def _wrap_socket(self, sock: Any, context: ssl.SSLContext, server_hostname: str) -> ssl.SSLSocket:
        sock.settimeout(self.connect_timeout)
        return context.wrap_socket(sock, server_hostname=server_hostname)


def _ignore(*_: object) -> None:
    return None


class Delivered:
    """A message that a consumer got. What nobody asks for is not decoded: properties cost more than all the rest."""

    __slots__ = ("_chunks", "_left", "_properties", "arguments", "header")

    def __init__(self, arguments: bytes) -> None:
        self.arguments = arguments
        self.header = b""
        """The content header as it came: in it the properties, encoded."""
        self._left = 0
        self._chunks: list[bytes] = []
        self._properties: dict[str, Any] | None = None

    def take(self, kind: int, payload: bytes) -> bool:
        """One more frame of it; whether that was the last. Raises UnexpectedFrame."""
        if kind == _HEADERS and not self.header:
            self.header = payload
            self._left = _CONTENT_HEADER.unpack_from(payload)[2]
        elif kind == _BODY and self.header:
            self._chunks.append(payload)
            self._left -= len(payload)
        else:
            raise UnexpectedFrame(f"a frame of type {kind} out of turn")
        return self._left <= 0

    @property
    def body(self) -> bytes:
        """Its bytes."""
        return self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)

    @property
    def properties(self) -> dict[str, Any]:
        """By py-amqp's names; only UNREADABLE where it can't read them."""
        if self._properties is None:
            message = Message()
            try:
                message.inbound_header(self.header)
            except Exception as error:  # noqa: BLE001 - whatever py-amqp makes of it, it is this one message's fault
                message.properties = {UNREADABLE: str(error)}
            self._properties = message.properties
        return self._properties

    def delivery(self) -> tuple[str, int, str]:
        """Consumer tag, delivery tag, routing key."""
        arguments = self.arguments
        end = 5 + arguments[4]
        consumer = arguments[5:end].decode()
        (number,) = _LONGLONG.unpack_from(arguments, end)
        exchange = end + 9  # after the redelivered bit
        key = exchange + 1 + arguments[exchange]
        return consumer, number, arguments[key + 1 : key + 1 + arguments[key]].decode("utf-8", "replace")


FrameHandler = Callable[[tuple[int, int, bytes]], bool]
_CONTENT = frozenset({spec.Basic.Return, spec.Basic.GetOk})


def _frame_handler(
    connection: Connection, callback: Callable[[int, tuple[int, int], bytes, Any], None]
) -> FrameHandler:
    """Puts frames together. Unlike py-amqp's it survives a message whose properties can't be read, which would else
    end the connection each time it is delivered, for ever."""
    partial: dict[int, Message | Delivered] = {}

    def on_frame(frame: tuple[int, int, bytes]) -> bool:
        kind, channel, payload = frame
        connection.bytes_recv += 1
        if kind == _HEARTBEAT:
            return False
        message = partial.get(channel)
        if kind == _METHOD and message is None:
            method: tuple[int, int] = _METHOD_OF.unpack_from(payload)
            if method == spec.Basic.Deliver:
                partial[channel] = Delivered(payload)
                return False
            if method == spec.Basic.Ack:
                connection.confirmed(channel, *_ACK.unpack_from(payload, 4))
                return True
            if method in _CONTENT:
                partial[channel] = Message(frame_method=method, frame_args=payload)
                return False
            callback(channel, method, payload, None)
            return True
        if isinstance(message, Delivered):
            if not message.take(kind, payload):
                return False
            del partial[channel]
            connection.delivered(channel, message)
            return True
        if kind == _HEADERS and message is not None:
            try:
                message.inbound_header(payload)
            except Exception as error:  # noqa: BLE001 - whatever py-amqp makes of it, it is this one message's fault
                message.properties = {UNREADABLE: str(error)}
                message.ready = not message.body_size
        elif kind == _BODY and message is not None:
            message.inbound_body(payload)
        else:
            raise UnexpectedFrame(f"a frame of type {kind} out of turn")
        if not message.ready:
            return False
        del partial[channel]
        callback(channel, message.frame_method, message.frame_args, message)
        return True

    return on_frame


class Channel(pyamqp.Channel):
    """A channel whose events go to attributes. ``on_gone`` None: its loss is raised where it is noticed."""

    is_closing: bool

    def __init__(self, connection: Connection, channel_id: int | None = None, **keywords: Any) -> None:
        self.on_gone: Callable[[AMQPError], None] | None = None
        self.on_deliver: Callable[[str, int, str, Any], None] = _ignore
        self.on_cancel: Callable[[str], None] = _ignore
        self.on_consuming: Callable[[str], None] = _ignore
        self.on_cancelled: Callable[[str], None] = _ignore
        self.on_return: Callable[[int, str, Any], None] = _ignore
        self.on_ack: Callable[[int, bool], None] = _ignore
        self.on_nack: Callable[[int, bool], None] = _ignore
        super().__init__(connection, channel_id, **{**keywords, "auto_decode": False})

    def open_soon(self) -> None:
        """Open without waiting for the server's word; what follows on this channel is handled after it."""
        self.send_method(spec.Channel.Open, "s", ("",))

    def let_go(self) -> None:
        """Close without waiting; whatever still comes for it is ignored, and what it had unacknowledged goes back."""
        if self.connection is not None and self.connection.channels is not None and not self.is_closing:
            self.is_closing = True
            self.on_gone = self.on_deliver = self.on_cancel = self.on_consuming = self.on_cancelled = _ignore
            self.on_return = self.on_ack = self.on_nack = _ignore
            self.send_method(spec.Channel.Close, "BsBB", (0, "", 0, 0))

    def publish(self, arguments: bytes, properties: bytes, body: bytes) -> None:
        """``basic.publish`` with its arguments and properties already encoded."""
        if self.connection is None:
            raise RecoverableConnectionError("the channel is closed")
        number, room = self.channel_id, self.connection.frame_max - 8
        parts = [
            _HEADER.pack(_METHOD, number, len(arguments) + 4),
            _PUBLISH,
            arguments,
            _END,
            _HEADER.pack(_HEADERS, number, len(properties) + 12),
            _CONTENT_HEADER.pack(spec.Basic.CLASS_ID, 0, len(body)),
            properties,
            _END,
        ]
        for start in range(0, len(body), room):
            chunk = body[start : start + room]
            parts += (_HEADER.pack(_BODY, number, len(chunk)), chunk, _END)
        self.connection._live_transport().write(b"".join(parts))
        self.connection.bytes_sent += 1

    def send_qos(self, prefetch: int) -> None:
        """``basic.qos`` for the consumers that follow, without waiting."""
        self.send_method(spec.Basic.Qos, "lBb", (0, prefetch, False))

    def consume_soon(self, queue: str, tag: str) -> None:
        """``basic.consume`` without waiting; its answer goes to ``on_consuming``."""
        self.send_method(spec.Basic.Consume, "BssbbbbF", (0, queue, tag, False, False, False, False, None))

    def cancel_soon(self, tag: str) -> None:
        """``basic.cancel`` without waiting; its answer goes to ``on_cancelled``."""
        self.send_method(spec.Basic.Cancel, "sb", (tag, False))

    def nack(self, delivery_tag: int, *, multiple: bool = False) -> None:
        """Give a delivery back (py-amqp has no method for it)."""
        self.send_method(spec.Basic.Nack, "Lbb", (delivery_tag, multiple, True))

    def dispatch_method(self, method_sig: tuple[int, int], payload: bytes, content: Any) -> None:
        """Handle what came for this channel; nothing more once it is being closed."""
        if not self.is_closing or method_sig in (spec.Channel.Close, spec.Channel.CloseOk):
            super().dispatch_method(method_sig, payload, content)

    def _on_close(self, reply_code: int, reply_text: str, class_id: int, method_id: int) -> None:
        # py-amqp would open this very object again, with tags from 1: an old tag would then ack another job.
        self.send_method(spec.Channel.CloseOk)
        gone, closing = self.on_gone, self.is_closing
        self.collect()
        if closing:
            return
        error = error_for_code(reply_code, reply_text, (class_id, method_id), ChannelError)
        if gone is None:
            raise error
        gone(error)

    def _setup_listeners(self) -> None:
        super()._setup_listeners()
        self._callbacks[spec.Basic.ConsumeOk] = lambda consumer_tag: self.on_consuming(consumer_tag)
        self._callbacks[spec.Basic.CancelOk] = lambda consumer_tag: self.on_cancelled(consumer_tag)

    def _on_basic_cancel(self, consumer_tag: str) -> None:
        self.on_cancel(consumer_tag)

    def _on_basic_return(self, reply_code: int, reply_text: str, exchange: str, routing_key: str, message: Any) -> None:
        self.on_return(reply_code, reply_text, message)

    def _on_basic_nack(self, delivery_tag: int, multiple: bool) -> None:
        self.on_nack(delivery_tag, multiple)


class Connection(pyamqp.Connection):
    """A connection that never waits longer than until ``limit`` (monotonic), which must be set for every wait."""

    Channel = Channel
    # With its argument, the reason, which py-amqp leaves out.
    _METHODS: ClassVar[dict[tuple[int, int], Any]] = {
        **pyamqp.Connection._METHODS,
        spec.Connection.Blocked: spec.method(spec.Connection.Blocked, "s"),
    }

    def __init__(self, *, limit: float, **keywords: Any) -> None:
        self.limit: float | None = limit
        self.blocked: str | None = None
        super().__init__(**keywords, frame_handler=_frame_handler)

    def Transport(  # noqa: N802  # py-amqp's name for it
        self, host: str, connect_timeout: float, ssl: Any = False, *_: object, **keywords: Any
    ) -> _Plain | _Tls:
        """The transport for this address."""
        kind = _Tls if ssl else _Plain
        return kind(host, connect_timeout=connect_timeout, ssl=ssl, socket_settings=keywords.get("socket_settings"))

    def drain_events(self, timeout: float | None = None) -> None:
        """Handle one event. TimeoutError after ``timeout`` seconds, and at ``limit`` in any case."""
        limit = self.limit
        if timeout is not None:
            limit = min(time.monotonic() + timeout, limit or float("inf"))
        if limit is None:
            raise RuntimeError("a wait for RabbitMQ without a deadline")
        while True:
            transport = self._live_transport()
            try:
                frame = transport.read_frame()
            except TimeoutError:
                transport.await_readable(limit)
                continue
            if self.on_inbound_frame(frame):
                return

    def pump(self) -> None:
        """Send what can be sent and handle what has come, without waiting."""
        self._live_transport().flush()
        while True:
            transport = self._live_transport()
            try:
                frame = transport.read_frame()
            except TimeoutError:
                break
            self.on_inbound_frame(frame)
        transport.flush()

    def on_inbound_method(self, channel_id: int, method_sig: tuple[int, int], payload: bytes, content: Any) -> None:
        """Hand it to the channel; a channel that is gone gets nothing more."""
        channel = self.channels.get(channel_id) if self.channels is not None else None
        if channel is not None:
            channel.dispatch_method(method_sig, payload, content)

    def delivered(self, channel_id: int, message: Delivered) -> None:
        """Hand it to the channel's consumer; nothing more once that is being closed."""
        channel = self._open_channel(channel_id)
        if channel is not None:
            channel.on_deliver(*message.delivery(), message)

    def confirmed(self, channel_id: int, number: int, multiple: int) -> None:
        """Hand the server's ack to the channel's publisher."""
        channel = self._open_channel(channel_id)
        if channel is not None:
            channel.on_ack(number, bool(multiple & 1))

    def _open_channel(self, channel_id: int) -> Any:
        channel = self.channels.get(channel_id) if self.channels is not None else None
        return None if channel is None or channel.is_closing else channel

    def drop(self) -> None:
        """Let the TCP connection go, without a word to the server, which forgets what is under way."""
        transport = self._transport
        if transport is not None and transport.sock is not None:
            sock, transport.sock = transport.sock, None
            # An RST instead of a FIN: what the kernel still holds must not be published after we published it again.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            sock.close()
        self.collect()

    def _live_transport(self) -> Any:
        transport = self._transport
        if transport is None or transport.sock is None:
            raise RecoverableConnectionError("the connection is closed")
        return transport

    def _on_close(self, reply_code: int, reply_text: str, class_id: int, method_id: int) -> None:
        self.send_method(spec.Connection.CloseOk)
        self._live_transport().flush()
        raise error_for_code(reply_code, reply_text, (class_id, method_id), AMQPConnectionError)

    def _on_blocked(self, reason: str = "") -> None:
        self.blocked = reason or "blocked by the server"

    def _on_unblocked(self) -> None:
        self.blocked = None


class Transport(pyamqp.Transport):
    """kombu's way to our connections."""

    Connection = Connection
