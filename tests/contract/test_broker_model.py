"""Random walks over a broker beside a simple model: at every step each job is in exactly one place."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from broker_harness import failed, job
from harnesses import HARNESSES
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from router.brokers.base import (
    Bury,
    Consumer,
    Decision,
    Delivery,
    Done,
    FailedJob,
    Forget,
    Forward,
    Keep,
    Outgoing,
    Requeue,
    Return,
    Settlement,
)

LEASE = 6.0
QUEUES = ("a", "b")
KEYS = (None, None, "k", "l")


class Model:
    """One job: ``place`` is waiting, running or failed; a running one has the model's hand-out number as ``claim``."""

    def __init__(self, out: Outgoing, due: float) -> None:
        self.out = out
        self.due = due
        self.place = "waiting"
        self.claim = 0
        self.until = 0.0


class BrokerMachine(RuleBasedStateMachine):
    kind = ""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.harness = HARNESSES[self.kind](self.folder)
        self.broker = self.harness.broker()
        self.consumers: list[Consumer] = [self.broker.consumer(f"w{n}") for n in range(2)]
        self.held: list[dict[int, tuple[Delivery, str, int]]] = [{}, {}]
        """Of each consumer: id(delivery) → the delivery, its job, the model's claim."""
        self.looked = [self.harness.now()] * 2
        self.jobs: dict[str, Model] = {}
        self.locks: dict[str, tuple[str, int, int, float]] = {}
        self.serial = 0

    def teardown(self) -> None:
        self.broker.close()
        shutil.rmtree(self.folder)

    # -- the model's rules

    def holder(self, key: str) -> tuple[str, int, int, float] | None:
        lock = self.locks.get(key)
        return lock if lock and lock[3] > self.harness.now() else None

    def admit(self, out: Outgoing) -> str | None:
        """The holder that keeps ``out`` from being published; takes the lock if there is none."""
        if out.claim is None:
            return None
        lock = self.holder(out.claim.key)
        if lock is not None and lock[0] != out.id:
            return lock[0]
        self.locks[out.claim.key] = (out.id, out.claim.round, out.claim.attempt, self.end_of(out))
        return None

    def end_of(self, out: Outgoing) -> float:
        return self.harness.now() + out.delay + out.lease

    def free(self, out: Outgoing) -> None:
        if out.claim is not None:
            lock = self.holder(out.claim.key)
            if lock is not None and lock[0] == out.id and lock[1:3] <= (out.claim.round, out.claim.attempt):
                del self.locks[out.claim.key]

    def successor_of(self, out: Outgoing, queue: str, delay: float, *, round: int = 0) -> Outgoing:
        key = None if out.claim is None else out.claim.key
        if out.claim is None:
            return job(queue, id=out.id, delay=delay)
        number, attempt = (out.claim.round + 1, 1) if round else (out.claim.round, out.claim.attempt + 1)
        return job(queue, id=out.id, delay=delay, key=key, round=number, attempt=attempt, lease=20)

    # -- steps

    @rule(
        batch=st.lists(
            st.tuples(st.sampled_from(QUEUES), st.sampled_from((0.0, 0.0, 3.0, 9.0)), st.sampled_from(KEYS)),
            min_size=1,
            max_size=4,
        )
    )
    def publish(self, batch: list[tuple[str, float, str | None]]) -> None:
        outs = []
        for queue, delay, key in batch:
            self.serial += 1
            outs.append(job(queue, id=f"{self.serial:04}", delay=delay, key=key, lease=20))
        receipt = self.broker.publish(outs)
        duplicates = {}
        for out in outs:
            holder = self.admit(out)
            if holder is None:
                self.jobs[out.id] = Model(out, self.harness.now() + out.delay)
            else:
                duplicates[out.id] = holder
        assert receipt.duplicates == duplicates
        assert receipt.confirmed == tuple(out.id for out in outs if out.id not in duplicates)
        assert not receipt.unconfirmed

    @rule(who=st.integers(0, 1), a=st.integers(0, 3), b=st.integers(0, 3))
    def poll(self, who: int, a: int, b: int) -> None:
        if self.harness.now() - self.looked[who] >= LEASE / 2:  # it stood still: it inherits at its next look
            assert self.consumers[who].poll({}) == []
            self.renew(who)
            self.check_lost(who)
            self.harness.pass_time(2.5)
        now = self.looked[who] = self.harness.now()
        deliveries = self.consumers[who].poll({"a": a, "b": b})
        self.renew(who)
        expected = []
        for queue, limit in (("a", a), ("b", b)):
            due = [
                model
                for model in self.jobs.values()
                if model.out.queue == queue
                and (
                    (model.place == "waiting" and model.due <= now) or (model.place == "running" and model.until <= now)
                )
            ]
            due = [model for model in due if model.due <= now]
            expected += sorted(model.due for model in due)[:limit]
        assert [self.jobs[d.body.decode()].due for d in deliveries] == expected
        for delivery in deliveries:
            model = self.jobs[delivery.body.decode()]
            assert model.place == "waiting" or model.until <= now
            model.place, model.until = "running", now + LEASE
            self.serial += 1
            model.claim = self.serial
            self.held[who][id_of(delivery)] = (delivery, model.out.id, model.claim)
        self.check_lost(who)

    def renew(self, who: int) -> None:
        for _, id, claim in self.held[who].values():
            model = self.jobs.get(id)
            if model is not None and model.place == "running" and model.claim == claim:
                model.until = self.harness.now() + LEASE

    def ours(self, who: int, delivery: Delivery) -> Model | None:
        _, id, claim = self.held[who][id_of(delivery)]
        model = self.jobs.get(id)
        return model if model is not None and model.place != "failed" and model.claim == claim else None

    def check_lost(self, who: int) -> None:
        """A lost delivery really was another's; whoever polled past a renewal knows of it, or finds out in settling."""
        for delivery in self.consumers[who].take_lost():
            assert self.ours(who, delivery) is None
            del self.held[who][id_of(delivery)]

    @rule(who=st.integers(0, 1), data=st.data())
    def settle(self, who: int, data: Any) -> None:
        if not self.held[who]:
            return
        chosen = data.draw(st.lists(st.sampled_from(list(self.held[who])), min_size=1, max_size=3, unique=True))
        settlements: list[Settlement] = []
        gone = set()
        for number in chosen:
            delivery, id, _ = self.held[who][number]
            kind = data.draw(st.sampled_from(("done", "forward", "bury", "return")))
            model = self.ours(who, delivery)
            out = model.out if model is not None else job(id=id)
            successor = self.successor_of(
                out, data.draw(st.sampled_from(QUEUES)), data.draw(st.sampled_from((0.0, 4.0)))
            )
            entry = failed(out, at=self.harness.now())
            match kind:
                case "done":
                    settlements.append(Done(delivery, out.claim))
                case "forward":
                    settlements.append(Forward(delivery, successor))
                case "bury":
                    settlements.append(Bury(delivery, entry, out.claim))
                case _:
                    settlements.append(Return(delivery))
            if model is None:
                gone.add(number)
            else:
                self.apply(kind, model, successor)
                del self.held[who][number]
        self.consumers[who].settle(settlements)
        assert self.consumers[who].unsettled == 0
        assert {id_of(delivery) for delivery in self.consumers[who].take_lost()} == gone
        for number in gone:
            del self.held[who][number]

    def apply(self, kind: str, model: Model, successor: Outgoing) -> None:
        match kind:
            case "done":
                self.free(model.out)
                del self.jobs[model.out.id]
            case "forward":
                self.jobs[model.out.id] = Model(successor, self.harness.now() + successor.delay)
                claim = successor.claim
                lock = self.holder(claim.key) if claim else None
                if claim and lock and lock[0] == claim.job and lock[1:3] <= (claim.round, claim.attempt):
                    self.locks[claim.key] = (claim.job, claim.round, claim.attempt, self.end_of(successor))
            case "bury":
                self.free(model.out)
                model.place = "failed"
            case _:
                model.place, model.until, model.claim = "waiting", 0.0, -1

    @rule(seconds=st.sampled_from((2.5, 7.0)))
    def pass_time(self, seconds: float) -> None:
        """Never less than the 2 s after which a poll renews leases, so that each poll of the model's does."""
        self.harness.pass_time(seconds)

    @rule(data=st.data())
    @precondition(lambda self: any(model.place == "failed" for model in self.jobs.values()))
    def sweep(self, data: Any) -> None:
        expected_requeued, expected_forgotten, duplicates = [], [], {}

        def decide(entry: FailedJob) -> Decision:
            model = self.jobs[entry.id]
            match data.draw(st.sampled_from(("keep", "forget", "requeue"))):
                case "keep":
                    return Keep()
                case "forget":
                    expected_forgotten.append(entry.id)
                    self.free(model.out)
                    del self.jobs[entry.id]
                    return Forget(free=model.out.claim)
            successor = self.successor_of(model.out, "a", 0.0, round=1)
            holder = self.admit(successor)
            if holder is None:
                expected_requeued.append(entry.id)
                self.jobs[entry.id] = Model(successor, self.harness.now())
            else:
                duplicates[entry.id] = holder
            return Requeue(successor)

        result = self.broker.sweep(decide)
        assert result.requeued == tuple(expected_requeued)
        assert result.forgotten == tuple(expected_forgotten)
        assert result.duplicates == duplicates

    @rule(who=st.integers(0, 1))
    def replace(self, who: int) -> None:
        """A worker stops, another starts."""
        for delivery, _, _ in self.held[who].values():
            model = self.ours(who, delivery)
            if model is not None:
                self.apply("return", model, model.out)
        self.consumers[who].close()
        self.held[who].clear()
        self.serial += 1
        self.consumers[who] = self.broker.consumer(f"w{self.serial}")
        self.looked[who] = self.harness.now()

    # -- what must hold after each step

    @invariant()
    def each_job_is_in_one_place(self) -> None:
        now = self.harness.now()
        counts = self.broker.counts(QUEUES)
        for queue in QUEUES:
            models = [model for model in self.jobs.values() if model.out.queue == queue]
            running = sum(model.place == "running" and model.until > now for model in models)
            dead = sum(model.place == "failed" for model in models)
            delayed = sum(model.place == "waiting" and model.due > now for model in models)
            numbers = counts.queues[queue]
            assert (numbers.running, numbers.failed, numbers.delayed) == (running, dead, delayed)
            assert numbers.ready == len(models) - running - dead - delayed
        assert {entry.id for entry in self.broker.failed()} == {
            model.out.id for model in self.jobs.values() if model.place == "failed"
        }

    @invariant()
    def locks_are_the_models(self) -> None:
        assert self.broker.locks is not None
        for key in ("k", "l"):
            claim, lock = self.broker.locks.holder(key), self.holder(key)
            assert (claim and (claim.job, claim.round, claim.attempt)) == (lock and lock[:3])


def id_of(delivery: Delivery) -> int:
    return id(delivery)


def machine(kind: str, examples: int) -> Any:
    made = type(f"Machine_{kind}", (BrokerMachine,), {"kind": kind}).TestCase  # type: ignore[attr-defined]
    made.settings = settings(
        max_examples=examples,
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    return made


TestMemory = machine("memory", 150)
TestSqlite = machine("sqlite", 50)
TestSqliteLocksOutside = machine("sqlite-locks-outside", 25)
