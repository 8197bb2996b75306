"""Figures of latency and throughput, from the tables of `lmsleep bench wake` and `lmsleep bench window`."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, Formatter, FuncFormatter, LogLocator, NullFormatter
from scipy import stats

from lmsleep.figures.plots import style
from lmsleep.figures.stats import jsonable
from lmsleep.figures.words import readable

DARK = "#1b1f27"  # of full attention


def latency(frame: pd.DataFrame, data: Path, scale: str) -> style.Drawing:
    """Latency and memory of a token while awake, against context, and the pause of a sleep, against N."""
    fig, (speed, memory, pause) = style.subplots(3, 3, 9.6, 3.9, share_x=False, share_y=False)
    hybrid, twin = frame[frame.model == "hybrid"], frame[frame.model != "hybrid"]
    shades = style.colors(sorted(hybrid.n_passes.unique()))
    for ax, metric, what in (
        (speed, "latency_p50_ms", "one token, awake (median, ms)"),
        (memory, "memory_bytes", "memory beside the weights (bytes)"),
    ):
        mine, others = hybrid[hybrid.metric == metric], twin[twin.metric == metric]
        look = {"marker": "o", "markersize": 3.5, "linewidth": 1.6}
        for n, color in shades.items():
            color = color if ax is speed else DARK  # the memory is the same for all N
            style.means(ax, mine[mine.n_passes == n], "tokens", color=color, label=f"N = {n}", **look)
        style.means(ax, others, "tokens", color=DARK, label="full attention", linestyle="--", **look)
        ax.set(xscale="log", yscale="log", xlabel="tokens read before", ylabel=what)
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: readable(x)))
        _label_log(ax, FuncFormatter(lambda y, _: f"{y:g}") if ax is speed else EngFormatter("B"))
        low, high = ax.get_ylim()
        if high < 10 * low:  # so that what is flat looks flat
            middle = np.sqrt(low * high)
            ax.set_ylim(middle / np.sqrt(10), middle * np.sqrt(10))
    held = hybrid[hybrid.metric == "memory_bytes"].sort_values("tokens")
    if len(held):
        at = (float(held.tokens.iloc[-1]), float(held.value.iloc[-1]))
        memory.annotate("every N", at, (0, 6), textcoords="offset points", ha="right", fontsize=9)
    flat = flatness(frame)
    context, passes = (f"{100 * of['slope']:+.1f} ± {100 * of['half_width']:.1f} %" for of in flat.values())
    speed.set_title(f"hybrid: {context} for ten times the context\n{passes} for a pass more", loc="left", fontsize=8)
    low, high = memory.get_ylim()
    if high > 100 * low:  # no labels at 2 and 5
        memory.yaxis.set_major_locator(LogLocator())
    _pauses(pause, hybrid, shades)
    handles, labels = speed.get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return fig, flat


def flatness(frame: pd.DataFrame) -> dict[str, dict[str, float]]:
    """How the hybrid's latency depends on context and N: `per_tenfold_context` and `per_pass`, slopes of the median
    latency over its mean (least squares), with half widths of 95 % t intervals."""
    points = frame[(frame.model == "hybrid") & (frame.metric == "latency_p50_ms")]
    columns = (np.log10(points.tokens.to_numpy(float)), points.n_passes.to_numpy(float), np.ones(len(points)))
    X, y = np.stack(columns, axis=1), points.value.to_numpy(float) / points.value.mean()
    slopes, *_ = np.linalg.lstsq(X, y, rcond=None)
    spare = len(y) - X.shape[1]
    variance = float(((y - X @ slopes) ** 2).sum()) / max(spare, 1)
    half = np.sqrt(variance * np.diag(np.linalg.pinv(X.T @ X))) * (stats.t.ppf(0.975, spare) if spare > 0 else np.nan)
    names = ("per_tenfold_context", "per_pass")
    return {name: {"slope": float(slopes[i]), "half_width": float(half[i])} for i, name in enumerate(names)}


def fig6(frame: pd.DataFrame, data: Path, scale: str) -> style.Drawing:
    """Training throughput against window size and N."""
    fig, (left, right) = style.subplots(2, 2, 9.6, 3.9, share_x=False, share_y=False)
    speed = frame[frame.metric == "tokens_per_second"].astype({"slice": int})
    sizes = sorted(speed["slice"].unique())
    speed = speed.assign(place=speed["slice"].map(sizes.index))
    once = speed[speed.n_passes == speed.n_passes.min()]
    look = {"markersize": 5, "linewidth": 1.6, "clip_on": False}  # a marker may lie on the frame
    looks = {"parallel sliding window": (DARK, "s", "--"), "reading by windows": (style.PALETTE[0], "o", "-")}
    for name, (color, marker, line) in looks.items():
        shape = {"color": color, "marker": marker, "linestyle": line}
        style.means(left, once[once.model == name], "place", label=name, **shape, **look)
    windowed = speed[speed.model == "reading by windows"]
    for n, color in style.colors(sorted(windowed.n_passes.unique())).items():
        part = windowed[windowed.n_passes == n]
        style.means(right, part, "place", label=f"N = {n}", color=color, marker="o", **look)
    left.set_ylim(bottom=0)
    right.set_yscale("log")
    for ax, title in ((left, "(a) one pass, N = 1"), (right, "(b) reading by windows")):
        ax.set(xlabel="window size L (tokens)", ylabel="training throughput (tokens/s)")
        ax.set_xticks(range(len(sizes)), [f"{size:,}" for size in sizes])
        ax.set_title(title, loc="left", fontsize=10)
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.08), ncols=4, fontsize=9, frameon=False)
    rate = FuncFormatter(lambda y, _: readable(y))
    left.yaxis.set_major_formatter(rate)
    _label_log(right, rate)
    largest = windowed[windowed["slice"] == windowed["slice"].max()]
    rates = {f"N={n}": rate for n, rate in largest.groupby("n_passes").value.mean().items()}
    return fig, {"throughput": jsonable(frame.to_dict("records")), "tokens_per_second": rates}


def _label_log(ax: Axes, formatter: Formatter) -> None:
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(formatter)
    ax.yaxis.set_minor_formatter(NullFormatter())


def _pauses(ax: Axes, hybrid: pd.DataFrame, shades: dict[int, str]) -> None:
    """The pause of a token that overflows: a dot for each context, and the median."""
    for place, (n, color) in enumerate(shades.items()):
        values = hybrid[(hybrid.n_passes == n) & (hybrid.metric == "pause_ms")].value.to_numpy()
        spread = np.linspace(-0.18, 0.18, len(values)) if len(values) > 1 else np.zeros(len(values))
        ax.scatter(place + spread, values, s=14, color=color, alpha=0.5, linewidths=0)
        if len(values):
            ax.hlines(np.median(values), place - 0.3, place + 0.3, color=color, linewidth=2.2)
    ax.set_xticks(range(len(shades)), [str(n) for n in shades])
    ax.set(xlabel="passes N", ylabel="overflow, sleep included (ms)")
    ax.set_ylim(bottom=0)
    ax.grid(axis="x", visible=False)
