"""What a broker that several processes share promises while they fork, compete and are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from broker_harness import Harness, eventually, job, take

from router.brokers import connect
from router.brokers.base import Broker, Done
from router.brokers.memory import MemoryBroker
from router.locks.base import Claim
from router.locks.memory import MemoryLocks

PROGRAM = Path(__file__).with_name("broker_process.py")


@dataclass(frozen=True)
class Place:
    """Where processes meet."""

    url: str
    namespace: str
    table: bool

    def connect(self) -> Broker:
        return connect(self.url, self.namespace)


@pytest.fixture
def place(shared_harness: Harness) -> Place:
    assert shared_harness.url is not None
    shared_harness.broker()
    return Place(shared_harness.url, shared_harness.prefix + "test", shared_harness.table)


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def all_ids(broker: Broker, count: int | None = None) -> list[str]:
    """The ids of the ``count`` jobs that are in the queue; as many as it says where that isn't known."""
    if count is None:
        count = broker.counts(["a"]).queues["a"].ready or 0
    consumer = broker.consumer("reader")
    deliveries = take(consumer, {"a": count}, count)
    consumer.settle([Done(delivery) for delivery in deliveries])
    consumer.close()
    return [delivery.body.decode().strip() for delivery in deliveries]


def in_child(work: Callable[[], None]) -> int:
    """Fork, ``work`` in the child; its exit status, -1 if it had to be killed."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    until = time.monotonic() + 20
    while time.monotonic() < until:
        done, raw = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(raw)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -1


def test_a_forked_child_publishes_and_the_parent_goes_on(place: Place) -> None:
    broker = place.connect()
    outs = [job() for _ in range(4)]
    broker.publish([outs[0]])

    def child() -> None:
        assert broker.publish([outs[1]]).confirmed
        assert in_child(lambda: broker.publish([outs[2]]) and None) == 0

    assert in_child(child) == 0
    assert broker.publish([outs[3]]).confirmed
    assert all_ids(broker) == [out.id for out in outs]


def test_a_fork_while_threads_are_inside_the_memory_broker_and_its_locks() -> None:
    inside, go_on = threading.Semaphore(0), threading.Event()

    def now() -> float:
        if threading.current_thread() is not threading.main_thread():
            inside.release()
            go_on.wait(30)
        return time.time()

    locks = MemoryLocks(now)
    broker = MemoryBroker("test", locks, now)
    threads = [
        threading.Thread(target=broker.publish, args=([job()],)),
        threading.Thread(target=locks.hold, args=(Claim("key", "job", 1, 1), 60)),
    ]
    for thread in threads:
        thread.start()
        inside.acquire(timeout=10)
    try:
        status = in_child(lambda: broker.publish([job(key="k")]) and None)
    finally:
        go_on.set()
        for thread in threads:
            thread.join(10)
    assert status == 0


def test_a_fork_in_the_middle_of_other_threads_publishing(place: Place) -> None:
    """The child inherits no lock that a thread of the parent held at that moment."""
    broker = place.connect()
    stop = threading.Event()
    published: list[str] = []

    def publish() -> None:
        while not stop.is_set():
            out = job()
            if out.id in broker.publish([out]).confirmed:
                published.append(out.id)

    threads = [threading.Thread(target=publish) for _ in range(3)]
    for thread in threads:
        thread.start()
    children = [job() for _ in range(15)]

    def child(number: int) -> None:
        assert broker.publish([children[number]], deadline=10).confirmed

    try:
        statuses = [in_child(partial(child, number)) for number in range(len(children))]
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert statuses == [0] * len(children)
    assert sorted(all_ids(broker)) == sorted([*published, *(out.id for out in children)])


def test_processes_compete_and_no_job_goes_out_twice(place: Place) -> None:
    broker = place.connect()
    outs = [job() for _ in range(1500)]
    broker.publish(outs)
    workers = [start("consume", place.url, place.namespace, f"w{n}") for n in range(4)]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    delivered: list[str] = []
    for worker in workers:
        text, _ = worker.communicate(timeout=60)
        assert worker.returncode == 0
        for line in text.splitlines():
            word, *rest = line.split()
            if word == "delivered":
                delivered += rest
            else:
                assert line == "lost 0"
    # What was on its way to a worker that ended.
    delivered += all_ids(broker, len(outs) - len(delivered))
    assert sorted(delivered) == sorted(out.id for out in outs)


def test_kill_9_while_publishing_loses_nothing_that_was_confirmed(place: Place) -> None:
    broker = place.connect()
    confirmed: set[str] = set()
    tried: set[str] = set()
    for attempt in range(8):
        publisher = start("publish", place.url, place.namespace, f"p{attempt}")
        assert publisher.stdout is not None
        lines = [publisher.stdout.readline() for _ in range(4 + attempt)]
        publisher.send_signal(signal.SIGKILL)
        lines += publisher.stdout.read().splitlines()
        publisher.wait(30)
        for line in lines:
            word, *rest = line.split() or [""]
            if word in ("confirmed", "trying") and all(len(id) == len("p0-0000000") for id in rest):
                (confirmed if word == "confirmed" else tried).update(rest)
    there = all_ids(broker)
    assert len(there) == len(set(there))
    assert confirmed
    assert confirmed <= set(there) <= tried
    if place.table:
        assert len(there) % 20 == 0  # a batch is all or nothing


def test_a_killed_workers_jobs_go_to_another(place: Place) -> None:
    broker = place.connect()
    outs = [job() for _ in range(5)]
    broker.publish(outs)

    def child() -> None:
        consumer = place.connect().consumer("victim")
        assert len(take(consumer, {"a": 5}, 5)) == 5
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(child) == -signal.SIGKILL
    if place.table:
        assert broker.counts(["a"]).queues["a"].running == 5
    heir = broker.consumer("heir")
    inherited: list[str] = []

    def all_there() -> bool:
        inherited.extend(delivery.body.decode() for delivery in heir.poll({"a": 5}))
        return len(inherited) == 5

    assert eventually(all_there, 15)
    assert inherited == [out.id for out in outs]
