"""The numbers of results/gpu: figures of one card, with fresh seeds."""

import json
from pathlib import Path

from tests.documents.document import Document
from tests.documents.sources import ahead, at_the_end, ends, markdown, mean, millions, passes, points, read, scores

from lmsleep.figures import words
from lmsleep.figures.stats import mean_difference
from lmsleep.figures.words import percent

FIGURES = {"fig3": "hops", "fig2b": "t"}
OWN = (r"torch 2\.\d+", r"95 % interval", r"88\.7 %")  # the last: pretraining, of which no table is kept


def documents(root: Path) -> list[Document]:
    """The page, if there is one."""
    folder = root / "results/gpu"
    if not (folder / "README.md").exists():
        return []
    tables = {name: scored(folder / f"{name}.csv", unit) for name, unit in FIGURES.items()}
    tables |= {"rates": rates(folder / "fig3_rates.csv"), "earlier": earlier(folder / "fig2b_earlier.csv")}
    tables |= {name: arms(folder / f"{name}.json") for name in ("controls", "ablations")}
    spans = [f"{millions(read(folder / f'{name}.csv').tokens.max(), 1)} tokens a run" for name in FIGURES]
    return [Document("results/gpu/README.md", tables, tuple(spans), OWN)]


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
