"""The numbers of results/gpu: figures of one card, with fresh seeds."""

import json
from pathlib import Path
from typing import Any

from tests.documents.document import Document
from tests.documents.sources import (
    ahead,
    at_the_end,
    ends,
    markdown,
    mean,
    millions,
    passes,
    percents,
    points,
    read,
    scores,
)

from lmsleep.figures import words
from lmsleep.figures.plots.text import OPERATIONS, STEPS
from lmsleep.figures.stats import mean_difference
from lmsleep.figures.words import percent

FIGURES = {"fig3": "hops", "fig2b": "t"}
GSM = ("fig4a", "fig4b", "fig5")
SEEDS = (100, 101, 102)  # of the arms
OWN = (r"torch 2\.\d+", r"95 % interval")


def documents(root: Path) -> list[Document]:
    """The page, if there is one."""
    folder = root / "results/gpu"
    if not (folder / "README.md").exists():
        return []
    tables = {name: scored(folder / f"{name}.csv", unit) for name, unit in FIGURES.items()}
    tables |= {name: by_operations(folder / f"{name}.csv") for name in GSM} | {"ways": ways(folder)}
    tables |= {"text": natural_text(folder / "text.json")} if (folder / "text.json").exists() else {}
    tables |= {"rates": rates(folder / "fig3_rates.csv"), "earlier": earlier(folder / "fig2b_earlier.csv")}
    tables |= {name: arms(folder / f"{name}.json") for name in ("controls", "ablations")}
    tables |= {"fig2a": steps(folder / "fig2a.csv"), "depo": depo(folder), "probe": probe(folder / "probe.json")}
    spans = [
        f"{millions(read(folder / f'{name}.csv').tokens.max(), 1)} tokens a run" for name in (*FIGURES, *GSM, "fig2a")
    ]
    return [Document("results/gpu/README.md", tables, (*spans, *said(folder)), OWN)]


def said(folder: Path) -> list[str]:
    """What the sentences between the tables say of single scores."""
    first, again = (scores(folder / f"{name}.csv") for name in ("fig2b", "arms"))
    fours = [part[part.seed.isin(SEEDS) & (part.n_passes == 4)] for part in (first, again[again.model == "n4"])]
    ends = fours[1].groupby("seed").value.mean()
    at = {
        r["passes"]: r["exact"]
        for r in json.loads((folder / "ablations.json").read_text())["arms_at_test"]
        if r["arm"] == "drawn" and not r["threshold"]
    }
    return [
        f"{percent(mean(fours[0]).value)} in figure 2b's runs of these seeds, {percent(mean(fours[1]).value)} in those "
        "here",
        f"from {100 * ends.min():.1f} to {percent(ends.max())}",
        f"right in {percent(mean(scores(folder / 'small.csv')).value)} of test rows",
        f"{percents([at[n] for n in (1, 2, 4, 8)])} with 1, 2, 4 and 8 passes at test",
        f"{percent(at_the_end(folder / 'pretrained.csv').value.mean())} of answers right at its last validation",
    ]


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


def read_exact(folder: Path, arm: str, figure: str) -> float:
    """The mean of an arm over seeds and slices."""
    return json.loads((folder / f"{figure}.json").read_text())["exact"][arm]


def steps(csv: Path) -> str:
    """Figure 2a: means with intervals by t, and how far below the least t."""
    part = scores(csv)
    wide = part.pivot(index="seed", columns="slice", values="value")
    rows = [
        [
            str(t),
            percent((whole := mean(part, 1, t)).value),
            ends(whole),
            "" if t == wide.columns[0] else points(mean_difference(wide[t] - wide[wide.columns[0]])),
        ]
        for t in wide.columns
    ]
    return markdown(["t", "right, mean over seeds", "95 % interval", f"points from t = {wide.columns[0]}"], rows)


def depo(folder: Path) -> str:
    """The controls on Depo: over all hops, and at 8."""
    found = json.loads((folder / "controls.json").read_text())["verdicts"]
    part = scores(folder / "arms_depo.csv")
    eight = part[part.slice == 8].groupby("model").value.mean()
    rows = [["N = 4 (`n4`)", percent(read_exact(folder, "n4", "arms_depo")), percent(eight["n4"]), "", ""]]
    rows += [
        [
            r["question"].removesuffix(" (Depo)"),
            percent(r["exact"]),
            percent(eight[r["arm"]]),
            words.points(r["value"], r["low"], r["high"]),
            r["verdict"],
        ]
        for r in found
        if r["figure"] == "arms_depo"
    ]
    return markdown(["question", "right", "at 8 hops", "points above N = 4, paired by seed", "verdict"], rows)


def probe(figure: Path) -> str:
    """What is read in S after the wake pass and after pass 4, by N of the training."""
    found = json.loads(figure.read_text())
    at = {(r["figure"], r["n_passes"], r["read"], r["pass"]): r["value"] for r in found["probe"]}
    rows = []
    for r in found["verdicts"]:
        key, trained = (
            (r["figure"], r["n_passes"], r["read"]),
            f"N = {r['n_passes']}" if r["n_passes"] else "first weights",
        )
        task, what = {"fig2b": "Rule 110", "fig3": "Depo"}[r["figure"]], r["read"].replace("_", " ")
        apart = words.points(r["value"], r["low"], r["high"])
        rows.append([task, trained, what, percent(at[*key, 1]), percent(at[*key, r["passes"]]), apart, r["verdict"]])
    header = [
        "task",
        "trained with",
        "read",
        "after pass 1",
        "after pass 4",
        "points apart, paired by seed",
        "more passes",
    ]
    return markdown(header, rows)


def scored(csv: Path, unit: str) -> str:
    """Means with intervals, and differences, by slice and N."""
    part, rows = scores(csv), []
    for level in sorted(part.slice.unique()):
        near = part[part.slice == level]
        for n in passes(near):
            whole = mean(near, n)
            apart = points(ahead(near, n)) if n > 1 else ""
            rows.append([str(level), str(n), percent(whole.value), ends(whole), apart])
    header = [unit, "N", "right, mean over seeds", "95 % interval", "points above N = 1, paired by seed"]
    return markdown(header, rows)


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


def earlier(csv: Path) -> str:
    """The last validation of the runs of earlier commits, by commit, N and seed, and how far those of now are above."""
    then, now = read(csv), at_the_end(csv.parent / "fig2b.csv").set_index(["n_passes", "seed"]).value
    seeds, rows = sorted(then.seed.unique()), []
    for (commit, n), part in then.groupby(["commit", "n_passes"], sort=False):
        exact = part.set_index("seed").exact
        apart = mean_difference(now[n].reindex(exact.index) - exact)
        rows.append([commit, str(n), *(percent(exact[s]) if s in exact else "" for s in seeds), points(apart)])
    return markdown(["commit", "N", *(f"seed {s}" for s in seeds), "now above that, paired by seed"], rows)


def arms(figure: Path) -> str:
    """Each arm beside the one that it is compared with."""
    found, whole = (json.loads(path.read_text()) for path in (figure, figure.with_name("arms.json")))
    rows = [["N = 4 (`n4`)", "", percent(whole["exact"]["n4"]), "", ""]]
    rows += [
        [r["question"], r["against"], percent(r["exact"]), words.points(r["value"], r["low"], r["high"]), r["verdict"]]
        for r in found["verdicts"]
        if r.get("figure", "arms") == "arms"
    ]
    return markdown(["question", "against", "right", "points apart, paired by seed", "verdict"], rows)
