"""The tables of docs/benchmarks.md, from the results. ``python -m benchmarks.report`` writes them anew."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.results import OURS, Results, Spread, Table

START, END = "<!-- results: written by `make bench` -->", "<!-- end of results -->"
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
PLOTS = PAGE.parent / "benchmarks"
RESULTS = PLOTS / "results.json"


def verdicts(results: Results) -> list[tuple[str, str, str, str, str]]:
    """A line for each goal: row, what, goal, ratio with its spread, whether it is reached."""
    lines = []
    for table in results.tables:
        for goal in table.goals:
            ratio = table.ratio(goal)
            unit = "" if goal.theirs else f" {table.unit}"
            reached = "yes" if goal.reached(ratio) else "**no**"
            what = table.title if goal.ours == OURS else f"{table.title}: {goal.ours}"
            lines.append((table.row, what, table.wording(goal), ratio.show(unit), reached))
    lines += [(failure.row, "failed", "", failure.error.splitlines()[-1], "**no**") for failure in results.failures]
    return lines


def _table(head: tuple[str, ...], lines: Sequence[tuple[str, ...]]) -> list[str]:
    cells = [head, ("---",) * len(head), *lines]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in cells]


def _details(table: Table) -> list[str]:
    lines = [(name, Spread.of(values).show()) for name, values in table.values.items()]
    rounds = max(map(len, table.values.values()))
    better = "more" if table.more else "less"
    head = (f"{table.title}", f"{table.unit}, {better} is better, {rounds} rounds")
    return [*_table(head, lines), "", *[f"{note}\n" for note in table.notes]]


def markdown(results: Results) -> str:
    """What stands between the markers."""
    kind = "`make bench-quick`: few and short rounds, so read it with care" if results.quick else "`make bench`"
    text = [f"Measured by {kind}, {results.when}, on {results.machine}.", ""]
    text += _table(("row", "what", "goal", "measured", "reached"), verdicts(results))
    for row in dict.fromkeys(table.row for table in results.tables):
        text += ["", f"### {row}", "", f"![{row}](benchmarks/{row}.svg)", ""]
        for table in results.tables:
            if table.row == row:
                text += _details(table)
    return "\n".join(text).rstrip() + "\n"


def insert(page: str, text: str) -> str:
    """The page with this between its markers. ValueError where it has none."""
    before, start, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"the page lacks {START!r} or, after it, {END!r}")
    return f"{before}{START}\n\n{text}\n{END}{after}"


def write(results: Results) -> None:
    """Put them into the docs: the tables and a plot for each row."""
    from benchmarks.plots import draw  # slow to import

    PLOTS.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results.to_json(), indent=1) + "\n")
    draw(results, PLOTS)
    PAGE.write_text(insert(PAGE.read_text(encoding="utf-8"), markdown(results)), encoding="utf-8")


if __name__ == "__main__":
    write(Results.from_json(json.loads(RESULTS.read_text())))
