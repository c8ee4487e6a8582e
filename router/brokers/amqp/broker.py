"""RabbitMQ behind the contract of brokers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from router.brokers.amqp import declare as declaring
from router.brokers.amqp.consumer import AmqpConsumer
from router.brokers.amqp.declare import Admin, Finding, Pruned
from router.brokers.amqp.failed import Browsed, Browser, Sweeper, by_age
from router.brokers.amqp.link import Address, Link, connect
from router.brokers.amqp.messages import publish_failed, publish_job
from router.brokers.amqp.names import LADDER, Names, exact_delays, milliseconds
from router.brokers.amqp.publisher import FIRST_PAUSE, LONGEST_PAUSE, Publisher
from router.brokers.amqp.topology import Binding, Declaration, Queue, delay_queue, plan
from router.brokers.amqp.workers import ask
from router.brokers.base import (
    PUBLISH_DEADLINE,
    Consumer,
    Counts,
    Decision,
    FailedJob,
    Outgoing,
    QueueCounts,
    Receipt,
    Requeue,
    Sweep,
    Topology,
    WorkerState,
)
from router.brokers.locking import needs_locks, publish_locked
from router.errors import BrokerRefused, BrokerUnavailable
from router.forks import in_forked_children
from router.locks.base import Claim, Locks

log = logging.getLogger(__name__)

SECONDS_EACH = 0.05
"""What a broker that answers gets for each declaration, beyond the deadline for reaching it."""

CONSUMER_TIMEOUT = 1800.0
"""Seconds after which RabbitMQ, as delivered, takes a job back from whoever has not acked it."""

TAKES_BACK = (
    "takes back a job that runs longer than its `consumer_timeout` (30 min as delivered), and runs it again; a timeout "
    "of {:g} s needs `consumer_timeout = {}` in its rabbitmq.conf, or RabbitMQ 3.12, which heeds the queue's own"
)

CONSUMER_TIMEOUT_FROM = (3, 12)
"""From this version on RabbitMQ heeds the queue's own ``x-consumer-timeout``."""


class AmqpBroker:
    """The contract's Broker on RabbitMQ at ``url``. Opens nothing yet; raises BrokerRefused for a URL it can't use.

    ``declare`` False: nothing is ever declared, only looked at (`router run-worker --no-declare`).
    """

    def __init__(self, url: str, namespace: str, locks: Locks | None, *, declare: bool = True) -> None:
        self.names = Names(namespace)
        self.address = Address.parse(url)
        self._locks = locks
        self._declare = declare
        self._known: Topology | None = None
        self._exact_delays: frozenset[int] = frozenset()
        self._renew()
        in_forked_children(self, AmqpBroker._renew)
        self._publisher = Publisher(self.address, self._repair)

    def _renew(self) -> None:
        self._mutex = threading.Lock()

    @property
    def locks(self) -> Locks | None:
        """See the contract."""
        return self._locks

    def declare(self, topology: Topology, *, deadline: float = PUBLISH_DEADLINE) -> None:
        """See the contract. Remembered, so that what goes missing later is declared again."""
        declarations = self.plan(topology)
        until, pause = time.monotonic() + deadline, FIRST_PAUSE
        while True:
            left = until - time.monotonic()
            try:
                with self._link("declaring", min(left, self.address.connect_seconds)) as link:
                    patience = until + SECONDS_EACH * len(declarations)
                    declaring.apply(link, declarations, declare=self._declare, until=patience)
                break
            except BrokerUnavailable:
                if time.monotonic() + pause >= until:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        with self._mutex:
            known = self._known or Topology(frozenset())
            self._known = Topology(known.queues | topology.queues, known.delays | topology.delays)
            self._exact_delays = exact_delays(self._known.delays)

    def objections(self, longest: float) -> list[str]:
        """See the contract."""
        if longest < CONSUMER_TIMEOUT:
            return []
        version = self.server_version()
        if not version or version >= CONSUMER_TIMEOUT_FROM:
            return []
        text = ".".join(map(str, version))
        return [f"RabbitMQ {text} {TAKES_BACK.format(longest, int(longest * 1000) + 600_000)}"]

    def publish(self, batch: Sequence[Outgoing], *, deadline: float = PUBLISH_DEADLINE) -> Receipt:
        """See the contract."""
        if not batch:
            return Receipt(())
        if not needs_locks(batch, self._locks) or self._locks is None:
            return self._publish(batch, deadline)
        until = time.monotonic() + deadline
        return publish_locked(
            self._locks, batch, lambda jobs: self._publish(jobs, max(0.0, until - time.monotonic())), deadline
        )

    def consumer(self, name: str) -> Consumer:
        """See the contract."""
        return AmqpConsumer(self.address, self.names, name, self._locks, self._exact, self._repair)

    def counts(self, queues: Sequence[str], delays: Iterable[float] = ()) -> Counts:
        """See the contract. Only ready jobs are known by queue; what is delayed, for the namespace: in the ladder and
        in the queues of these delays. Those of other files can't be found without the management plugin."""
        exact = exact_delays(delays) | self._exact()
        waits = [delay_queue(self.names, delay) for delay in sorted(exact)]
        needed = (*self.plan(Topology(frozenset(queues))), *waits)
        ready: dict[str, int] = {}
        missing = []
        with self._link("counting") as link:
            admin = Admin(link)
            for each in needed:
                if isinstance(each, Queue):
                    counts = admin.count(each.name)
                    ready[each.name], there = (counts[0], True) if counts is not None else (0, False)
                else:
                    there = isinstance(each, Binding) or admin.exists(each)
                if not there:
                    missing.append(str(each))
        return Counts(
            queues={queue: QueueCounts(ready[self.names.queue(queue)], None, None, None, None) for queue in queues},
            delayed=sum(ready[self.names.delay_queue(delay)] for delay in {*LADDER, *exact}),
            failed=ready[self.names.failed],
            missing=tuple(missing),
        )

    def workers(self) -> list[WorkerState]:
        """See the contract. Takes a second: that is how long workers have to answer."""
        with self._link("asking") as link:
            return ask(link, self.names)

    def failed(self) -> list[FailedJob]:
        """See the contract; and `sweep`."""
        found: list[Browsed] = []
        with Browser(self._connect("browsing"), self.names) as browser:
            for page in browser.pages():
                found += page
        return [browsed.job for browsed in by_age(found)]

    def sweep(self, decide: Callable[[FailedJob], Decision], report: Callable[[Sweep], None] | None = None) -> Sweep:
        """See the contract. Whoever else browses the failed jobs is waited for; BrokerUnavailable if it takes long."""

        def publish(requeues: Sequence[Requeue]) -> Receipt:
            return self.publish([requeue.successor for requeue in requeues])

        def free(claim: Claim) -> None:
            if self._locks is not None:
                self._locks.free(claim)

        return Sweeper(Browser(self._connect("browsing"), self.names), decide, publish, free).run(report)

    def restore(self, batch: Sequence[FailedJob], *, deadline: float = PUBLISH_DEADLINE) -> None:
        """See the contract. What is there already gets a copy."""
        refused = self._publisher.publish([publish_failed(self.names, failed) for failed in batch], deadline)
        if refused:
            why = next(iter(refused.values()))
            raise BrokerUnavailable(f"{len(refused)} of {len(batch)} failed jobs were not confirmed: {why}")

    def close(self) -> None:
        """See the contract."""
        self._publisher.close()
        if self._locks is not None:
            self._locks.close()

    def server_version(self) -> tuple[int, ...]:
        """As RabbitMQ says: (3, 10, 8); empty if it doesn't."""
        with self._link("asking") as link:
            return link.server_version

    # -- for `router topology` and `router run-worker` -------------------------------------------------------------

    def plan(self, topology: Topology) -> tuple[Declaration, ...]:
        """Everything that ``topology`` needs, in the order in which it is declared. Raises BrokerRefused."""
        try:
            return plan(self.names.namespace, topology)
        except ValueError as error:
            raise BrokerRefused(str(error)) from error

    def check(self, topology: Topology) -> list[Finding]:
        """What on the broker differs from the plan; changes nothing."""
        declarations = self.plan(topology)
        with self._link("checking") as link:
            return declaring.check(link, declarations, declare=self._declare)

    def apply(self, topology: Topology) -> tuple[Declaration, ...]:
        """Declare what is missing; returns what was made."""
        declarations = self.plan(topology)
        with self._link("declaring") as link:
            return declaring.apply(link, declarations)

    def keeps(self, topology: Topology, delay: float) -> bool:
        """Whether the delay queue of ``delay`` seconds is one that ``topology`` needs."""
        return milliseconds(delay) in {*LADDER, *exact_delays(topology.delays)}

    def prune(self, topology: Topology, queues: Iterable[str], delays: Iterable[float] = ()) -> list[Pruned]:
        """Delete these queues and delay queues (seconds) unless ``topology`` has them; see `declare.prune`."""
        with self._link("pruning") as link:
            return declaring.prune(link, self.names.namespace, topology, queues, exact_delays(delays))

    def _publish(self, batch: Sequence[Outgoing], deadline: float) -> Receipt:
        now, exact = time.time(), self._exact()
        jobs = {job.id: job for job in batch}
        try:
            publications = [publish_job(self.names, job, exact, now) for job in jobs.values()]
        except ValueError as error:
            raise BrokerRefused(str(error)) from error
        refused = self._publisher.publish(publications, deadline)
        return Receipt(tuple(id for id in jobs if id not in refused), {}, refused)

    def _exact(self) -> frozenset[int]:
        """The delays, in milliseconds, that have a queue of their own."""
        return self._exact_delays

    def _repair(self, seconds: float) -> bool:
        """Declare again what was declared before, whoever else may be doing so; True if that was possible."""
        known = self._known
        if known is None or not self._declare:
            return False
        declarations = self.plan(known)
        until = time.monotonic() + seconds + SECONDS_EACH * len(declarations)
        with self._link("repairing", min(seconds, self.address.connect_seconds)) as link:
            declaring.apply(link, declarations, until=until)
        return True

    def _connect(self, purpose: str, seconds: float | None = None) -> Link:
        return connect(self.address, purpose, self.address.connect_seconds if seconds is None else seconds)

    @contextmanager
    def _link(self, purpose: str, seconds: float | None = None) -> Iterator[Link]:
        link = self._connect(purpose, seconds)
        try:
            yield link
        finally:
            link.close()
