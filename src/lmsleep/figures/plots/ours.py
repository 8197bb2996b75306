"""Our figures: controls (S cut) and ablations (other numbers of passes at test), and the arms of configs/arms.yaml."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lmsleep.figures import settings
from lmsleep.figures.plots import style
from lmsleep.figures.plots.style import Drawing
from lmsleep.figures.settings import ARMS, has_arms
from lmsleep.figures.stats import HELPS, HURTS, NEITHER, jsonable, mean_difference, verdict

TONES = {HELPS: "#009e73", HURTS: "#d55e00", NEITHER: "#4c566a"}
AT_TEST = {"n4": "#d55e00", "drawn": "#0072b2", "n1": "#4c566a"}  # arms drawn with other passes at test


def controls(table: pd.DataFrame, data: Path, scale: str) -> Drawing:
    """Test accuracy of each run as trained and with S set to zero at every overflow; and the arms of the group
    `controls`."""
    names, fig, axes, more = panels(table, 1)
    tested, numbers = select_controls(table), []
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
    return fig, {"controls": numbers} | ({"verdicts": draw_verdicts(more[0], table, "controls")} if more else {})


def ablations(table: pd.DataFrame, data: Path, scale: str) -> Drawing:
    """Test accuracy against the passes at test, one curve for each N of the training; and the arms of the group
    `ablations`."""
    names, fig, axes, more = panels(table, 2)
    means = select_ablations(table).groupby(["figure", "n_passes", "at_test"]).value.mean().reset_index()
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
    numbers = {"passes_at_test": means[~means.figure.map(has_arms)].to_dict("records")}
    if more:
        numbers |= {
            "arms_at_test": passes_at_test(more[0], table),
            "verdicts": draw_verdicts(more[1], table, "ablations"),
        }
    return fig, numbers


def panels(table: pd.DataFrame, more: int) -> tuple[list[Any], Figure, list[Axes], list[Axes]]:
    """The figures over N with a panel each; and `more` panels for arms, if the table has any."""
    names = sorted(name for name in set(table.figure) if not has_arms(name))
    if len(names) == table.figure.nunique():
        fig, axes = style.subplots(len(names), columns=len(names), width=1.9 * len(names) + 1, height=3.2)
        return names, fig, axes, []
    n = len(names) + more
    fig, axes = style.subplots(n, columns=n, width=2.4 * n + 4, height=4.2, share_x=False, share_y=False)
    return names, fig, axes[: len(names)], axes[len(names) :]


def select_controls(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that `controls` draws: test accuracy over all slices, as trained and with S cut."""
    return table[(table.slice == "all") & table.metric.isin(["test_exact", "cut_exact"])]


def select_ablations(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that `ablations` draws: test accuracy over all slices, with the passes used at test in `at_test`."""
    tested = table[(table.slice == "all") & table.metric.str.fullmatch(r"test(_n\d+)?_exact")]
    passes = tested.metric.str.extract(r"_n(\d+)_")[0].astype(float).fillna(tested.n_passes).astype(int)
    return tested.assign(at_test=passes)


def arms(table: pd.DataFrame, data: Path, scale: str) -> Drawing:
    """Validation accuracy against training tokens, a panel for each group, a line for each arm, the best first in the
    legend; and the final test accuracies."""
    known = settings.arms()
    exact = table[(table.metric == "val_exact") & (table.slice != "all") & table.model.isin(known)]
    present = {known[name].group for name in exact.model.unique()}
    groups = [group for group in ("controls", "ablations") if group in present] or ["controls"]
    fig, axes = style.subplots(len(groups), columns=2, width=4.75 * len(groups), height=4.6, share_x=False)
    for ax, group in zip(axes, groups, strict=True):
        last = exact[exact.tokens == exact.groupby("model").tokens.transform("max")].groupby("model").value.mean()
        shown = [name for name in last.sort_values(ascending=False).index if known[name].group in (None, group)]
        for name, look in zip(shown, style.categories(len(shown)), strict=True):
            style.means(ax, exact[exact.model == name], "tokens", label=known[name].title, linewidth=1.4, **look)
        style.percent_axis(ax)
        style.token_axis(ax)
        ax.set_title(group, fontsize=10)
        ax.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.08), ncols=2, frameon=False)
    axes[0].set_ylabel("all answers of a row right")
    fig.supxlabel(f"training tokens ({scale} scale, mean over {exact.seed.nunique()} seeds)", fontsize=10)
    ends = table[(table.metric == "test_exact") & (table.slice == "all")].groupby("model").value.mean()
    return fig, {"exact": {str(name): value for name, value in ends.items()}}


def draw_verdicts(ax: Axes, table: pd.DataFrame, group: str) -> list[dict[str, Any]]:
    """Draws each arm's difference from its reference arm with its interval; returns `verdicts`."""
    found = verdicts(table, group)
    ax.axvline(0, color="#8f98a8", linewidth=1)
    for i, record in enumerate(found):
        color = TONES[record["verdict"]]
        if record["low"] is not None:
            ax.plot([record["low"], record["high"]], [i, i], color=color, linewidth=1.4)
        ax.plot(record["value"], i, color=color, marker="o")
    others = ["" if r["against"] == "n4" else f", against {r['against']}" for r in found]
    ax.set_yticks(range(len(found)), [r["title"] + other for r, other in zip(found, others, strict=True)], fontsize=8)
    ax.invert_yaxis()
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set_title("difference to N = 4", fontsize=10)
    return found


def verdicts(table: pd.DataFrame, group: str) -> list[dict[str, Any]]:
    """A record for each arm of a group that is in the table with its reference arm: mean accuracy over seeds (`exact`),
    difference paired by seed, with interval, and verdict."""
    exact = table[table.figure.map(has_arms) & (table.metric == "test_exact") & (table.slice == "all")]
    records = []
    for figure, part in exact.groupby("figure"):
        wide, task = part.pivot(index="seed", columns="model", values="value"), str(figure).partition("_")[2]
        behind = f" ({task.title()})" if task else ""
        for name, arm in settings.arms().items():
            if arm.group == group and {name, arm.against} <= set(wide.columns):
                apart = mean_difference((wide[name] - wide[arm.against]).dropna())
                record = {"arm": name, "title": f"{arm.title}{behind}", "question": f"{arm.question}{behind}"}
                record |= {"figure": figure, "against": arm.against, "exact": wide[name].mean()} | apart._asdict()
                records.append(record | {"verdict": verdict(apart.low, apart.high)})
    return jsonable(records)


def passes_at_test(ax: Axes, table: pd.DataFrame) -> list[dict[str, Any]]:
    """Draws the accuracy of some arms against the passes at test, with a fixed N and (dashed) until S settles; returns
    the means over seeds."""
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
