"""The job on the wire."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.jobs.job import (
    AttemptRecord,
    Job,
    UndecodableJob,
    UnknownVersion,
    decode,
    encode,
    new_id,
    waiting,
    without_history,
)

JOB = Job(
    v=1,
    job="j1",
    point="order.placed",
    route="confirmation",
    event=msgspec.Raw(b'{"order_id":7}'),
    dispatched_at=1.5,
    correlation="c1",
)


def test_a_job_survives_the_wire():
    assert decode(encode(JOB)) == JOB


def test_the_body_is_one_readable_json_object_with_the_fields_of_the_design():
    body = json.loads(encode(JOB))
    assert body["event"] == {"order_id": 7}
    fields = {"v", "job", "round", "attempt", "point", "route", "event", "dispatched_at", "not_before"}
    assert fields | {
        "waiting_since",
        "lock",
        "expires_at",
        "correlation",
        "causation",
        "history",
        "trace",
        "event_version",
        "retried_at",
    } == set(body)


def test_fields_that_a_newer_version_added_go_on_to_the_successor():
    newer = json.dumps(json.loads(encode(JOB)) | {"fresh": {"a": 1}, "stale": "2"}).encode()
    successor = msgspec.structs.replace(decode(newer), attempt=2)
    body = json.loads(encode(successor, inherit=newer))
    assert (body["fresh"], body["stale"], body["attempt"]) == ({"a": 1}, "2", 2)


def test_a_history_can_be_left_out():
    record = AttemptRecord(1, 1, 1.5, "raised", "no")
    fields = json.loads(encode(msgspec.structs.replace(JOB, attempt=2, history=(record,)))) | {"v": 9, "fresh": 1}
    bare = without_history(json.dumps(fields).encode())
    assert bare is not None
    del fields["history"]
    assert json.loads(bare) == fields
    assert [without_history(body) for body in (bare, encode(JOB), b"\xff", b"[]")] == [None] * 4


def test_a_body_of_a_newer_version_is_told_from_junk():
    newer = json.dumps({"v": 2, "job": "j1", "point": "p", "route": "r", "something": "else"}).encode()
    with pytest.raises(UnknownVersion) as caught:
        decode(newer)
    assert (caught.value.stub.job, caught.value.stub.route) == ("j1", "r")


def test_a_newer_version_with_the_same_fields_is_still_not_ours_to_run():
    with pytest.raises(UnknownVersion):
        decode(encode(msgspec.structs.replace(JOB, v=2)))


@given(
    st.binary() | st.text().map(str.encode) | st.recursive(st.integers() | st.text(), st.lists).map(msgspec.json.encode)
)
def test_any_other_bytes_are_undecodable_and_nothing_else_is_raised(body):
    with pytest.raises(UndecodableJob):
        decode(body)


def test_deep_nesting_is_undecodable_not_a_crash():
    with pytest.raises(UndecodableJob):
        decode(b'{"v":1,"job":' + b"[" * 200_000)


def test_waiting_for_another_worker_changes_two_fields_of_a_job_of_any_version():
    newer = json.dumps({"v": 9, "job": "j1", "strange": [1]}).encode()
    expected = {"v": 9, "job": "j1", "strange": [1], "waiting_since": 5.0, "not_before": 15.0}
    assert json.loads(waiting(newer, since=5.0, not_before=15.0)) == expected


def test_ids_sort_by_the_time_of_their_making():
    ids = [new_id() for _ in range(1000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 1000
