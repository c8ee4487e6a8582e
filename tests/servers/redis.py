"""A private redis-server: own port and directory, on 127.0.0.1 only."""

from __future__ import annotations

import shutil
import subprocess
import tempfile

from .process import ServerFailed, accepts, end, free_ports, kill_group, tail, until


class RedisServer:
    """A server that can be started, stopped, killed, and started again on the same port and data."""

    def __init__(self) -> None:
        if shutil.which("redis-server") is None:
            raise ServerFailed("redis-server is not installed; tests/servers/install.sh does that")
        self.directory = tempfile.mkdtemp(prefix="router-redis-")
        (self.port,) = free_ports(1)
        self._log = f"{self.directory}/redis.log"
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: int = 0, port: int | None = None) -> str:
        """The address for clients. ``port``: of a proxy in between."""
        return f"redis://127.0.0.1:{port or self.port}/{database}"

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        if self._process is not None:
            return
        arguments = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": self.directory,
            "logfile": self._log,
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
        }
        self._process = subprocess.Popen(
            ["redis-server", *(word for name, value in arguments.items() for word in (f"--{name}", value))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            until(lambda: accepts(self.port), 10, "redis-server")
        except ServerFailed as error:
            self.kill()
            raise ServerFailed(f"{error}\n{tail(self._log)}") from error

    def stop(self) -> None:
        """End the server in good order."""
        if self._process is not None:
            end(self._process, 5.0)
            self._process = None

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            kill_group(self._process)
            self._process = None

    def close(self) -> None:
        """End it and remove its files."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)
