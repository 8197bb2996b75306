"""Our figures, from the test scores of others: the fast weights cut, other numbers of passes at test, and arms."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmsleep.figures import style
from lmsleep.figures.arms import ARMS
from lmsleep.figures.draw_arms import compared, passes_at_test
from lmsleep.figures.style import Drawing


def controls(table: pd.DataFrame, data: Path, scale: str) -> Drawing:
    """Test accuracy of each run as trained and with S set to zero at every window boundary: S is all that crosses; and
    the arms that go another way than to sleep."""
    names, fig, axes, more = panels(table, 1)
    tested, numbers = cut_and_not(table), []
    for ax, name in zip(axes, names, strict=True):
        part = tested[tested.figure == name]
        for metric, label, color in (("test_exact", "as trained", "#0072b2"), ("cut_exact", "S cut", "#d55e00")):
            points = part[part.metric == metric]
            means = points.groupby("n_passes").value.mean()
            ax.plot(range(len(means)), means, color=color, label=label, marker="o", linewidth=1.4)
            numbers += [{"figure": name, "n_passes": int(n), "metric": metric, "value": v} for n, v in means.items()]
        passes = sorted(part.n_passes.unique())
        ax.set_xticks(range(len(passes)), [str(n) for n in passes])
        ax.set_xlabel("N")
        ax.set_title(name, fontsize=10)
        style.percent_axis(ax)
    axes[0].set_ylabel(f"answers right ({scale} scale)")
    style.legend(fig, axes[0], "fast weights at the window boundary")
    return fig, {"controls": numbers} | ({"verdicts": compared(more[0], table, "controls")} if more else {})


def ablations(table: pd.DataFrame, data: Path, scale: str) -> Drawing:
    """Test accuracy against the passes used at test time, one curve for each N used in training; and the arms that
    sleep in another way."""
    names, fig, axes, more = panels(table, 2)
    means = at_other_passes(table).groupby(["figure", "n_passes", "at_test"]).value.mean().reset_index()
    for ax, name in zip(axes, names, strict=True):
        part = means[means.figure == name]
        for n, color in style.colors(sorted(part.n_passes.unique())).items():
            line = part[part.n_passes == n]
            ax.plot(line.at_test, line.value, color=color, label=f"trained with N = {n}", linewidth=1.4)
            own = line[line.at_test == n]
            ax.plot(own.at_test, own.value, color=color, marker="o")
        ax.set_xlabel("N at test")
        ax.set_title(name, fontsize=10)
        style.percent_axis(ax)
    axes[0].set_ylabel(f"answers right ({scale} scale)")
    style.legend(fig, axes[0], "")
    numbers = {"passes_at_test": means[means.figure != ARMS].to_dict("records")}
    if more:
        numbers |= {"arms_at_test": passes_at_test(more[0], table), "verdicts": compared(more[1], table, "ablations")}
    return fig, numbers


def panels(table: pd.DataFrame, more: int) -> tuple[list[Any], Figure, list[Axes], list[Axes]]:
    """The figures over N, and a panel for each; `more` panels for arms, the last one wide, if the table has some."""
    names = sorted(set(table.figure) - {ARMS})
    if len(names) == table.figure.nunique():
        fig, axes = style.subplots(len(names), columns=len(names), width=1.9 * len(names) + 1, height=3.2)
        return names, fig, axes, []
    n = len(names) + more
    fig, axes = style.subplots(n, columns=n, width=2.4 * n + 4, height=4.2, share_x=False, share_y=False)
    return names, fig, axes[: len(names)], axes[len(names) :]


def cut_and_not(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that `controls` draws: test accuracy over all slices, as trained and with S cut."""
    return table[(table.slice == "all") & table.metric.isin(["test_exact", "cut_exact"])]


def at_other_passes(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that `ablations` draws: test accuracy over all slices, with the passes used at test in `at_test`."""
    tested = table[(table.slice == "all") & table.metric.str.fullmatch(r"test(_n\d+)?_exact")]
    passes = tested.metric.str.extract(r"_n(\d+)_")[0].astype(float).fillna(tested.n_passes).astype(int)
    return tested.assign(at_test=passes)
