"""The common style of figures."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter
from PIL import Image

from lmsleep.figures.words import readable

Drawing = tuple[Figure, dict[str, Any]]  # a figure and its numbers
# For N = 1 to 6: the palette of Okabe and Ito after a neutral colour.
PALETTE = ("#4c566a", "#0072b2", "#009e73", "#d55e00", "#cc79a7", "#e69f00")
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


def subplots(
    n: int = 1,
    columns: int = 4,
    width: float = 6.4,
    height: float = 3.8,
    share_x: bool = True,
    share_y: bool | Literal["row"] = True,
) -> tuple[Figure, list[Axes]]:
    """A figure with n panels in rows of `columns`."""
    rows, columns = -(-n // columns), min(n, columns)
    with mpl.rc_context(RC):
        look = {"figsize": (width, height), "layout": "constrained"}
        fig, axes = plt.subplots(rows, columns, squeeze=False, sharex=share_x, sharey=share_y, **look)
    flat = list(axes.flat)
    for spare in flat[n:]:
        spare.set_visible(False)
    return fig, flat[:n]


def curves(ax: Axes, frame: pd.DataFrame, label: str, color: str) -> None:
    """Mean over seeds against tokens as a thick line, its standard error as a band, each seed as a thin line."""
    over_seeds = frame.groupby("tokens")["value"]
    mean, error = over_seeds.mean(), over_seeds.sem().fillna(0.0)
    x = mean.index.to_numpy(dtype=float)
    ax.plot(x, mean, color=color, label=label, linewidth=2.2, marker="o" if len(x) == 1 else None)
    if frame["seed"].nunique() > 1:
        ax.fill_between(x, mean - error, mean + error, color=color, alpha=0.15, linewidth=0)
        for _, seed in frame.groupby("seed"):
            ax.plot(seed["tokens"], seed["value"], color=color, alpha=0.45, linewidth=0.8)


def means(ax: Axes, frame: pd.DataFrame, by: str, **look: Any) -> None:
    """Plots means of `value` against the column `by`."""
    mean = frame.groupby(by).value.mean()
    ax.plot(mean.index, mean, **look)


def reference(
    ax: Axes, value: float, text: str, dashes: str = "--", place: str = "center", color: str = "#8f98a8"
) -> None:
    """A horizontal line with a label at its right end, outside the axes; `place` is the label's vertical alignment."""
    ax.axhline(value, color=color, linestyle=dashes, linewidth=1)
    ax.annotate(text, (1.01, value), xycoords=("axes fraction", "data"), va=place, fontsize=8, color="#5b6477")


def legend(fig: Figure, ax: Axes, title: str) -> None:
    """A legend above the axes."""
    handles, labels = ax.get_legend_handles_labels()
    fig.legend(handles, labels, title=title, loc="outside upper center", ncols=min(6, len(labels)), frameon=False)


def token_axis(ax: Axes) -> None:
    """Tokens as 1.5M, from zero on."""
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: readable(x)))
    ax.set_xlim(left=0)


def percent_axis(ax: Axes, top: float = 1.0) -> None:
    """Shares as percent, from zero on."""
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set_ylim(0, top)


def save(fig: Figure, stem: Path) -> None:
    """Writes stem.png, with 256 colours, and stem.svg; the same figure gives the same bytes."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(RC), BytesIO() as picture:
        fig.savefig(picture, format="png")
        flat = Image.open(picture).convert("RGB").quantize(256, dither=Image.Dither.NONE)
        flat.save(stem.with_suffix(".png"), optimize=True, dpi=[RC["savefig.dpi"]] * 2)
        fig.savefig(stem.with_suffix(".svg"), metadata={"Date": None})
    plt.close(fig)


def colors(passes: Sequence[int]) -> dict[int, str]:
    """A colour for each N, the same in every figure."""
    more = mpl.colormaps["tab20b"]  # muted, unlike the palette
    return {n: PALETTE[n - 1] if n <= len(PALETTE) else to_hex(more((n - len(PALETTE)) % more.N)) for n in passes}


def categories(n: int) -> list[dict[str, str]]:
    """Colour and dashes of n lines without an order."""
    tones = mpl.colormaps["tab10"]
    return [{"color": to_hex(tones(i % 10)), "linestyle": ("-", "--", ":")[i // 10 % 3]} for i in range(n)]


def shades(n: int) -> list[str]:
    """n colours from dark to light, for an ordered quantity."""
    return [to_hex(mpl.colormaps["viridis"](x)) for x in np.linspace(0.0, 0.88, n)]
