"""Figures of what reading and training cost, from the tables of `lmsleep bench wake` and `lmsleep bench window`."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter
from scipy import stats

from lmsleep.figures import style
from lmsleep.figures.stats import plain
from lmsleep.figures.words import readable

DARK = "#1b1f27"  # full attention is dark and dashed, the passes have colours


def latency(frame: pd.DataFrame, data: Path, scale: str) -> style.Drawing:
    """What a token costs while awake, and a pause, against context and N."""
    with rc_context(style.RC):
        fig = Figure(figsize=(9.6, 3.9), layout="constrained")
        speed, memory, pause = fig.subplots(1, 3)
    hybrid, twin = frame[frame.model == "hybrid"], frame[frame.model != "hybrid"]
    shades = style.colors(sorted(hybrid.n_passes.unique()))
    for n, color in shades.items():
        _against_context(speed, hybrid[hybrid.n_passes == n], "latency_p50_ms", color, f"N = {n}")
        _against_context(memory, hybrid[hybrid.n_passes == n], "memory_bytes", DARK)
    held = hybrid[hybrid.metric == "memory_bytes"].sort_values("tokens")
    if len(held):  # the lines of all N lie on each other
        at = (float(held.tokens.iloc[-1]), float(held.value.iloc[-1]))
        memory.annotate("every N", at, (0, 6), textcoords="offset points", ha="right", fontsize=9)
    for ax, metric, label in ((speed, "latency_p50_ms", "full attention"), (memory, "memory_bytes", None)):
        _against_context(ax, twin, metric, DARK, label, "--")
    flat = flatness(frame)
    context, passes = (f"{100 * of['slope']:+.1f} ± {100 * of['half_width']:.1f} %" for of in flat.values())
    speed.set_title(f"hybrid: {context} for ten times the context\n{passes} for a pass more", loc="left", fontsize=8)
    _label_context(speed, "one token, awake (median, ms)")
    _label_context(memory, "memory beside the weights (bytes)")
    memory.yaxis.set_major_formatter(EngFormatter("B"))
    for ax in (speed, memory):
        _show_a_decade(ax)
    low, high = memory.get_ylim()
    if high > 100 * low:  # labels at 2 and 5 as well would be crowded
        memory.yaxis.set_major_locator(LogLocator())
    _pauses(pause, hybrid, shades)
    handles, labels = speed.get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return fig, flat


def flatness(frame: pd.DataFrame) -> dict[str, dict[str, float]]:
    """How the hybrid's latency depends on context and N, from the table of `bench wake`.

    Returns:
        `per_tenfold_context` and `per_pass`: slope of the median latency over its mean, with the half width of its 95 %
        interval (least squares over all contexts and N, t distribution).
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
    with rc_context(style.RC):
        fig = Figure(figsize=(9.6, 3.9), layout="constrained")
        left, right = fig.subplots(1, 2)
    speed = frame[frame.metric == "tokens_per_second"].astype({"slice": int})
    sizes = sorted(speed["slice"].unique())
    once = speed[speed.n_passes == speed.n_passes.min()]
    looks = {"parallel sliding window": (DARK, "s", "--"), "reading by windows": (style.PALETTE[0], "o", "-")}
    for name, (color, marker, line) in looks.items():
        _against_window(left, once[once.model == name], sizes, color, marker, line, name)
    windowed = speed[speed.model == "reading by windows"]
    for n, color in style.colors(sorted(windowed.n_passes.unique())).items():
        _against_window(right, windowed[windowed.n_passes == n], sizes, color, "o", "-", f"N = {n}")
    left.set_ylim(bottom=0)
    right.set_yscale("log")
    for ax, title in ((left, "(a) one pass, N = 1"), (right, "(b) reading by windows")):
        ax.set(xlabel="window size L (tokens)", ylabel="training throughput (tokens/s)")
        ax.set_title(title, loc="left", fontsize=10)
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.08), ncols=4, fontsize=9, frameon=False)
    right.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for ax in (left, right):
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: readable(y)))
        ax.yaxis.set_minor_formatter(NullFormatter())
    largest = windowed[windowed["slice"] == windowed["slice"].max()]
    rates = {f"N={n}": rate for n, rate in largest.groupby("n_passes").value.mean().items()}
    return fig, {"throughput": plain(frame.to_dict("records")), "tokens_per_second": rates}


def _against_context(
    ax: Axes, frame: pd.DataFrame, metric: str, color: str, label: str | None = None, line: str = "-"
) -> None:
    """Mean over seeds against the tokens read before."""
    mean = frame[frame.metric == metric].groupby("tokens")["value"].mean()
    ax.plot(mean.index, mean, color=color, linestyle=line, marker="o", markersize=3.5, linewidth=1.6, label=label)


def _label_context(ax: Axes, what: str) -> None:
    ax.set(xscale="log", yscale="log", xlabel="tokens read before", ylabel=what)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: readable(x)))
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def _show_a_decade(ax: Axes) -> None:
    """At least a factor of ten, so that what is flat looks flat."""
    low, high = ax.get_ylim()
    if high < 10 * low:
        middle = np.sqrt(low * high)
        ax.set_ylim(middle / np.sqrt(10), middle * np.sqrt(10))


def _pauses(ax: Axes, hybrid: pd.DataFrame, shades: dict[int, str]) -> None:
    """Pause of a token that overflows, one dot for each context, and their median."""
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


def _against_window(
    ax: Axes, frame: pd.DataFrame, sizes: list[int], color: str, marker: str, line: str, label: str
) -> None:
    """Mean over seeds at each window size, sizes evenly spaced."""
    mean = frame.groupby("slice")["value"].mean().reindex(sizes)
    places = range(len(sizes))
    look = {"color": color, "marker": marker, "linestyle": line, "markersize": 5, "linewidth": 1.6}
    ax.plot(places, mean, label=label, clip_on=False, **look)  # a marker may lie on the frame
    ax.set_xticks(places, [f"{size:,}" for size in sizes])
