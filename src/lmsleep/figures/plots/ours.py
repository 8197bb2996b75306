"""Our figures: controls (S cut) and ablations (other numbers of passes at test), and the arms of configs/arms.yaml."""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import MultipleLocator, PercentFormatter

from lmsleep.figures import settings
from lmsleep.figures.plots import style
from lmsleep.figures.plots.baselines import baselines
from lmsleep.figures.plots.style import CURVES, Drawing, Look
from lmsleep.figures.settings import ARMS, has_arms
from lmsleep.figures.stats import UNDECIDED, Estimate, mean_difference, verdict
from lmsleep.figures.words import span

BASE = "n4"
N1, N4 = style.looks([1, 4]).values()
OTHER: Look = {"color": style.DARK, "marker": "o"}  # of an arm, which has no N's colour
ARM = OTHER | {"label": "the arm of the title"}
BEHIND = N4 | {"linewidth": 3, "alpha": 0.7, "markevery": 0.4}
COMPARED: Look = {"color": style.SOFT, "marker": "s", "label": "the same with sleep, N = 4"}  # where it is another arm
HOLLOW: Look = {"markerfacecolor": "white", "markeredgewidth": 1.4}
CUT = {"test_exact": ("as trained", {}), "cut_exact": ("S set to zero at every overflow", HOLLOW)}
KEY = {"interval without zero": {}, UNDECIDED: HOLLOW}
AT_TEST = {"n4": N4, "drawn": OTHER | {"marker": "*"}, "n1": N1}  # arms drawn with other passes at test


def controls(table: pd.DataFrame, data: Path, scale: str) -> Drawing:
    """Test accuracy of each run as trained and with S set to zero at every overflow; and the arms of the group
    `controls`."""
    names, fig, over, axes, compared = panels(table, "controls", "Is it the sleep?")
    tested, numbers = select_controls(table), []
    for ax, name in zip(axes, names, strict=True):
        part = tested[tested.figure == name]
        looks = style.looks(sorted(map(int, part.n_passes.unique())))
        for metric, (label, fill) in CUT.items():
            points = part[part.metric == metric]
            means = points.groupby("n_passes").value.mean()
            ax.plot(range(len(means)), means, color=style.SOFT, linewidth=1)
            ax.plot([], [], **OTHER | fill, linestyle="", label=label)
            for place, (n, look) in enumerate(looks.items()):
                edge = fill and fill | {"markeredgecolor": look["color"]}
                style.score(ax, place, points[points.n_passes == n].value, **look | {"label": None} | edge)
            numbers += [{"figure": name, "n_passes": n, "metric": metric, "value": means[n]} for n in looks]
        ax.set_xticks(range(len(looks)), list(map(str, looks)))
        ax.set_xlabel("passes N")
        ax.set_title(style.task(table, name), fontsize=10)
        ax.margins(x=0.15)
        style.percent_axis(ax)
    axes[0].set_ylabel("answers right")
    style.note(over, tested[tested.figure.isin(names)], scale, "Marks: test rows, {}{}.")
    style.legend(over, axes, "Does S alone cross the end of a window?")
    return fig, {"controls": numbers} | compared


def ablations(table: pd.DataFrame, data: Path, scale: str) -> Drawing:
    """Test accuracy against the passes at test, one curve for each N of the training; and the arms of the group
    `ablations`."""
    names, fig, over, axes, compared = panels(table, "ablations", "What of the sleep does it?", extra=1)
    tested = select_ablations(table)
    means = tested.groupby(["figure", "n_passes", "at_test"]).value.mean().reset_index()
    for ax, name in zip(axes, names, strict=False):
        part = tested[tested.figure == name]
        for n, look in style.looks(sorted(part.n_passes.unique())).items():
            line = part[part.n_passes == n]
            style.curve(ax, line, "at_test", **look | {"label": f"trained with {look['label']}", "markevery": 1})
            ax.plot(n, line[line.at_test == n].value.mean(), **look | {"label": None, "markersize": 9})
        ax.set_xlabel("passes at test")
        ax.set_title(style.task(table, name), fontsize=10)
        style.percent_axis(ax)
    axes[0].set_ylabel("answers right")
    of_runs = tested[tested.figure.isin(names)]
    style.note(over, of_runs, scale, "Lines: test rows, {}; large marks: the passes of the training.")
    style.legend(over, axes[: len(names)], "What if a model sleeps with another N than in training?")
    numbers: dict[str, Any] = {"passes_at_test": means[~means.figure.map(has_arms)].to_dict("records")}
    if len(axes) > len(names):
        numbers["arms_at_test"] = passes_at_test(axes[-1], table)
    return fig, numbers | compared


def panels(
    table: pd.DataFrame, group: str, title: str, extra: int = 0
) -> tuple[list[str], Figure, FigureBase, list[Axes], dict[str, Any]]:
    """The figures over N with a panel each; if the table has arms, `extra` panels more; if it has some of the group, a
    part of the figure below with their `verdicts`, which are returned too."""
    names = sorted(name for name in set(table.figure) if not has_arms(name))
    n = len(names) + extra * (len(names) < table.figure.nunique())
    if not (records := verdicts(table, group)):
        fig, axes = style.subplots(n, columns=n, width=2 * n + 1, height=3.4, share_x=n == len(names))
        return names, fig, fig, axes, {}
    fig = Figure(figsize=(max(10.0, 2 * n + 1), 7.4), layout="constrained")
    over, below = fig.subfigures(2, 1, squeeze=False, hspace=0.06).flat
    axes = style.subplots(n, columns=n, share_x=False, parent=over)[1]
    draw_verdicts(below, table, records, title)
    return names, fig, over, axes, {"verdicts": records}


def select_controls(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that `controls` draws: test accuracy over all slices, as trained and with S cut."""
    return table[(table.slice == "all") & table.metric.isin(["test_exact", "cut_exact"])]


def select_ablations(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that `ablations` draws: test accuracy over all slices, with the passes used at test in `at_test`."""
    tested = table[(table.slice == "all") & table.metric.str.fullmatch(r"test(_n\d+)?_exact")]
    passes = tested.metric.str.extract(r"_n(\d+)_")[0].astype(float).fillna(tested.n_passes).astype(int)
    return tested.assign(at_test=passes)


def arms(table: pd.DataFrame, data: Path, scale: str) -> Drawing:
    """Accuracy against training tokens, over all slices together: a panel for each arm, behind it sleep with N = 4 and,
    if it is compared with another arm, that; and the final test accuracies."""
    known, keys = settings.arms(), ["figure", "model", "n_passes", "seed", "tokens", "metric"]
    scores = table[table.metric.isin(["val_exact", "test_exact"]) & (table.slice != "all") & table.model.isin(known)]
    scores = scores.groupby(keys).value.mean().reset_index().assign(slice="all")
    present = [name for name in known if name != BASE and name in set(scores.model)] or [BASE]
    shown = sorted(present, key=lambda name: known[name].group is None)
    rows = -(-len(shown) // 5)
    columns = -(-len(shown) // rows)
    width = max(6.4, 1.85 * columns + 1.2)
    fig, axes = style.subplots(len(shown), columns, width, 1.6 * rows + 1.2, share_x=False)
    depo = table.figure.iloc[0] != ARMS
    guess = pd.Series(baselines(data, "names" if depo else "majority")).mean()
    for i, (ax, name) in enumerate(zip(axes, shown, strict=True)):
        looks = {known[name].against: COMPARED, BASE: BEHIND | {"label": known[BASE].title}} | {name: ARM}
        drawn = scores.model.isin(looks) & ((scores.model == name) | (scores.metric == "val_exact"))
        style.learning(ax, scores[drawn], "model", looks)
        word = "any name" if depo else "always the\nsame answer"
        style.reference(ax, guess, word if i == columns - 1 else "", ":")
        style.percent_axis(ax)
        style.token_axis(ax, ticks=3)
        ax.grid(axis="x", visible=False)
        ax.yaxis.set_major_locator(MultipleLocator(0.5))
        ax.set_title(textwrap.fill(known[name].title, 22), fontsize=9)
    for ax in axes[-columns:]:
        ax.set_xlabel("training tokens")
    fig.supylabel("answers right, over all hops" if depo else "rows with all answers right", fontsize=10)
    shown_at = CURVES.replace("their ends, side by side", "the arm's end")
    style.note(fig, scores[scores.metric == "val_exact"], scale, shown_at)
    style.legend(fig, axes, f"{style.task(table, table.figure.iloc[0])}: one arm a panel, sleep with N = 4 behind it")
    ends = table[(table.metric == "test_exact") & (table.slice == "all")].groupby("model").value.mean()
    return fig, {"exact": {str(name): value for name, value in ends.items()}}


def draw_verdicts(below: FigureBase, table: pd.DataFrame, records: Sequence[dict[str, Any]], title: str) -> None:
    """Draws each arm's difference from its reference arm with its interval, a panel for each task."""
    known = settings.arms()
    figures = list(dict.fromkeys(record["figure"] for record in records))
    _, axes = style.subplots(len(figures), columns=len(figures), share_y=False, parent=below)
    for ax, figure in zip(axes, figures, strict=True):
        rows = [record for record in records if record["figure"] == figure]
        ax.axvline(0, color=style.SOFT, linewidth=1)
        for word, fill in KEY.items():
            ax.plot([], [], **OTHER | fill, label=word)
        for i, r in enumerate(rows):
            ax.errorbar(r["value"], i, xerr=Estimate.of(r).bars, **OTHER | KEY.get(r["verdict"], {}))
        names = [known[r["arm"]].title for r in rows]
        others = ["" if r["against"] == BASE else f" (from {known[r['against']].title})" for r in rows]
        ax.set_yticks(range(len(rows)), [a + b for a, b in zip(names, others, strict=True)], fontsize=8)
        ax.invert_yaxis()
        ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=""))
        seeds = span([r["n"] for r in rows], "seeds")
        ax.set_title(f"{style.task(table, figure)}, {seeds}", fontsize=10)
    bracketed = " (or from the arm in brackets)" if any(r["against"] != BASE for r in records) else ""
    apart = f"points of accuracy from sleep with N = 4{bracketed}, paired by seed, with 95 % interval"
    below.supxlabel(apart, fontsize=9)
    style.legend(below, axes, title)


def verdicts(table: pd.DataFrame, group: str) -> list[dict[str, Any]]:
    """A record for each arm of a group that has seeds in common with its reference arm: over these mean accuracy
    (`exact`), paired difference with interval, and verdict."""
    exact = table[table.figure.map(has_arms) & (table.metric == "test_exact") & (table.slice == "all")]
    records = []
    for figure, part in exact.groupby("figure"):
        wide, task = part.pivot(index="seed", columns="model", values="value"), str(figure).partition("_")[2]
        behind = f" ({task.title()})" if task else ""
        for name, arm in settings.arms().items():
            compared = arm.group == group and {name, arm.against} <= set(wide.columns)
            if compared and len(pairs := wide[[name, arm.against]].dropna()):
                apart = mean_difference(pairs[name] - pairs[arm.against])
                record = {"arm": name, "title": f"{arm.title}{behind}", "question": f"{arm.question}{behind}"}
                record |= {"figure": figure, "against": arm.against, "exact": pairs[name].mean()} | apart._asdict()
                records.append(record | {"verdict": verdict(apart)})
    return records


def passes_at_test(ax: Axes, table: pd.DataFrame) -> list[dict[str, Any]]:
    """Draws the accuracy of some arms against the passes at test, with a fixed N and (dashed) until S settles; returns
    the means over seeds."""
    part, records, known = table[(table.figure == ARMS) & (table.slice == "all")], [], settings.arms()
    for name, look in AT_TEST.items():
        of_arm = part[part.model == name]
        means = of_arm.groupby("metric").value.mean()
        for metric, exact in means.items():
            if match := re.fullmatch(r"test(?:_n(\d+))?_exact|settle_(.+)_exact", str(metric)):
                fixed, threshold = match.groups()
                passes = means[f"settle_{threshold}_passes"] if threshold else float(fixed or of_arm.n_passes.max())
                records.append({"arm": name, "threshold": threshold, "passes": passes, "exact": exact})
        for settles, dashes in ((False, "-"), (True, "--")):
            drawn = [r for r in records if r["arm"] == name and bool(r["threshold"]) == settles]
            label = None if settles else known[name].title
            if line := sorted((r["passes"], r["exact"]) for r in drawn):
                ax.plot(*zip(*line, strict=True), **look | {"linestyle": dashes, "markersize": 4.5, "label": label})
    ax.set_xlabel("passes at test (mean)")
    ax.set_title(f"{style.task(table, ARMS)}: arms,\nN fixed (—), until S settles (- -)", fontsize=9)
    ax.legend(fontsize=7)
    style.percent_axis(ax)
    return records
