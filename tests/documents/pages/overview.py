"""The tables of results/README.md: every figure at every scale, with intervals."""

from pathlib import Path

import pandas as pd
from tests.documents.pages import rule110
from tests.documents.pages.gpu import earlier_runs, means_and_gains
from tests.documents.pages.seeds import depo_runs
from tests.documents.scores import average_runs, last_validations, mean, passes, scores
from tests.documents.words import percents

from lmsleep.checks import read_object
from lmsleep.figures.stats import FEWEST
from lmsleep.figures.tables import OF_TWO
from lmsleep.figures.words import counted, interval, percent, short_commit

GSM = {"fig4a": "4a, hard eviction", "fig4b": "4b, looped, Jet layers", "fig5": "5, sliding window"}
SCALES = ("mini", "gpu", "paper")


def tables(root: Path) -> dict[str, pd.DataFrame]:
    """All by name."""
    by_name = {"fig2a": fig2a(root), "fig2b": fig2b(root), "fig3": fig3(root), "gsm": operations(root)}
    return by_name | {"made with": made_with(root)}


def most_seeds(root: Path, figure: str) -> pd.DataFrame:
    """Test scores of a mini figure, of all seeds that were run."""
    more = root / f"results/seeds/{figure}.csv"
    return scores(more if more.exists() else root / f"results/mini/{figure}.csv")


def at_scales(root: Path, figure: str) -> dict[str, pd.DataFrame]:
    """The scores of a figure at each scale that has it: of all seeds at mini scale, at paper scale of validations."""
    runs = {"mini": depo_runs(root) if figure == "fig3" else most_seeds(root, figure)}
    for scale in SCALES[1:]:
        table = root / f"results/{scale}/{figure}.csv"
        if table.exists():
            tested = scores(table)
            runs[scale] = last_validations(table) if tested.empty else tested
    return runs


def across(scale: str, level: str, runs: pd.DataFrame, note: str = "") -> dict[str, str]:
    """A row: means by N, and how far N = 2 and 4 are above N = 1."""
    place = {"scale": scale, "slice": level, "seeds": f"{runs.seed.nunique()}{note}"}
    return place | means_and_gains(runs, (1, 2, 3, 4))


def together(scale: str, level: str, *sets: pd.DataFrame) -> dict[str, str]:
    """The row of several sets of runs with the same seeds: a seed's runs are averaged first. Values of N that not every
    set has are left out, since averages of more and of fewer runs are no pair."""
    common = set.intersection(*(set(passes(runs)) for runs in sets))
    runs = pd.concat(sets)
    runs = runs[runs.n_passes.isin(common)]
    counts = sorted({str(count) for count in runs.groupby("n_passes").size()})
    return across(scale, f"{level}, with earlier runs", average_runs(runs), f" ({' to '.join(counts)} runs)")


def fig2a(root: Path) -> pd.DataFrame:
    """Accuracy against t; two seeds have no interval worth the name."""
    rows = []
    for scale, by_t in at_scales(root, "fig2a").items():
        for t, runs in by_t.groupby("slice"):
            share = mean(runs)
            spread = interval(share) if share.n >= FEWEST else percents(runs.sort_values("seed").value)
            rows.append([scale, str(t), str(share.n), percent(share.value), spread])
    return pd.DataFrame(rows, columns=["scale", "t", "seeds", "right", f"95 % interval{OF_TWO}"])


def fig2b(root: Path) -> pd.DataFrame:
    """Accuracy against N, at several numbers of steps."""
    paper, gpu = root / "results/paper", root / "results/gpu"
    mini, fresh, whole = at_scales(root, "fig2b").values()
    six = rule110.six_seeds(paper)
    rows = [
        across("mini", "t = 4", mini),
        together("mini", "t = 4", mini, scores(root / "results/seeds/fig2b_earlier.csv")),
        across("gpu", "t = 12", fresh),
        together("gpu", "t = 12", last_validations(gpu / "fig2b.csv"), earlier_runs(gpu)),
        across("paper", "t = 12", six),
        together("paper", "t = 12", six, rule110.first_set(paper, rule110.END_T12)),
        across("paper", "t = 32, 15 % of the tokens", last_validations(paper / "fig2b_part.csv")),
        across("paper", "t = 32", whole),
    ]
    return pd.DataFrame(rows)


def fig3(root: Path) -> pd.DataFrame:
    """Accuracy against N, at each number of hops; paper's sizes have seen too little."""
    rows = []
    for scale, by_hops in at_scales(root, "fig3").items():
        for k, runs in by_hops.groupby("slice"):
            rows.append(across(scale, counted(k, "hops"), runs[runs.again == 0] if scale == "mini" else runs))
            rows += [together(scale, counted(k, "hops"), runs)] if scale == "mini" else []
    return pd.DataFrame(rows)


def operations(root: Path) -> pd.DataFrame:
    """Accuracy on GSM-Infinite by the number of operations; at most four of them, the largest and those like it."""
    rows = []
    for figure, name in GSM.items():
        for scale, runs in at_scales(root, figure).items():
            levels = sorted(runs.slice.unique())
            shown = levels if len(levels) <= 4 else levels[1::2]
            by_level = ((counted(k, "operations"), runs[runs.slice == k]) for k in shown)
            rows += [{"figure": name} | across(scale, level, part) for level, part in by_level]
    return pd.DataFrame(rows)


def made_with(root: Path) -> pd.DataFrame:
    """What the runs recorded, those of one scale and code together."""
    files = [(scale, json) for scale in SCALES for json in sorted((root / "results" / scale).glob("*.meta.json"))]
    records = []
    for scale, json in files:
        meta = read_object(json)
        record = {"scale": scale, "tables": json.name.partition(".")[0], "runs": meta["runs"]}
        record |= {"hours of all runs": meta.get("seconds", float("nan")) / 3600}
        record |= {"commit": ", ".join(f"`{short_commit(commit, 7)}`" for commit in meta["commit"])}
        records.append(record | {name: ", ".join(meta[name]) for name in ("torch", "hardware")})
    alike = pd.DataFrame(records).groupby(["scale", "commit", "torch", "hardware"], sort=False, as_index=False)
    sums = {"tables": ", ".join, "runs": "sum", "hours of all runs": lambda hours: hours.sum(skipna=False)}
    table = alike.agg(sums)[list(records[0])]
    table["hours of all runs"] = table["hours of all runs"].map("{:.2f}".format, na_action="ignore")
    return table
