"""Figures of learning curves: figures 2 to 5, a line for each N, or for each t of figure 2a."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmsleep.figures.plots import style
from lmsleep.figures.plots.baselines import baselines
from lmsleep.figures.plots.style import CURVES, Drawing
from lmsleep.figures.stats import compare_passes, compare_steps, mean_loss, means, per_slice
from lmsleep.figures.words import counted

PASSES = "passes N over each full window (N = 1: no sleep)"
ROWS, ANSWERS = "rows with all answers right", "answers right"  # what is counted
# metric -> label of its axis, baselines and their labels: what one has of the cycle who scores so.
DEPO = {
    "loss": ("loss of all targets\n(nats a token)", {"floor": "only names known"}),
    "answer_loss": ("loss of answers\n(nats a token)", {"answer_floor": "only names known"}),
    "exact": (
        "answers right",
        {"neighbours": "neighbours known,\nothers guessed", "undirected": "cycle known, not\nwhich way it runs"},
    ),
}
GSM = {"exact": ("answers right", {"majority": "most frequent\nanswer"})}


def fig2a(table: pd.DataFrame, data: Path, scale: str) -> Drawing:
    """The plain hybrid (N = 1) on Rule 110: exact accuracy against tokens, one curve for each number of steps t."""
    fig, (ax,) = style.subplots()
    by_t = per_slice(table, "val_exact", "test_exact")
    looks = style.shades({t: f"t = {t}" for t in sorted(by_t.slice.unique())})
    style.learning(ax, by_t, "slice", looks, apart=style.unequal(by_t))
    for t, look in looks.items():
        majority = baselines(data / f"t{t}", "majority")[str(t)]
        style.reference(ax, majority, "always the\nsame answer" if t == max(looks) else "", ":", color=look["color"])
    accuracy_axes(fig, ax, scale, by_t)
    style.legend(fig, [ax], "Rule 110 without sleep (N = 1), by steps t of the automaton")
    numbers = compare_steps(table)
    return fig, numbers | {"exact": {f"t={record['slice']}": record["value"] for record in numbers["test_exact"]}}


def fig2b(table: pd.DataFrame, data: Path, scale: str) -> Drawing:
    """Sleep on Rule 110, or on a task of one's own: exact accuracy against tokens, a panel for each slice, one curve
    for each N."""
    exact = per_slice(table, "val_exact", "test_exact")
    levels, looks = sorted(exact.slice.unique()), style.looks(sorted(exact.n_passes.unique()))
    n, sizes = len(levels), table.groupby("metric").value.sum()
    several = sizes.get("test_count", 0) > sizes.get("test_rows", math.inf)  # answers in a row
    fig, axes = style.subplots(n, columns=4, width=max(6.4, 3.2 * min(4, n)), height=3.9 * -(-n // 4))
    for ax, level in zip(axes, levels, strict=True):
        style.learning(ax, exact[exact.slice == level], "n_passes", looks, apart=style.unequal(exact))
        for name, text, dashes, place in (
            ("majority", "always the\nsame answer", ":", "bottom"),
            ("chance", "a random answer", "--", "top"),
        ):
            value = baselines(data, name)[str(level)]
            style.reference(ax, value, text if level == levels[-1] else "", dashes, place)
        accuracy_axes(fig, ax, scale, exact, ANSWERS if several else ROWS)
        ax.set_title(f"slice {level}" if n > 1 else "", fontsize=10)
    style.legend(fig, axes, f"{style.task(table, table.figure.iloc[0])}: {PASSES}")
    return fig, compare_passes(table, by_slice=n > 1)


def fig3(table: pd.DataFrame, data: Path, scale: str) -> Drawing:
    """Depo: loss over `:` and answers, loss over answers, and exact answers for each number of hops, one curve for each
    N. Lines: `Depo.baselines`."""
    hops = sorted(per_slice(table, "val_exact").slice.unique())
    width = 2.2 * len(hops) + 1.6
    fig, axes = style.subplots(3 * len(hops), columns=len(hops), width=width, height=7.4, share_y="row")
    by_difficulty(axes, table, data, hops, "hops", DEPO)
    exact = per_slice(table, "val_exact")
    style.note(fig, exact, scale, CURVES, apart=style.unequal(exact))
    style.legend(fig, axes, f"Depo, by hops along the cycle: {PASSES}")
    losses = means(per_slice(table, "test_loss", "test_answer_loss"), ["metric", "slice", "n_passes"], mean_loss)
    names = ("floor", "answer_floor", "names", "neighbours", "undirected")
    parts = [{"slice": int(k), **{name: baselines(data, name)[str(k)] for name in names}} for k in hops]
    return fig, compare_passes(table, by_slice=True) | {"test_loss": losses, "baselines": parts}


def operations(table: pd.DataFrame, data: Path, scale: str) -> Drawing:
    """GSM-Infinite: exact answers for each number of operations, one curve for each N."""
    exact = per_slice(table, "val_exact")
    ops = sorted(exact.slice.unique())
    fig, axes = style.subplots(len(ops), columns=4, width=2.4 * min(4, len(ops)) + 1, height=3.2 * -(-len(ops) // 4))
    by_difficulty(axes, table, data, ops, "operations", GSM)
    more = "" if scale == "paper" else " Small models: only the trend compares with the paper."
    style.note(fig, exact, scale, CURVES, more, style.unequal(exact))
    about = style.task(table, table.figure.iloc[0]).replace("\n", " ")
    style.legend(fig, axes, f"{about}: {PASSES}")
    return fig, compare_passes(table, by_slice=True)


def by_difficulty(
    axes: list[Axes], table: pd.DataFrame, data: Path, levels: list[int], unit: str, drawn: dict[str, Any]
) -> None:
    """A row of panels for each metric, a panel for each level, a curve for each N."""
    looks = style.looks(sorted(table.n_passes.unique()))
    for row, (metric, (label, lines)) in enumerate(drawn.items()):
        scores, panels = per_slice(table, f"val_{metric}", f"test_{metric}"), axes[row * len(levels) :]
        for ax, level in zip(panels, levels, strict=False):
            style.learning(ax, scores[scores.slice == level], "n_passes", looks, metric, style.unequal(scores))
            for name, text in lines.items():
                style.reference(ax, baselines(data, name)[str(level)], text if level == levels[-1] else "", ":")
            if metric == "exact":
                style.percent_axis(ax)
            style.token_axis(ax, ticks=4)
            if not row:
                ax.set_title(counted(level, unit), fontsize=10)
            place = ax.get_subplotspec()
            if place is not None and place.is_last_row():
                ax.set_xlabel("training tokens")
        panels[0].set_ylim(bottom=0)
        panels[0].set_ylabel(label)


def accuracy_axes(fig: Figure, ax: Axes, scale: str, frame: pd.DataFrame, label: str = ROWS) -> None:
    """Axes of accuracy against training tokens; up to 50 %, as in the paper's figure 2b, if no run exceeds it."""
    ax.set(xlabel="training tokens", ylabel=label)
    style.token_axis(ax)
    style.percent_axis(ax, top=0.5 if frame.value.max() < 0.5 else 1.0)
    style.note(fig, frame[frame.metric.str.startswith("val_")], scale, CURVES, apart=style.unequal(frame))
