"""The common style of figures. Every N has its colour and its marker, the same in every figure."""

import re
from collections.abc import Hashable, Mapping, Sequence
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import MaxNLocator, PercentFormatter
from matplotlib.transforms import offset_copy
from PIL import Image

from lmsleep.atomic import atomic_write, save_text
from lmsleep.figures.stats import FEWEST, Estimate, Mean, mean_loss, mean_share
from lmsleep.figures.words import readable, span

Drawing = tuple[Figure, dict[str, Any]]  # a figure and its numbers
Look = dict[str, Any]  # colour, marker and label of a line, as Matplotlib takes them
# For N = 1 to 6: the palette of Okabe and Ito after a neutral colour, and markers that tell them apart in grey.
PALETTE = ("#4c566a", "#0072b2", "#009e73", "#d55e00", "#cc79a7", "#e69f00")
MARKERS = "osD^vP"
DARK, SOFT = "#1b1f27", "#8f98a8"  # of what has no N, and of lines that only help to read
RC: dict[Any, Any] = {
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e9f0",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "lmsleep",
}
OTHER_SEED: Look = {"linestyle": "--", "linewidth": 1.0, "marker": ""}  # of the second and further ones
CURVES = "Lines: validation, {};\nat their ends, side by side: final scores{}."
TASKS = {  # what a figure's runs are trained on
    **dict.fromkeys(("fig2a", "fig2b", "arms"), "Rule 110"),
    **dict.fromkeys(("fig3", "arms_depo"), "Depo"),
    "fig4a": "GSM-Infinite,\ngated-delta hybrid",
    "fig4b": "GSM-Infinite,\nlooped transformer",
    "fig5": "GSM-Infinite,\nsliding window",
}


def task(table: pd.DataFrame, figure: str) -> str:
    """What a figure of a table is about: Rule 110, t = 12; one that is not of this package goes by its name."""
    levels, about = set(table[table.figure == figure].slice.astype(str)) - {"all"}, TASKS.get(figure, figure)
    return about + (f", t = {levels.pop()}" if about == "Rule 110" and len(levels) == 1 else "")


def subplots(
    n: int = 1,
    columns: int = 4,
    width: float = 6.4,
    height: float = 3.9,
    share_x: bool = True,
    share_y: bool | Literal["row"] = True,
    parent: FigureBase | None = None,
) -> tuple[Figure, list[Axes]]:
    """A figure, or the part `parent` of one, with n panels in rows of `columns`."""
    rows, columns = -(-n // columns), min(n, columns)
    with mpl.rc_context(RC):
        fig = parent or Figure(figsize=(width, height), layout="constrained")
        flat = list(fig.subplots(rows, columns, squeeze=False, sharex=share_x, sharey=share_y).flat)
    for ax in flat[max(0, n - columns) : n]:  # nothing stands below them
        ax.xaxis.set_tick_params(labelbottom=True)
    for spare in flat[n:]:
        spare.set_visible(False)
    return fig, flat[:n]  # pyright: ignore[reportReturnType]


def curve(ax: Axes, frame: pd.DataFrame, by: str, mean: Mean = mean_share, **look: Any) -> None:
    """Means over seeds of `value` against the column `by`, and their 95 % intervals as a band where there are any."""
    means = {x: mean(values) for x, values in frame.groupby(by).value}
    ends = pd.DataFrame(means.values(), index=list(means), columns=Estimate._fields)
    usual: Look = {"linewidth": 1.8, "markersize": 4.5, "markevery": 0.2}
    alone: Look = {"markevery": None} if len(ends) == 1 else {}  # of a single point a share would leave no marker
    ax.plot(ends.index, ends.value, **usual | look | alone)
    if ends.low.notna().any():
        ax.fill_between(ends.index, ends.low, ends.high, color=look["color"], alpha=0.15, linewidth=0)


def score(ax: Axes, x: float, values: pd.Series, mean: Mean = mean_share, **look: Any) -> None:
    """The mean of scores as a marker with its 95 % interval if there is one, and beside it each seed as a dot."""
    if len(values) > 1:
        beside = offset_copy(ax.transData, ax.get_figure(root=True), x=4, units="points")
        dots = {"s": 7, "color": look["color"], "alpha": 0.6, "linewidths": 0, "clip_on": False}
        ax.scatter([x] * len(values), values, transform=beside, **dots)
    share = mean(values)
    shape = {"markersize": 6, "markeredgecolor": "white", "markeredgewidth": 0.7, "linewidth": 1.3, "clip_on": False}
    ax.errorbar(x, share.value, share.bars, **shape | look)


def learning(
    ax: Axes, table: pd.DataFrame, by: str, looks: Mapping[Any, Look], metric: str = "exact", apart: bool = False
) -> None:
    """Learning curves: val_<metric> against training tokens, one for each of `looks` and its value of the column `by`;
    at their ends `score` of test_<metric>, side by side. `apart`: one for each seed, see `unequal`."""
    mean = mean_loss if "loss" in metric else mean_share
    spec, figure = ax.get_subplotspec(), ax.get_figure(root=True)
    assert spec is not None and figure is not None, "axes stand in a grid of a figure"
    side = 0.13 / figure.get_figwidth() * spec.get_gridspec().ncols * table.tokens.max()  # some points
    for place, (key, look) in enumerate(looks.items(), start=1):
        of_key = table[table[by] == key]
        for nth, (seed, runs) in enumerate(of_key.groupby("seed") if apart else [(None, of_key)]):
            other = OTHER_SEED | {"label": f"{look['label']}, seed {seed}"} if nth else {}
            validated, tested = (runs[runs.metric == f"{split}_{metric}"] for split in ("val", "test"))
            curve(ax, validated, "tokens", mean, **look | other)
            last = validated.tokens.max()
            if len(tested) and tested.tokens.max() >= last:
                x = tested.tokens.max() + place * side
                joined = [validated[validated.tokens == last].value.mean(), tested.value.mean()]
                ax.plot([last, x], joined, color=look["color"], linewidth=0.6)
                score(ax, x, tested.value, mean, color=look["color"], marker=look["marker"])


def reference(ax: Axes, value: float, text: str, dashes: str = "--", place: str = "center", color: str = SOFT) -> None:
    """A horizontal line with a label at its right end, outside the axes; `place` is the label's vertical alignment."""
    ax.axhline(value, color=color, linestyle=dashes, linewidth=1)
    ax.annotate(text, (1.01, value), xycoords=("axes fraction", "data"), va=place, fontsize=8, color="#5b6477")


def legend(fig: FigureBase, axes: Sequence[Axes], title: str = "") -> None:
    """A legend above the axes with what any of them has, its title the headline of the figure."""
    each = [zip(*reversed(ax.get_legend_handles_labels()), strict=True) for ax in axes]
    handles = {label: handle for pairs in each for label, handle in pairs}
    look = {"frameon": False, "ncols": min(6, len(handles)), "title_fontproperties": {"weight": "bold"}}
    fig.legend(handles.values(), handles, title=title, loc="outside upper center", **look)


def note(fig: FigureBase, table: pd.DataFrame, scale: str, shown: str, more: str = "", apart: bool = False) -> None:
    """Below the axes: the scale, the seeds, and what is `shown`, with places for what lines and dots are."""
    least, most = seeds_each(table)
    spread = "mean over seeds" if most < FEWEST else "mean and 95 % interval over seeds"
    spread += " (no interval below 3)" if least < FEWEST else ""
    places = ("one run each", "") if apart or most == 1 else (spread, ", a dot for each seed")
    text = f"{scale} scale, {span((least, most), 'seeds')}. {shown.format(*places)}{more}"
    fig.supxlabel(text, fontsize=8, color="#5b6477")


def seeds_each(table: pd.DataFrame) -> tuple[int, int]:
    """The least and the largest number of seeds behind a point."""
    seeds = table.groupby(["figure", "model", "n_passes", "slice", "metric"]).seed.nunique()
    return int(seeds.min()), int(seeds.max())


def unequal(table: pd.DataFrame) -> bool:
    """Whether some curves have one seed and others more: means of some beside single runs of others would mislead."""
    seeds = table.groupby(["figure", "model", "n_passes", "slice"]).seed.nunique()
    return bool(seeds.min() == 1 < seeds.max())


def token_axis(ax: Axes, ticks: int = 7) -> None:
    """Tokens as 1.5M, from zero on, with at most so many ticks and one."""
    ax.xaxis.set_major_formatter(lambda x, _: readable(x))
    ax.xaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
    ax.set_xlim(left=0)


def percent_axis(ax: Axes, top: float = 1.0) -> None:
    """Shares as percent, from zero on."""
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set_ylim(0, top)


def save(fig: Figure, stem: Path) -> None:
    """Writes stem.png, with 256 colours, and stem.svg, made small, atomically; the same figure gives the same bytes."""
    with mpl.rc_context(RC), BytesIO() as picture, StringIO() as drawing:
        fig.savefig(picture, format="png")
        fig.savefig(drawing, format="svg", metadata={"Date": None})
        flat = Image.open(picture).convert("RGB").quantize(256, dither=Image.Dither.NONE)
        save_text(stem.with_suffix(".svg"), shorten(drawing.getvalue()))
        with atomic_write(stem.with_suffix(".png")) as temporary:
            flat.save(temporary, format="png", optimize=True, dpi=[RC["savefig.dpi"]] * 2)


def shorten(svg: str) -> str:
    """The same drawing with a digit after the point of coordinates, without indents, comments and ids of groups, which
    are two fifths of it."""
    cut = re.sub(r' (d|x|y)="[^"]+"', lambda match: re.sub(r"(\.\d)\d+", r"\1", match[0]), svg)
    return re.sub(r'<!--.*?-->|(?<=\n) +| id="[a-z]+(?:2d)?_\d+"', "", cut).replace("DejaVuSans", "g")


def looks(passes: Sequence[int]) -> dict[int, Look]:
    """Colour, marker and label of each N, the same in every figure."""
    more, found = mpl.colormaps["tab20b"], {}  # muted, unlike the palette
    for n in passes:
        color = PALETTE[n - 1] if n <= len(PALETTE) else to_hex(more((n - len(PALETTE)) % more.N))
        found[n] = {"color": color, "marker": MARKERS[(n - 1) % len(MARKERS)], "label": f"N = {n}"}
    return found


def shades(labels: Mapping[Hashable, str]) -> dict[Any, Look]:
    """Colours from dark to light, markers and the labels of the values of an ordered quantity."""
    tones = [to_hex(mpl.colormaps["viridis"](x)) for x in np.linspace(0.0, 0.88, len(labels))]
    markers = [MARKERS[i % len(MARKERS)] for i in range(len(labels))]
    each = zip(labels.items(), tones, markers, strict=True)
    return {key: {"color": tone, "marker": marker, "label": label} for (key, label), tone, marker in each}
