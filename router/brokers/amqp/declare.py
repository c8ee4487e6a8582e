"""Bringing the broker to the planned layout, comparing the two, and removing what the plan no longer has."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

from amqp.exceptions import ChannelError

from router.brokers.amqp.confirms import Confirms
from router.brokers.amqp.link import Link, LinkDown, describe
from router.brokers.amqp.messages import body_of, publish_failed
from router.brokers.amqp.names import Names
from router.brokers.amqp.topology import Binding, Declaration, Exchange, Queue, plan
from router.brokers.amqp.wire import Channel
from router.brokers.base import FailedJob, Topology
from router.errors import BrokerRefused
from router.jobs.job import UndecodableJob, decode

log = logging.getLogger(__name__)

NO_PERMISSION, NOT_FOUND, LOCKED, DIFFERS = 403, 404, 405, 406

SETTLE_SECONDS = 0.15
"""A quorum queue killed within 0.1 s after its declaration came back without a leader: so long nothing is published."""

ANSWER_SECONDS = 5.0
"""Longest wait for the answer to one declaration. A queue without a leader is slow or silent here."""

LOOK_AGAIN_SECONDS = 1.0
"""Between the two looks before a queue is deleted: at its expiry a job is in no count for some milliseconds."""

DRAIN_BATCH = 500

_INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<argument>[^']+)' for (?P<kind>\w+) '(?P<name>[^']+)'.*?: "
    r"received (?P<wanted>.+?) but current is (?P<found>.+)$"
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something on the broker that isn't as planned. ``advice``: what to do, in words."""

    declaration: Exchange | Queue
    problem: Literal["missing", "differs", "forbidden", "silent"]
    text: str
    advice: str

    def __str__(self) -> str:
        return f"{self.declaration}: {self.text}\n  {self.advice}"


@dataclass(frozen=True, slots=True)
class Pruned:
    """What became of a queue that the plan no longer has. ``moved``: its jobs, which are failed jobs now."""

    queue: str
    deleted: bool
    moved: int
    why: str


class Admin:
    """Synchronous questions over one link; a channel that the server closes is replaced. Raises LinkDown."""

    def __init__(self, link: Link, until: float = math.inf) -> None:
        """``until`` (monotonic): when all answers must have come."""
        self._link = link
        self._until = until
        self._channel: Channel | None = None

    def ask(self, question: Callable[[Channel], T]) -> T:
        """Raises amqp's ChannelError where the server says no."""
        if self._channel is None or self._channel.connection is None:
            self._channel = self._link.channel()
        with self._link.within(min(ANSWER_SECONDS, max(self._until - time.monotonic(), 0.0))):
            return question(self._channel)

    def exists(self, declaration: Exchange | Queue) -> bool:
        """Whether it is there, whatever its arguments."""
        try:
            self.ask(lambda channel: _declare(channel, declaration, passive=True))
        except ChannelError as error:
            if error.reply_code == NOT_FOUND:
                return False
            if error.reply_code == LOCKED:
                return True
            raise BrokerRefused(f"{declaration}: {describe(error)}") from error
        return True

    def count(self, queue: str) -> tuple[int, int] | None:
        """How many jobs are ready and how many consumers there are; None if there is no such queue."""
        try:
            answer = self.ask(lambda channel: channel.queue_declare(queue, passive=True, auto_delete=False))
        except ChannelError as error:
            if error.reply_code == NOT_FOUND:
                return None
            raise BrokerRefused(f"queue {queue}: {describe(error)}") from error
        return int(answer.message_count), int(answer.consumer_count)


def apply(
    link: Link, declarations: Sequence[Declaration], *, declare: bool = True, until: float = math.inf
) -> tuple[Declaration, ...]:
    """Make sure that all of these exist; returns those that had to be made. Deletes nothing.

    ``declare`` False: only looks (needs no configure permission). Raises BrokerRefused for what can't be had, with
    what to do, and LinkDown, also where it would take longer than ``until`` (monotonic).
    """
    admin = Admin(link, until)
    made: list[Declaration] = []
    for each in declarations:
        if isinstance(each, Binding):
            if declare:
                _bind(admin, each, needed=bool(made))
            continue
        there = admin.exists(each)
        if not declare:
            if not there:
                raise BrokerRefused(f"{each} does not exist; `router topology apply` makes it")
            continue
        if _make(admin, each, there):
            made.append(each)
    if any(isinstance(each, Queue) for each in made):
        time.sleep(SETTLE_SECONDS)
    return tuple(made)


def check(link: Link, declarations: Sequence[Declaration], *, declare: bool = True) -> list[Finding]:
    """Compare; changes nothing. ``declare`` False: looks only whether things exist, not at their arguments."""
    admin = Admin(link)
    findings: list[Finding] = []
    for each in declarations:
        if isinstance(each, Binding):
            continue  # AMQP has no way to ask for one
        started = time.monotonic()
        if not admin.exists(each):
            findings.append(Finding(each, "missing", "does not exist", "`router topology apply` makes it"))
            continue
        if time.monotonic() - started > ANSWER_SECONDS / 2:
            findings.append(_silent(each))
            continue
        if declare:
            try:
                admin.ask(lambda channel, each=each: _declare(channel, each, passive=False))  # type: ignore[misc]
            except ChannelError as error:
                findings.append(_finding(each, error))
    return findings


def prune(
    link: Link, namespace: str, topology: Topology, queues: Iterable[str], delays: Iterable[int] = ()
) -> list[Pruned]:
    """Delete these work queues (logical names) and delay queues (milliseconds), unless ``topology`` has them.

    Unbinds, drains into the failed jobs, looks twice, deletes. A queue that somebody still consumes, and a delay queue
    in which jobs wait, stay; calling it again later goes on. Raises LinkDown and BrokerRefused.
    """
    names = Names(namespace)
    wanted = {each.name for each in plan(namespace, topology) if isinstance(each, Queue)}
    admin = Admin(link)
    work = [(name, names.queue(name)) for name in sorted(set(queues)) if names.queue(name) not in wanted]
    done = [_prune_work_queue(admin, link, names, logical, physical) for logical, physical in work]
    waits = [delay for delay in sorted(set(delays)) if names.delay_queue(delay) not in wanted]
    return done + [_prune_delay_queue(admin, names, delay) for delay in waits]


def _declare(channel: Channel, declaration: Exchange | Queue, *, passive: bool) -> None:
    arguments = dict(declaration.arguments)
    if isinstance(declaration, Exchange):
        channel.exchange_declare(
            declaration.name, declaration.type, passive=passive, durable=True, auto_delete=False, arguments=arguments
        )
    else:
        channel.queue_declare(declaration.name, passive=passive, durable=True, auto_delete=False, arguments=arguments)


def _make(admin: Admin, declaration: Exchange | Queue, there: bool) -> bool:
    """Declare it; True if it was not there before."""
    try:
        admin.ask(lambda channel: _declare(channel, declaration, passive=False))
    except ChannelError as error:
        if error.reply_code == NO_PERMISSION and there:
            log.debug("%s exists; its arguments can't be compared without configure permission", declaration)
            return False
        finding = _finding(declaration, error)
        raise BrokerRefused(str(finding)) from error
    return not there


def _bind(admin: Admin, binding: Binding, *, needed: bool) -> None:
    try:
        admin.ask(lambda channel: channel.queue_bind(binding.queue, binding.exchange, binding.key))
    except ChannelError as error:
        if error.reply_code == NO_PERMISSION and not needed:
            log.debug("%s: no permission to bind; taken for there", binding)
            return
        raise BrokerRefused(f"{binding}: {describe(error)}") from error


def _finding(declaration: Exchange | Queue, error: ChannelError) -> Finding:
    text = describe(error)
    if error.reply_code == NO_PERMISSION:
        return Finding(
            declaration,
            "forbidden",
            text,
            "give the user configure permission for the namespace, or have somebody run `router topology apply`",
        )
    found = _INEQUIVALENT.search(text)
    if found is not None:
        text = f"exists with {found['argument']} = {found['found']}, where {found['wanted']} is wanted"
    return Finding(declaration, "differs", text, _moving_over(declaration))


def _moving_over(declaration: Exchange | Queue) -> str:
    if isinstance(declaration, Exchange):
        return (
            "an exchange holds no jobs: stop the workers and whoever dispatches, delete it (`rabbitmqadmin delete "
            "exchange`), run `router topology apply`, start them again"
        )
    return (
        "to move over without losing jobs: give the file another `broker.namespace` and start dispatching and workers "
        "with it; keep one worker (`run-worker --no-declare`) on the old namespace until `router status` shows nothing "
        "ready, delayed or failed there; then delete the old queues. Arguments of a queue can't be changed in place"
    )


def _silent(declaration: Exchange | Queue) -> Finding:
    return Finding(
        declaration,
        "silent",
        "answers too slowly: it may have no leader",
        "look at `rabbitmq-queues quorum_status`; where its nodes are gone for good, delete it and run "
        "`router topology apply`",
    )


def _prune_work_queue(admin: Admin, link: Link, names: Names, logical: str, physical: str) -> Pruned:
    counts = admin.count(physical)
    if counts is None:
        return Pruned(physical, deleted=False, moved=0, why="does not exist")
    if counts[1]:
        return Pruned(physical, deleted=False, moved=0, why=f"{counts[1]} consumers: restart those workers first")
    direct, due = (names.jobs, logical), (names.due, f"*.{logical}")
    _unbind(admin, physical, direct)
    moved = _drain(link, names, logical, physical)
    # From here on what was still delayed for it becomes a failed job, too, by way of the alternate exchange.
    if not _deserted(admin, physical, direct, due):
        moved += _drain(link, names, logical, physical)
        if not _deserted(admin, physical, direct, due):
            return Pruned(physical, deleted=False, moved=moved, why="it is still in use; try again")
    _ask_or_refuse(admin, physical, lambda channel: channel.queue_delete(physical))
    return Pruned(physical, deleted=True, moved=moved, why="not in the file")


def _prune_delay_queue(admin: Admin, names: Names, delay: int) -> Pruned:
    physical = names.delay_queue(delay)
    if admin.count(physical) is None:
        return Pruned(physical, deleted=False, moved=0, why="does not exist")
    if not _deserted(admin, physical, (names.delay, f"{delay}.#")):
        return Pruned(physical, deleted=False, moved=0, why="jobs still wait in it; try again when they are due")
    _ask_or_refuse(admin, physical, lambda channel: channel.queue_delete(physical))
    return Pruned(physical, deleted=True, moved=0, why="not in the file")


def _ask_or_refuse(admin: Admin, queue: str, question: Callable[[Channel], object]) -> None:
    try:
        admin.ask(question)
    except ChannelError as error:
        raise BrokerRefused(f"queue {queue}: {describe(error)}") from error


def _unbind(admin: Admin, queue: str, *bindings: tuple[str, str]) -> None:
    for exchange, key in bindings:
        _ask_or_refuse(admin, queue, partial(Channel.queue_unbind, queue=queue, exchange=exchange, routing_key=key))


def _deserted(admin: Admin, queue: str, *bindings: tuple[str, str]) -> bool:
    """Whether nothing is in it, seen twice. Unbound each time: an application that has it in its file still binds it
    again when a job comes back, and the next one would be deleted with it."""
    for look in range(2):
        if look:
            time.sleep(LOOK_AGAIN_SECONDS)
        _unbind(admin, queue, *bindings)
        counts = admin.count(queue)
        if counts is not None and any(counts):
            return False
    return True


def _drain(link: Link, names: Names, logical: str, physical: str) -> int:
    """Move what is ready to the failed jobs, each acked after its copy is confirmed; how many."""
    confirms: Confirms[int] = Confirms(link)
    channel = link.channel()
    moved = 0
    idle_at = time.monotonic() + LOOK_AGAIN_SECONDS

    def arrived(_: str, tag: int, __: str, message: object) -> None:
        nonlocal idle_at
        idle_at = time.monotonic() + LOOK_AGAIN_SECONDS
        confirms.send(tag, publish_failed(names, _left_over(logical, message)))

    gone: list[str] = []
    channel.on_deliver = arrived
    channel.on_gone = lambda error: gone.append(describe(error))
    with link.sending():
        channel.send_qos(DRAIN_BATCH)
        channel.basic_consume(physical, consumer_tag="drain", nowait=True)
    while time.monotonic() < idle_at or confirms.unconfirmed:
        if gone:
            raise BrokerRefused(f"queue {physical} can't be emptied: {gone[0]}")
        if confirms.stalled(ANSWER_SECONDS) or confirms.refusal is not None:
            link.drop("failed jobs are not confirmed")
            raise LinkDown(f"{names.failed} takes no failed jobs; nothing of {physical} is lost")
        link.wait(time.monotonic() + 0.1)
        for outcome in confirms.take():
            if outcome.what == "confirmed":
                with link.sending():
                    channel.basic_ack(outcome.key)
                moved += 1
    channel.let_go()
    return moved


def _left_over(queue: str, message: Any) -> FailedJob:
    body = body_of(message)
    try:
        job = decode(body)
        identity, point, route = job.job, job.point, job.route
    except UndecodableJob:
        identity, point, route = str(message.properties.get("message_id") or "left over"), "", ""
    error = f"queue {queue!r} left the file, and was deleted with this job in it"
    return FailedJob(identity, queue, point, route, "unknown_route", error, time.time(), body)
