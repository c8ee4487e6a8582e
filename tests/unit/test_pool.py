"""The pool of children."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from unittest.mock import Mock

import msgspec
import pytest

from router.config.settings import Settings
from router.worker import pool as pool_module
from router.worker.messages import Hello, Ready
from router.worker.pipes import ParentPipe
from router.worker.pool import EXIT_WITHIN, Child, Limits, Pool, PoolExhausted
from router.worker.processes import describe_exit
from router.worker.stepping import Mark, new_memory

HELLO = Hello(Settings("f", "h"), 1, "w", "info", "text")


@pytest.fixture
def pool_and_child() -> tuple[Pool, Child]:
    """A pool whose one child is ready, has closed its pipe, and goes on for a moment before it exits with code 3."""
    pool = Pool(1, Limits(), HELLO)
    program = [sys.executable, "-c", "import sys, time; sys.stdin.read(); sys.exit(3)"]
    process = subprocess.Popen(program, stdin=subprocess.PIPE)
    ours, theirs = socket.socketpair()
    theirs.close()
    memory = new_memory()
    child = Child(process, ParentPipe(ours), 1, 0.0, Mark(memory), ready=Ready())
    os.close(memory)
    child.pipe.receive()
    pool._children.append(child)
    return pool, child


def test_a_dying_child_is_given_the_time_to_tell_its_exit_code(pool_and_child: tuple[Pool, Child]) -> None:
    pool, child = pool_and_child
    assert child.pipe.ended
    pool.maintain(100.0)
    assert child.killed_for is None
    assert child.process.stdin is not None
    child.process.stdin.close()
    assert describe_exit(child.process.wait(20)) == "exited with code 3"
    assert pool.ended() == [child]


def test_a_child_that_closes_its_pipe_and_lives_on_is_killed(pool_and_child: tuple[Pool, Child]) -> None:
    pool, child = pool_and_child
    pool.maintain(100.0)
    pool.maintain(100.1 + EXIT_WITHIN)
    assert child.killed_for == "closed its pipe"
    assert describe_exit(child.process.wait(20)) == "killed by SIGKILL"
    assert child.process.stdin is not None
    child.process.stdin.close()


def test_a_system_without_processes_to_spare_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where handlers have left so many behind that a container's limit is reached."""
    pool = Pool(2, Limits(), HELLO)
    pool.maintain(100.0)
    stays, goes = pool
    pool.note_ready(stays, Ready())
    descriptors = len(os.listdir("/dev/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(pool_module, "start_program", Mock(side_effect=BlockingIOError(errno.EAGAIN, "no process")))
        goes.kill("for the test")
        goes.process.wait(20)
        pool.bury(goes, 100.0)
        for turn in range(1, 1200):  # for half a day
            pool.maintain(100.0 + 40 * turn)
        assert [*pool] == [stays]
        assert len(os.listdir("/dev/fd")) < descriptors
        pool.prepare(msgspec.structs.replace(HELLO, generation=2))
        pool.maintain(100_000.0)
        with pytest.raises(PoolExhausted, match="no process"):
            pool.prepared()
    pool.maintain(100_100.0)
    assert len([*pool]) == 2
    for child in pool:
        child.kill("the end")
        child.process.wait(20)
        pool.bury(child, 100_100.0)
