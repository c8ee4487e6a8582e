"""The desk: takes deliveries in, hands runs to children, hears how they went, and says what to settle.

It reads no socket and no clock; the parent's loop brings it messages and the time.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter, deque
from collections.abc import Iterable
from contextlib import suppress

from router.brokers.base import Delivery, Return, Settlement
from router.errors import LocksUnavailable
from router.jobs import lifecycle
from router.jobs.following import name_of
from router.jobs.lifecycle import Again, Callback, Died, Expired, Failed, Finish, Outcome, Step, TimedOut
from router.jobs.unique import until_start
from router.locks.base import Claim, Held, Locks, Taken
from router.routing.table import RoutingTable
from router.worker.intake import SUSPECT_AFTER, Intake, LockStoreAway
from router.worker.journal import Journal
from router.worker.lock_store import LockStore
from router.worker.messages import Call, Called, Cancel, Lost, NotRunnable, Raised, Ready, Returned, Started, Verdict
from router.worker.messages import Run as RunMessage
from router.worker.pool import MAX_UNSENT, Child, Pool
from router.worker.runs import Run, Runs
from router.worker.scheduling import AHEAD_SECONDS, Durations, Turns, room
from router.worker.settling import lease_of, settle

log = logging.getLogger("router.worker")

CALLBACK_WITHIN = 30.0
CANCELLED_WITHIN = 5.0
"""Seconds for a shared run to end, once it is cancelled."""
MAX_LOST_STARTS = 3
TIMED_OUT = "its job ran into its timeout"
CALLBACK_OVERDUE = f"a callback took over {CALLBACK_WITHIN:g} s"

_KINDS: dict[type[Outcome], Lost] = {
    TimedOut: "timeout",
    Died: "died",
    Expired: "expired",
    lifecycle.Raised: "raised",
}


class Desk:
    """Everything that this worker knows of its jobs. ``now`` is always the worker's clock, in seconds."""

    def __init__(
        self, table: RoutingTable, named_queues: Iterable[str], locks: Locks | None, worker: str | None = None
    ) -> None:
        self._worker = worker
        self.journal = Journal(worker)
        self._table = table
        self._queues = frozenset(table.queues())
        self._served = list(table.queues())
        self._locks = LockStore(locks) if locks is not None else None
        self._runs = Runs()
        self._intake = Intake(self._runs, self._locks, self.journal)
        self._turns = Turns(named_queues)
        self._durations = Durations()
        self._waiting: dict[str, deque[Run]] = {}
        self._calls: deque[Run] = deque()
        """Those whose callbacks are to be called in any child."""
        self._locked_out: list[LockStoreAway] = []
        self._suspects: deque[Delivery] = deque()
        """Jobs that may take the worker down: each starts when nothing else is in hand."""
        self._alone = False
        """One of them runs."""
        self._settlements: list[Settlement] = []
        self._can_share: frozenset[tuple[str, str]] = frozenset()
        """Point and id of the routes whose handlers are ``async def``."""
        self.ended: Counter[str] = Counter()
        """How many attempts ended here, by ``succeeded``, ``retried``, ``failed``, ``skipped``."""

    @property
    def in_hand(self) -> int:
        """How many jobs are here, started or not."""
        return len(self._runs) + len(self._locked_out) + len(self._suspects)

    def queues(self) -> list[str]:
        """The queues that this worker serves, the next one first."""
        return self._turns.order(self._served)

    def running(self) -> list[Run]:
        """The runs whose handlers, or callbacks, are being called."""
        return [run for run in self._runs if run.phase in ("running", "calling")]

    def use(self, table: RoutingTable) -> None:
        """From now on decide by this table. A queue that left the file is still served."""
        self._table = table
        self._queues = frozenset(table.queues())
        self._served += sorted(self._queues.difference(self._served))

    def rely_on(self, said: Ready) -> None:
        """From now on take the children to be as this one of them says."""
        self.journal.listened = said.listens
        self._can_share = said.sharing

    def take_settlements(self) -> list[Settlement]:
        """What is to be settled since the last call."""
        settlements, self._settlements = self._settlements, []
        return settlements

    # -- deliveries in ---------------------------------------------------------------------------------------------

    def room(self, pool: Pool, now: float) -> dict[str, int]:
        """How many more jobs of each queue can be taken now, the next queue first."""
        if self._suspects or (self._alone and (len(self._runs) or self._locked_out)):
            return {}
        held_up = {away.delivery.queue for away in self._locked_out}  # more of them would only pile up here
        usable = self._open_to_jobs(pool.usable())
        taken = sum(map(len, self._waiting.values())) + len(self._calls)
        free = sum(not child.runs for child in usable) - taken
        stuck = self._stuck(pool, usable)
        open_to = {queue: self._choices(queue, usable, stuck)[-1] for queue in self.queues() if queue not in held_up}
        many = self._table.settings.async_concurrency
        shared = {queue: _places(queue, many[queue], each) - taken for queue, each in open_to.items() if queue in many}
        limits = self._table.settings.concurrency
        in_hand = Counter(run.queue for run in self._runs) if limits else {}
        spare = {queue: self._spare(queue, each, now) for queue, each in open_to.items() if queue not in limits}
        ahead = {queue: max(count - taken, 0) for queue, count in spare.items()}
        wanted = frozenset() if stuck else self._wanted(usable, now)
        return room(open_to, free, ahead, shared, limits, in_hand, wanted)

    def _wanted(self, usable: list[Child], now: float) -> frozenset[str]:
        """The queues whose jobs these children, as long as they go on so, would never have a place for."""
        sharing = frozenset(self._table.settings.async_concurrency)
        if not usable:
            return frozenset()
        if all(child.shares for child in usable):
            return frozenset(self._served) - sharing
        if all(child.runs and not child.shares and self._is_short(child, now) for child in usable):
            return sharing
        return frozenset()

    def _open_to_jobs(self, usable: list[Child]) -> list[Child]:
        """Those that may be given jobs: not the least busy one while callbacks wait for one with nothing to do."""
        return usable[1:] if self._calls else usable

    def _stuck(self, pool: Pool, usable: list[Child]) -> list[str]:
        """The queues whose next job can start only in a child that first ends all that it runs: all of them run such
        as it can't be beside."""
        waiting = [(queue, runs[0]) for queue, runs in self._waiting.items() if runs] if usable else []
        return [queue for queue, run in waiting if self._fits_none(run, usable) and not self._is_at_limit(queue, pool)]

    def _fits_none(self, run: Run, usable: list[Child]) -> bool:
        if self._shares(run):
            return all(child.runs and not child.shares for child in usable)
        return all(child.shares for child in usable)

    def _choices(self, queue: str, usable: list[Child], stuck: list[str]) -> list[list[Child]]:
        """The children that may be given a job of that queue, the better ones first: the least busy one gets nothing
        more while a job of another queue waits for it to end what it runs, unless ``queue`` goes first."""
        others = [other for other in stuck if other != queue]
        if not others:
            return [usable]
        goes_first = all(self._turns.outranks(queue, other) for other in others)
        return [usable[1:], usable] if goes_first else [usable[1:]]

    def _is_at_limit(self, queue: str, pool: Pool) -> bool:
        limit = self._table.settings.concurrency.get(queue)
        return limit is not None and sum(child.by_queue[queue] for child in pool) >= limit

    def _spare(self, queue: str, usable: list[Child], now: float) -> int:
        """How many jobs of that queue could be sent ahead to busy children."""
        depth = self._durations.ahead(queue)
        if not depth:
            return 0
        return sum(max(depth + 1 - len(child.runs), 0) for child in usable if self._is_short(child, now))

    def _is_short(self, child: Child, now: float) -> bool:
        """Whether what that child runs is short, so that others may wait for it inside."""
        first = child.first
        if first is None:
            return True
        takes_long = first.phase == "running" and now - first.started_at > AHEAD_SECONDS
        if first.shared or first.phase == "calling" or takes_long:
            return False
        return self._durations.ahead(first.queue) > 0

    def _shares(self, run: Run) -> bool:
        """Whether this run may be in a child beside others."""
        many = self._table.settings.async_concurrency.get(run.queue, 1)
        return many > 1 and not run.alone and (run.job.point, run.job.route) in self._can_share

    def take(self, deliveries: Iterable[Delivery], now: float) -> None:
        """Take these in hand, each for what it is."""
        for delivery in deliveries:
            if delivery.count < SUSPECT_AFTER or self._intake.knows(delivery):
                self._take(delivery, now)
            else:
                self._suspects.append(delivery)
        if self._suspects and not self._alone:
            self._return_unstarted("a job that may crash this worker goes first")
        if not len(self._runs):
            self._alone = bool(self._suspects)
            if self._alone:
                # Were it given back until the others have ended, its count would rise by that.
                self._take(self._suspects.popleft(), now)

    def _take(self, delivery: Delivery, now: float) -> None:
        match self._intake.take(delivery, self._table, now):
            case None:
                pass
            case Run() as run:
                self._waiting.setdefault(run.queue, deque()).append(run)
            case LockStoreAway() as away:
                self._locked_out.append(away)
            case settlement:
                self._settlements.append(settlement)

    def lost(self, deliveries: Iterable[Delivery]) -> None:
        """These are no longer ours: the broker gives them out again, and a run of ours that has begun goes on."""
        for delivery in deliveries:
            self._locked_out = [away for away in self._locked_out if away.delivery is not delivery]
            self._suspects = deque(suspect for suspect in self._suspects if suspect is not delivery)
            run = self._runs.detach(delivery)
            if run is not None and run.phase == "waiting" and not run.deliveries:
                self._waiting[run.queue].remove(run)
                self._runs.drop(run)

    # -- runs out --------------------------------------------------------------------------------------------------

    def assign(self, pool: Pool, now: float) -> None:
        """Hand what waits to children that are free, or ahead to those whose jobs are short."""
        usable = pool.usable()
        idle = [child for child in usable if not child.runs]
        while self._calls and idle:
            self._send_call(idle.pop(), self._calls.popleft(), now)
        usable = self._open_to_jobs(usable)
        progress = True
        while progress:
            progress = False
            stuck = self._stuck(pool, usable)
            for queue in self._turns.order([queue for queue, runs in self._waiting.items() if runs]):
                if lifecycle.is_expired(self._waiting[queue][0].job, time.time()):
                    self._expire(self._waiting[queue].popleft(), now)
                    progress = True
                    break
                if self._is_at_limit(queue, pool):
                    continue
                choices = self._choices(queue, usable, stuck)
                run = self._waiting[queue][0]
                child = next(filter(None, (self._child_for(run, each, idle, now) for each in choices)), None)
                if child is not None:
                    self._send(child, self._waiting[queue].popleft(), now)
                    self._turns.advance(queue)
                    progress = True
                    break

    def _expire(self, run: Run, now: float) -> None:
        self._call_or_conclude(run, self._decide(run, Expired(), 0.0), now)

    def _call_or_conclude(self, run: Run, callback: Callback | None, now: float) -> None:
        """For one that isn't, or isn't any more, in a child."""
        if callback is None:
            self._conclude_decided(run, now)
        else:
            run.phase, run.deadline = "calling", None
            self._calls.append(run)

    def _child_for(self, run: Run, usable: list[Child], idle: list[Child], now: float) -> Child | None:
        queue = run.queue
        if self._shares(run):
            most = self._table.settings.async_concurrency[queue]
            able = [each for each in usable if (not each.runs or each.shares) and each.by_queue[queue] < most]
            able = [each for each in able if not each.pipe.unsent or each.pipe.unsent + len(run.body) < MAX_UNSENT]
            child = min(able, key=lambda each: len(each.runs), default=None)
            if child in idle:
                idle.remove(child)
            return child
        if idle:
            return idle.pop()
        depth = self._durations.ahead(queue)
        if queue in self._table.settings.concurrency or not depth:
            return None
        child = min(usable, key=lambda child: len(child.runs), default=None)
        if child is None or len(child.runs) > depth or not self._is_short(child, now):
            return None
        return child if len(child.runs) * 256 + child.pipe.unsent + len(run.body) < MAX_UNSENT else None

    def _send(self, child: Child, run: Run, now: float) -> None:
        run.phase = "sent"
        run.sent_at = now
        run.shared = self._shares(run)
        child.give(run, RunMessage(run.number, run.queue, run.body, run.shared))

    def _send_call(self, child: Child, run: Run, now: float) -> None:
        assert isinstance(run.step, Again | Failed)
        assert run.outcome is not None
        callback, kind = lifecycle.callback_of(run.step), _KINDS[type(run.outcome)]
        assert callback is not None
        run.deadline = now + CALLBACK_WITHIN
        run.shared = run.cancelled = False
        child.give(run, Call(run.number, run.queue, run.body, callback, kind, run.step.error))

    # -- what became of them ---------------------------------------------------------------------------------------

    def heard(
        self, child: Child, message: Started | Returned | Raised | NotRunnable | Called, pool: Pool, now: float
    ) -> None:
        """A child says something about one of its runs."""
        run = child.runs[message.run]
        match message:
            case Started():
                run.phase = "running"
                run.started_at = now
                run.started_epoch = time.time()
                run.deadline = now + run.options.timeout
                self.journal.started(run)
                if run.claim is not None and until_start(run.claim.key, run.options):
                    run.renew_at, run.owes_lock = None, True
                    self._give_up_lock(run, run.claim, now)
            case Returned(_, seconds, rss):
                child.drop(run, now)
                pool.note_job(child, rss)
                self._note(run, seconds)
                self._conclude(run, Finish(), seconds, now)
            case Raised(_, seconds, rss, error, asked, delay):
                pool.note_job(child, rss)
                self._note(run, seconds)
                if asked == "timeout":
                    outcome: Outcome = TimedOut(run.options.timeout, "cancelled")
                else:
                    outcome = lifecycle.Raised(error, asked, delay)
                callback = self._decide(run, outcome, seconds)
                child.send(Verdict(run.number, callback))
                if callback is None:
                    child.drop(run, now)
                    self._conclude_decided(run, now)
                else:
                    run.phase = "calling"
                    run.deadline = now + CALLBACK_WITHIN
                    run.cancelled = False
            case Called():
                child.drop(run, now)
                self._conclude_decided(run, now)
            case NotRunnable(_, reason):
                child.drop(run, now)
                self._settlements += self._intake.cannot_run(run, reason, self._table)

    def _note(self, run: Run, seconds: float) -> None:
        if not run.shared:
            self._durations.note(run.queue, seconds)

    def child_ended(self, child: Child, how: str, now: float) -> None:
        """A child's process is gone: the job that ran there pays an attempt, or of those that shared it the one whose
        step it was. What was sent ahead, or only waited, doesn't: it starts again, or its callback does."""
        shared, to_blame = child.shares, self._to_blame(child, now)
        runs = child.drop_all()
        again = []
        for run in runs:
            if run.phase == "calling" and shared and run is not to_blame:
                assert run.step is not None
                self._call_or_conclude(run, lifecycle.callback_of(run.step), now)
            elif run.phase == "calling":
                log.error("the callback of %s (job %s) did not end: %s", run.route.id, run.job.job, how)
                self._conclude_decided(run, now)
            elif run is to_blame and run.phase == "running":
                self._died(run, TimedOut(run.options.timeout) if child.killed_for == TIMED_OUT else Died(how), now)
            else:
                run.lost_starts += run is to_blame
                run.alone = shared and to_blame is None
                again.append(run)
        for run in reversed(again):
            self._wait_again(run, how)

    def _to_blame(self, child: Child, now: float) -> Run | None:
        """The run for which that child died, or was killed."""
        if not child.shares:
            return child.first
        executing = child.runs.get(child.mark.get())
        if executing is not None or child.killed_for not in (TIMED_OUT, CALLBACK_OVERDUE):
            return executing
        # It waits for something, overdue, and won't be cancelled.
        return next((run for run in child.runs.values() if run.cancelled and _is_overdue(run, now)), None)

    def _died(self, run: Run, outcome: TimedOut | Died, now: float) -> None:
        self._note(run, now - run.started_at)
        self._call_or_conclude(run, self._decide(run, outcome, now - run.started_at), now)

    def _wait_again(self, run: Run, how: str) -> None:
        """For another child, ahead of the others."""
        run.phase, run.deadline, run.cancelled = "waiting", None, False
        if run.lost_starts >= MAX_LOST_STARTS:
            reason = f"{MAX_LOST_STARTS} children did not get as far as calling its handler (the last one: {how})"
            self._settlements += self._intake.cannot_run(run, reason, self._table)
        elif run.deliveries:
            self._waiting.setdefault(run.queue, deque()).appendleft(run)
        else:
            self._runs.drop(run)

    def _decide(self, run: Run, outcome: Outcome, seconds: float) -> Callback | None:
        run.outcome = outcome
        run.step = lifecycle.next_step(
            run.job, run.options, outcome, time.time(), worker=self._worker, draw=random.random()
        )
        run.seconds = seconds
        name = lifecycle.callback_of(run.step)
        wanted = run.options.on_retry if name == "onRetry" else run.options.on_failure
        return name if wanted else None

    def _conclude_decided(self, run: Run, now: float) -> None:
        assert run.step is not None
        self._conclude(run, run.step, run.seconds, now)

    def _conclude(self, run: Run, step: Step, seconds: float, now: float) -> None:
        epoch = time.time()
        for delivery in run.deliveries:
            self._settlements.append(settle(delivery, run.job, step, run.options, self._queues, epoch))
        self._runs.end(run, step, now)
        self.journal.ended(run, step, seconds)
        self.ended[name_of(step)] += 1

    # -- time ------------------------------------------------------------------------------------------------------

    def check_deadlines(self, pool: Iterable[Child], now: float) -> None:
        """End the jobs, or callbacks, that have run for too long: a shared one is cancelled, or, where it doesn't give
        way, killed with its child, as any other one is."""
        for child in pool:
            if child.killed_for is not None:
                continue
            for run in child.runs.values():
                if not _is_overdue(run, now):
                    continue
                if run.shared and not run.cancelled:
                    run.cancelled, run.deadline = True, now + CANCELLED_WITHIN
                    child.send(Cancel(run.number))
                    continue
                child.kill(TIMED_OUT if run.phase == "running" else CALLBACK_OVERDUE)
                break

    def next_deadline(self, pool: Iterable[Child]) -> float | None:
        """When `check_deadlines` has something to do at the earliest."""
        runs = (run for child in pool for run in child.runs.values() if run.phase in ("running", "calling"))
        return min((run.deadline for run in runs if run.deadline is not None), default=None)

    def check_locks(self, now: float) -> None:
        """Renew the leases of unique jobs in hand; look again at those whose lock store was out of reach."""
        if self._locks is None:
            return
        for run in self._runs:
            if self._locks.closed(now):
                return
            if run.claim is not None and run.owes_lock:
                self._give_up_lock(run, run.claim, now)
            elif run.claim is not None and run.renew_at is not None and run.renew_at <= now:
                self._renew_lock(run, run.claim, now)
        again, self._locked_out = self._locked_out, []
        for away in again:
            if self._locks.closed(now):
                self._locked_out.append(away)
            else:
                self._take(away.delivery, now)

    def _give_up_lock(self, run: Run, claim: Claim, now: float) -> None:
        if self._locks is not None:
            with suppress(LocksUnavailable):  # it is told of, and tried again, at the latest when the job has ended
                self._locks.ask(lambda locks: locks.free(claim), now)
                run.owes_lock = False

    def _renew_lock(self, run: Run, claim: Claim, now: float) -> None:
        lease = lease_of(run.options)
        if self._locks is not None:
            with suppress(LocksUnavailable):
                verdict = self._locks.ask(lambda locks: locks.hold(claim, lease), now)
                run.renew_at = now + lease / 3 if isinstance(verdict, Held) else None
                if isinstance(verdict, Taken):
                    self.journal.lock_lost(run, verdict.holder)

    # -- the end ---------------------------------------------------------------------------------------------------

    def return_waiting(self, why: str) -> None:
        """Give back what has not been handed to a child."""
        self._settlements += map(Return, self._suspects)
        self._suspects.clear()
        self._return_unstarted(why)

    def _return_unstarted(self, why: str) -> None:
        for away in self._locked_out:
            self._settlements.append(Return(away.delivery))
        self._locked_out = []
        for runs in self._waiting.values():
            for run in runs:
                self._return(run, why)
            runs.clear()

    def return_all(self, why: str, now: float) -> None:
        """Give back everything; jobs that run pay no attempt, since it is this worker that ends them."""
        self.return_waiting(why)
        self._calls.clear()
        for run in self._runs:
            if run.step is not None:
                self._conclude_decided(run, now)
            else:
                self._return(run, why)

    def _return(self, run: Run, why: str) -> None:
        self._settlements += [Return(delivery) for delivery in run.deliveries]
        self._runs.drop(run)
        self.journal.returned(run, why)


def _is_overdue(run: Run, now: float) -> bool:
    return run.phase in ("running", "calling") and run.deadline is not None and now >= run.deadline


def _places(queue: str, most: int, usable: Iterable[Child]) -> int:
    """How many more shared runs of that queue these children could take."""
    return sum(max(most - child.by_queue[queue], 0) for child in usable if not child.runs or child.shares)
