"""The figure of linear probes of S after each pass."""

from pathlib import Path
from typing import Any

import pandas as pd

from lmsleep.figures.plots import style
from lmsleep.figures.plots.style import TASKS, Drawing, Look
from lmsleep.figures.stats import LESS, MORE, Estimate, mean_share, means, paired_differences, verdict
from lmsleep.figures.words import probed

COLUMNS = 3


def probe(table: pd.DataFrame, data: Path, scale: str) -> Drawing:
    """Accuracy of probes of S against the passes made: a panel for each thing that is read, a line for each N of the
    training (0: initial weights)."""
    read = table[table.metric.str.startswith("probe_")].assign(passes=lambda t: t["slice"].astype(int))
    looks: dict[int, Look] = {0: {"color": style.DARK, "marker": "x", "linestyle": "--", "label": "first weights"}}
    looks |= style.looks(sorted(set(read.n_passes) - {0}))
    things = [(f, m) for f in TASKS for m in dict.fromkeys(read[read.figure == f].metric)]
    fig, axes = style.subplots(len(things), COLUMNS, width=9.6, height=2.2 * -(-len(things) // COLUMNS) + 1.2)
    for ax, (figure, metric) in zip(axes, things, strict=True):
        of_thing = read[(read.figure == figure) & (read.metric == metric)]
        for trained, look in looks.items():
            style.curve(ax, of_thing[of_thing.n_passes == trained], "passes", **look)
        often = table[(table.figure == figure) & (table.metric == metric.replace("probe", "majority"))].value.mean()
        style.reference(ax, often, "most frequent\nvalue" if ax in axes[COLUMNS - 1 :: COLUMNS] else "", ":")
        name = probed(metric.removeprefix("probe_"))
        what = name.replace("after", "cells after" if "step" in name else "name after")
        ax.set_title(f"{TASKS[figure]}: {what}", fontsize=10)
        style.percent_axis(ax)
    for ax in axes[-COLUMNS:]:
        ax.set_xlabel("passes made over the window")
    fig.supylabel("read right by a linear probe of S", fontsize=10)
    style.note(fig, read, scale, "Lines: {}.")
    style.legend(fig, axes, "What S holds after each pass, by N of the training")
    return fig, {"probe": probe_means(read), "verdicts": probe_gains(read)}


def probe_means(read: pd.DataFrame) -> list[dict[str, Any]]:
    """The mean accuracy of each probe after each pass, with its interval."""
    named = read.assign(read=read.metric.str.removeprefix("probe_")).rename(columns={"passes": "pass"})
    return means(named, ["figure", "n_passes", "read", "pass"], mean_share)


def probe_gains(read: pd.DataFrame) -> list[dict]:
    """What a probe reads more from the wake pass to the largest N of the training: differences paired by seed, over
    those that have both, with the verdict (`MORE`, `LESS`)."""
    last, records = int(read.n_passes.max()), []
    ends = read[read.passes.isin((1, last))]
    for gain in paired_differences(ends, "passes", 1, ["figure", "n_passes", "metric"]).to_dict("records"):
        apart, place = Estimate.of(gain), {name: gain[name] for name in ("figure", "n_passes")}
        place |= {"read": gain["metric"].removeprefix("probe_"), "passes": last}
        records.append(place | apart._asdict() | {"verdict": verdict(apart, MORE, LESS)})
    return records
