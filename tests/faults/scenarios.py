"""What can go wrong, each as a function that does it to a storm. A scenario begins the storm itself."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
from storm import HEARTBEAT, Storm

from tests.servers.proxy import Proxy
from tests.servers.rabbitmq import RabbitNode
from tests.servers.raw import Raw

AMQP, SQLITE, BOTH = ("amqp",), ("sqlite",), ("amqp", "sqlite")

SILENCE = 3.0 * HEARTBEAT
LEASE = 6.0


@dataclass(frozen=True)
class Scenario:
    """``quick``: the brokers on which it is part of `make test`."""

    name: str
    run: Callable[[Storm], None]
    brokers: tuple[str, ...]
    quick: tuple[str, ...] = ()


SCENARIOS: list[Scenario] = []


def scenario(brokers: tuple[str, ...], *, quick: tuple[str, ...] = ()) -> Callable[[Callable[[Storm], None]], None]:
    """Add the function to the list."""

    def add(run: Callable[[Storm], None]) -> None:
        SCENARIOS.append(Scenario(run.__name__, run, brokers, quick))

    return add


def node_of(storm: Storm) -> RabbitNode:
    assert storm.node is not None
    return storm.node


def proxy_of(storm: Storm) -> Proxy:
    assert storm.proxy is not None
    return storm.proxy


def raw_of(storm: Storm) -> Raw:
    """Behind everybody's back."""
    assert storm.place is not None
    return Raw(storm.place)


# -- 1: kills


@scenario(BOTH)
def child_killed(storm: Storm) -> None:
    storm.begin()
    with storm.fault():
        os.kill(storm.app.journal("start")[-1]["pid"], signal.SIGKILL)


@scenario(BOTH, quick=SQLITE)
def worker_killed(storm: Storm) -> None:
    """The parent alone; its children end by themselves."""
    storm.begin()
    (worker,) = storm.workers
    family = worker.children()
    with storm.fault():
        worker.process.kill()
        worker.process.wait()
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive
    storm.start_worker()


@scenario(BOTH)
def worker_group_killed(storm: Storm) -> None:
    storm.begin()
    (worker,) = storm.workers
    with storm.fault():
        for process in (psutil.Process(worker.pid), *worker.children()):
            process.kill()
        worker.process.wait()
    storm.start_worker()


@scenario(BOTH)
def dispatcher_killed(storm: Storm) -> None:
    storm.begin()
    (dispatcher,) = storm.dispatchers
    with storm.fault():
        dispatcher.kill()
        dispatcher.wait()
    storm.dispatchers.clear()
    storm.start_dispatcher(max(storm.confirmed()) + 1)


@scenario(AMQP, quick=AMQP)
def rabbitmq_killed(storm: Storm) -> None:
    storm.begin()
    with storm.fault():
        node_of(storm).kill()
        time.sleep(2.0)
        node_of(storm).start()


@scenario(AMQP)
def rabbitmq_killed_ten_times(storm: Storm) -> None:
    storm.begin()
    for _ in range(10):
        with storm.fault():
            node_of(storm).kill()
            node_of(storm).start()
        time.sleep(0.5)


# -- 2: the network


@scenario(AMQP)
def connections_cut(storm: Storm) -> None:
    storm.begin()
    for _ in range(8):
        with storm.fault():
            proxy_of(storm).cut()
        time.sleep(0.3)


@scenario(AMQP)
def connections_stalled(storm: Storm) -> None:
    storm.begin()
    with storm.fault():
        proxy_of(storm).stall()
        time.sleep(SILENCE)
        proxy_of(storm).resume()


@scenario(AMQP)
def nothing_reaches_the_server(storm: Storm) -> None:
    storm.begin()
    with storm.fault():
        proxy_of(storm).stall("to_server")
        time.sleep(SILENCE)
        proxy_of(storm).resume()


@scenario(AMQP)
def nothing_comes_from_the_server(storm: Storm) -> None:
    storm.begin()
    with storm.fault():
        proxy_of(storm).stall("to_client")
        time.sleep(SILENCE)
        proxy_of(storm).resume()


@scenario(AMQP)
def connections_half_closed(storm: Storm) -> None:
    storm.begin()
    for _ in range(3):
        with storm.fault():
            proxy_of(storm).half_close()
        time.sleep(0.5)


@scenario(AMQP, quick=AMQP)
def confirms_lost(storm: Storm) -> None:
    """Cut between publish and confirm, and between successor and ack: what was sent arrived, the answers don't."""
    storm.begin()
    for _ in range(6):
        with storm.fault():
            proxy_of(storm).stall("to_client")
            time.sleep(0.2)
            proxy_of(storm).cut()
            proxy_of(storm).resume()
        time.sleep(0.3)


@scenario(AMQP)
def cut_in_the_middle_of_a_frame(storm: Storm) -> None:
    storm.begin()
    for size in (1, 7, 20, 100, 333, 1000):
        with storm.fault():
            proxy_of(storm).cut_after(size)
            time.sleep(0.3)


# -- 3: the server


@scenario(AMQP)
def memory_alarm(storm: Storm) -> None:
    storm.begin()
    with storm.fault():
        node_of(storm).ctl("set_vm_memory_high_watermark", "0.00001")
        time.sleep(1.0)
        node_of(storm).ctl("set_vm_memory_high_watermark", "absolute", "1GB")


@scenario(AMQP)
def disk_alarm(storm: Storm) -> None:
    storm.begin()
    with storm.fault():
        node_of(storm).ctl("set_disk_free_limit", "100000GB")
        time.sleep(1.0)
        node_of(storm).ctl("set_disk_free_limit", "50MB")


@scenario(AMQP, quick=AMQP)
def queue_deleted(storm: Storm) -> None:
    storm.begin()
    raw = raw_of(storm)
    with storm.fault():
        raw.channel.queue_delete(raw.names.queue("numbers"))
        # Confirmed and not ended, it was in the queue, or delivered and not acknowledged. A number may be confirmed to
        # its dispatcher a moment after it was in the queue.
        storm.excepted = set(range(max(storm.confirmed()) + 2)) - storm.ended()
    raw.close()


@scenario(AMQP)
def permissions_taken(storm: Storm) -> None:
    storm.begin()
    assert storm.place is not None
    vhost = storm.place.url.rpartition("/")[2]
    with storm.fault():
        node_of(storm).ctl("set_permissions", "-p", vhost, "guest", "", "", "")
        time.sleep(2.0)
        node_of(storm).ctl("set_permissions", "-p", vhost, "guest", ".*", ".*", ".*")


@scenario(AMQP)
def queue_without_leader(storm: Storm) -> None:
    """A queue that nobody needs at the moment; all others go on meanwhile."""
    storm.begin()
    assert storm.place is not None
    raw = raw_of(storm)
    server = f'{{list_to_atom("{storm.place.url.rpartition("/")[2]}_{raw.names.queue("default")}"), node()}}'
    with storm.fault():
        node_of(storm).evaluate(f"ra:stop_server(quorum_queues, {server}).")
        before = len(storm.ended())
        storm.until_ended(min(before + 20, storm.jobs * 9 // 10))
        node_of(storm).evaluate(f"ra:restart_server(quorum_queues, {server}).")


@scenario(AMQP)
def delay_queue_missing(storm: Storm) -> None:
    storm.begin()
    raw = raw_of(storm)
    with storm.fault():
        raw.channel.queue_delete(raw.names.delay_queue(300))
        storm.excepted = {line["number"] for line in storm.app.journal("raise")} - storm.ended()
    raw.close()


@scenario(AMQP)
def exchange_missing(storm: Storm) -> None:
    storm.begin()
    raw = raw_of(storm)
    with storm.fault():
        raw.channel.exchange_delete(raw.names.jobs)
        raw.channel.exchange_delete(raw.names.delay)
    raw.close()


# -- 4: workers


@scenario(BOTH)
def worker_stopped(storm: Storm) -> None:
    """SIGSTOP for longer than two heartbeats, and than a lease; another worker goes on."""
    storm.begin()
    storm.start_worker()
    (first, _) = storm.workers
    with storm.fault():
        first.process.send_signal(signal.SIGSTOP)
        time.sleep(LEASE + 2)
        first.process.send_signal(signal.SIGCONT)


@scenario(BOTH)
def one_of_two_workers_killed(storm: Storm) -> None:
    storm.begin()
    storm.start_worker()
    storm.until_ended(storm.jobs // 2)
    with storm.fault():
        storm.workers[0].process.kill()
        storm.workers[0].process.wait()


@scenario(BOTH, quick=SQLITE)
def worker_crashes_at_each_start(storm: Storm) -> None:
    """It takes jobs and dies before it has started them: they must not be blamed."""
    storm.begin()
    for _ in range(3 if storm.jobs <= 200 else 8):
        worker = storm.workers[-1]
        with storm.fault():
            worker.process.kill()
            worker.process.wait()
        storm.start_worker()
        time.sleep(1.0)  # long enough for it to take jobs, hardly for a child to be ready


# -- 6: SQLite


@scenario(SQLITE, quick=SQLITE)
def file_locked(storm: Storm) -> None:
    storm.begin()
    database = sqlite3.connect(storm.broker_url.removeprefix("sqlite:///"), timeout=30, isolation_level=None)
    with storm.fault():
        database.execute("BEGIN EXCLUSIVE")
        time.sleep(5.0 if storm.jobs <= 200 else 20.0)
        database.execute("ROLLBACK")
    database.close()
