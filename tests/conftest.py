"""Servers that a test may do anything to."""

from __future__ import annotations

import compileall
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.servers.rabbitmq import RabbitNode, scripts

# What the shell of whoever runs the tests says to the router, and of its terminal, is not said to the tests.
OF_A_TERMINAL = [
    "CLICOLOR",
    "CLICOLOR_FORCE",
    "COLUMNS",
    "EDITOR",
    "FORCE_COLOR",
    "GITHUB_ACTIONS",
    "LINES",
    "NO_COLOR",
    "PY_COLORS",
    "VISUAL",
]
OF_THE_TESTS = ("ROUTER_TEST_", "ROUTER_FAULT_", "ROUTER_WRITE_")
for name in [*os.environ]:
    if name in OF_A_TERMINAL or (name.startswith("ROUTER_") and not name.startswith(OF_THE_TESTS)):
        del os.environ[name]
os.environ["TERM"] = "xterm"

# The machines are noisy; a test that hangs is ended by its timeout.
settings.register_profile("noisy", deadline=None)
settings.load_profile("noisy")


def pytest_configure(config: pytest.Config) -> None:
    """Compile the router once, as its installation does: where $PYTHONDONTWRITEBYTECODE is set, each of the hundreds of
    processes that the tests start would do it anew."""
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(Path(__file__).parents[1] / "router", quiet=1)


@pytest.fixture
def own_node() -> Iterator[RabbitNode]:
    """A RabbitMQ node that the test may kill."""
    if scripts() is None:
        pytest.skip("$ROUTER_TEST_AMQP_URL stands in for RabbitMQ, which isn't installed here, and is not ours to kill")
    node = RabbitNode()
    try:
        node.start()
        yield node
    finally:
        node.close()


@pytest.fixture(autouse=True)
def the_log_as_it_was() -> Iterator[None]:
    """A command that runs in this process sets up logging; the next test shall find pytest's own."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
