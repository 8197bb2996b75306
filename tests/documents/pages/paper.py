"""The tables of results/paper about Depo and speed; those about Rule 110 are in `rule110`."""

from pathlib import Path

import pandas as pd
from tests.documents.scores import read, scores

from lmsleep.figures.stats import wilson
from lmsleep.figures.words import counted, interval, millions, percent
from lmsleep.tidy import PARALLEL, WINDOWED

SHOWN = (276_480_000, 691_200_000, 1_105_920_000, 1_520_640_000, 1_843_200_000)  # tokens, of figure 3's curves
WORDS = (73_728_000, 193_536_000, 313_344_000)  # of Depo with words


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    """All by name."""
    figure3, words = depo(folder / "fig3.csv", SHOWN), depo(folder / "fig3_words.csv", WORDS)
    return {"fig3": figure3, "fig3 test": depo_test(folder / "fig3.csv"), "fig3 words": words, "fig6": fig6(folder)}


def other_runs(folder: Path, name: str) -> pd.DataFrame:
    """One of the sets of runs that no figure shows."""
    runs = read(folder / "other_runs.csv")
    runs = runs[runs["set"] == name]
    assert len(runs), name
    return runs.assign(slice=runs.slice.astype(int))


def depo(csv: Path, shown: tuple[int, ...]) -> pd.DataFrame:
    """Loss and accuracy for each number of hops, at these places of the curves, of the runs that have them."""
    keys = ["tokens", "n_passes", "slice"]
    runs = scores(csv, "val_loss").merge(scores(csv, "val_exact"), on=keys, suffixes=("_loss", "_exact"))
    cells = runs.value_loss.map("{:.2f}; ".format) + runs.value_exact.map(percent)
    table = runs.assign(cell=cells).pivot(index=keys[:2], columns="slice", values="cell").loc[[*shown]].reset_index()
    table["tokens"] = [millions(tokens, 1) for tokens in table.tokens]
    return table.rename(columns=lambda name: {"tokens": "tokens", "n_passes": "N"}.get(name) or counted(name, "hops"))


def depo_test(csv: Path) -> pd.DataFrame:
    """Accuracy for each number of hops at the test, with its interval over rows, whose answers hang together."""
    keys = ["n_passes", "slice"]
    runs = scores(csv).merge(scores(csv, "test_rows"), on=keys, suffixes=("", "_rows"))
    cells = [share_of_rows(value, int(rows)) for value, rows in zip(runs.value, runs.value_rows, strict=True)]
    table = runs.assign(cell=cells).pivot(index="n_passes", columns="slice", values="cell").reset_index()
    return table.rename(columns=lambda name: "N" if name == "n_passes" else counted(name, "hops"))


def share_of_rows(value: float, rows: int) -> str:
    """A share with Wilson's interval over so many rows."""
    return f"{percent(value)} ({interval(wilson(value, rows))})"


def hop_begins(csv: Path, n: int, hops: int = 1) -> float:
    """The tokens of the first validation from which so many hops are right more than twice as often as double them."""
    wide = scores(csv, "val_exact", n_passes=n).pivot(index="tokens", columns="slice", values="value")
    not_yet = wide.index[wide[hops] <= 2 * wide[2 * hops]].max()
    return float(wide.index[wide.index > not_yet].min())


def rates(runs: pd.DataFrame) -> pd.DataFrame:
    """Tokens a second: a row for each window, columns (way of reading, N)."""
    return runs.pivot(index="slice", columns=["model", "n_passes"], values="value")


def fig6_rates(folder: Path) -> pd.DataFrame:
    """`rates` of figure 6."""
    return rates(scores(folder / "fig6.csv", "tokens_per_second"))


def slower(by_window: pd.DataFrame) -> pd.Series:
    """By how much reading by windows is slower than in parallel, by window, from `rates`."""
    return 1 - by_window[WINDOWED, 1] / by_window[PARALLEL, 1]


def one_sequence(folder: Path) -> float:
    """By how much reading by windows of 1,000 is slower than in parallel with one sequence in a batch."""
    return slower(rates(other_runs(folder, "one sequence")))[1000]


def times_slower(folder: Path) -> str:
    """How many times slower N = 4 is than N = 1, over the windows: 3.0 to 4.0."""
    by_windows = fig6_rates(folder)[WINDOWED]
    times = by_windows[1] / by_windows[4]
    return f"{times.min():.1f} to {times.max():.1f}"


def fig6(folder: Path) -> pd.DataFrame:
    """Tokens a second against windows and N."""
    by_window = fig6_rates(folder)[[(PARALLEL, 1), *((WINDOWED, n) for n in (1, 2, 3, 4))]]
    table = by_window.map(lambda rate: f"{rate / 1e3:.1f} k")
    table.iloc[0, 0] = f"{table.iloc[0, 0]} tokens/s"
    table.columns = [PARALLEL, "by windows, N = 1", "N = 2", "N = 3", "N = 4"]
    return table.rename(index="{:,}".format).rename_axis("window").reset_index()


def latency(folder: Path) -> pd.Series:
    """Mean milliseconds of a token that fits into the window, for every N, by the windows read before."""
    table = read(folder / "latency.csv")
    return table[(table.model == "hybrid") & (table.metric == "latency_mean_ms")].set_index("slice").value


def awake(folder: Path) -> str:
    """From the fastest to the slowest `latency`: 3.6 to 4.1."""
    return f"{latency(folder).min():.1f} to {latency(folder).max():.1f}"


def pauses(folder: Path) -> str:
    """Milliseconds of the tokens that overflow and sleep, from the shortest to the longest: 27 to 107."""
    table = read(folder / "latency.csv")
    pause = table[(table.model == "hybrid") & (table.metric == "pause_ms") & (table.n_passes > 1)].value
    return f"{pause.min():.0f} to {pause.max():.0f}"
