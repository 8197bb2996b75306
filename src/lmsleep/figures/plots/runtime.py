"""Figures of latency and throughput, from the tables of `lmsleep bench wake` and `lmsleep bench window`."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
from scipy import stats

from lmsleep.figures.plots import style
from lmsleep.figures.stats import over_seeds
from lmsleep.figures.words import readable
from lmsleep.tidy import PARALLEL, WINDOWED

LOOK = {"markersize": 5, "linewidth": 1.6, "markevery": 1, "clip_on": False}  # a marker may lie on the frame


def latency(frame: pd.DataFrame, data: Path, scale: str) -> style.Drawing:
    """Latency and memory of a token while awake, against context, and the pause of a sleep, against N."""
    fig, (speed, memory, pause) = style.subplots(3, 3, 9.6, 3.9, share_x=False, share_y=False)
    hybrid, twin = frame[frame.model == "hybrid"], frame[frame.model != "hybrid"]
    looks = style.looks(sorted(hybrid.n_passes.unique()))
    full = LOOK | {"color": style.DARK, "marker": "x", "linestyle": "--", "label": "full attention"}
    for ax, metric, title, unit in (
        (speed, "latency_p50_ms", "a token while awake", "median (ms)"),
        (memory, "memory_bytes", "memory beside the weights", "bytes"),
    ):
        mine, others = hybrid[hybrid.metric == metric], twin[twin.metric == metric]
        same = {} if ax is speed else {"color": style.DARK, "marker": "o"}  # the memory is the same for all N
        for n, look in looks.items():
            style.curve(ax, mine[mine.n_passes == n], "tokens", over_seeds, **LOOK | look | same)
        style.curve(ax, others, "tokens", over_seeds, **full)
        ax.set(xscale="log", yscale="log", xlabel="tokens read before", ylabel=unit)
        ax.set_title(title, fontsize=10)
        first, last = ax.get_xlim()
        ax.xaxis.set_major_locator(LogLocator(subs=(1,) if last > 30 * first else (1, 2, 5)))
        ax.xaxis.set_major_formatter(lambda x, _: readable(x))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}" if ax is speed else EngFormatter("B"))
        ax.yaxis.set_minor_formatter(NullFormatter())
        low, high = ax.get_ylim()
        if high < 10 * low:  # so that what is flat looks flat
            middle = np.sqrt(low * high)
            ax.set_ylim(middle / np.sqrt(10), middle * np.sqrt(10))
    held = hybrid[hybrid.metric == "memory_bytes"].sort_values("tokens")
    if len(held):
        at = (float(held.tokens.iloc[-1]), float(held.value.iloc[-1]))
        memory.annotate("every N", at, (0, 6), textcoords="offset points", ha="right", fontsize=9)
    low, high = memory.get_ylim()
    if high > 100 * low:  # no labels at 2 and 5
        memory.yaxis.set_major_locator(LogLocator())
    _pauses(pause, hybrid, looks)
    style.legend(fig, [speed], f"What a token costs, awake and with a sleep ({scale} scale)")
    return fig, flatness(frame)


def flatness(frame: pd.DataFrame) -> dict[str, dict[str, float]]:
    """How the hybrid's latency depends on context and N: `per_tenfold_context` and `per_pass`, slopes of the median
    latency over its mean (least squares), with half widths of 95 % t intervals.

    One plane through all medians, since the latency must not depend on either: medians of single settings scatter by
    some percent, so that ratios of them never are 1, and the interval of a slope says how flat they are known to be.
    """
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
    once, windowed = speed[speed.n_passes == speed.n_passes.min()], speed[speed.model == WINDOWED]
    looks = style.looks(sorted(windowed.n_passes.unique()))
    parallel = {"color": style.DARK, "marker": "x", "linestyle": "--"}
    for name, look in {PARALLEL: parallel, WINDOWED: next(iter(looks.values()))}.items():
        style.curve(left, once[once.model == name], "place", over_seeds, **LOOK | look | {"label": name})
    for n, look in looks.items():
        style.curve(right, windowed[windowed.n_passes == n], "place", over_seeds, **LOOK | look)
    for ax, title in ((left, "one pass, N = 1"), (right, f"{WINDOWED}, N passes")):
        ax.set(xlabel="window size L (tokens)", ylabel="training throughput (tokens/s)")
        ax.set_ylim(bottom=0)
        ax.yaxis.set_major_formatter(lambda y, _: readable(y))
        ax.set_xticks(range(len(sizes)), [f"{size:,}" for size in sizes])
        ax.set_title(title, fontsize=10)
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.08), ncols=4, fontsize=9, frameon=False)
    fig.suptitle(f"Training throughput ({scale} scale)", fontsize=10, weight="bold")
    largest = windowed[windowed["slice"] == windowed["slice"].max()]
    rates = {f"N={n}": rate for n, rate in largest.groupby("n_passes").value.mean().items()}
    return fig, {"throughput": frame.to_dict("records"), "tokens_per_second": rates}


def _pauses(ax: Axes, hybrid: pd.DataFrame, looks: dict[int, dict[str, str]]) -> None:
    """The pause of a token that overflows: a dot for each context, and the median."""
    for place, (n, look) in enumerate(looks.items()):
        color = look["color"]
        values = hybrid[(hybrid.n_passes == n) & (hybrid.metric == "pause_ms")].value.to_numpy()
        spread = np.linspace(-0.18, 0.18, len(values)) if len(values) > 1 else np.zeros(len(values))
        ax.scatter(place + spread, values, s=14, color=color, alpha=0.5, linewidths=0)
        if len(values):
            ax.hlines(np.median(values), place - 0.3, place + 0.3, color=color, linewidth=2.2)
    ax.set_xticks(range(len(looks)), [str(n) for n in looks])
    ax.set(xlabel="passes N", ylabel="ms")
    ax.set_title("a token that overflows: its sleep", fontsize=10)
    ax.set_ylim(bottom=0)
    ax.grid(axis="x", visible=False)
