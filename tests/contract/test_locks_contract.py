"""What every lock store promises; see router/locks/base.py."""

from __future__ import annotations

import threading
import time

from broker_harness import Clock

from router.errors import LocksUnavailable
from router.locks.base import Claim, Held, Lease, Locks, Superseded, Taken


def claim(job: str = "j", round: int = 1, attempt: int = 1, key: str = "k") -> Claim:
    return Claim(key, job, round, attempt)


def test_a_free_key_is_taken(locks: Locks) -> None:
    assert locks.holder("k") is None
    assert locks.hold(claim(), 10) == Held()
    assert locks.holder("k") == claim()
    assert locks.holder("other") is None


def test_another_job_is_turned_away_and_changes_nothing(locks: Locks, clock: Clock) -> None:
    locks.hold(claim(), 10)
    assert locks.hold(claim("other", 9, 9), 1000) == Taken("j")
    assert locks.extend(claim("other", 9, 9), 1000) is False
    assert locks.free(claim("other", 9, 9)) is False
    assert locks.holder("k") == claim()
    clock.advance(10)
    assert locks.holder("k") is None


def test_the_same_job_raises_its_value_and_lease(locks: Locks, clock: Clock) -> None:
    locks.hold(claim(), 10)
    clock.advance(9)
    assert locks.hold(claim(attempt=2), 10) == Held()
    assert locks.hold(claim(round=2, attempt=1), 10) == Held()
    clock.advance(9)
    assert locks.holder("k") == claim(round=2)


def test_the_same_value_starts_the_lease_afresh(locks: Locks, clock: Clock) -> None:
    locks.hold(claim(), 10)
    clock.advance(9)
    assert locks.hold(claim(), 10) == Held()
    clock.advance(9)
    assert locks.holder("k") == claim()


def test_a_lower_value_is_superseded_and_changes_nothing(locks: Locks, clock: Clock) -> None:
    locks.hold(claim(round=2, attempt=1), 10)
    for stale in (claim(round=1, attempt=7), claim(round=1, attempt=1)):
        assert locks.hold(stale, 1000) == Superseded()
        assert locks.extend(stale, 1000) is False
        assert locks.free(stale) is False
    assert locks.holder("k") == claim(round=2)
    clock.advance(10)
    assert locks.hold(claim(), 10) == Held()


def test_an_expired_lock_is_anybodys(locks: Locks, clock: Clock) -> None:
    locks.hold(claim(round=3), 10)
    clock.advance(10)
    assert locks.holder("k") is None
    assert locks.free(claim(round=3)) is False
    assert locks.hold(claim("other"), 10) == Held()
    assert locks.holder("k") == claim("other")


def test_extend_lengthens_and_raises_what_is_held(locks: Locks, clock: Clock) -> None:
    locks.hold(claim(), 10)
    assert locks.extend(claim(), 100) is True
    clock.advance(50)
    assert locks.holder("k") == claim()
    assert locks.extend(claim(attempt=2), 100) is True
    assert locks.holder("k") == claim(attempt=2)


def test_extend_never_takes_a_free_key(locks: Locks, clock: Clock) -> None:
    assert locks.extend(claim(), 10) is False
    assert locks.holder("k") is None
    locks.hold(claim(), 10)
    clock.advance(10)
    assert locks.extend(claim(), 10) is False
    assert locks.holder("k") is None
    locks.hold(claim(), 10)
    locks.free(claim())
    assert locks.extend(claim(), 10) is False


def test_free_with_the_same_or_a_higher_value(locks: Locks) -> None:
    locks.hold(claim(attempt=2), 10)
    assert locks.free(claim(attempt=3)) is True
    assert locks.holder("k") is None
    assert locks.free(claim(attempt=3)) is False


def test_keys_are_apart(locks: Locks) -> None:
    locks.hold(claim(key="x"), 10)
    assert locks.hold(claim("other", key="y"), 10) == Held()
    assert locks.free(claim("other", key="y"))
    assert locks.holder("x") == claim(key="x")


def test_many_in_one_go_are_as_one_after_the_other(locks: Locks, clock: Clock) -> None:
    locks.hold(claim("holder", key="taken"), 10)
    locks.hold(claim("a", round=2, key="stale"), 10)
    wanted = [
        claim("a", key="x"),
        claim("b", key="x"),  # the first one wins
        claim("b", key="taken"),
        claim("a", key="stale"),
        claim("a", key="x"),
        claim("c", key="y"),
    ]
    assert locks.hold_many(wanted, 10) == [Held(), Taken("a"), Taken("holder"), Superseded(), Held(), Held()]
    assert locks.extend_many([(wanted[0], 100), (wanted[1], 100), (wanted[5], 20)]) == [True, False, True]
    clock.advance(15)
    assert [locks.holder(key) for key in ("x", "y", "taken")] == [wanted[0], wanted[5], None]
    assert locks.free_many([wanted[1], wanted[0], wanted[5], wanted[0]]) == [False, True, True, False]
    assert locks.held("") == []


def test_none_in_one_go(locks: Locks) -> None:
    assert (locks.hold_many([], 10), locks.extend_many([]), locks.free_many([])) == ([], [], [])


def test_usable_after_close(locks: Locks) -> None:
    locks.hold(claim(), 10)
    locks.close()
    assert locks.holder("k") == claim()


def test_one_winner_among_threads(locks: Locks) -> None:
    verdicts = []
    start = threading.Barrier(8)

    def contend(number: int) -> None:
        start.wait(10)
        deadline = time.monotonic() + 20
        while True:
            try:
                verdict = locks.hold(claim(f"j{number}"), 10)
            except LocksUnavailable:  # a slow disk, and the others before us
                assert time.monotonic() < deadline
            else:
                verdicts.append(verdict)
                return

    threads = [threading.Thread(target=contend, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert verdicts.count(Held()) == 1
    holder = locks.holder("k")
    assert holder is not None
    assert verdicts.count(Taken(holder.job)) == 7


def test_what_is_held_can_be_listed_by_the_beginning_of_its_key(locks: Locks, clock: Clock) -> None:
    for number, key in enumerate(("a:p:r:1", "a:p:r:2", "a:p*:r:3", "ab:p:r:4", "A:p:r:5"), 1):
        locks.hold(claim(f"j{number}", key=key), 10 if number == 2 else 100)
    assert [lease.claim for lease in locks.held("a:")] == [
        claim("j3", key="a:p*:r:3"),
        claim("j1", key="a:p:r:1"),
        claim("j2", key="a:p:r:2"),
    ]
    assert [lease.claim.job for lease in locks.held("a:p*")] == ["j3"]
    assert locks.held("a:[pq]") == []
    (short,) = locks.held("a:p:r:2")
    assert isinstance(short, Lease)
    assert 8 < short.left <= 10
    clock.advance(10)
    assert locks.held("a:p:r:2") == []
    assert len(locks.held("")) >= 4
