"""The tables of results/seeds, the mini runs of figures 2b and 3 with more seeds, and of results/mini."""

from pathlib import Path

import pandas as pd
from tests.documents.pages.gpu import HEADINGS
from tests.documents.scores import ahead, mean, passes, read, scores
from tests.documents.words import each

from lmsleep.figures.results import CAPTIONS
from lmsleep.figures.stats import compare_passes
from lmsleep.figures.tables import accuracy_table
from lmsleep.figures.words import counted, percent, points

CHOSEN_ON = 10  # settings were chosen on seeds 10 to 12; those below came first, those above at the second look
DEPO_HOPS = 2  # where mini Depo's curves part; chosen after the runs, and the pages print all hops
PAIRED = "points above N = 1, paired by seed"


def fig2b(csv: Path) -> pd.DataFrame:
    """Means with intervals, and differences of all seeds, of those of the first look and of those of the second."""
    caption = CAPTIONS["fig2b"]
    table = accuracy_table(caption, compare_passes(read(csv))).drop(columns=["seeds", caption.counted])
    runs = scores(csv)
    for name, look in (("first", runs[runs.seed < CHOSEN_ON]), ("second", runs[runs.seed > CHOSEN_ON])):
        table[f"{name} look alone"] = [points(ahead(look, n)) if n > 1 else "" for n in passes(runs)]
    return table.rename(columns=HEADINGS)


def fig3(csv: Path) -> pd.DataFrame:
    """Means at each number of hops, and differences where the curves part: of the page's seeds, and of all runs."""
    shown, every, rows = scores(csv), depo_runs(csv.parents[2]), []
    for name, runs in ((f"{shown.seed.nunique()} seeds", shown), (f"all {count_runs(every)} runs", every)):
        for n in passes(runs):
            by_hops = runs[runs.n_passes == n].groupby("slice")
            row = {"": name, "N": str(n)} | {counted(k, "hops"): percent(mean(part).value) for k, part in by_hops}
            gain = points(ahead(runs[runs.slice == DEPO_HOPS], n)) if n > 1 else ""
            rows.append(row | {f"{PAIRED} at {DEPO_HOPS} hops": gain})
    return pd.DataFrame(rows)


def depo_runs(root: Path) -> pd.DataFrame:
    """Test scores of mini Depo: every seed of results/seeds, and most of them once more at an earlier commit, where
    another order of sums made them other runs, which column `again` tells apart."""
    sets = [scores(root / f"results/seeds/{name}.csv") for name in ("fig3", "fig3_earlier")]
    return pd.concat([runs.assign(again=again) for again, runs in enumerate(sets)])


def count_runs(runs: pd.DataFrame) -> int:
    """Runs of one N."""
    return len(runs[["seed", "again"]].drop_duplicates())


def pilots(csv: Path) -> pd.DataFrame:
    """Every run of results/mini that settings were chosen on; a cell holds the seeds of one N, in order."""
    rows = []
    for (figure, name, level), runs in read(csv).groupby(["figure", "set", "slice"], sort=False):
        seeds = ", ".join(f"{seed:.0f}" for seed in sorted(runs.seed.dropna().unique()))
        of_n = {n: runs[runs.n_passes == n].sort_values("seed").value for n in (1, 2, 4)}
        cells = {f"N = {n}": each(values) if len(values) else "" for n, values in of_n.items()}
        rows.append({"figure": figure, "runs": name, "slice": level, "seeds": seeds} | cells)
    return pd.DataFrame(rows)
