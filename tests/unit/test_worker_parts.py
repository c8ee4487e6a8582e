"""The worker's small parts: scheduling, runs, pipes, marks, the clock."""

import logging
import os
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.brokers.base import Counts, Delivery, QueueCounts
from router.brokers.memory import MemoryBroker
from router.config import load
from router.config.settings import AsyncOptions, Backoff, Route, Settings
from router.jobs.job import Job, encode
from router.jobs.lifecycle import Finish
from router.logs import TextFormatter
from router.routing.table import compile_table
from router.worker import runs as runs_module
from router.worker.checking import check
from router.worker.clock import Clock
from router.worker.emptiness import Emptiness
from router.worker.messages import Returned, Run, Started, Stop
from router.worker.parent import Worker, WorkerOptions
from router.worker.pipes import ChildPipe, ParentPipe
from router.worker.pool import START_WITHIN, Child, _starts_nothing
from router.worker.processes import describe_exit, kill
from router.worker.runs import Run as RunInHand
from router.worker.runs import Runs
from router.worker.scheduling import AHEAD_MOST, REMEMBERED, Durations, Turns, room
from router.worker.stepping import Mark, new_memory
from router.worker.watching import Watcher

OPTIONS = AsyncOptions(queue="default", delay=0, max_attempts=3, backoff=Backoff("fixed", (1.0,)), timeout=5)


def a_run(number: int, job_id: str = "j", deliveries=None) -> RunInHand:
    job = Job(v=1, job=job_id, point="p", route="r", event=msgspec.Raw(b"{}"), dispatched_at=0.0, correlation="c")
    route = Route("r", "p", "m:f", options=OPTIONS)
    body = encode(job)
    found = [Delivery("default", body, 1, number)] if deliveries is None else deliveries
    return RunInHand(number, job, body, "default", route, OPTIONS, found)


# -- scheduling --


def test_queues_take_turns_when_none_are_named():
    turns = Turns()
    first = turns.order(["a", "b", "c"])
    turns.advance("a")
    assert (first, turns.order(["a", "b", "c"])) == (["a", "b", "c"], ["b", "c", "a"])
    turns.advance("c")
    assert turns.order(["a", "b", "c"]) == ["b", "a", "c"]


def test_named_queues_keep_their_order_and_others_are_left_out():
    turns = Turns(["high", "low"])
    turns.advance("high")
    assert turns.order(["default", "low", "high"]) == ["high", "low"]
    assert turns.outranks("high", "low")
    assert not turns.outranks("low", "high")
    assert not Turns().outranks("high", "low")


def test_nothing_is_sent_ahead_until_a_queue_is_known_as_short():
    durations = Durations()
    for _ in range(9):
        durations.note("q", 0.00001)
    assert durations.ahead("q") == 0
    durations.note("q", 0.00001)
    assert durations.ahead("q") == AHEAD_MOST


def test_one_slow_job_ends_sending_ahead_at_once():
    durations = Durations()
    for _ in range(100):
        durations.note("q", 0.0001)
    durations.note("q", 3.0)
    assert durations.ahead("q") == 0


def test_where_one_job_in_a_hundred_is_slow_nothing_is_sent_ahead():
    durations = Durations()
    for number in range(1000):
        durations.note("q", 0.2 if number % 100 == 0 else 0.001)
        assert durations.ahead("q") == 0
    for _ in range(REMEMBERED):
        durations.note("q", 0.001)
    assert durations.ahead("q") == 50


@given(
    st.integers(-5, 20),
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 50)),
    st.dictionaries(st.sampled_from("abc"), st.integers(1, 5)),
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 9)),
    st.dictionaries(st.sampled_from("abc"), st.integers(-9, 99)),
    st.sets(st.sampled_from("abc")),
)
def test_room_never_exceeds_what_is_free_nor_the_limit_of_a_queue(free, ahead, limits, in_hand, shared, wanted):
    found = room("abc", free, ahead, shared, limits, in_hand, wanted)
    for queue, count in found.items():
        assert count > 0
        if queue in limits:
            assert count <= limits[queue] - in_hand.get(queue, 0)
        if queue in wanted and count == 1:
            continue
        if queue in shared:
            assert count <= shared[queue]
        elif queue in limits:
            assert count <= free
        else:
            assert count <= max(free, 0) + ahead.get(queue, 0)


# -- runs --


def test_a_job_that_comes_again_while_it_runs_joins_that_run():
    runs, run = Runs(), a_run(1)
    runs.add(run)
    again = Delivery("default", run.body, 2, "again")
    assert runs.attach(again, run.job.run_key) is run
    assert again in run.deliveries


def test_a_job_that_comes_again_after_its_end_is_known():
    runs, run = Runs(), a_run(1)
    runs.add(run)
    runs.end(run, Finish(), 100.0)
    assert runs.ended(run.job) == Finish()
    assert len(runs) == 0


def test_ends_are_forgotten_by_age_and_by_number(monkeypatch):
    monkeypatch.setattr(runs_module, "REMEMBER_MOST", 5)
    runs = Runs()
    for number in range(10):
        run = a_run(number, job_id=f"j{number}")
        runs.add(run)
        runs.end(run, Finish(), float(number))
    assert [number for number in range(10) if runs.ended(a_run(number, job_id=f"j{number}").job)] == [5, 6, 7, 8, 9]
    late = a_run(99, job_id="late")
    runs.add(late)
    runs.end(late, Finish(), 609.0)
    assert runs.ended(a_run(8, job_id="j8").job) is None
    assert runs.ended(a_run(9, job_id="j9").job) == Finish()


def test_a_lost_delivery_leaves_the_run_without_it():
    runs, run = Runs(), a_run(1)
    runs.add(run)
    (delivery,) = run.deliveries
    assert runs.detach(delivery) is run
    assert run.deliveries == []
    assert runs.detach(delivery) is None


# -- children --


def a_child() -> Child:
    return Child(None, SimpleNamespace(post=lambda message: None), 1, 0.0, None)  # type: ignore[arg-type]


def test_a_job_that_waited_behind_a_long_one_has_its_own_time_to_be_started():
    child, long, next_one = a_child(), a_run(1), a_run(2)
    for run in (long, next_one):
        child.give(run, Run(run.number, "default", run.body))
        run.phase, run.sent_at = "sent", 0.0
    long.phase = "running"
    child.drop(long, 60.0)
    assert not _starts_nothing(child, 60.0 + START_WITHIN)
    assert _starts_nothing(child, 60.1 + START_WITHIN)


# -- pipes --


@pytest.fixture
def pipes():
    ours, theirs = socket.socketpair()
    parent, child = ParentPipe(ours), ChildPipe(theirs)
    yield parent, child, theirs
    parent.close()
    theirs.close()


def test_messages_arrive_whole_and_in_order(pipes):
    parent, child, _ = pipes
    received = []
    for number in range(500):
        child.send(Started(number))
        child.send(Returned(number, 0.5, 1000))
        if number % 20 == 0:  # a pair of sockets holds only so many messages
            received += parent.receive()
    received += parent.receive()
    assert received[:2] == [Started(0), Returned(0, 0.5, 1000)]
    assert [message.run for message in received] == [number for number in range(500) for _ in range(2)]


def test_what_a_dead_child_had_said_is_heard_even_if_it_could_not_be_told_any_more(pipes):
    parent, child, raw = pipes
    child.send(Started(1))
    child.send(Returned(1, 0.5, 1000))
    raw.shutdown(socket.SHUT_RDWR)
    parent.send(Run(2, "default", b"x"))
    parent.send(Run(3, "default", b"x"))
    assert parent.ended
    assert parent.receive() == [Started(1), Returned(1, 0.5, 1000)]
    assert parent.unsent == 0


def test_half_a_message_is_kept_until_the_rest_comes(pipes):
    parent, _, raw = pipes
    ours, theirs = socket.socketpair()
    ChildPipe(theirs).send(Started(7))
    data = ours.recv(1000)
    for byte in data[:-1]:
        raw.send(bytes([byte]))
        assert parent.receive() == []
    raw.send(data[-1:])
    assert parent.receive() == [Started(7)]
    ours.close()
    theirs.close()


def test_what_nobody_understands_ends_the_talk_after_what_was_said_before(pipes):
    parent, child, raw = pipes
    child.send(Started(1))
    raw.send(b"\x00\x00\x00\x01\xc1")
    child.send(Started(2))
    assert parent.receive() == [Started(1)]
    assert parent.garbled
    assert parent.receive() == []


def test_the_parent_never_waits_for_a_child_that_does_not_read(pipes):
    parent, child, _ = pipes
    body = b"x" * 5_000_000
    began = time.monotonic()
    parent.send(Run(1, "default", body))
    parent.send(Stop())
    assert time.monotonic() - began < 1
    assert parent.unsent > 0
    received = []
    reader = threading.Thread(target=lambda: received.extend((child.receive(), child.receive())), daemon=True)
    reader.start()
    give_up_at = time.monotonic() + 20
    while reader.is_alive() and time.monotonic() < give_up_at:
        parent.flush()
        reader.join(0.001)
    assert received == [Run(1, "default", body), Stop()]


def test_both_ends_notice_that_the_other_is_gone(pipes):
    parent, child, _ = pipes
    parent.close()
    with pytest.raises(EOFError):
        child.receive()
    ours, theirs = socket.socketpair()
    other = ParentPipe(ours)
    theirs.close()
    assert other.receive() == []
    assert other.ended


# -- marks --


@pytest.mark.parametrize("missing", ["a folder for temporary files", "memfd_create"])
def test_a_mark_is_seen_in_each_mapping_of_its_memory(monkeypatch, missing):
    if missing == "memfd_create":  # as on macOS
        monkeypatch.delattr(os, "memfd_create", raising=False)
    elif hasattr(os, "memfd_create"):
        monkeypatch.setattr(tempfile, "TemporaryFile", Mock(side_effect=FileNotFoundError))
    memory = new_memory()
    ours, theirs = Mark(memory), Mark(memory)
    os.close(memory)
    assert ours.get() == 0
    theirs.set(7)
    assert ours.get() == 7
    ours.close()
    theirs.close()


# -- clock --


def test_time_in_which_the_process_was_stopped_does_not_count(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = Clock()
    start = clock.now()
    now[0] += 1.0
    assert clock.tick(1.0) == 0
    now[0] += 31.0
    assert clock.tick(1.0) == 30.0
    assert clock.now() - start == 2.0


def test_waiting_for_the_broker_is_not_standing_still(caplog):
    class SlowBroker(MemoryBroker):
        def declare(self, topology, **options):
            time.sleep(3.5)  # the wait itself: longer than a turn and a noticeable standstill together

    worker = Worker(compile_table(Settings("f", "h")), SlowBroker("test", None), WorkerOptions(max_time=4.0), None)
    assert worker.run() == 0
    assert "stood still" not in caplog.text
    assert worker._clock.now() - worker._started_at >= 3.5


def test_a_queue_that_a_reload_brings_while_it_is_looked_for_work_is_looked_at_too(monkeypatch):
    monkeypatch.setattr(
        "router.worker.emptiness.aside", lambda call, _: SimpleNamespace(done=lambda: True, result=call)
    )
    broker = MemoryBroker("test", None)
    broker.counts = lambda queues, _: Counts({queue: QueueCounts(0, 0, 0, 0, None) for queue in asked}, 0, 0)
    emptiness = Emptiness(broker, lambda: None)
    asked = ["default"]
    assert not emptiness.seen(["default"], (), 1.0), "a second look, a second later"
    assert not emptiness.seen(["default", "new"], (), 2.5)
    asked = ["default", "new"]
    assert not emptiness.seen(["default", "new"], (), 3.0)
    assert not emptiness.seen(["default", "new"], (), 3.5)
    assert emptiness.seen(["default", "new"], (), 4.5)
    emptiness.busy()
    assert not emptiness.seen(["default", "new"], (), 9.0)


def test_exits_are_told_in_words():
    assert describe_exit(-9) == "killed by SIGKILL"
    assert describe_exit(3) == "exited with code 3"
    assert describe_exit(None) == "does not end"


def test_a_killed_process_that_the_kernel_does_not_let_go_of_is_told_and_not_waited_for(caplog, monkeypatch):
    monkeypatch.setattr("router.worker.processes.KILLED_WITHIN", 0.01)
    with subprocess.Popen(["sleep", "60"]) as process:
        stubborn = SimpleNamespace(pid=process.pid, kill=lambda: None, wait=process.wait)
        assert kill(stubborn) is None
        assert f"process {process.pid} was killed and doesn't end" in caplog.text
        monkeypatch.undo()
        assert kill(process) == -9


def test_a_line_of_the_log_leaves_the_record_as_other_handlers_get_it():
    record = logging.LogRecord("router", logging.WARNING, "x.py", 1, "said", None, None)
    assert " warning  said" in TextFormatter().format(record)
    assert record.levelname == "WARNING"


def test_a_check_that_ends_without_an_answer_says_what_there_was_instead(tmp_path: Path) -> None:
    (tmp_path / "ends.py").write_text("import os; os._exit(0)")
    file = tmp_path / "extensions.yaml"
    file.write_text("version: 1\npythonpath: [.]\nextensions: {p: {handlers: [{handler: 'ends:f'}]}}\n")
    said = check(str(file)).problems()
    assert "exited with code 0" in said
    assert "Input data was truncated" in said


def test_an_edit_between_reading_the_file_and_watching_it_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "extensions.yaml"
    file.write_text("version: 1\n")
    watcher = Watcher(load(file).watched)
    file.write_text("version: 1\n# edited\n")
    changed = threading.Event()
    watcher.start(changed.set)
    assert changed.wait(10)
    watcher.close()
