"""A private RabbitMQ node: own name, ports, directories, cookie and epmd, on 127.0.0.1 only, as root or not.

The Debian service, should it run, is another node with another cookie, and neither sees the other.

ROUTER_TEST_RABBITMQ_ROOT names another Debian to run it from, as debian13.sh installs it: every program is then started
with that directory as its root. The network, the process ids and the temporary files are those outside.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from urllib.parse import quote

from .process import ServerFailed, accepts, end, free_ports, kill_group, tail, until

SCRIPTS = ("/usr/lib/rabbitmq/bin", "/opt/rabbitmq/sbin", "/usr/local/sbin")
"""Where the scripts are that don't switch to the user `rabbitmq`, as those in /usr/sbin do."""

_root = os.environ.get("ROUTER_TEST_RABBITMQ_ROOT")
ROOT = os.path.abspath(_root) if _root else ""

ENTER = """
for shared in /proc "$1"; do mount --rbind "$shared" "$0$shared" || exit; done
shift
exec unshare --root="$0" "$@"
"""
"""Shell: ROOT, the directory for temporary files, what is left to say to unshare. RabbitMQ measures itself by /proc.

The mounts are in a namespace that ends with the program, which has the process id that the shell had.
"""

MAX_MESSAGE = 32 * 1024 * 1024

START_SECONDS = 60.0
STOP_SECONDS = 10.0


def scripts() -> str | None:
    """The directory of RabbitMQ's own scripts, in ROOT; None if it isn't installed."""
    return next((path for path in SCRIPTS if os.access(f"{ROOT}{path}/rabbitmq-server", os.X_OK)), None)


class RabbitNode:
    """A node that can be started, stopped, killed, and started again on the same port and data."""

    def __init__(self, extra: str = "", *, memory: str = "1GB") -> None:
        """``extra``: further lines of rabbitmq.conf; ``memory``: what it may use before it blocks publishers."""
        found = scripts()
        if found is None or not (ROOT or shutil.which("epmd")):
            raise ServerFailed("rabbitmq-server is not installed; tests/servers/install.sh does that")
        self._scripts = found
        self.directory = tempfile.mkdtemp(prefix="router-rabbitmq-")
        self.port, self._dist_port, self._epmd_port = free_ports(3)
        self.node = f"router{uuid.uuid4().hex[:8]}@localhost"
        self._process: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None
        self._log = os.path.join(self.directory, "node.log")
        self._write(".erlang.cookie", uuid.uuid4().hex, 0o400)
        self._write("enabled_plugins", "[].\n")
        self._write("env.conf", "")
        self._write(
            "rabbitmq.conf",
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            "log.file.level = info\n"
            "disk_free_limit.absolute = 50MB\n"
            f"vm_memory_high_watermark.absolute = {memory}\n"
            "loopback_users = none\n"
            # Small enough for tests to go over it.
            f"max_message_size = {MAX_MESSAGE}\n"
            f"{extra}\n",
        )

    def _write(self, name: str, text: str, mode: int = 0o600) -> None:
        path = os.path.join(self.directory, name)
        with open(path, "w") as file:
            file.write(text)
        os.chmod(path, mode)

    def _command(self, *words: str) -> list[str]:
        """How to run this program inside ROOT, or where we are if there is none."""
        if not ROOT:
            return [*words]
        user = [] if os.geteuid() == 0 else ["--map-root-user"]
        temporary, here = os.path.dirname(self.directory), f"--wd={self.directory}"
        return ["unshare", "--mount", *user, "sh", "-c", ENTER, ROOT, temporary, here, *words]

    def _environment(self) -> dict[str, str]:
        inside = self.directory
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
        return {
            **kept,
            "HOME": inside,
            "LANG": "C.UTF-8",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_CONF_ENV_FILE": os.path.join(inside, "env.conf"),
            "RABBITMQ_CONFIG_FILE": os.path.join(inside, "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": os.path.join(inside, "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": os.path.join(inside, "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": os.path.join(inside, "data"),
            "RABBITMQ_LOG_BASE": os.path.join(inside, "log"),
            "RABBITMQ_PID_FILE": os.path.join(inside, "pid"),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            # Two schedulers, and those asleep when there is nothing to do: the node shares the machine with the tests.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none "
            "-kernel inet_dist_use_interface {127,0,0,1}",
            # Makes the script exec Erlang, so that the process we started is the node.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    @property
    def pid(self) -> int:
        """The node's process id."""
        if self._process is None:
            raise ServerFailed("the node is not running")
        return self._process.pid

    def url(self, vhost: str = "/", user: str = "guest", password: str = "guest", port: int | None = None) -> str:
        """The address for clients. ``port``: of a proxy in between."""
        return f"amqp://{user}:{password}@127.0.0.1:{port or self.port}/{quote(vhost, safe='')}"

    def start(self) -> None:
        """Start the node and wait until it takes connections."""
        if self._process is not None:
            return
        if self._epmd is None:
            self._epmd = subprocess.Popen(
                self._command("epmd", "-address", "127.0.0.1", "-port", str(self._epmd_port)),
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            until(lambda: accepts(self._epmd_port), 10, "epmd")
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                self._command(f"{self._scripts}/rabbitmq-server"),
                env=self._environment(),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        process = self._process

        def up() -> bool:
            if process.poll() is not None:
                raise ServerFailed(f"rabbitmq-server ended with {process.returncode}\n{tail(self._log)}")
            return accepts(self.port)

        try:
            until(up, START_SECONDS, "rabbitmq-server", step=0.05)
        except ServerFailed as error:
            self.kill()
            raise ServerFailed(f"{error}\n{tail(self._log)}") from error

    def stop(self) -> None:
        """End the node in good order (SIGTERM; SIGKILL if that takes too long)."""
        if self._process is not None:
            end(self._process, STOP_SECONDS)
            self._process = None

    def kill(self) -> None:
        """SIGKILL: as if the machine had lost power, except that the kernel still writes what it was given."""
        if self._process is not None:
            kill_group(self._process)
            self._process = None

    def close(self) -> None:
        """End everything and remove its files."""
        self.kill()
        if self._epmd is not None:
            end(self._epmd, 1.0)
            self._epmd = None
        shutil.rmtree(self.directory, ignore_errors=True)

    def ctl(self, *arguments: str, timeout: float = 60.0) -> str:
        """``rabbitmqctl`` on this node (about 2 s a call); its output."""
        done = subprocess.run(
            self._command(f"{self._scripts}/rabbitmqctl", "-q", "-n", self.node, *arguments),
            env={**self._environment(), "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ""},
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode:
            raise ServerFailed(f"rabbitmqctl {' '.join(arguments)}: {done.stderr.decode()}{done.stdout.decode()}")
        return done.stdout.decode()

    def evaluate(self, expression: str) -> str:
        """Evaluate an Erlang expression on the node."""
        return self.ctl("eval", expression).strip()

    def make_vhosts(self, names: list[str]) -> None:
        """Virtual hosts in one call, each open to `guest`."""
        each = ", ".join(f'<<"{name}">>' for name in names)
        self.evaluate(
            f'[begin rabbit_vhost:add(N, <<"test">>), rabbit_auth_backend_internal:set_permissions('
            f'<<"guest">>, N, <<".*">>, <<".*">>, <<".*">>, <<"test">>) end || N <- [{each}]], ok.'
        )

    def make_user(self, name: str, vhost: str, permissions: tuple[str, str, str]) -> None:
        """A user, password ``secret``, with patterns of what it may configure, write and read there, in one call."""
        patterns = ", ".join(f'<<"{pattern}">>' for pattern in permissions).replace("\\", "\\\\")
        self.evaluate(
            f'rabbit_auth_backend_internal:add_user(<<"{name}">>, <<"secret">>, <<"test">>), '
            f'rabbit_auth_backend_internal:set_permissions(<<"{name}">>, <<"{vhost}">>, {patterns}, <<"test">>).'
        )
