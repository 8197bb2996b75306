"""The arms of our controls and ablations: how each learns, what each ends at, and other numbers of passes at test."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from lmsleep.figures import style
from lmsleep.figures.arms import ARMS, HELPS, HURTS, NEITHER, verdicts
from lmsleep.figures.arms import arms as arms_of_table
from lmsleep.figures.style import Drawing

TONES = {HELPS: "#009e73", HURTS: "#d55e00", NEITHER: "#4c566a"}
AT_TEST = {"n4": "#d55e00", "drawn": "#0072b2", "n1": "#4c566a"}  # the arms that other passes at test are drawn for


def arms(table: pd.DataFrame, data: Path, scale: str) -> Drawing:
    """Exact accuracy on held-out rows against training tokens, a panel for each group, a line for each arm; what each
    ends at. The verdicts are in the figures of the groups, see `compared`."""
    known, groups = arms_of_table(), ("controls", "ablations")
    exact = table[(table.metric == "val_exact") & (table.slice != "all")]
    fig, axes = style.subplots(2, columns=2, width=9.5, height=4.6)
    for ax, group in zip(axes, groups, strict=True):
        shown = [name for name, arm in known.items() if arm.group in (None, group) and name in set(exact.model)]
        for name, color in zip(shown, style.shades(len(shown)), strict=True):
            style.means(ax, exact[exact.model == name], "tokens", color=color, label=known[name].title, linewidth=1.4)
        style.percent_axis(ax)
        style.token_axis(ax)
        ax.set_title(group, fontsize=10)
        ax.legend(fontsize=7, loc="upper left")
    axes[0].set_ylabel("all answers of a row right")
    fig.supxlabel(f"training tokens ({scale} scale, mean over {exact.seed.nunique()} seeds)", fontsize=10)
    ends = table[(table.metric == "test_exact") & (table.slice == "all")].groupby("model").value.mean()
    return fig, {"exact": {str(name): value for name, value in ends.items()}}


def compared(ax: Axes, table: pd.DataFrame, group: str) -> list[dict[str, Any]]:
    """Draws each arm's difference to the one that it is compared with, and its interval; returns `verdicts`."""
    found = verdicts(table, group)
    ax.axvline(0, color="#8f98a8", linewidth=1)
    for i, record in enumerate(found):
        color = TONES[record["verdict"]]
        if record["low"] is not None:
            ax.plot([record["low"], record["high"]], [i, i], color=color, linewidth=1.4)
        ax.plot(record["value"], i, color=color, marker="o")
    ax.set_yticks(range(len(found)), [f"{r['title']} (against {r['against']})" for r in found], fontsize=8)
    ax.invert_yaxis()
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set_title("difference in answers right", fontsize=10)
    return found


def passes_at_test(ax: Axes, table: pd.DataFrame) -> list[dict[str, Any]]:
    """Draws the accuracy of some arms against the passes at test, a fixed N and, dashed, as many as S takes to settle;
    returns the means over seeds."""
    part, records = table[(table.figure == ARMS) & (table.slice == "all")], []
    for name, color in AT_TEST.items():
        of_arm = part[part.model == name]
        means = of_arm.groupby("metric").value.mean()
        for metric, exact in means.items():
            if found := re.fullmatch(r"test(?:_n(\d+))?_exact|settle_(.+)_exact", str(metric)):
                fixed, threshold = found.groups()
                passes = means[f"settle_{threshold}_passes"] if threshold else float(fixed or of_arm.n_passes.max())
                records.append({"arm": name, "threshold": threshold, "passes": passes, "exact": exact})
        for settles, dashes in ((False, "-"), (True, "--")):
            of = [r for r in records if r["arm"] == name and bool(r["threshold"]) == settles]
            label = f"{name}, until S settles" if settles else f"{name}, N at test"
            if line := sorted((r["passes"], r["exact"]) for r in of):
                ax.plot(*zip(*line, strict=True), color=color, linestyle=dashes, marker=".", label=label)
    ax.set_xlabel("passes at test (mean)")
    ax.set_title("arms", fontsize=10)
    ax.legend(fontsize=7)
    style.percent_axis(ax)
    return records
