"""What every broker promises, within one process; see router/brokers/base.py."""

from __future__ import annotations

import threading

import pytest
from broker_harness import Harness, eventually, failed, ids, job, settled, take, worker_state, workers

from router.brokers.base import (
    Bury,
    Consumer,
    Counts,
    Done,
    FailedJob,
    Forget,
    Forward,
    Keep,
    Outgoing,
    QueueCounts,
    Receipt,
    Requeue,
    Return,
    Settlement,
    Sweep,
    together,
)
from router.locks.base import Claim, Held

ROOM = {"a": 1000, "b": 1000, "c": 1000}


def settle(consumer: Consumer, *settlements: Settlement) -> None:
    consumer.settle(settlements)
    assert settled(consumer)


def nothing(consumer: Consumer) -> bool:
    return not consumer.poll(ROOM)


# -- publishing and delivering


def test_a_job_arrives_as_it_was_published(harness: Harness) -> None:
    broker = harness.broker()
    body = bytes(range(256)) * 300
    assert broker.publish([job("a", id="x", body=body)]) == Receipt(("x",))
    (delivery,) = take(broker.consumer("w"), ROOM, 1)
    assert (delivery.queue, delivery.body, delivery.count) == ("a", body, 1)


def test_an_empty_batch_is_fine(harness: Harness) -> None:
    assert harness.broker().publish([]) == Receipt(())


def test_a_batch_keeps_its_order_and_batches_theirs(harness: Harness) -> None:
    broker = harness.broker()
    first, second = [job() for _ in range(300)], [job() for _ in range(20)]
    assert broker.publish(first).confirmed == tuple(out.id for out in first)
    harness.pass_time(0.001)
    broker.publish(second)
    assert ids(take(broker.consumer("w"), ROOM, 320)) == [out.id for out in first + second]


def test_room_is_per_queue_and_queues_come_in_rooms_order(harness: Harness) -> None:
    broker = harness.broker()
    a, b, c = [job("a") for _ in range(5)], [job("b") for _ in range(5)], [job("c")]
    broker.publish([*a, *b, *c])
    consumer = broker.consumer("w")
    assert ids(take(consumer, {"b": 2, "a": 3, "c": 0}, 5)) == [out.id for out in b[:2] + a[:3]]
    assert consumer.poll({}) == []
    assert consumer.poll({"a": 0, "b": -1}) == []
    assert ids(take(consumer, {"a": 10, "b": 10}, 5)) == [out.id for out in a[3:] + b[2:]]


def test_nothing_is_delivered_early(harness: Harness) -> None:
    broker = harness.broker()
    late, soon, now = job(delay=2), job(delay=1), job()
    began = harness.now()
    broker.publish([late, soon, now])
    consumer = broker.consumer("w")
    arrived: dict[str, float] = {}

    def all_there() -> bool:
        arrived.update((id, harness.now() - began) for id in ids(consumer.poll(ROOM)))
        assert 0 <= consumer.patience() <= 1
        if len(arrived) == 3:
            return True
        harness.pass_time(0.125)
        return False

    assert eventually(all_there)
    assert list(arrived) == [now.id, soon.id, late.id]
    assert all(arrived[out.id] >= out.delay for out in (now, soon, late))
    if harness.table:
        assert list(arrived.values()) == [0, 1, 2]


def test_publishing_again_is_confirmed_again(harness: Harness) -> None:
    broker = harness.broker()
    again = job()
    for _ in range(2):
        assert broker.publish([again]) == Receipt((again.id,))
    assert again.id in ids(take(broker.consumer("w"), ROOM, 1))


def test_a_job_that_is_twice_in_a_batch_is_one(harness: Harness) -> None:
    broker = harness.broker()
    twice, other = job(), job()
    assert broker.publish([twice, other, twice]) == Receipt((twice.id, other.id))
    consumer = broker.consumer("w")
    assert ids(take(consumer, ROOM, 2)) == [twice.id, other.id]
    assert nothing(consumer)


def test_publishing_again_makes_no_second_job(table_harness: Harness) -> None:
    broker = table_harness.broker()
    again = job()
    for _ in range(3):
        assert broker.publish([again, again]) == Receipt((again.id,))
    consumer = broker.consumer("w")
    deliveries = take(consumer, ROOM, 1)
    assert ids(deliveries) == [again.id]
    assert broker.publish([again]) == Receipt((again.id,))
    assert nothing(consumer)
    settle(consumer, Done(deliveries[0]))
    assert nothing(consumer)
    assert broker.publish([again]) == Receipt((again.id,))
    assert ids(take(consumer, ROOM, 1)) == [again.id]


def test_namespaces_do_not_see_each_other(harness: Harness) -> None:
    one, two = harness.broker("one"), harness.broker("two")
    out = job()
    one.publish([out])
    assert nothing(two.consumer("w"))
    two.publish([out])
    consumers = [broker.consumer("w") for broker in (one, two)]
    for consumer in consumers:
        consumer.report(worker_state("w"))
        (delivery,) = take(consumer, ROOM, 1)
        settle(consumer, Bury(delivery, failed(out, at=harness.now())))
    one.sweep(lambda failed: Forget())
    assert (one.counts([]).failed, two.counts([]).failed) == (0, 1)
    assert len(workers(two, *consumers, count=1)) == 1


def test_threads_publish_at_once(harness: Harness) -> None:
    broker = harness.broker()
    batches = [[job() for _ in range(20)] for _ in range(8)]
    receipts: list[Receipt] = []

    def publish(batch: list[Outgoing]) -> None:
        receipts.extend(broker.publish([out]) for out in batch)

    threads = [threading.Thread(target=publish, args=(batch,)) for batch in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    everything = {out.id for batch in batches for out in batch}
    assert {job for receipt in receipts for job in receipt.confirmed} == everything
    arrived = ids(take(broker.consumer("w"), ROOM, 160))
    assert len(arrived) == 160
    assert set(arrived) == everything
    for batch in batches:
        assert [id for id in arrived if id in {out.id for out in batch}] == [out.id for out in batch]


# -- settling


def test_done_is_done(harness: Harness) -> None:
    broker = harness.broker()
    broker.publish([job(), job()])
    consumer = broker.consumer("w")
    settle(consumer, *map(Done, take(consumer, ROOM, 2)))
    harness.pass_time(harness.lapse)
    assert nothing(consumer)
    assert consumer.take_lost() == []
    assert broker.counts(["a"]).queues["a"].ready == 0


def test_forward_puts_the_successor_in_its_place(harness: Harness) -> None:
    broker = harness.broker()
    out = job()
    broker.publish([out])
    consumer = broker.consumer("w")
    (delivery,) = take(consumer, ROOM, 1)
    settle(consumer, Forward(delivery, job("b", id=out.id, delay=2, body=b"second")))
    assert nothing(consumer)
    assert broker.counts([]).delayed == 1
    harness.pass_time(2)
    (second,) = take(consumer, ROOM, 1)
    assert (second.queue, second.body, second.count) == ("b", b"second", 1)


def test_bury_keeps_the_failed_job(harness: Harness) -> None:
    broker = harness.broker()
    outs = [job("a"), job("b")]
    broker.publish(outs)
    consumer = broker.consumer("w")
    deliveries = take(consumer, ROOM, 2)
    buried = [failed(out, at=harness.now() - index) for index, out in enumerate(outs)]
    settle(consumer, *(Bury(d, f) for d, f in zip(deliveries, buried, strict=True)))
    assert nothing(consumer)
    assert broker.failed() == buried[::-1]
    assert broker.counts([]).failed == 2


def test_return_gives_the_job_to_anybody_at_once(harness: Harness) -> None:
    broker = harness.broker()
    outs = [job() for _ in range(3)]
    broker.publish(outs)
    one, two = broker.consumer("one"), broker.consumer("two")
    deliveries = take(one, ROOM, 3)
    settle(one, Return(deliveries[0]))
    (again,) = take(two, ROOM, 1)
    assert (again.body, again.count) == (deliveries[0].body, 2)
    assert one.take_lost() == []


def test_settlements_of_many_kinds_at_once(harness: Harness) -> None:
    broker = harness.broker()
    outs = [job() for _ in range(4)]
    broker.publish(outs)
    consumer = broker.consumer("w")
    done, forward, bury, back = take(consumer, ROOM, 4)
    settle(
        consumer,
        Done(done),
        Forward(forward, job("b", id=outs[1].id)),
        Bury(bury, failed(outs[2], at=harness.now())),
        Return(back),
    )
    assert sorted(ids(take(consumer, ROOM, 2))) == [outs[1].id, outs[3].id]
    assert [entry.id for entry in broker.failed()] == [outs[2].id]


def test_settling_twice_changes_nothing_the_second_time(harness: Harness) -> None:
    broker = harness.broker()
    out = job()
    broker.publish([out])
    consumer = broker.consumer("w")
    (delivery,) = take(consumer, ROOM, 1)
    settle(consumer, Forward(delivery, job(id=out.id, delay=1)))
    settle(consumer, Done(delivery))
    assert consumer.take_lost() == []
    harness.pass_time(1)
    assert ids(take(consumer, ROOM, 1)) == [out.id]


# -- workers that fall silent


def test_a_silent_worker_loses_its_jobs(harness: Harness) -> None:
    broker = harness.broker()
    outs = [job(key=f"key-{n}") for n in range(4)]
    broker.publish(outs)
    silent, heir = broker.consumer("silent"), broker.consumer("heir")
    lost = take(silent, ROOM, 4)
    assert nothing(heir)
    harness.silence(silent)
    inherited = take(heir, ROOM, 4)
    assert ids(inherited) == [out.id for out in outs]
    assert {delivery.count for delivery in inherited} == {2}
    successor = job(id=outs[1].id, key="key-1", attempt=2)
    silent.settle(
        [
            Done(lost[0], free=outs[0].claim),
            Forward(lost[1], successor),
            Bury(lost[2], failed(outs[2], at=harness.now()), free=outs[2].claim),
            Return(lost[3]),
        ]
    )
    assert settled(silent)
    gone = silent.take_lost()
    assert {id(delivery) for delivery in gone} == {id(delivery) for delivery in lost}
    assert silent.take_lost() == []
    assert broker.failed() == []
    assert broker.locks is not None
    assert [broker.locks.holder(f"key-{n}") for n in range(4)] == [out.claim for out in outs]
    assert nothing(silent)
    settle(heir, *map(Done, inherited))
    assert heir.take_lost() == []
    harness.pass_time(harness.lapse)
    assert nothing(heir)


def test_polling_notices_what_was_lost_and_settling_it_is_then_silent(harness: Harness) -> None:
    broker = harness.broker()
    broker.publish([job()])
    silent, heir = broker.consumer("silent"), broker.consumer("heir")
    lost = take(silent, ROOM, 1)
    harness.silence(silent)
    (delivery,) = take(heir, ROOM, 1)
    assert nothing(silent)
    assert silent.take_lost() == lost
    settle(silent, Done(lost[0]))
    assert silent.take_lost() == []
    settle(heir, Done(delivery))
    assert heir.take_lost() == []


def test_a_stale_settlement_never_meets_a_later_copy_of_the_job(harness: Harness) -> None:
    """The successor's first hand-out must not look like the first hand-out of what it replaced."""
    broker = harness.broker()
    out = job()
    broker.publish([out])
    silent, heir = broker.consumer("silent"), broker.consumer("heir")
    (stale,) = take(silent, ROOM, 1)
    harness.silence(silent)
    (delivery,) = take(heir, ROOM, 1)
    settle(heir, Forward(delivery, job(id=out.id)))
    (second,) = take(heir, ROOM, 1)
    silent.settle([Done(stale)])
    assert settled(silent)
    assert silent.take_lost() == [stale]
    settle(heir, Return(second))
    assert ids(take(heir, ROOM, 1)) == [out.id]


def test_polling_keeps_jobs_for_as_long_as_it_takes(table_harness: Harness) -> None:
    broker = table_harness.broker()
    broker.publish([job()])
    busy, other = broker.consumer("busy"), broker.consumer("other")
    (delivery,) = take(busy, ROOM, 1)
    for _ in range(10):
        assert 0 <= busy.patience() <= 2.5
        table_harness.pass_time(2.5)
        busy.poll({})
        assert nothing(other)
    settle(busy, Done(delivery))
    assert busy.take_lost() == []


def test_a_worker_that_was_stopped_keeps_what_nobody_took(table_harness: Harness) -> None:
    broker = table_harness.broker()
    broker.publish([job()])
    consumer = broker.consumer("w")
    (delivery,) = take(consumer, ROOM, 1)
    table_harness.pass_time(60)
    assert nothing(consumer)
    settle(consumer, Done(delivery))
    assert consumer.take_lost() == []
    table_harness.pass_time(60)
    assert nothing(consumer)


def test_deliveries_are_counted(harness: Harness) -> None:
    broker = harness.broker()
    broker.publish([job()])
    consumer = broker.consumer("w")
    for count in range(1, 30):
        (delivery,) = take(consumer, ROOM, 1)
        assert delivery.count == count
        settle(consumer, Return(delivery))


def test_close_gives_back_what_was_not_settled(harness: Harness) -> None:
    broker = harness.broker()
    outs = [job() for _ in range(3)]
    broker.publish(outs)
    consumer = broker.consumer("w")
    deliveries = take(consumer, ROOM, 3)
    consumer.settle([Done(deliveries[1])])
    consumer.close()
    assert ids(take(broker.consumer("other"), ROOM, 2)) == [outs[0].id, outs[2].id]


def test_a_closed_broker_opens_anew(harness: Harness) -> None:
    broker = harness.broker()
    broker.publish([job()])
    broker.close()
    broker.publish([job()])
    assert len(take(broker.consumer("w"), ROOM, 2)) == 2


# -- unique jobs


def holder(harness: Harness, key: str) -> Claim | None:
    locks = harness.broker().locks
    assert locks is not None
    return locks.holder(key)


def test_a_taken_key_makes_a_duplicate(harness: Harness) -> None:
    broker = harness.broker()
    first, second, other, plain = job(key="k"), job(key="k"), job(key="other"), job()
    assert broker.publish([first]) == Receipt((first.id,))
    assert broker.publish([second, other, plain]) == Receipt((other.id, plain.id), {second.id: first.id})
    assert ids(take(broker.consumer("w"), ROOM, 3)) == [first.id, other.id, plain.id]
    assert holder(harness, "k") == first.claim


def test_two_jobs_of_one_key_in_one_batch(harness: Harness) -> None:
    broker = harness.broker()
    first, second = job(key="k"), job(key="k")
    assert broker.publish([first, second]) == Receipt((first.id,), {second.id: first.id})
    assert ids(take(broker.consumer("w"), ROOM, 1)) == [first.id]


def test_the_lock_lasts_for_delay_and_lease(harness: Harness) -> None:
    broker = harness.broker()
    first = job(key="k", delay=60, lease=40)
    broker.publish([first])
    harness.pass_lock_time(99)
    assert broker.publish([job(key="k")]).confirmed == ()
    harness.pass_lock_time(1)
    second = job(key="k")
    assert broker.publish([second]) == Receipt((second.id,))


def test_done_frees_the_lock(harness: Harness) -> None:
    broker = harness.broker()
    first = job(key="k")
    broker.publish([first])
    consumer = broker.consumer("w")
    (delivery,) = take(consumer, ROOM, 1)
    settle(consumer, Done(delivery, free=first.claim))
    assert holder(harness, "k") is None


def test_done_leaves_another_jobs_lock_alone(harness: Harness) -> None:
    broker = harness.broker()
    first, second = job(key="k", lease=1), job(key="k", lease=50)
    broker.publish([first])
    consumer = broker.consumer("w")
    (delivery,) = take(consumer, ROOM, 1)
    harness.pass_lock_time(1)
    broker.publish([second])
    settle(consumer, Done(delivery, free=first.claim))
    assert holder(harness, "k") == second.claim


def test_forward_raises_the_lock_for_delay_and_lease(harness: Harness) -> None:
    broker = harness.broker()
    first = job(key="k", lease=10)
    broker.publish([first])
    consumer = broker.consumer("w")
    (delivery,) = take(consumer, ROOM, 1)
    harness.pass_lock_time(5)
    successor = job(id=first.id, key="k", attempt=2, delay=60, lease=40)
    settle(consumer, Forward(delivery, successor))
    assert holder(harness, "k") == successor.claim
    harness.pass_lock_time(99)
    assert holder(harness, "k") == successor.claim
    harness.pass_lock_time(1)
    assert holder(harness, "k") is None


def test_forward_leaves_a_lost_lock_alone(harness: Harness) -> None:
    broker = harness.broker()
    outs = [job(key="taken", lease=1), job(key="free", lease=1)]
    broker.publish(outs)
    consumer = broker.consumer("w")
    deliveries = take(consumer, ROOM, 2)
    harness.pass_lock_time(1)
    other = job("c", key="taken")
    broker.publish([other])
    settle(
        consumer,
        *(
            Forward(delivery, job(id=out.id, key=out.claim.key, attempt=2))
            for delivery, out in zip(deliveries, outs, strict=True)
            if out.claim
        ),
    )
    assert holder(harness, "taken") == other.claim
    assert holder(harness, "free") is None
    assert len(take(consumer, {"a": 5}, 2)) == 2


def test_bury_frees_the_lock(harness: Harness) -> None:
    broker = harness.broker()
    first = job(key="k")
    broker.publish([first])
    consumer = broker.consumer("w")
    (delivery,) = take(consumer, ROOM, 1)
    settle(consumer, Bury(delivery, failed(first, at=harness.now()), free=first.claim))
    assert holder(harness, "k") is None


def test_return_keeps_the_lock(harness: Harness) -> None:
    broker = harness.broker()
    first = job(key="k")
    broker.publish([first])
    consumer = broker.consumer("w")
    (delivery,) = take(consumer, ROOM, 1)
    settle(consumer, Return(delivery))
    assert holder(harness, "k") == first.claim


def test_publishing_a_unique_job_again_keeps_its_lock(harness: Harness) -> None:
    broker = harness.broker()
    first = job(key="k", lease=50)
    broker.publish([first])
    harness.pass_lock_time(40)
    assert broker.publish([first]) == Receipt((first.id,))
    harness.pass_lock_time(40)
    assert holder(harness, "k") == first.claim
    assert len(take(broker.consumer("w"), {"a": 1}, 1)) == 1


def test_publishing_again_what_has_gone_further_changes_nothing(harness: Harness) -> None:
    broker = harness.broker()
    first = job(key="k")
    broker.publish([first])
    consumer = broker.consumer("w")
    (delivery,) = take(consumer, ROOM, 1)
    later = job(id=first.id, key="k", attempt=3, delay=2)
    settle(consumer, Forward(delivery, later))
    assert broker.publish([first]) == Receipt((first.id,))
    assert holder(harness, "k") == later.claim
    assert nothing(consumer)
    harness.pass_time(2)
    assert len(take(consumer, ROOM, 1)) == 1


def test_a_start_takes_the_lock_again(harness: Harness) -> None:
    """What a worker does with `locks`: the same store that publishing looks at."""
    broker = harness.broker()
    first = job(key="k", lease=1)
    broker.publish([first])
    harness.pass_lock_time(1)
    assert broker.locks is not None
    assert first.claim is not None
    assert broker.locks.hold(first.claim, 10) == Held()
    assert broker.publish([job(key="k")]).confirmed == ()


# -- failed jobs


def bury(harness: Harness, outs: list[Outgoing]) -> list[FailedJob]:
    """Publish these and let them fail, a second apart; their locks are freed."""
    broker = harness.broker()
    broker.publish(outs)
    consumer = broker.consumer("undertaker")
    deliveries = take(consumer, ROOM, len(outs))
    by_id = {out.id: out for out in outs}
    buried = []
    for number, delivery in enumerate(deliveries):
        out = by_id[delivery.body.decode()]
        buried.append(failed(out, at=harness.now() + number))
        consumer.settle([Bury(delivery, buried[-1], free=out.claim)])
    assert settled(consumer)
    consumer.close()
    return buried


def test_sweep_asks_about_each_and_does_as_told(harness: Harness) -> None:
    outs = [job() for _ in range(6)]
    buried = bury(harness, outs)
    asked = []

    def decide(entry: FailedJob) -> Keep | Forget | Requeue:
        asked.append(entry)
        match outs.index(next(out for out in outs if out.id == entry.id)) % 3:
            case 0:
                return Keep()
            case 1:
                return Forget()
            case _:
                return Requeue(job("b", id=entry.id, round=2, body=b"again " + entry.body))

    broker = harness.broker()
    result = broker.sweep(decide)
    assert asked == buried
    assert result == Sweep((outs[2].id, outs[5].id), (outs[1].id, outs[4].id), {})
    assert [entry.id for entry in broker.failed()] == [outs[0].id, outs[3].id]
    again = take(broker.consumer("w"), ROOM, 2)
    assert [(d.queue, d.body) for d in again] == [("b", b"again " + outs[n].body) for n in (2, 5)]


def test_sweeping_nothing(harness: Harness) -> None:
    assert harness.broker().sweep(lambda entry: Forget()) == Sweep((), (), {})


def test_requeue_takes_the_lock_or_leaves_the_job_failed(harness: Harness) -> None:
    blocked, free = job(key="blocked"), job(key="free")
    bury(harness, [blocked, free])
    broker = harness.broker()
    other = job("c", key="blocked")
    broker.publish([other])

    def again(entry: FailedJob) -> Requeue:
        return Requeue(job(id=entry.id, round=2, key="blocked" if entry.id == blocked.id else "free"))

    assert broker.sweep(again) == Sweep((free.id,), (), {blocked.id: other.id})
    assert [entry.id for entry in broker.failed()] == [blocked.id]
    assert holder(harness, "free") == Claim("free", free.id, 2, 1)
    assert holder(harness, "blocked") == other.claim
    assert ids(take(broker.consumer("w"), {"a": 5}, 1)) == [free.id]


def test_two_failed_jobs_of_one_key_are_requeued_one_at_a_time(harness: Harness) -> None:
    one, two = job(key="k"), job(key="x")
    bury(harness, [one, two])
    broker = harness.broker()
    result = broker.sweep(lambda entry: Requeue(job(id=entry.id, round=2, key="k")))
    assert result == Sweep((one.id,), (), {two.id: one.id})
    assert [entry.id for entry in broker.failed()] == [two.id]


def test_a_failed_sweep_has_changed_nothing_it_was_not_told(harness: Harness) -> None:
    bury(harness, [job() for _ in range(3)])
    broker = harness.broker()

    def decide(entry: FailedJob) -> Forget:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broker.sweep(decide)
    assert len(broker.failed()) == 3


def test_forgetting_a_failed_job_frees_the_lock_that_it_still_holds(harness: Harness) -> None:
    """As where the broker itself took it for failed: nobody was there to free it."""
    mine, others, later = job(key="mine"), job(key="others"), job(key="later")
    bury(harness, [mine, others, later])
    broker = harness.broker()
    other, again = job("c", key="others"), job("c", id=later.id, key="later", round=2)
    assert broker.locks is not None
    for claim in (mine.claim, other.claim, again.claim):
        assert claim is not None
        assert broker.locks.hold(claim, 100) == Held()
    claims = {out.id: out.claim for out in (mine, others, later)}
    result = broker.sweep(lambda entry: Forget(free=claims[entry.id]))
    assert result == Sweep((), (mine.id, others.id, later.id), {})
    assert holder(harness, "mine") is None
    assert holder(harness, "others") == other.claim
    assert holder(harness, "later") == again.claim, "a later round of the same job is under way"
    assert broker.publish([job("c", key="mine")]).confirmed


def test_a_final_failure_frees_the_lock_for_the_next_job(harness: Harness) -> None:
    bury(harness, [job(key="k")])
    broker = harness.broker()
    following = job(key="k")
    assert broker.publish([following]).confirmed == (following.id,)


def test_a_sweep_reports_what_it_does_as_it_does_it(harness: Harness) -> None:
    outs = [job() for _ in range(5)]
    bury(harness, outs)
    steps: list[Sweep] = []

    def decide(entry: FailedJob) -> Forget | Requeue:
        return Forget() if entry.id == outs[0].id else Requeue(job("b", id=entry.id, round=2))

    result = harness.broker().sweep(decide, steps.append)
    assert together(steps) == result == Sweep(tuple(out.id for out in outs[1:]), (outs[0].id,), {})


def test_a_report_that_raises_ends_the_sweep_after_what_was_reported(harness: Harness) -> None:
    outs = [job() for _ in range(3)]
    bury(harness, outs)
    broker = harness.broker()
    steps: list[Sweep] = []

    def stop(step: Sweep) -> None:
        steps.append(step)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broker.sweep(lambda entry: Requeue(job("b", id=entry.id, round=2)), stop)
    requeued = together(steps).requeued
    assert requeued
    assert {entry.id for entry in broker.failed()} == {out.id for out in outs} - set(requeued)
    assert sorted(ids(take(broker.consumer("w"), {"b": 5}, len(requeued)))) == sorted(requeued)


def test_restored_jobs_are_failed_jobs_as_they_were(harness: Harness) -> None:
    broker = harness.broker()
    broker.restore([])
    entries = [
        FailedJob("one", "a", "point", "route", "fail", "Fail: no\n\nTraceback ü", harness.now() - 50.25, b'{"v": 1}'),
        FailedJob("two", "gone", "", "", "undecodable", "not a job", harness.now() - 40, bytes(range(256))),
    ]
    broker.restore(entries[1:])
    broker.restore(entries[:1])
    assert broker.failed() == entries
    assert broker.counts([]).failed == 2
    assert broker.sweep(lambda entry: Requeue(job("b", id=entry.id))).requeued == ("one", "two")
    assert sorted(ids(take(broker.consumer("w"), {"b": 5}, 2))) == ["one", "two"]


def test_restoring_what_is_there_changes_nothing(table_harness: Harness) -> None:
    broker = table_harness.broker()
    (there,) = bury(table_harness, [job()])
    other = FailedJob(there.id, "b", "point", "route", "fail", "another copy", table_harness.now(), b"other")
    new = FailedJob("new", "b", "point", "route", "fail", "", table_harness.now() + 60, b"new")
    broker.restore([other, new])
    assert broker.failed() == [there, new]


def test_sweeping_from_within_a_sweep(table_harness: Harness) -> None:
    """What somebody else has swept meanwhile is neither requeued nor reported."""
    (entry,) = bury(table_harness, [job()])
    broker = table_harness.broker()

    def decide(entry: FailedJob) -> Requeue:
        assert broker.sweep(lambda entry: Forget()).forgotten == (entry.id,)
        return Requeue(job(id=entry.id))

    assert broker.sweep(decide) == Sweep((), (), {})
    assert nothing(broker.consumer("w"))
    assert broker.failed() == []
    assert entry.reason == "attempts"


# -- watching


def test_counts(harness: Harness) -> None:
    broker = harness.broker()
    unknown = broker.counts(["a"]).queues["a"]
    assert (unknown.ready, unknown.oldest) == (0, None)
    assert broker.counts(["a"]).missing == ()
    missing = broker.counts(["new"]).missing
    assert [name.rpartition(".")[2] for name in missing] == ([] if harness.table else ["new"])
    if harness.table:
        assert broker.counts(["a"]) == Counts({"a": QueueCounts(0, 0, 0, 0, None)}, 0, 0)
    began = harness.now()
    broker.publish([job("a"), job("a"), job("a", delay=50), job("b", delay=60), job("b", delay=60)])
    harness.pass_time(1)
    broker.publish([job("a")])
    consumer = broker.consumer("w")
    delivery, _ = take(consumer, {"a": 2}, 2)
    settle(consumer, Bury(delivery, failed(job("c"), at=harness.now())))
    # What was sent ahead to this worker, but not given out, goes back soon.
    assert eventually(lambda: consumer.poll({}) == [] and broker.counts(["a"]).queues["a"].ready == 1)
    counts = broker.counts(["a", "b", "c", "empty"])
    assert (counts.delayed, counts.failed) == (3, 1)
    a, b, c, empty = (counts.queues[name] for name in ("a", "b", "c", "empty"))
    assert (a.ready, b.ready, c.ready, empty.ready) == (1, 0, 0, 0)
    if harness.table:
        assert (a.delayed, b.delayed) == (1, 2)
        assert (a.running, b.running) == (1, 0)
        assert a.oldest == began + 1
        assert c.failed == 1
        assert broker.counts([]).queues.keys() == {"a", "b", "c"}
    else:
        assert a == QueueCounts(1, None, None, None, None)
    consumer.close()
    assert eventually(lambda: broker.counts(["a"]).queues["a"].ready == 2)  # the running one came back
    if harness.table:
        harness.pass_time(50)
        counts = broker.counts(["a"])
        assert (counts.queues["a"].ready, counts.delayed) == (3, 2)  # the delayed one is due


def test_a_lease_that_ran_out_counts_as_ready(table_harness: Harness) -> None:
    broker = table_harness.broker()
    broker.publish([job("a")])
    silent = broker.consumer("w")
    take(silent, ROOM, 1)
    table_harness.silence(silent)
    counts = broker.counts(["a"]).queues["a"]
    assert (counts.ready, counts.running) == (1, 0)


def test_workers_are_seen_while_they_live(harness: Harness) -> None:
    broker = harness.broker()
    one, two = broker.consumer("one"), broker.consumer("two")
    began = harness.now()
    one.report(worker_state("one"))
    two.report(worker_state("two"))
    first, second = workers(broker, one, two, count=2)
    assert (first.name, second.name) == ("one", "two")
    assert first.running == (("a", "job", "route", 2.0),)
    assert began <= first.seen_at <= harness.now()
    for _ in range(4):
        harness.pass_time(min(2.0, harness.lapse))
        one.report(worker_state("one", generation=2))
        one.poll({})
    (state,) = workers(broker, one, count=1)
    assert (state.name, state.generation) == ("one", 2)
    one.close()
    assert workers(broker, count=0) == []


def test_a_silent_worker_that_comes_back_is_seen_again(harness: Harness) -> None:
    broker = harness.broker()
    consumer = broker.consumer("w")
    consumer.report(worker_state("w"))
    harness.pass_time(harness.lapse)
    assert workers(broker, count=0) == []
    consumer.poll({})
    assert [state.name for state in workers(broker, consumer, count=1)] == ["w"]
