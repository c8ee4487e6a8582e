"""What happens to a job next."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.config.settings import AsyncOptions, Backoff, Unique
from router.durations import MAX_WAIT
from router.jobs.job import MAX_ERROR_BYTES, MAX_HISTORY, Job
from router.jobs.lifecycle import (
    PARK_SECONDS,
    Again,
    Died,
    Expired,
    Failed,
    Finish,
    Raised,
    Returned,
    TimedOut,
    cut,
    is_expired,
    next_round,
    next_step,
    park,
)


def a_job(**changes) -> Job:
    job = Job(
        v=1,
        job="j1",
        point="order.placed",
        route="confirmation",
        event=msgspec.Raw(b"{}"),
        dispatched_at=1.0,
        correlation="c1",
    )
    return msgspec.structs.replace(job, **changes)


EXPONENTIAL = Backoff("exponential", (10.0,))


def options(attempts: int = 3, backoff: Backoff = EXPONENTIAL) -> AsyncOptions:
    return AsyncOptions(queue="default", delay=0, max_attempts=attempts, backoff=backoff, timeout=60)


def waits_of(backoff: Backoff, attempts: int) -> list[float]:
    job, waits = a_job(), []
    while isinstance(step := next_step(job, options(attempts, backoff), Raised("ValueError: x"), 100.0), Again):
        waits.append(step.wait)
        job = step.successor
    return waits


@pytest.mark.parametrize(
    ("backoff", "expected"),
    [
        (Backoff("linear", (10.0,)), [10, 20, 30]),
        (Backoff("exponential", (10.0,)), [10, 20, 40]),
        (Backoff("fixed", (10.0,)), [10, 10, 10]),
        (Backoff(None, (10.0, 30.0)), [10, 30, 30]),
    ],
)
def test_each_strategy_waits_as_the_page_says(backoff, expected):
    assert waits_of(backoff, 4) == expected


def test_a_list_of_waits_is_used_entry_by_entry():
    assert waits_of(Backoff(None, (10.0, 30.0, 60.0, 300.0)), 5) == [10, 30, 60, 300]


def test_a_returned_handler_finishes_the_job():
    assert next_step(a_job(), options(), Returned(), 100.0) == Finish()


@pytest.mark.parametrize("outcome", [Raised("ValueError: x"), TimedOut(60), Died("killed by SIGKILL")])
def test_every_failure_pays_one_attempt_and_leaves_its_reason(outcome):
    step = next_step(a_job(), options(), outcome, 100.0)
    assert isinstance(step, Again)
    assert (step.successor.job, step.successor.attempt, step.successor.not_before) == ("j1", 2, 110.0)
    (record,) = step.successor.history
    assert (record.attempt, record.at) == (1, 100.0)
    assert record.error == step.error


def test_the_last_attempt_fails_the_job():
    step = next_step(a_job(attempt=3), options(3), Raised("ValueError: x"), 100.0)
    assert isinstance(step, Failed)
    assert (step.reason, step.error) == ("attempts", "ValueError: x")


def test_a_dropped_job_says_why_in_one_line():
    step = next_step(a_job(), options(), Raised("ReferenceMissing: m:Row 1 is gone\n\nTraceback ...", "drop"), 100.0)
    assert step == Finish("ReferenceMissing: m:Row 1 is gone")


def test_the_history_says_how_a_handler_that_ran_too_long_was_ended():
    for ended in ("killed", "cancelled"):
        step = next_step(a_job(), options(), TimedOut(2.0, ended), 100.0)
        assert step.error == f"JobTimeout: ran longer than 2 s and was {ended}"


def test_fail_leaves_no_attempts():
    step = next_step(a_job(), options(3), Raised("Fail: no", asked="fail"), 100.0)
    assert isinstance(step, Failed)
    assert step.reason == "fail"


def test_retry_with_a_delay_waits_that_long_and_uses_up_an_attempt():
    step = next_step(a_job(), options(3), Raised("Retry: later", asked="retry", delay=5.0), 100.0)
    assert isinstance(step, Again)
    assert (step.wait, step.successor.attempt) == (5.0, 2)


def test_retry_on_the_last_attempt_fails():
    step = next_step(a_job(attempt=3), options(3), Raised("Retry: later", asked="retry", delay=5.0), 100.0)
    assert isinstance(step, Failed)


def test_no_wait_is_longer_than_a_year():
    step = next_step(a_job(attempt=500), options(1000), Raised("x"), 100.0)
    assert isinstance(step, Again)
    assert step.wait == MAX_WAIT


def test_the_history_keeps_the_last_ten_attempts():
    job = a_job()
    for _ in range(15):
        step = next_step(job, options(100), Raised("x"), 100.0)
        assert isinstance(step, Again)
        job = step.successor
    assert [record.attempt for record in job.history] == list(range(6, 16))
    assert len(job.history) == MAX_HISTORY


@given(st.text())
def test_an_error_is_kept_in_at_most_four_kilobytes(text):
    kept = cut(text * 50)
    assert len(kept.encode()) <= MAX_ERROR_BYTES


def test_of_a_long_error_the_beginning_and_the_end_stay():
    kept = cut("ValueError: start" + "x" * 10_000 + "the end")
    assert kept.startswith("ValueError: start")
    assert kept.endswith("the end")


def test_a_job_nobody_knows_waits_and_then_fails():
    assert park(None, 600, 1000.0) == park(1000.0, 600, 1000.5) == 1.0
    assert park(1000.0, 600, 1004.0) == 4.0
    assert park(1000.0, 600, 1400.0) == PARK_SECONDS
    assert park(1000.0, 600, 1595.0) == 5.0
    assert park(1000.0, 600, 1600.0) is None


def test_a_job_retried_by_an_operator_starts_the_next_round_with_the_same_id():
    job = next_round(a_job(attempt=3, not_before=5.0, waiting_since=1.0), 100.0)
    assert (job.job, job.round, job.attempt, job.not_before, job.waiting_since) == ("j1", 2, 1, None, None)


def test_no_wait_is_longer_than_the_longest_backoff():
    assert waits_of(Backoff("exponential", (10.0,), most=25.0), 5) == [10, 20, 25, 25]
    assert waits_of(Backoff(None, (10.0, 30.0), most=25.0), 3) == [10, 25]


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 9))
def test_jitter_shortens_a_wait_by_at_most_its_share(jitter: float, draw: float, retry: int):
    plain = Backoff("linear", (10.0,), most=50.0)
    wait = msgspec.structs.replace(plain, jitter=jitter).wait(retry, draw)
    assert plain.wait(retry) * (1 - jitter) <= wait <= plain.wait(retry)


def test_a_delay_that_the_handler_asked_for_is_exact():
    jittered = options(backoff=Backoff("fixed", (10.0,), most=1.0, jitter=1.0))
    step = next_step(a_job(), jittered, Raised("Retry: later", asked="retry", delay=60.0), 100.0, draw=0.9)
    assert isinstance(step, Again)
    assert step.wait == 60.0


@pytest.mark.parametrize(
    ("outcome", "path", "fails"),
    [
        (TimedOut(5.0), "router:JobTimeout", True),
        (TimedOut(5.0), "router.errors:JobTimeout", True),
        (TimedOut(5.0), "router:JobError", True),
        (TimedOut(5.0), "builtins:Exception", True),
        (TimedOut(5.0), "router:ChildDied", False),
        (TimedOut(5.0), "builtins:TimeoutError", False),
        (Died("killed by SIGKILL"), "router:ChildDied", True),
        (Died("killed by SIGKILL"), "router:JobTimeout", False),
    ],
)
def test_a_timeout_and_a_crash_fail_at_once_only_where_they_are_named(outcome, path: str, fails: bool):
    named = msgspec.structs.replace(options(), dont_retry_on=("shop:Other", path), retry_on=("shop:Another",))
    step = next_step(a_job(), named, outcome, 100.0)
    assert isinstance(step, Failed if fails else Again)


def test_an_expired_job_fails_without_paying_an_attempt_and_a_retry_by_hand_runs_it_all_the_same():
    job = a_job(expires_at=90.0)
    assert is_expired(job, 100.0)
    assert not is_expired(job, 80.0)
    assert not is_expired(a_job(), 1e12)
    step = next_step(job, options(), Expired(), 100.0)
    assert isinstance(step, Failed)
    assert (step.reason, step.job.history) == ("expired", ())
    assert not is_expired(next_round(step.job, 100.0), 100.0)


def test_what_was_unique_until_it_started_is_not_unique_at_its_next_attempt():
    for until, lock in (("start", None), ("done", "key")):
        unique = msgspec.structs.replace(options(), unique=Unique(until=until))
        step = next_step(a_job(lock="key"), unique, Raised("x"), 100.0)
        assert isinstance(step, Again)
        assert step.successor.lock == lock


def test_the_history_names_the_worker():
    step = next_step(a_job(), options(), Raised("x"), 100.0, worker="host-1")
    assert isinstance(step, Again)
    assert step.successor.history[0].worker == "host-1"
