"""The tables of results/gpu about figures; those about arms are in `arms`."""

from pathlib import Path

import pandas as pd
from tests.documents.scores import ahead, averages, last_validations, mean, passes, read, scores
from tests.documents.words import each, percents

from lmsleep.checks import read_object
from lmsleep.figures.results import CAPTIONS
from lmsleep.figures.stats import compare_passes, compare_steps, mean_difference
from lmsleep.figures.tables import OVER_SEEDS, accuracy_table, losses_table
from lmsleep.figures.words import counted, percent, points

GSM = ("fig4a", "fig4b", "fig5")
SINGLE = 5  # seeds, up to which a table of N has the score of every run
HEADINGS = {
    "right": "right, mean over seeds",
    OVER_SEEDS: "95 % interval",
    "points from N = 1": "points above N = 1, paired by seed",
}


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    """All by name; that of natural text if it was run."""
    by_name = {name: accuracy(folder / f"{name}.csv") for name in ("fig2a", "fig2b", "fig3")}
    by_name |= {name: by_operations(scores(folder / f"{name}.csv")) for name in GSM}
    text = folder / "text.json"
    by_name |= {"text": losses_table(read_object(text))} if text.exists() else {}
    by_name |= {"ways": ways(folder), "rates": rates(folder / "fig3_rates.csv"), "earlier": earlier(folder)}
    return by_name | {"memory": memory(folder / "memory.csv")}


def accuracy(csv: Path) -> pd.DataFrame:
    """The accuracy table of the report without its counts, with every run's score where N is compared on few seeds."""
    caption, runs = CAPTIONS[csv.stem], scores(csv)
    by_slice = caption.compares == "slice"
    numbers = compare_steps(read(csv)) if by_slice else compare_passes(read(csv), by_slice=True)
    table = accuracy_table(caption, numbers).drop(columns=["seeds", caption.counted]).rename(columns=HEADINGS)
    if not by_slice and runs.seed.nunique() <= SINGLE:
        of_each = runs.sort_values("seed").groupby(["slice", "n_passes"]).value
        table.insert(3, "each seed", [each(values) for _, values in of_each])
    return table


def means_and_gains(runs: pd.DataFrame, columns: tuple[int, ...]) -> dict[str, str]:
    """The cells of a row: means of each N, and how far N = 2 and 4 are above N = 1; empty for an N without runs."""
    known = passes(runs)
    shares = {f"N = {n}": percent(mean(runs, n).value) if n in known else "" for n in columns}
    return shares | {f"N = {n} above N = 1": points(ahead(runs, n)) if n in known else "" for n in (2, 4)}


def by_operations(runs: pd.DataFrame) -> pd.DataFrame:
    """`means_and_gains` by operations and over all, with the number of seeds."""
    parts = [*((str(level), part) for level, part in runs.groupby("slice")), ("all", runs)]
    table = pd.DataFrame([{"operations": name} | means_and_gains(part, (1, 2, 4)) for name, part in parts])
    seeds = {f"N = {n}": f"N = {n}, {count} seeds" for n, count in runs.groupby("n_passes").seed.nunique().items()}
    gains = {f"N = {n} above N = 1": f"N = {n} above N = 1, points, paired by seed" for n in (2, 4)}
    return table.rename(columns=seeds | gains)


def passes_at_test(table: pd.DataFrame, n: int) -> list[float]:
    """Mean shares of the models trained with N = n: with S cut, and with 1 to 6 passes at test."""
    runs = table[table.n_passes == n]
    metrics = ["cut_exact", *("test_exact" if m == n else f"test_n{m}_exact" for m in range(1, 7))]
    return [mean(runs[runs.metric == metric]).value for metric in metrics]


def ways(folder: Path) -> pd.DataFrame:
    """Figures 4a, 4b and 5: every run of N = 4, and `passes_at_test` of N = 4."""
    header = ["figure", "N = 4, by seed", "with S cut", "1 pass at test", *(f"{n} passes" for n in range(2, 7))]
    rows = []
    for csv in (folder / f"{name}.csv" for name in GSM):
        by_seed, table = averages(scores(csv, n_passes=4)), read(csv)
        shares = passes_at_test(table[table.slice != "all"], 4)
        rows.append([csv.stem.removeprefix("fig"), percents(by_seed), *map(percent, shares)])
    return pd.DataFrame(rows, columns=header)


def rates(csv: Path) -> pd.DataFrame:
    """The last validation of each pair of rates."""
    table = pd.read_csv(csv, dtype=str)
    names = {"muon_lr": "Muon", "adamw_lr": "AdamW", "exact": "all"}
    names |= {f"exact/{hops}": counted(hops, "hops") for hops in (1, 2, 4, 8)}
    shares = table.filter(like="exact").astype(float).map(percent)
    return table[["muon_lr", "adamw_lr"]].join(shares).rename(columns=names)


def earlier_runs(folder: Path) -> pd.DataFrame:
    """The last validations of figure 2b's runs of earlier commits."""
    runs = read(folder / "fig2b_earlier.csv").rename(columns={"exact": "value"})
    return runs.assign(slice=int(last_validations(folder / "fig2b.csv").slice.iloc[0]))


def earlier(folder: Path) -> pd.DataFrame:
    """How far the runs of figure 2b are above those of the same seeds at each earlier commit, by N."""
    keys, rows = ["n_passes", "seed"], []
    shown = last_validations(folder / "fig2b.csv").set_index(keys).value
    for commit, runs in earlier_runs(folder).groupby("commit", sort=False):
        gains = (shown - runs.set_index(keys).value).dropna().groupby("n_passes")
        by_n = {f"N = {n}": points(mean_difference(gain)) for n, gain in gains}
        rows.append({"commit": commit, "runs": str(len(runs))} | by_n)
    return pd.DataFrame(rows)


def memory(csv: Path) -> pd.DataFrame:
    """The most bytes that the tensors of a training held at once, in GiB: of a figure's runs by N, and of what they
    start from, whose windows hold a row (so that no N matters)."""
    table = pd.read_csv(csv)
    table["GiB"] = (table.allocated_bytes / 2**30).map("{:.1f}".format)
    starts = table[table.run == "start"].set_index("figure").GiB
    runs = table[table.run == "run"].pivot(index="figure", columns="n_passes", values="GiB")
    rows = runs.rename(columns="N = {}".format).assign(**{"what it starts from": starts.reindex(runs.index).fillna("")})
    rows.index = rows.index.str.removeprefix("fig")
    return rows.reset_index()
