"""Publishing and waiting for the confirms, from any thread.

Each call has a connection to itself, out of a small pool. Whatever goes wrong on it, it is dropped, and what was not
confirmed is published again on a new one: all together once, then one by one, so that a job which is the cause is
named and the others pass.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from router.brokers.amqp.confirms import WINDOW, Confirms
from router.brokers.amqp.link import Address, Link, LinkDown, connect
from router.brokers.amqp.messages import Publication
from router.errors import BrokerRefused, BrokerUnavailable
from router.forks import in_forked_children

log = logging.getLogger(__name__)

POOL = 8
"""Connections at most; more threads than that wait for one another."""

STALL_SECONDS = 3.0
"""So long nothing may be confirmed before that counts as an anomaly. No less where the deadline is shorter: a queue
that is only slow stores what is sent again twice."""

ALONE_STALL_SECONDS = 1.0
"""The same for a publication that is sent alone, because it is suspected. Where that was too little for its queue, it
gets what time is left once all others have passed."""

LOOK_SECONDS = 0.25
"""How often it is looked whether it is one of these."""

RETURN_TRIES = 2
NACK_TRIES = 3
ALONE_TRIES = 3
"""How often a publication is sent alone before it is named as the cause of a broken connection."""

IDLE_SECONDS = 0.05
"""A connection that was used so lately is not looked at before it is used again: sending tells as well."""

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0

NOT_TAKEN = "no queue takes it: {} is missing, or not bound"

_abandoned: list[object] = []
"""Connections inherited by a fork, kept so that they are never closed: they are still the parent's."""

Repair = Callable[[float], bool]
"""Declares what is known to be needed within so many seconds; True if it all exists now."""


@dataclass(slots=True)
class _Work:
    """One call's state. ``todo`` is what has to be sent yet, in order; ``refused``: id → why.

    The first ``suspects`` of ``todo`` are sent one at a time; ``culprit`` was under way alone at the last fault, or
    only with others for the queue that did not confirm.
    ``tainted``: queue that did not confirm → why.
    """

    todo: list[Publication]
    limit: float
    seconds: float
    refused: dict[str, str] = field(default_factory=dict)
    suspects: int = 0
    culprit: Publication | None = None
    faults: int = 0
    repaired: bool = False
    why: str = ""
    tries: dict[str, int] = field(default_factory=dict)
    tainted: dict[str, str] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.limit - time.monotonic()

    def refuse(self, publication: Publication, why: str) -> None:
        """This one is not sent again."""
        self.refused[publication.id] = why

    def drop_refused(self) -> None:
        """Take what was refused out of ``todo``."""
        self.todo = [each for each in self.todo if each.id not in self.refused]

    def again(self, publication: Publication, most: int) -> bool:
        """Count a try of it; False if it has had ``most``."""
        count = self.tries[publication.id] = self.tries.get(publication.id, 0) + 1
        return count < most


@dataclass(slots=True)
class _Session:
    """A connection with a confirming channel. ``idle_since`` is monotonic."""

    link: Link
    confirms: Confirms[object]
    idle_since: float

    def usable(self) -> bool:
        """Whether it can be trusted: it was serviced lately, and the server has not said good-bye."""
        idle = time.monotonic() - self.idle_since
        if idle > self.link.address.heartbeat:
            self.link.drop("idle for too long")
            return False
        if idle < IDLE_SECONDS:
            return self.link.alive and self.confirms.refusal is None
        try:
            self.link.pump()
        except LinkDown:
            return False
        return self.link.alive and self.confirms.refusal is None


@dataclass(frozen=True, slots=True)
class _Fault:
    """What ended a session. ``kind``: the server refused something for good; nothing was confirmed for long; the
    connection broke; time is up."""

    kind: Literal["refused", "stalled", "broken", "deadline"]
    text: str
    code: int = 0


class Publisher:
    """Publishes to ``address``. Safe to use from many threads and after a fork."""

    _lock: threading.Lock
    _places: queue.SimpleQueue[int]
    _idle: list[_Session]

    def __init__(self, address: Address, repair: Repair) -> None:
        self._address = address
        self._repair = repair
        self._renew()
        in_forked_children(self, Publisher._forget)

    def publish(self, publications: Sequence[Publication], seconds: float) -> dict[str, str]:
        """Publish these and wait for their confirms; returns id → reason for those without.

        Never raises for what happens on the way; a set-up that can't work raises BrokerRefused before anything is sent.
        """
        work = _Work(list(publications), time.monotonic() + seconds, seconds)
        try:
            place = self._places.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return {each.id: f"all {POOL} connections were busy for {seconds:g} s" for each in publications}
        try:
            self._carry_out(work)
        finally:
            self._places.put(place)
        return work.refused

    def close(self) -> None:
        """Close idle connections in good order."""
        with self._lock:
            idle, self._idle = self._idle, []
        for session in idle:
            session.link.close()

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._places = queue.SimpleQueue()  # a semaphore, but not written in Python
        for place in range(POOL):
            self._places.put(place)
        self._idle = []

    def _forget(self) -> None:
        _abandoned.append(self._idle)
        self._renew()

    def _carry_out(self, work: _Work) -> None:
        pause, sent_once = FIRST_PAUSE, False
        while work.todo:
            if work.left <= 0:
                why = work.why or f"not confirmed within {work.seconds:g} s"
                for each in work.todo:
                    work.refuse(each, work.tainted.get(each.target, why))
                return
            if not work.suspects and work.todo[0].target in work.tainted:
                work.suspects = len(work.todo)  # only those that were put off are left
            try:
                session = self._session(work.left)
            except BrokerUnavailable as error:
                work.why = str(error)
                time.sleep(max(0.0, min(pause, work.left)))
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            except BrokerRefused as error:
                if not sent_once:
                    raise
                for each in work.todo:
                    work.refuse(each, str(error))
                return
            sent_once = True
            fault = self._send(session, work)
            if fault is None:
                self._give_back(session)
                continue
            if fault.kind != "deadline" or session.link.blocked is None:
                session.link.drop(fault.text)
            else:
                # Blocked: a new connection would only store another copy. This one goes on where it stands.
                self._give_back(session)
            self._learn(work, fault)
            if fault.kind == "broken":
                time.sleep(max(0.0, min(pause, work.left)))
                pause = min(pause * 2, LONGEST_PAUSE)

    def _session(self, seconds: float) -> _Session:
        while True:
            with self._lock:
                session = self._idle.pop() if self._idle else None
            if session is None:
                break
            if session.usable():
                return session
            session.link.drop("no longer usable")
        link = connect(self._address, "publisher", seconds)
        return _Session(link, Confirms(link), time.monotonic())

    def _give_back(self, session: _Session) -> None:
        session.idle_since = time.monotonic()
        with self._lock:
            self._idle.append(session)

    def _send(self, session: _Session, work: _Work) -> _Fault | None:
        """Send ``work.todo`` and take what is confirmed out of it. Suspects are sent one at a time, and only they."""
        link, confirms = session.link, session.confirms
        run = object()
        alone = work.suspects > 0
        todo = work.todo[: work.suspects] if alone else work.todo
        window = 1 if alone else WINDOW
        stall = ALONE_STALL_SECONDS if alone else STALL_SECONDS
        if alone and todo[0].target in work.tainted:
            stall = max(work.left, 0.0)
        decided: set[int] = set()
        returned: list[Publication] = []
        nacked: list[Publication] = []
        sent = 0
        fault: _Fault | None = None
        # What an earlier call left unconfirmed here (the server was blocking) may use up the window, but is not ours.
        stale = confirms.unconfirmed

        def collect() -> None:
            nonlocal stale
            for outcome in confirms.take():
                if not isinstance(outcome.key, tuple) or outcome.key[0] is not run:
                    stale = max(0, stale - 1)
                    continue
                decided.add(outcome.key[1])
                if outcome.what == "returned":
                    returned.append(outcome.publication)
                elif outcome.what == "nacked":
                    nacked.append(outcome.publication)

        try:
            while len(decided) < len(todo):
                while sent < len(todo) and confirms.room(window + stale):
                    confirms.send((run, sent), todo[sent])
                    sent += 1
                collect()
                if len(decided) == len(todo):
                    break
                if confirms.refusal is not None:
                    kind: Literal["refused", "broken"] = "refused" if confirms.refusal.permanent else "broken"
                    fault = _Fault(kind, confirms.refusal.text, confirms.refusal.code)
                    break
                now = time.monotonic()
                if now >= work.limit:
                    why = f"RabbitMQ blocks publishers ({link.blocked})" if link.blocked else "no confirm"
                    fault = _Fault("deadline", f"{why} within {work.seconds:g} s")
                    break
                if confirms.stalled(stall):
                    fault = _Fault("stalled", f"nothing was confirmed for {stall:.3g} s")
                    break
                link.wait(min(work.limit, now + LOOK_SECONDS))
        except LinkDown as error:
            collect()  # what came just before the end counts
            fault = _Fault("broken", str(error)) if len(decided) < len(todo) else None
        rest = [each for number, each in enumerate(todo) if number not in decided]
        under_way = sent - sum(1 for number in decided if number < sent)
        work.todo = rest + (work.todo[len(todo) :] if alone else [])
        work.culprit = None
        if fault is not None and under_way:
            targets = {each.target for each in rest[:under_way]}
            if under_way == 1 or (fault.kind == "stalled" and len(targets) == 1):
                work.culprit = rest[0]
        if fault is None:
            work.suspects = 0
        else:
            work.suspects = len(rest) if alone else under_way
        self._sort_out(work, returned, nacked)
        return fault

    def _sort_out(self, work: _Work, returned: list[Publication], nacked: list[Publication]) -> None:
        """Returned and nacked ones get another try, or a reason."""
        again: list[Publication] = []
        if returned:
            repaired = self._try_repair(work)
            for each in returned:
                if repaired and work.again(each, RETURN_TRIES):
                    again.append(each)
                else:
                    work.refuse(each, NOT_TAKEN.format(each.target))
        for each in nacked:
            if work.again(each, NACK_TRIES):
                again.append(each)
            else:
                work.refuse(each, f"RabbitMQ refused it (nack): {each.target} may be full, or not available")
        if nacked:
            time.sleep(max(0.0, min(FIRST_PAUSE, work.left)))
        work.todo = again + work.todo
        if work.suspects:
            work.suspects += len(again)

    def _learn(self, work: _Work, fault: _Fault) -> None:
        """After a fault: who is suspected, who is to blame, what is sent next."""
        work.why = fault.text
        if fault.kind == "deadline":
            work.limit = min(work.limit, time.monotonic())
            return
        work.faults += 1
        log.debug("publishing to %s: %s (%s); %d under way", self._address, fault.text, fault.kind, work.suspects)
        all_together_again = fault.kind == "broken" and work.faults == 1
        if all_together_again or (fault.code == 404 and not work.repaired and self._try_repair(work)):
            work.suspects = 0
        elif work.culprit is not None:
            self._blame(work, work.culprit, fault)

    def _blame(self, work: _Work, culprit: Publication, fault: _Fault) -> None:
        """Nothing for another queue was under way when it happened, and but for a stall nothing else at all."""
        suspects = work.todo[: work.suspects]
        if fault.kind == "refused":
            # 403 and 404 are about the exchange, and so about all that is published to it.
            for each in work.todo:
                if each is culprit or (fault.code in (403, 404) and each.exchange == culprit.exchange):
                    work.refuse(each, fault.text)
        elif fault.kind == "stalled":
            text = f"{culprit.target} does not confirm ({fault.text}); it may have no leader"
            if culprit.target in work.tainted:
                for each in work.todo:
                    if each.target == culprit.target:
                        work.refuse(each, text)
            else:
                # The others pass first; then it gets what time is left.
                work.tainted[culprit.target] = text
                work.todo.sort(key=lambda each: each.target in work.tainted)
        elif not work.again(culprit, ALONE_TRIES):
            work.refuse(culprit, f"the connection breaks each time that it is published: {fault.text}")
        work.drop_refused()
        # Those at the front of `todo` still; what was put off comes after all others.
        work.suspects = sum(1 for each in suspects if each.id not in work.refused and each.target not in work.tainted)

    def _try_repair(self, work: _Work) -> bool:
        """Declare what is missing, once a call."""
        if work.repaired or work.left <= 0:
            return work.repaired
        try:
            work.repaired = self._repair(work.left)
        except (BrokerUnavailable, BrokerRefused) as error:
            log.warning("could not declare what is missing on %s: %s", self._address, error)
        return work.repaired
