"""The numbers of results/seeds and of results/mini."""

from pathlib import Path
from typing import Any

from scipy.stats import mannwhitneyu
from tests.documents.document import Document, document
from tests.documents.pages import seeds
from tests.documents.pages.seeds import DEPO_HOPS, depo_runs
from tests.documents.scores import ahead, average_runs, means, scores
from tests.documents.words import percents, side

from lmsleep.figures.words import percent, points


def documents(root: Path) -> list[Document]:
    """The pages."""
    folder = root / "results/seeds"
    tables = {"fig2b": seeds.fig2b(folder / "fig2b.csv"), "fig3": seeds.fig3(folder / "fig3.csv")}
    pilots = {"pilots": seeds.pilots(root / "results/mini/pilots.csv")}
    sentences = (*rule110_sentences(folder), *depo_sentences(root))
    return [document("results/seeds/README.md", tables, sentences), document("results/mini/README.md", pilots)]


def rule110_sentences(folder: Path) -> tuple[str, ...]:
    """Of figure 2b."""
    runs, earlier = scores(folder / "fig2b.csv"), scores(folder / "fig2b_earlier.csv")
    both, count = average_runs(runs, earlier), runs.seed.nunique()
    high = (runs.value > 0.85).groupby(runs.n_passes).sum()
    low = runs[(runs.n_passes == 4) & (runs.value < 0.4)]
    return (
        f"Figure 2b: Rule 110, t = 4, {count} seeds",
        f"All {earlier.seed.nunique()} gave {percents(means(earlier))} there, N = 2 {points(ahead(earlier, 2))} and "
        f"N = 4 {points(ahead(earlier, 4))} points",
        f"With both, a seed's two runs averaged, N = 2 is {points(ahead(both, 2))} and N = 4 {points(ahead(both, 4))} "
        "points above N = 1",
        f"Over all {count} seeds the interval of N = 2 lies {side(ahead(runs, 2))}, that of N = 4 "
        f"{side(ahead(runs, 4))}",
        f"{high[4]} of {count} runs with N = 4 are above 85 % and {len(low)} below 40 %; above 85 % are {high[2]} runs "
        f"with N = 2 and {high[1]} with N = 1",
    )


def depo_sentences(root: Path) -> tuple[str, ...]:
    """Of figure 3."""
    runs = depo_runs(root)
    wide = runs[runs.slice == DEPO_HOPS].pivot(index=["again", "seed"], columns="n_passes", values="value")
    shown, earlier = wide.loc[0], wide.loc[1]
    alike = [f"{shown[n].corr(earlier[n]):.2f}" for n in (1, 2, 4)]
    test: Any = mannwhitneyu(shown[4], earlier[4])
    return (
        f"Figure 3: Depo, {len(shown)} seeds",
        f"correlation {alike[0]}, {alike[1]} and {alike[2]} for N = 1, 2 and 4",
        f"N = 4 had {percent(earlier[4].mean())} then and {percent(shown[4].mean())} now (Mann-Whitney "
        f"p = {test.pvalue:.2f})",
        f"At {DEPO_HOPS} hops N = 2 is ahead of N = 1 in {(wide[2] > wide[1]).sum()} of {len(wide)} runs and N = 4 in "
        f"{(wide[4] > wide[1]).sum()}",
        f"the best run has {percent(runs[runs.slice == runs.slice.max()].value.max(), 0)}",
    )
