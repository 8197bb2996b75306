"""The numbers of results/seeds: the mini runs of figures 2b and 3 with more seeds."""

from pathlib import Path

import pandas as pd
from scipy.stats import mannwhitneyu
from tests.documents.document import Document
from tests.documents.sources import (
    DEPO_HOPS,
    ahead,
    answers,
    average_runs,
    count_runs,
    depo_runs,
    ends,
    markdown,
    mean,
    passes,
    points,
    scores,
    side,
)

from lmsleep.figures.words import percent

CHOSEN_ON = 10  # settings were chosen on seeds 10 to 12; those below came first, those above at the second look
OWN = (r"torch 2\.\d+", r"95 % (?:t |Wilson )?interval")


def documents(root: Path) -> list[Document]:
    """The page, as far as there are tables of more seeds."""
    figures = {name: root / f"results/seeds/{name}.csv" for name in ("fig2b", "fig3")}
    there = {name: path for name, path in figures.items() if path.exists()}
    tables = {name: BUILD[name](path) for name, path in there.items()}
    said = tuple(sentence for name, path in there.items() for sentence in SAY[name](path))
    return [Document("results/seeds/README.md", tables, said, OWN)] if there else []


def looks(csv: Path, n: int) -> list[str]:
    """N = n against N = 1: all seeds, those of the first look and those of the second."""
    part = scores(csv)
    return [points(ahead(p, n)) for p in (part, part[part.seed < CHOSEN_ON], part[part.seed > CHOSEN_ON])]


def beyond(csv: Path, n: int, share: float) -> int:
    """How many runs of an N answer more than `share`."""
    part = scores(csv)
    part = part[part.n_passes == n]
    return int((part.value > share).sum())


def fig2b_table(csv: Path) -> str:
    """Means with intervals, and differences."""
    part, rows = scores(csv), []
    for n in passes(part):
        whole = mean(part, n)
        rows.append([str(n), percent(whole.value), ends(whole), *(looks(csv, n) if n > 1 else ["", "", ""])])
    return markdown(["N", "right, mean over seeds", "95 % interval", *LOOKS], rows)


def fig2b_sentences(csv: Path) -> tuple[str, ...]:
    """What the page says of figure 2b."""
    part, before = scores(csv), scores(csv.with_name("fig2b_earlier.csv"))
    low = part[(part.n_passes == 4) & (part.value < 0.4)]
    both = average_runs(pd.concat([part, before]))
    seeds, sides = part.seed.nunique(), [side(ahead(part, n)) for n in (2, 4)]
    return (
        f"Figure 2b: Rule 110, t = 4, {seeds} seeds",
        f"All {before.seed.nunique()} gave {answers(before)} there, N = 2 {points(ahead(before, 2))} and N = 4 "
        f"{points(ahead(before, 4))} points",
        f"With both, a seed's two runs averaged, N = 2 is {points(ahead(both, 2))} and N = 4 {points(ahead(both, 4))} "
        "points above N = 1",
        f"Over all {seeds} seeds the interval of N = 2 lies {sides[0]}, that of N = 4 {sides[1]}",
        f"{beyond(csv, 4, 0.85)} of {seeds} runs with N = 4 are above 85 % and {len(low)} below 40 %; above 85 % are "
        f"{beyond(csv, 2, 0.85)} runs with N = 2 and {beyond(csv, 1, 0.85)} with N = 1",
    )


def fig3_table(csv: Path) -> str:
    """Means at each number of hops, and differences where the curves part: of the page's seeds, and of all runs."""
    part, whole, rows = scores(csv), depo_runs(csv.parents[2]), []
    hops = sorted(map(int, part.slice.unique()))
    for name, runs in ((f"{part.seed.nunique()} seeds", part), (f"all {count_runs(whole)} runs", whole)):
        for n in passes(runs):
            shares = [percent(mean(runs, n, k).value) for k in hops]
            apart = points(ahead(runs[runs.slice == DEPO_HOPS], n)) if n > 1 else ""
            rows.append([name, str(n), *shares, apart])
    names = [f"{k} hop{'s' if k > 1 else ''}" for k in hops]
    return markdown(["", "N", *names, f"{LOOKS[0]} at {DEPO_HOPS} hops"], rows)


def fig3_sentences(csv: Path) -> tuple[str, ...]:
    """What the page says of figure 3."""
    part, whole = scores(csv), depo_runs(csv.parents[2])
    near, best = whole[whole.slice == DEPO_HOPS], whole[whole.slice == whole.slice.max()]
    wide = near.pivot(index=["again", "seed"], columns="n_passes", values="value")
    first, second = (
        near[near.again == again].pivot(index="seed", columns="n_passes", values="value") for again in (0, 1)
    )
    alike = ", ".join(f"{first[n].corr(second[n]):.2f}" for n in (1, 2))
    then, now = (percent(wide[4].mean()) for wide in (second, first))
    chance = mannwhitneyu(first[4], second[4]).pvalue
    return (
        f"Figure 3: Depo, {part.seed.nunique()} seeds",
        f"correlation {alike} and {first[4].corr(second[4]):.2f} for N = 1, 2 and 4",
        f"N = 4 had {then} then and {now} now (Mann-Whitney p = {chance:.2f})",
        f"At {DEPO_HOPS} hops N = 2 is ahead of N = 1 in {(wide[2] > wide[1]).sum()} of {len(wide)} runs and N = 4 in "
        f"{(wide[4] > wide[1]).sum()}",
        f"the best run has {percent(best.value.max(), 0)}",
    )


LOOKS = ("points above N = 1, paired by seed", "first look alone", "second look alone")
BUILD = {"fig2b": fig2b_table, "fig3": fig3_table}
SAY = {"fig2b": fig2b_sentences, "fig3": fig3_sentences}
