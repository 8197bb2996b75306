"""The figure of linear probes of S after each pass."""

from pathlib import Path

import pandas as pd

from lmsleep.figures.plots import style
from lmsleep.figures.plots.style import Drawing
from lmsleep.figures.stats import jsonable, mean_difference, mean_share, verdict

TASKS = {"fig2b": "Rule 110", "fig3": "Depo"}


def probe(table: pd.DataFrame, data: Path, scale: str) -> Drawing:
    """Accuracy of probes of S against the passes made: a row of panels for each task, a column for each N of the
    training (0: initial weights), a line for each probe."""
    read = table[table.metric.str.startswith("probe_")].assign(made=lambda t: t["slice"].astype(int))
    figures, passes, records = [f for f in TASKS if f in set(read.figure)], sorted(read.n_passes.unique()), []
    n = len(passes)
    fig, axes = style.subplots(n * len(figures), n, width=3.2 * n + 2, height=3 * len(figures) + 0.6, share_y="row")
    for i, figure in enumerate(figures):
        of_figure = read[read.figure == figure]
        metrics = list(dict.fromkeys(of_figure.metric))
        for ax, trained in zip(axes[i * n :], passes, strict=False):
            for metric, color in zip(metrics, style.shades(len(metrics)), strict=True):
                part = of_figure[(of_figure.metric == metric) & (of_figure.n_passes == trained)]
                name = metric.removeprefix("probe_")
                places = {"figure": figure, "n_passes": int(trained), "read": name}
                means = {made: mean_share(part[part.made == made].value) for made in sorted(part.made.unique())}
                records += [places | {"pass": int(made)} | mean._asdict() for made, mean in means.items()]
                look = {"color": color, "label": name.replace("_", " "), "linewidth": 1.4, "marker": "."}
                ax.plot(list(means), [mean.value for mean in means.values()], **look)
                often = table[(table.figure == figure) & (table.metric == f"majority_{name}")].value.mean()
                ax.axhline(often, color=color, linestyle=":", linewidth=0.8)
            ax.set_title(f"{TASKS[figure]}, {f'N = {trained}' if trained else 'first weights'}", fontsize=10)
            style.percent_axis(ax)
        axes[(i + 1) * n - 1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
        axes[i * n].set_ylabel("read right")
    fig.supxlabel(f"passes made over the window ({scale} scale; dotted: the most frequent value)", fontsize=10)
    return fig, {"probe": jsonable(records), "verdicts": probe_gains(read)}


def probe_gains(read: pd.DataFrame) -> list[dict]:
    """The gain of a probe from the wake pass to the largest N of the training: differences paired by seed, with the
    verdict."""
    last, records = int(read.n_passes.max()), []
    keys = read[["figure", "n_passes", "metric"]].drop_duplicates().sort_values(["figure", "n_passes"])
    for figure, trained, metric in keys.itertuples(index=False):
        part = read[(read.figure == figure) & (read.n_passes == trained) & (read.metric == metric)]
        wide = part.pivot(index="seed", columns="made", values="value")
        apart = mean_difference(wide[last] - wide[1])
        record = {"figure": figure, "n_passes": int(trained), "read": metric.removeprefix("probe_"), "passes": last}
        records.append(record | apart._asdict() | {"verdict": verdict(apart.low, apart.high)})
    return jsonable(records)
