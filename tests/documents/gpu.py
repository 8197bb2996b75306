"""The numbers of results/gpu: figures of one card, with fresh seeds."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
from tests.documents import arms
from tests.documents.document import Document
from tests.documents.sources import (
    ahead,
    at_the_end,
    average_runs,
    each,
    ends,
    in_words,
    listed,
    markdown,
    mean,
    millions,
    passes,
    percents,
    points,
    read,
    scores,
)

from lmsleep.figures.plots.text import OPERATIONS, STEPS
from lmsleep.figures.stats import mean_difference
from lmsleep.figures.words import percent

FIGURES = {"fig3": "hops", "fig2b": "t"}
GSM = ("fig4a", "fig4b", "fig5")
LINE = 0.4  # between the runs of Depo that found 8 hops and those that did not
SINGLE = 5  # seeds, up to which a table has every run's score
OWN = (r"torch 2\.\d+", r"95 % (?:t )?interval", r"4\.0 times the operations")


def documents(root: Path) -> list[Document]:
    """The page, if there is one."""
    folder = root / "results/gpu"
    if not (folder / "README.md").exists():
        return []
    tables = {name: scored(folder / f"{name}.csv", unit) for name, unit in FIGURES.items()}
    tables |= {name: by_operations(folder / f"{name}.csv") for name in GSM} | {"ways": ways(folder)}
    tables |= {"text": natural_text(folder / "text.json")} if (folder / "text.json").exists() else {}
    tables |= {"rates": rates(folder / "fig3_rates.csv"), "earlier": earlier(folder)}
    tables |= {"fig2a": steps(folder / "fig2a.csv"), **arms.tables(folder)}
    trained = (read(folder / f"{name}.csv").tokens.max() for name in (*FIGURES, *GSM, "fig2a"))
    spans = [f"{millions(tokens, 1)} tokens a run" for tokens in trained]
    return [Document("results/gpu/README.md", tables, (*spans, *sentences(folder), *arms.sentences(folder)), OWN)]


def sentences(folder: Path) -> tuple[str, ...]:
    """What the page says of figures 2b and 3."""
    rule, now, then = (scores(folder / "fig2b.csv"), at_the_end(folder / "fig2b.csv"), before(folder))
    pooled = average_runs(pd.concat([now, then]))
    hops = scores(folder / "fig3.csv")
    far = hops[hops.slice == hops.slice.max()]
    over = [str((far[far.n_passes == n].value > LINE).sum()) for n in (1, 2, 4)]
    alone = hops[hops.n_passes == 1].groupby("seed").value.mean()
    tuned = sorted(read(folder / "fig3_rates.csv").exact)
    seconds = sum(json.loads(path.read_text())["seconds"] for path in folder.glob("*.meta.json"))
    above = [points(ahead(pooled, n)) for n in (2, 3, 4)]
    unslept = scores(folder / "fig2a.csv")
    return (
        f"Rule 110 without sleep, {in_words(unslept.groupby('slice').seed.nunique().min())} of ten seeds",
        f"they took {seconds / 3600:.1f} hours",
        f"N = 4 is {points(ahead(rule, 4, 2))} points above N = 2 and {points(ahead(rule, 4, 3))} above N = 3",
        f"With all {len(now) + len(then)} runs, a seed's averaged first, N = 2, 3 and 4 are {listed(above)} points "
        "above N = 1",
        f"N = 4 is {points(ahead(hops, 4))} points above N = 1 over all hops, N = 2 {points(ahead(hops, 2))}",
        f"above {percent(LINE, 0)} right there are {listed(over)} of {far.seed.nunique()} runs with N = 1, 2 and 4",
        f"have a standard deviation of {100 * alone.std():.1f} points over all hops",
        f"ahead by {100 * (tuned[-1] - tuned[-2]):.1f} points",
        f"{percent(at_the_end(folder / 'pretrained.csv').value.mean())} of answers right at its last validation",
    )


def ways(folder: Path) -> str:
    """Figures 4a, 4b and 5: every run of N = 4, with S cut, and the models of N = 4 with other N at test."""
    rows = []
    for name in GSM:
        csv = folder / f"{name}.csv"
        four, cut = (scores(csv, metric, n_passes=4) for metric in ("test_exact", "cut_exact"))
        others = [four if n == 4 else scores(csv, f"test_n{n}_exact", n_passes=4) for n in range(1, 7)]
        by_seed = percents(list(four.groupby("seed").value.mean()))
        rows.append([name.removeprefix("fig"), by_seed, *(percent(mean(part).value) for part in (cut, *others))])
    header = ["figure", "N = 4, by seed", "with S cut", "1 pass at test", *(f"{n} passes" for n in range(2, 7))]
    return markdown(header, rows)


def by_operations(csv: Path) -> str:
    """Means of each N by operations and over all, and how far N = 2 and N = 4 are above N = 1."""
    part = scores(csv)
    seeds = {n: part[part.n_passes == n].seed.nunique() for n in (1, 2, 4)}
    rows = []
    for level in (*sorted(part.slice.unique()), "all"):
        near = part if level == "all" else part[part.slice == level]
        shares = [percent(mean(near, n).value) for n in seeds]
        rows.append([str(level), *shares, *(points(ahead(near, n)) for n in (2, 4))])
    header = ["operations", *(f"N = {n}, {count} seeds" for n, count in seeds.items())]
    return markdown([*header, *(f"N = {n} above N = 1, points, paired by seed" for n in (2, 4))], rows)


def before(folder: Path) -> pd.DataFrame:
    """The last validations of figure 2b's runs of earlier commits."""
    then = read(folder / "fig2b_earlier.csv").rename(columns={"exact": "value"})
    return then.assign(slice=int(at_the_end(folder / "fig2b.csv").slice.iloc[0]))


def steps(csv: Path) -> str:
    """Figure 2a: means with intervals by t, and how far below the least t."""
    part = scores(csv)
    wide = part.pivot(index="seed", columns="slice", values="value")
    rows = [
        [
            str(t),
            percent((whole := mean(part, 1, t)).value),
            ends(whole),
            "" if t == wide.columns[0] else points(mean_difference((wide[t] - wide[wide.columns[0]]).dropna())),
        ]
        for t in wide.columns
    ]
    return markdown(["t", "right, mean over seeds", "95 % interval", f"points from t = {wide.columns[0]}"], rows)


def scored(csv: Path, unit: str) -> str:
    """Means with intervals, and differences, by slice and N."""
    part, rows = scores(csv), []
    few = part.seed.nunique() <= SINGLE
    for level in sorted(part.slice.unique()):
        near = part[part.slice == level]
        for n in passes(near):
            whole = mean(near, n)
            apart = points(ahead(near, n)) if n > 1 else ""
            single = [each(near[near.n_passes == n].sort_values("seed").value)] if few else []
            rows.append([str(level), str(n), percent(whole.value), *single, ends(whole), apart])
    header = [unit, "N", "right, mean over seeds", *(["each seed"] if few else []), "95 % interval"]
    return markdown([*header, "points above N = 1, paired by seed"], rows)


def natural_text(figure: Path) -> str:
    """Losses of unseen files of each N after equal steps, of N = 1 after the operations of others, and differences."""
    found, rows = json.loads(figure.read_text()), []
    apart = {(r["n_passes"], r["trained_as"], r["against"]): r for r in found["text"]}
    for r in (r for r in found["losses"] if r["metric"] == "test_loss"):
        run = r["n_passes"], r["trained_as"]
        name = f"N = {run[0]}" + (f", operations of N = {run[1]}" if run[0] != run[1] else "")
        beside = [apart.get((*run, against)) for against in (STEPS, OPERATIONS)]
        spans = [f"{d['value']:+.4f} ({between(d, '+.4f')})" if d else "" for d in beside]
        rows.append([name, millions(r["tokens"], 1), f"{r['value']:.4f}", between(r, ".4f"), *spans])
    against = ["less N = 1 at equal steps", "less N = 1 at equal operations"]
    return markdown(["run", "tokens", "nats a byte", "95 % interval", *against], rows)


def between(record: dict[str, Any], form: str) -> str:
    """The ends of an interval; one seed has none."""
    return "–" if record["low"] is None else f"{record['low']:{form}} to {record['high']:{form}}"


def rates(csv: Path) -> str:
    """The last validation of each pair of rates."""
    table = read(csv)
    hops = [name for name in table.columns if name.startswith("exact/")]
    rows = [[r.muon_lr, r.adamw_lr, *(percent(float(r[c])) for c in ("exact", *hops))] for _, r in table.iterrows()]
    header = ["Muon", "AdamW", "all", *(f"{h.removeprefix('exact/')} hop{'s' * (h != 'exact/1')}" for h in hops)]
    return markdown(header, [[f"{x:.0e}".replace("e-0", "e-") if isinstance(x, float) else x for x in r] for r in rows])


def earlier(folder: Path) -> str:
    """How far the runs of now are above those of the same seeds at each earlier commit, by N."""
    then, now = before(folder), at_the_end(folder / "fig2b.csv").set_index(["n_passes", "seed"]).value
    rows = []
    for commit, runs in then.groupby("commit", sort=False):
        apart = []
        for n, part in runs.groupby("n_passes"):
            old = part.set_index("seed").value
            apart.append(points(mean_difference(now[n].reindex(old.index) - old)))
        rows.append([str(commit), str(len(runs)), *apart])
    return markdown(["commit", "runs", *(f"N = {n}" for n in passes(then))], rows)
