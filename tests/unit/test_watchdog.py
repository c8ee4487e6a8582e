"""The watchdog ends a process whose loop stands still, and no other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

PROGRAM = """
import logging, sys, time
from router.worker.watchdog import Watchdog

logging.basicConfig()
watchdog = Watchdog(limit=0.5, look_every=0.1)
watchdog.start()
print("watching", flush=True)
until = time.monotonic() + float(sys.argv[1])
while time.monotonic() < until:
    watchdog.progress()
    time.sleep(0.05)
print("working no more", flush=True)
def where_it_hangs():
    if sys.argv[2] == "with logging's lock":
        logging._lock.acquire()
        logging.getLogger().handlers[0].acquire()
    if sys.argv[2] != "not at all":
        time.sleep(30)
where_it_hangs()
watchdog.close()
time.sleep(1)
print("the end", flush=True)
"""


def start(seconds: float, stuck: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(seconds), stuck]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_loop_that_stands_still_ends_the_process_and_says_where() -> None:
    process = start(1.0, "simply")
    out, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "working no more" in out
    assert "no progress for 0.5 s" in said
    assert "where_it_hangs" in said


def test_also_when_nothing_can_be_logged_any_more() -> None:
    process = start(0.0, "with logging's lock")
    _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "where_it_hangs" in said


def test_once_closed_it_watches_no_longer() -> None:
    process = start(0.0, "not at all")
    out, said = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "the end" in out
    assert said == ""


def test_a_process_that_was_stopped_is_not_stuck() -> None:
    process = start(3.0, "not at all")
    assert process.stdout is not None
    assert process.stdout.readline() == "watching\n"
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(1.5)
    os.kill(process.pid, signal.SIGCONT)
    out, said = process.communicate(timeout=20)
    assert process.returncode == 0, said
    assert "the end" in out
