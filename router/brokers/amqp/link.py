"""One TCP connection to RabbitMQ: how it is made, and what it says when it breaks."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from amqp.exceptions import AccessRefused, AMQPError, ChannelError, NotAllowed
from kombu.connection import Connection as KombuConnection

from router.brokers.amqp.wire import Channel, Connection, Transport
from router.config.urls import amqp_options_problem, mask_url
from router.errors import BrokerRefused, BrokerUnavailable, in_words

log = logging.getLogger(__name__)

HEARTBEAT = 10
"""Seconds; a silent connection is given up after two of them. ``?heartbeat=`` in the URL changes it."""

CONNECT_SECONDS = 5.0
"""How long one attempt to connect may take. ``?connection_timeout=`` in the URL changes it."""

TICK_SECONDS = 0.25
"""How often it is looked whether a heartbeat is due."""

CLOSE_SECONDS = 0.5

USER_TIMEOUT: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)


class LinkDown(BrokerUnavailable):
    """The connection broke, or an answer did not come in time; it has been dropped."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where RabbitMQ is, from a URL like ``amqp://user:password@host:5672/vhost?heartbeat=10``.

    ``amqps://`` checks certificate and host name; ``cacertfile``, ``certfile`` and ``keyfile`` may be given as in
    RabbitMQ's own URIs.
    """

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    vhost: str
    heartbeat: int = HEARTBEAT
    connect_seconds: float = CONNECT_SECONDS
    tls: bool = False
    cacertfile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises BrokerRefused, without the password, for a URL that can't be used."""
        try:
            parts = urlsplit(url)
            options = dict(parse_qsl(parts.query))
            tls = parts.scheme == "amqps"
            if parts.scheme not in ("amqp", "amqps"):
                raise ValueError("it must start with amqp:// or amqps://")
            if problem := amqp_options_problem(url):
                raise ValueError(problem.message)
            heartbeat = int(options.pop("heartbeat", HEARTBEAT))
            connect_seconds = float(options.pop("connection_timeout", CONNECT_SECONDS * 1000)) / 1000
            return cls(
                host=parts.hostname or "127.0.0.1",
                port=parts.port or (5671 if tls else 5672),
                user=unquote(parts.username or "guest"),
                password=unquote(parts.password or "guest"),
                vhost=unquote(parts.path[1:]) or "/",
                heartbeat=heartbeat,
                connect_seconds=connect_seconds,
                tls=tls,
                **options,
            )
        except ValueError as error:
            raise BrokerRefused(f"broker URL {mask_url(url)}: {error}") from error

    def __str__(self) -> str:
        return f"RabbitMQ at {self.host}:{self.port}, vhost {self.vhost!r}"


class Link:
    """An open connection. Not safe for use from several threads at once. Everything raises LinkDown once it broke."""

    def __init__(self, connection: Connection, address: Address) -> None:
        connection.limit = None
        self.address = address
        self._connection = connection
        self._why: str | None = None
        self._tick_at = 0.0
        self._alarmed = False
        self._guard = _Guard(self)

    @property
    def alive(self) -> bool:
        """False once it broke or was closed."""
        return self._why is None

    @property
    def blocked(self) -> str | None:
        """Why the server takes nothing from publishers at the moment (memory or disk alarm), else None."""
        return self._connection.blocked

    @property
    def unsent(self) -> int:
        """Bytes that wait for the kernel to take them."""
        transport = self._connection._transport
        return len(transport.unsent) if self._why is None and transport is not None else 0

    @property
    def server_version(self) -> tuple[int, ...]:
        """As the server says: (3, 10, 8); empty if it doesn't."""
        text = str(self._connection.server_properties.get("version", ""))
        numbers = text.split("-")[0].split("+")[0].split(".")
        return tuple(int(number) for number in numbers if number.isdigit())

    def fileno(self) -> int:
        """The socket, to be waited on for reading."""
        self._check()
        return int(self._connection.sock.fileno())

    def channel(self) -> Channel:
        """A new channel, opened without waiting."""
        with self._guard:
            channel = Channel(self._connection)
            channel.open_soon()
            return channel

    def pump(self) -> None:
        """Send what can be sent, handle what has come, keep the heartbeat; never waits."""
        with self._guard:
            self._connection.pump()
            self._tick()

    def flush(self) -> None:
        """Send what can be sent; handles nothing, never waits."""
        with self._guard:
            self._connection._live_transport().flush()

    def wait(self, until: float) -> None:
        """Wait until something comes, but no longer than ``until`` (monotonic), then `pump`."""
        with self._guard:
            with suppress(TimeoutError):  # the caller's own clock says what that means
                self._connection._live_transport().await_readable(until)
            self._connection.pump()
            self._tick()

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Room for synchronous calls on a channel of this link: answers must come within ``seconds``.

        A channel error of the server (`amqp.ChannelError`) passes through; anything else ends the link.
        """
        with self._guard:
            self._connection.limit = time.monotonic() + seconds
            try:
                yield
            finally:
                self._connection.limit = None

    def sending(self) -> AbstractContextManager[None]:
        """Room for calls on a channel that don't wait for an answer."""
        return self._guard

    def drop(self, why: str = "dropped") -> None:
        """End it without a word to the server."""
        if self._why is None:
            self._why = why
            try:
                self._connection.drop()
            except (OSError, AMQPError) as error:
                log.debug("while dropping a connection: %s", error)

    def close(self) -> None:
        """End it in good order, so that the server has handled all that was sent; dropped where that takes too long."""
        if self._why is not None:
            return
        try:
            with self.within(CLOSE_SECONDS):
                self._connection.close()
            self._why = "closed"
            self._connection.collect()
        except (LinkDown, ChannelError) as error:
            self.drop(str(error))

    def _tick(self) -> None:
        if self._alarmed is (self.blocked is None):
            self._heed_alarm()
        now = time.monotonic()
        if now >= self._tick_at:
            self._tick_at = now + TICK_SECONDS
            self._connection.heartbeat_tick()

    def _heed_alarm(self) -> None:
        """A blocked server stops reading, which Linux counts as silence too. Heartbeats still tell whether it lives."""
        self._alarmed = self.blocked is not None
        if USER_TIMEOUT is not None:
            timeout = 0 if self._alarmed else _user_timeout(self.address)
            self._connection.sock.setsockopt(socket.IPPROTO_TCP, USER_TIMEOUT, timeout)

    def _check(self) -> None:
        if self._why is not None:
            raise LinkDown(f"{self.address}: {self._why}")


class _Guard:
    """Around calls of py-amqp: what breaks the connection ends the link. A class, since it is around each message."""

    __slots__ = ("_link",)

    def __init__(self, link: Link) -> None:
        self._link = link

    def __enter__(self) -> None:
        self._link._check()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (OSError, AMQPError)) and not isinstance(error, ChannelError):
            why = "no answer in time" if isinstance(error, TimeoutError) and not error.errno else describe(error)
            self._link.drop(why)
            raise LinkDown(f"{self._link.address}: {why}") from error


def describe(error: BaseException) -> str:
    """An error of py-amqp or of the socket in words."""
    if isinstance(error, AMQPError):
        code = f"{error.reply_code} " if error.reply_code else ""
        return f"{code}{error.reply_text or type(error).__name__}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


class Dialing:
    """A connection being made in a thread of its own: name look-ups and TLS know no deadline.

    ``done`` is called in that thread when `result` has something to give.
    """

    def __init__(self, address: Address, purpose: str, done: Callable[[], None] | None = None) -> None:
        self._address = address
        self._purpose = purpose
        self._done = done
        self._lock = threading.Lock()
        self._outcome: Link | Exception | None = None
        self._finished = threading.Event()
        self._given_up = False
        threading.Thread(target=self._run, name=f"router-amqp-{purpose}", daemon=True).start()

    @property
    def finished(self) -> bool:
        """Whether `result` returns or raises at once."""
        return self._finished.is_set()

    def result(self, seconds: float = 0.0) -> Link:
        """The link. Raises BrokerUnavailable (also where it takes longer than ``seconds``) or BrokerRefused."""
        self._finished.wait(seconds)
        with self._lock:
            outcome = self._outcome
            self._given_up = outcome is None
        if outcome is None:
            raise BrokerUnavailable(f"{self._address}: no connection within {seconds:.3g} s")
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def give_up(self) -> None:
        """Nobody wants the result any more."""
        with self._lock:
            self._given_up = True
            outcome = self._outcome
        if isinstance(outcome, Link):
            outcome.drop("not needed any more")

    def _run(self) -> None:
        outcome: Link | Exception
        try:
            outcome = _connect(self._address, self._purpose)
        except (BrokerUnavailable, BrokerRefused) as error:
            outcome = error
        except Exception as error:  # noqa: BLE001 - a thread that ended without an outcome would be waited for for ever
            outcome = BrokerUnavailable(f"{self._address}: {in_words(error)}")
        with self._lock:
            self._outcome = outcome
            given_up = self._given_up
        if given_up and isinstance(outcome, Link):
            outcome.drop("not needed any more")
        self._finished.set()
        if self._done is not None:
            self._done()


def connect(address: Address, purpose: str, seconds: float) -> Link:
    """A link within ``seconds``. Raises BrokerUnavailable or BrokerRefused."""
    return Dialing(address, purpose).result(seconds)


def _connect(address: Address, purpose: str) -> Link:
    options: dict[str, object] = {
        "host": f"{address.host}:{address.port}",  # kombu makes `localhost` 127.0.0.1; it may be ::1
        "limit": time.monotonic() + address.connect_seconds,
        "client_properties": {
            "product": "extension-router",
            "connection_name": f"router {purpose} {socket.gethostname()}:{os.getpid()}",
        },
    }
    if USER_TIMEOUT is not None:
        options["socket_settings"] = {USER_TIMEOUT: _user_timeout(address)}
    try:
        client = KombuConnection(  # type: ignore[no-untyped-call]
            hostname=address.host,
            port=address.port,
            userid=address.user,
            password=address.password,
            virtual_host=address.vhost,
            ssl=_tls(address) if address.tls else False,
            transport=Transport,
            connect_timeout=address.connect_seconds,
            heartbeat=address.heartbeat,
            login_method="PLAIN",
            transport_options=options,
        )
        return Link(client.transport.establish_connection(), address)
    except (AccessRefused, NotAllowed) as error:
        raise BrokerRefused(f"{address} refuses user {address.user!r}: {describe(error)}") from error
    except (ssl.SSLCertVerificationError, FileNotFoundError, PermissionError) as error:
        raise BrokerRefused(f"{address}: {error}") from error
    except TimeoutError as error:
        raise BrokerUnavailable(f"{address}: no connection within {address.connect_seconds:g} s") from error
    except (OSError, AMQPError) as error:
        raise BrokerUnavailable(f"{address}: {describe(error)}") from error


def _user_timeout(address: Address) -> int:
    """Milliseconds after which the kernel gives up what it could not send: two heartbeats."""
    return address.heartbeat * 2000


def _tls(address: Address) -> dict[str, object]:
    with _reading(address, "cacertfile"):
        context = ssl.create_default_context(cafile=address.cacertfile)
    if address.certfile is not None:
        with _reading(address, "certfile", "keyfile"):
            context.load_cert_chain(address.certfile, address.keyfile)
    return {"context": context, "server_hostname": address.host}


@contextmanager
def _reading(address: Address, *options: str) -> Iterator[None]:
    """Name the files in what goes wrong, which neither Python nor OpenSSL does."""
    try:
        yield
    except OSError as error:
        files = " or ".join(f"`{name}` {path}" for name in options if (path := getattr(address, name)) is not None)
        kind = BrokerRefused if isinstance(error, FileNotFoundError | PermissionError) else BrokerUnavailable
        raise kind(f"{address}: {files} can't be read: {error.strerror or error}") from error
