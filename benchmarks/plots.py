"""A plot for each row: bars of the medians, with lines from the smallest to the largest round."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes

from benchmarks.results import OURS, Results, Spread, Table, number

mpl.use("svg")

from matplotlib import pyplot as plt

# Text stays text, and the same results make the same file.
mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "router", "font.size": 9})


def draw(results: Results, folder: Path) -> None:
    """Write ROW.svg for each row."""
    for row in dict.fromkeys(table.row for table in results.tables):
        tables = [table for table in results.tables if table.row == row]
        heights = [len(table.values) + 1.5 for table in tables]
        figure, axes = plt.subplots(
            len(tables), figsize=(7, 0.3 * sum(heights) + 0.3), squeeze=False, height_ratios=heights, layout="tight"
        )
        for axis, table in zip(axes[:, 0], tables, strict=True):
            _bars(axis, table)
        figure.savefig(folder / f"{row}.svg", metadata={"Date": None})
        plt.close(figure)


def _bars(axis: Axes, table: Table) -> None:
    names = list(table.values)[::-1]
    spreads = [Spread.of(table.values[name]) for name in names]
    medians = [spread.median for spread in spreads]
    lines = [[one.median - one.low for one in spreads], [one.high - one.median for one in spreads]]
    colours = ["#1f77b4" if name.startswith(OURS) else "#b0b0b0" for name in names]
    axis.barh(names, medians, xerr=lines, color=colours, ecolor="#404040", capsize=2)
    axis.bar_label(axis.containers[-1], [number(median) for median in medians], padding=4)
    axis.margins(x=0.15)
    axis.set_title(f"{table.title} ({table.unit}, {'more' if table.more else 'less'} is better)", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
