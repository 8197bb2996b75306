"""Our figure on natural text: losses on unseen files, by distance of what must be remembered."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lmsleep.checks import read_object, require
from lmsleep.figures.plots import style
from lmsleep.figures.plots.style import Drawing
from lmsleep.figures.stats import OPERATIONS, STEPS, means, over_seeds

PANELS = {  # metric -> title, what a slice counts
    "test_window_loss": ("all bytes", "windows read before"),
    "test_repeat_loss": ("a name, again", "windows since then"),
    "test_rare_loss": ("a name that training never saw, again", "windows since then"),
    "test_needle_loss": ("a needle of random letters", "windows since then"),
}
NUMBERS = ("test_loss", *PANELS, "test_needle_exact", "test_new_loss", "cut_loss")
RUN = ["metric", "slice", "n_passes", "trained_as", "tokens"]  # of a mean over seeds
FEWEST_BYTES = 500  # of a group whose loss is shown


def natural_text(table: pd.DataFrame, data: Path, scale: str) -> Drawing:
    """Losses of each N at equal steps, and of N = 1 at the FLOPs of every larger N; below, differences from N = 1 at
    equal steps, paired by seed, with 95 % intervals. Its numbers hold differences from `best_lengths` too."""
    whole = (table.metric == "test_loss") & (table.slice == "all")
    require(whole.any(), "metric must be test_loss for some rows over all slices", ", ".join(table.metric.unique()))
    scores = with_trained_as(table)
    loss = [record for metric in NUMBERS for record in means(scores[scores.metric == metric], RUN, over_seeds)]
    curves = validations(table)
    best = best_lengths(scores, curves)
    ahead = [record for metric in NUMBERS for record in differences(scores[scores.metric == metric], best)]
    bytes_of_all = [record for record in ahead if record["metric"] == "test_loss"]
    fig, axes = style.subplots(2 * len(PANELS), columns=len(PANELS), width=13, height=6.4, share_y=False)
    runs = sorted({(r["trained_as"], r["n_passes"]) for r in loss})
    of_n = style.looks(sorted({as_n for as_n, _ in runs}))
    for column, (metric, (title, counts)) in enumerate(PANELS.items()):
        top, below = axes[column], axes[column + len(PANELS)]
        for as_n, n in runs:
            label = f"N = {n}" if n == as_n else f"N = 1, operations of N = {as_n}"
            look = of_n[as_n] | {"markersize": 3.5, "linestyle": "-" if n == as_n else ":", "label": label}
            part = select(loss, metric, n_passes=n, trained_as=as_n)
            top.plot(part.slice, part.value, **look)
            part = select(ahead, metric, n_passes=n, trained_as=as_n, against=STEPS)
            if len(part):
                ends = [part.value - part.low, part.high - part.value]
                below.errorbar(part.slice, part.value, ends, capsize=2, **look)
        if metric == "test_needle_loss":
            style.reference(top, math.log(26), "any\nletter", ":")
        below.axhline(0, color="#8f98a8", linewidth=1)
        top.set_title(title, fontsize=10)
        below.set_xlabel(counts)
    axes[0].set_ylabel("nats a byte, unseen files")
    axes[len(PANELS)].set_ylabel("from N = 1 after equal steps")
    note = f"{scale} scale, {scores.seed.nunique()} seeds: means, 95 % intervals of paired differences"
    fig.supxlabel(note, fontsize=9)
    style.legend(fig, axes[:1], "Natural text: passes N over each full window (N = 1: no sleep)")
    numbers = {"text": bytes_of_all, "differences": ahead, "losses": loss, "validation": curves}
    return fig, numbers | {"corpus": [read_object(data / "corpus.json")]}


def with_trained_as(table: pd.DataFrame) -> pd.DataFrame:
    """The test scores, with the N whose FLOPs a run was trained with in `trained_as`.

    A row of n windows has n - 1 sleeps, so that the blocks read it 1 + (N - 1)(n - 1) / n times; a run of N = 1 with
    more steps belongs to the N whose FLOPs are nearest.
    """
    scores = table[~table.metric.str.startswith("val_")].copy()
    n = scores[scores.metric == "test_window_loss"].slice.astype(int).max() + 1
    times = {N: 1 + (N - 1) * (n - 1) / n for N in sorted(scores.n_passes.unique())}
    fewest = scores.tokens.min()
    nearest = {t: min(times, key=lambda N: abs(times[N] - t / fewest)) for t in scores.tokens.unique()}
    scores["trained_as"] = scores.n_passes.where(scores.tokens == fewest, scores.tokens.map(nearest))
    # Scores of groups with enough bytes; the metrics in `one` have no groups.
    one = scores.metric.isin(["test_loss", "cut_loss"])
    scores = scores[one == (scores.slice == "all")]
    scores = scores.assign(slice=scores.slice.where(~one, "0").astype(int))
    few = scores[scores.metric.str.fullmatch("test_(repeat|rare|new)_count") & (scores.value < FEWEST_BYTES)]
    left_out = set(zip(few.metric.str.replace("_count", "_loss"), few.slice, strict=True))
    return scores[[place not in left_out for place in zip(scores.metric, scores.slice, strict=True)]]


def best_lengths(scores: pd.DataFrame, curves: list[dict[str, Any]]) -> dict[int, int]:
    """For each N, which N = 1 of at most its FLOPs (by `trained_as`) ends with the lowest mean validation loss, by
    `validations`: more epochs of the same files may make a model worse, and are then no match for N."""
    last = {record["model"]: record["last"] for record in curves if record["n_passes"] == 1}
    of_n1 = scores[scores.n_passes == 1].drop_duplicates("trained_as")
    without = sorted({*of_n1.model} - {*last})
    require(not without, "models of N = 1 must each have a val_loss", f"none for {', '.join(without)}")
    ends = dict(zip(of_n1.trained_as, of_n1.model.map(last), strict=True))
    return {N: min((as_n for as_n in ends if as_n <= N), key=ends.__getitem__) for N in scores.n_passes.unique()}


def differences(scores: pd.DataFrame, best: Mapping[Any, int]) -> list[dict[str, Any]]:
    """For one metric, paired by seed: every run minus N = 1 at equal steps, and each N minus N = 1 of the length in
    `best`, see `best_lengths`."""
    records = []
    for level, group in scores.groupby("slice"):
        runs = group.pivot(index="seed", columns=["n_passes", "trained_as"], values="value")
        names = runs.columns.to_list()
        pairs = [(run, (1, 1), STEPS) for run in names if run != (1, 1)]
        pairs += [((N, N), (1, best[N]), OPERATIONS) for N, as_n in names if N == as_n != 1]
        for run, base, against in pairs:
            if not len(pairs := (runs[run] - runs[base]).dropna()):
                continue
            estimate = over_seeds(pairs)
            keys = {"metric": group.metric.iloc[0], "slice": level, "n_passes": run[0], "trained_as": run[1]}
            records.append(keys | {"against": against} | estimate._asdict())
    return records


def validations(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The lowest and the last validation loss of each run, means over seeds, to show overfitting."""
    curves = table[(table.metric == "val_loss") & (table.slice == "all")]
    mean = curves.groupby(["model", "n_passes", "tokens"]).value.mean().reset_index()
    records = []
    for (model, n), run in mean.groupby(["model", "n_passes"]):
        best, last = run.sort_values("value").iloc[0], run.iloc[-1]
        ends = {"lowest": best.value, "at_tokens": best.tokens, "last": last.value, "last_tokens": last.tokens}
        records.append({"model": model, "n_passes": n} | ends)
    return records


def select(records: list[dict[str, Any]], metric: str, **values: Any) -> pd.DataFrame:
    """The records of a metric with these values."""
    chosen = [r for r in records if r["metric"] == metric and all(r[name] == value for name, value in values.items())]
    return pd.DataFrame(chosen, columns=[*values, "slice", "value", "low", "high"])
