"""What the worker asks of the operating system."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from types import FrameType

log = logging.getLogger("router.worker")

KILLED_WITHIN = 5.0

_PR_SET_PDEATHSIG = 1
_OF_PARENT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that only the parent obeys."""


def start_program(
    module: str, *arguments: str, hand_over: socket.socket, memory: int | None = None
) -> subprocess.Popen[bytes]:
    """``python -m module FD PARENT arguments…``, with one socket handed over and nothing of our ``__main__`` imported.

    ``memory``: another descriptor to hand over, whose number is the first of the arguments.

    -P keeps the current directory from shadowing the router itself; the program adds it to the import path later.
    """
    fd = hand_over.fileno()
    more = [] if memory is None else [memory]
    command = [sys.executable, "-P", "-m", module, str(fd), str(os.getpid()), *map(str, more), *arguments]
    # What is sent to the whole group must not end it before it can say `leave_signals_to_parent`.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _OF_PARENT)
    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[fd, *more])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def end_at_sigterm_as_pid_1() -> None:
    """Until the worker has its own ways: what has no handler for it is not ended by SIGTERM where it is PID 1.

    A container that is stopped while the file is checked would otherwise start to work, and be killed in the middle.
    """
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when the thread that started it ends (Linux; elsewhere the closed pipe tells).

    Ends at once if the parent is gone already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def leave_signals_to_parent() -> None:
    """Ignore what a terminal or systemd sends to the whole group; the parent decides what it means.

    Not by SIG_IGN, which subprocesses of handlers would inherit; and what handlers fork gets back what was before, or
    `multiprocessing`'s terminate(), which is SIGTERM, would do nothing, and a join() after it wait for ever.
    """
    before = {number: signal.signal(number, _ignore) for number in _OF_PARENT}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _OF_PARENT)
    masks = threading.local()  # two threads may be about to fork

    def hold() -> None:
        # One that is sent to the new process before it has its own ways must wait, not be ignored.
        masks.old = signal.pthread_sigmask(signal.SIG_BLOCK, _OF_PARENT)

    def let_go() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.old)

    def give_back() -> None:
        for number, handler in before.items():
            if signal.getsignal(number) is _ignore:
                signal.signal(number, handler)
        let_go()

    os.register_at_fork(before=hold, after_in_parent=let_go, after_in_child=give_back)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    pass


def take_over(fd: int) -> socket.socket:
    """The socket that was handed over; the handlers' own subprocesses won't inherit it."""
    os.set_inheritable(fd, False)
    return socket.socket(fileno=fd)


def kill(process: subprocess.Popen[bytes]) -> int | None:
    """End it now; its exit code, or None where the kernel can't let go of it yet, as of one that waits for a disk."""
    process.kill()
    try:
        return process.wait(KILLED_WITHIN)
    except subprocess.TimeoutExpired:
        log.error("process %d was killed and doesn't end: it waits in the kernel; nobody waits for it", process.pid)
        return None


def describe_exit(code: int | None) -> str:
    """An exit code of a child in words: ``killed by SIGKILL``, ``exited with code 3``. None: `kill` has none."""
    if code is None:
        return "does not end"
    if code < 0:
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"
    return f"exited with code {code}"


def reap_orphans(own: set[int]) -> None:
    """As PID 1, bury the orphans that the kernel gave to us; the processes in ``own`` are waited for elsewhere."""
    if os.getpid() != 1:
        return
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) not in own and _is_dead_child(int(entry)):
            os.waitpid(int(entry), os.WNOHANG)


def _is_dead_child(pid: int) -> bool:
    try:
        result = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return result is not None
