"""What the benchmarks reckon and write, from results made up here. Nothing is timed."""

from __future__ import annotations

import json

import pytest

from benchmarks import report
from benchmarks.results import Failure, Goal, Results, Spread, Table, number, percentile

TABLE = Table(
    "noop",
    "No-op jobs",
    "jobs/s",
    {"router": [400.0, 1200.0, 900.0], "celery": [100.0, 200.0, 300.0], "raw": [1000.0, 1000.0, 1000.0]},
    [Goal(4, ("celery",)), Goal(0.5, ("raw",)), Goal(1, ("celery", "raw"))],
    notes=["A note."],
)
LATE = Table("due", "Late", "ms", {"router": [60.0, 40.0, 70.0]}, [Goal(50, at_least=False)], more=False)
RESULTS = Results("2 cores", "today", True, [TABLE, LATE], [Failure("start", "Traceback\nOSError: no | such file")])


def test_a_ratio_is_reckoned_round_by_round() -> None:
    to_celery, to_raw, to_best = map(TABLE.ratio, TABLE.goals)

    assert to_celery == Spread(4.0, 3.0, 6.0)
    assert to_raw == to_best == Spread(0.9, 0.4, 1.2)
    assert [goal.reached(TABLE.ratio(goal)) for goal in TABLE.goals] == [True, True, False]


def test_the_best_of_several_peers_is_the_lowest_where_less_is_better() -> None:
    table = Table("idle", "", "ms", {"router": [2.0], "a": [4.0], "b": [8.0]}, more=False)

    assert table.ratio(Goal(1, ("a", "b"), at_least=False)).median == 0.5


def test_a_goal_for_ours_alone_bounds_its_value() -> None:
    goal = LATE.goals[0]

    assert LATE.ratio(goal) == Spread(60.0, 40.0, 70.0)
    assert not goal.reached(LATE.ratio(goal))
    assert LATE.wording(goal) == "at most 50.0 ms"


def test_results_survive_json() -> None:
    text = json.dumps(RESULTS.to_json())

    again = Results.from_json(json.loads(text))

    assert json.dumps(again.to_json()) == text
    assert report.markdown(again) == report.markdown(RESULTS)


def test_every_goal_and_every_failure_has_a_line() -> None:
    lines = report.markdown(RESULTS).splitlines()

    assert "| noop | No-op jobs | at least 4.00 times celery | 4.00 (3.00 to 6.00) | yes |" in lines
    assert "| due | Late | at most 50.0 ms | 60.0 ms (40.0 to 70.0) | **no** |" in lines
    assert "| start | failed |  | OSError: no / such file | **no** |" in lines
    assert "| celery | 200 (100 to 300) |" in lines
    assert "A note." in lines


def test_what_stands_around_the_tables_stays() -> None:
    page = f"Before.\n{report.START}\nold\n{report.END}\nAfter.\n"

    once = report.insert(page, "new\n")

    assert once == f"Before.\n{report.START}\n\nnew\n\n{report.END}\nAfter.\n"
    assert report.insert(once, "new\n") == once
    with pytest.raises(ValueError, match="lacks"):
        report.insert("no markers", "new")


def test_the_docs_have_the_markers_and_a_plot_for_each_row() -> None:
    page = report.PAGE.read_text(encoding="utf-8")

    assert report.insert(page, "")
    results = Results.from_json(json.loads(report.RESULTS.read_text()))
    assert report.insert(page, report.markdown(results)) == page, (
        "python -m benchmarks.report docs/benchmarks/results.json"
    )
    assert {path.stem for path in report.PLOTS.glob("*.svg")} >= {table.row for table in results.tables}


@pytest.mark.parametrize(("value", "text"), [(12345.6, "12,346"), (42.25, "42.2"), (0.456, "0.46"), (100, "100")])
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_percentiles() -> None:
    values = [float(value) for value in range(100, 0, -1)]

    assert [percentile(values, share) for share in (0, 0.5, 0.99, 1)] == [1.0, 51.0, 100.0, 100.0]
