"""A worker's hold on its queues: consuming on one connection, publishing successors on another, waiting for neither."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from router.brokers.amqp.line import Line
from router.brokers.amqp.link import CLOSE_SECONDS, Address, Link, LinkDown
from router.brokers.amqp.lock_steps import LockThread
from router.brokers.amqp.messages import (
    Publication,
    body_of,
    park,
    publish_failed,
    publish_job,
    refused,
    without_history,
)
from router.brokers.amqp.names import Names
from router.brokers.amqp.outbox import Outbox
from router.brokers.amqp.reader import Held, QueueReader
from router.brokers.amqp.workers import Answerer
from router.brokers.base import Bury, Delivery, Done, Forward, Outgoing, Return, Settlement, WorkerState
from router.brokers.wake import Wake
from router.errors import BrokerRefused, BrokerUnavailable
from router.locks.base import Claim, Locks

log = logging.getLogger(__name__)

LONGEST_PATIENCE = 1.0
UNSENT_PATIENCE = 0.01
"""While the kernel takes no more: nothing becomes readable when it does again."""

LOOK_EVERY = 0.01
"""Seconds between two looks whether the last acks are carried out."""

REPAIR_SECONDS = 10.0
REPAIR_AGAIN = 2.0


class AmqpConsumer:
    """The contract's Consumer on RabbitMQ. ``repair`` declares what is missing; it may take its time."""

    def __init__(
        self,
        address: Address,
        names: Names,
        name: str,
        locks: Locks | None,
        exact: Callable[[], frozenset[int]],
        repair: Callable[[float], bool],
    ) -> None:
        self._names = names
        self._name = name
        self._locks = locks
        self._exact = exact
        self._wake = Wake()
        self._line = Line(address, "consumer", self._wake)
        self._out_line = Line(address, "consumer's publisher", self._wake)
        self._repairs = _Repairs(repair)
        self._slow_line = Line(address, "consumer's second publisher", self._wake)
        self._slow_outbox: Outbox[Held] = Outbox(self._slow_line, self._repairs.ask, self._smaller)
        self._outbox: Outbox[Held] = Outbox(self._out_line, self._repairs.ask, self._smaller, self._slow_outbox)
        self._lock_thread: LockThread[Held] | None = LockThread(locks, self._wake.set) if locks is not None else None
        self._readers: dict[str, QueueReader] = {}
        self._room: Mapping[str, int] = {}
        self._polled = 0
        """How many jobs had come by the last `poll`: the socket won't become readable again for those since."""
        self._open: dict[Held, Settlement | None] = {}
        """What was settled, or goes on to its next delay (None), and is not acked yet."""
        self._lost: list[Delivery] = []
        self._answerer = Answerer(address, names)
        self._closed = False

    def poll(self, room: Mapping[str, int], limit: int | None = None) -> list[Delivery]:
        """See the contract."""
        now = time.monotonic()
        if self._wake.woken:
            self._wake.clear()
        self._room = room
        for queue in room:
            if queue not in self._readers:
                self._readers[queue] = reader = self._reader(queue)
                reader.attach(self._line.link)
        link = self._line.step(now)
        if link is not None:
            self._attach(link)
        try:
            if self._line.link is not None:
                self._line.link.pump()
            self._step(now)
            left = sum(room.values()) if limit is None else limit
            self._adjust(room, left, now)
            self._answerer.step(now)
            taken: list[Delivery] = []
            for queue, count in room.items():
                reader = self._readers[queue]
                taken += reader.take(min(count, left - len(taken)))
                if reader.expects(now):
                    break  # the jobs of the queues behind it come after those that this one may have
            if self._line.link is not None:
                self._line.link.flush()
        except LinkDown as error:
            taken = []
            self._detach(str(error), now)
        self._collect_lost()
        self._polled = self._delivered()
        return taken

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """See the contract."""
        now = time.monotonic()
        returned: dict[QueueReader, list[Held]] = {}
        try:
            if self._line.link is not None:
                self._line.link.pump()  # what is known to be lost by now must not go on
            for settlement in settlements:
                held = settlement.delivery.tag
                if not isinstance(held, Held) or not held.live or held.state != "handed":
                    continue
                if isinstance(settlement, Return):
                    returned.setdefault(held.reader, []).append(held)
                    continue
                held.state = "settling"
                self._begin(held, settlement)
            for reader, jobs in returned.items():
                reader.give_back(jobs, now)
            self._step(now)
            if self._line.link is not None:
                self._line.link.flush()
        except LinkDown as error:
            self._detach(str(error), now)
        self._collect_lost()

    def take_lost(self) -> list[Delivery]:
        """See the contract."""
        lost, self._lost = self._lost, []
        return lost

    @property
    def unsettled(self) -> int:
        """See the contract."""
        return len(self._open)

    def wait_on(self) -> Sequence[int]:
        """See the contract."""
        links = (self._line.link, self._out_line.link, self._slow_line.link)
        return [self._wake.fileno(), *(link.fileno() for link in links if link is not None and link.alive)]

    def patience(self) -> float:
        """See the contract."""
        if self._delivered() > self._polled:
            return 0.0
        now, epoch = time.monotonic(), time.time()
        lines = (self._line, self._out_line, self._slow_line)
        links = [line.link for line in lines if line.link is not None]
        waits = [LONGEST_PATIENCE, *(link.address.heartbeat / 4 for link in links)]
        if any(link.unsent for link in links):
            waits.append(UNSENT_PATIENCE)
        steps = [self._line.next_step(), self._outbox.next_step(), self._slow_outbox.next_step()]
        for queue, reader in self._readers.items():
            steps.append(reader.next_step(self._room.get(queue, 0)))
            due = reader.next_due()
            if due is not None:
                waits.append(due - epoch)
        waits += [step - now for step in steps if step is not None]
        return max(0.0, min(waits))

    def report(self, state: WorkerState) -> None:
        """See the contract."""
        self._answerer.state = state

    def close(self) -> None:
        """See the contract."""
        if self._closed:
            return
        self._closed = True
        self._answerer.state = None
        try:
            for reader in self._readers.values():
                reader.stop()
                reader.flush()
            self._wait_for_acks()
        except LinkDown as error:
            log.debug("while closing: %s", error)
        # In good order where that goes quickly: what was acked is acked then. All else goes back.
        self._line.close()
        self._out_line.close()
        self._slow_line.close()
        for reader in self._readers.values():
            reader.attach(None)
        self._collect_lost()
        if self._lock_thread is not None:
            self._lock_thread.close()
        self._wake.close()

    def _wait_for_acks(self) -> None:
        """Until RabbitMQ has carried out the last acks, or for a short while where it does not say."""
        now = time.monotonic()
        until = now + CLOSE_SECONDS
        hurried = [reader for reader in self._readers.values() if reader.hurried(now)]
        while self._line.link is not None:
            hurried = [reader for reader in hurried if not reader.carried_out(until)]
            if not hurried or time.monotonic() + LOOK_EVERY > until:
                return
            self._line.link.wait(time.monotonic() + LOOK_EVERY)

    def _adjust(self, room: Mapping[str, int], limit: int, now: float) -> None:
        """Let come what there is room for. Where the first queues have enough for ``limit``, the others' jobs would
        only come to be given back, which raises their counts: those queues are not asked."""
        for queue, reader in self._readers.items():
            if queue not in room:
                reader.adjust(0, now)
        covered = False
        for behind, (queue, count) in zip(reversed(range(len(room))), room.items(), strict=True):
            reader = self._readers[queue]
            covers = count >= limit and not covered
            busy = reader.busy(now, make_sure=covers and behind > 0)
            reader.adjust(0 if covered and busy else max(0, count), now)
            covered = covered or (busy and covers)

    def _reader(self, queue: str) -> QueueReader:
        return QueueReader(queue, self._names.queue(queue), self._park, self._repairs.ask)

    def _attach(self, link: Link) -> None:
        for reader in self._readers.values():
            reader.attach(link)
        self._answerer.attach(link)

    def _detach(self, why: str, now: float) -> None:
        self._line.down(why, now)
        for reader in self._readers.values():
            reader.attach(None)
        self._answerer.attach(None)

    def _delivered(self) -> int:
        return sum(reader.delivered for reader in self._readers.values())

    def _collect_lost(self) -> None:
        for reader in self._readers.values():
            for held in reader.take_lost():
                self._outbox.forget(held)
                self._slow_outbox.forget(held)
                self._open.pop(held, None)
                if held.delivery is not None:
                    self._lost.append(held.delivery)

    def _step(self, now: float) -> None:
        """Whatever settlements can go on with. Raises LinkDown for the consuming link only."""
        # Before anything is published or acked: what is lost must not go on.
        self._collect_lost()
        for held in (*self._outbox.step(now), *self._slow_outbox.step(now)):
            if held.live:
                self._confirmed(held)
        if self._lock_thread is not None:
            for held in self._lock_thread.take():
                if held.live:
                    self._ack(held)
        for reader in self._readers.values():
            reader.flush()

    def _begin(self, held: Held, settlement: Settlement) -> None:
        match settlement:
            case Done(_, free):
                self._open[held] = settlement
                self._unlock_and_ack(held, free)
            case Forward(_, successor):
                self._publish(held, settlement, publish_job(self._names, successor, self._exact(), time.time()))
            case Bury(_, failed, _):
                self._publish(held, settlement, publish_failed(self._names, failed))
            case Return():
                raise AssertionError("given back elsewhere")

    def _publish(self, held: Held, settlement: Settlement, publication: Publication) -> None:
        self._open[held] = settlement
        self._outbox.add(held, publication)

    def _park(self, held: Held) -> None:
        """It came early: on to the next step of the ladder, and then ack it like any other."""
        self._open[held] = None
        self._outbox.add(held, park(self._names, held.reader.queue, held.message, time.time()))

    def _smaller(self, held: Held, publication: Publication, why: str) -> Publication | None:
        """Instead of what RabbitMQ refuses for good: first without its history, then as failed, with the bytes that
        came, which RabbitMQ took once."""
        bare = without_history(publication)
        if bare is not None:
            log.warning("job %s goes on without its history: %s", publication.id, why)
            return bare
        settlement, body = self._open.get(held), body_of(held.message)
        if len(body) >= len(publication.body):
            return None
        match settlement:
            case Forward(delivery, successor):
                failed, free = refused(successor, held.reader.queue, body, why, time.time()), successor.claim
            case Bury(delivery, record, free):
                failed = replace(record, body=body)
            case _:
                return None
        log.error("job %s fails, as it was before its last attempt: %s", publication.id, why)
        self._open[held] = Bury(delivery, failed, free)
        return publish_failed(self._names, failed)

    def _confirmed(self, held: Held) -> None:
        match self._open.get(held):
            case Forward(_, successor) if successor.claim is not None and self._locks is not None:
                self._raise_and_ack(held, successor, successor.claim, self._locks)
            case Bury(_, _, free):
                self._unlock_and_ack(held, free)
            case _:
                self._ack(held)

    def _raise_and_ack(self, held: Held, successor: Outgoing, claim: Claim, locks: Locks) -> None:
        lease = successor.delay + successor.lease
        self._change_lock(held, claim, lambda: locks.extend(claim, lease))

    def _unlock_and_ack(self, held: Held, claim: Claim | None) -> None:
        locks = self._locks
        if claim is None or locks is None:
            self._ack(held)
        else:
            self._change_lock(held, claim, lambda: locks.free(claim))

    def _change_lock(self, held: Held, claim: Claim, change: Callable[[], object]) -> None:
        assert self._lock_thread is not None
        self._lock_thread.add(held, f"the lock of job {claim.job}", lambda: change() if held.live else None)

    def _ack(self, held: Held) -> None:
        self._open.pop(held, None)
        held.reader.done(held)


class _Repairs:
    """Declares what is missing, in a thread; at most one at a time, and not again and again."""

    def __init__(self, repair: Callable[[float], bool]) -> None:
        self._repair = repair
        self._thread: threading.Thread | None = None
        self._ended_at = 0.0

    def ask(self) -> None:
        """Something was found missing."""
        if self._thread is not None and self._thread.is_alive():
            return
        if time.monotonic() - self._ended_at < REPAIR_AGAIN:
            return
        self._thread = threading.Thread(target=self._run, name="router-amqp-repair", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            if self._repair(REPAIR_SECONDS):
                log.warning("something was missing on the broker; everything is declared again")
        except (BrokerUnavailable, BrokerRefused) as error:
            log.error("could not declare what is missing on the broker: %s", error)
        finally:
            self._ended_at = time.monotonic()
