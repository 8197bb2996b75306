"""The tables of results/gpu about arms: controls, ablations, and what S holds."""

from pathlib import Path
from typing import Any

import pandas as pd
from tests.documents.scores import averages, read, scores, steady, welch

from lmsleep.checks import read_object
from lmsleep.figures.stats import Estimate, mean_difference
from lmsleep.figures.tables import verdicts_table
from lmsleep.figures.words import percent, points, probed

TASKS = {"fig2b": "Rule 110", "fig3": "Depo"}
HARDEST = 8  # hops
PAIRED = "points apart, paired by seed"
TOGETHER = "points above N = 4, all runs of both commits"


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    """All by name."""
    beside = {group: beside_n4(folder, group, "arms").rename(columns={"points": PAIRED}) for group in GROUPS}
    return beside | {"all ten": against_ten(folder), "depo": depo(folder), "probe": probe(folder / "probe.json")}


GROUPS = ("controls", "ablations")


def arm_verdicts(folder: Path, group: str, figure: str) -> list[dict[str, Any]]:
    """The verdicts of a group on the arms of a figure."""
    return [record for record in read_object(folder / f"{group}.json")["verdicts"] if record["figure"] == figure]


def beside_n4(folder: Path, group: str, figure: str) -> pd.DataFrame:
    """The verdicts of a group on the arms of a figure, below the accuracy of N = 4."""
    n4 = averages(scores(folder / f"{figure}.csv", model="n4"))
    first = pd.DataFrame([{"arm": "N = 4 (`n4`)", "against": "", "right": percent(n4.mean()), "seeds": str(len(n4))}])
    table = verdicts_table(arm_verdicts(folder, group, figure), "question")
    return pd.concat([first, table]).rename(columns={"arm": "question"})


def questions(folder: Path) -> int:
    """How many questions the arms of Rule 110 answer."""
    return sum(len(arm_verdicts(folder, group, "arms")) for group in GROUPS)


def of_arm(folder: Path, arm: str) -> pd.Series:
    """The scores of an arm on Rule 110, by seed."""
    return scores(folder / "arms.csv", model=arm).set_index("seed").value


def pairs(folder: Path, arm: str, against: str) -> tuple[pd.Series, pd.Series]:
    """The scores of two arms on Rule 110, of the seeds that both have."""
    first, second = of_arm(folder, arm), of_arm(folder, against)
    seeds = first.index.intersection(second.index)
    return first[seeds], second[seeds]


def ten_runs(folder: Path) -> pd.Series:
    """The scores of figure 2b with N = 4, by seed."""
    return scores(folder / "fig2b.csv", n_passes=4).set_index("seed").value


def earlier_runs(folder: Path) -> dict[str, pd.Series]:
    """The scores of the arms that were run at figure 2b's commit before, by arm and seed."""
    runs = read(folder / "arms_earlier.csv").groupby("model", sort=False)
    return {str(arm): part.set_index("seed").exact for arm, part in runs}


def all_runs(folder: Path, arm: str) -> tuple[pd.Series, int]:
    """The scores of an arm by seed, the mean over its runs at both commits, and how many runs these are."""
    runs = [of_arm(folder, arm), ten_runs(folder) if arm == "n4" else earlier_runs(folder)[arm]]
    every = pd.concat(runs).rename("value").rename_axis("seed").reset_index()
    return averages(every), len(every)


def above_all(folder: Path, arm: str) -> Estimate:
    """How far an arm is above N = 4, paired by seed, over the runs of both commits."""
    (ours, _), (n4, _) = all_runs(folder, arm), all_runs(folder, "n4")
    return steady(mean_difference((ours - n4).dropna()))


def against_ten(folder: Path) -> pd.DataFrame:
    """The arms of figure 2b's commit against all its runs with N = 4, p multiplied by the number of questions, what the
    same seeds and all seeds of the arm score at the commit of the other arms, and both commits together."""
    rows, ten, times = [], ten_runs(folder), questions(folder)
    for arm, runs in earlier_runs(folder).items():
        difference, p = welch(runs, ten)
        corrected = "below 0.001" if times * p < 0.001 else f"{min(times * p, 1):.1g}"
        again = of_arm(folder, arm)
        once_more = [percent(again[runs.index].mean()), percent(again.mean())]
        together = points(above_all(folder, arm))
        rows.append([f"`{arm}`", percent(runs.mean()), points(difference), corrected, *once_more, together])
    seeds = len(next(iter(earlier_runs(folder).values())))
    header = ["arm", f"right, {seeds} seeds", f"points above N = 4, {len(ten)} runs", f"p, times {times}"]
    return pd.DataFrame(rows, columns=[*header, "the same seeds again", "all seeds", TOGETHER])


def depo(folder: Path) -> pd.DataFrame:
    """The controls on Depo: over all hops, and at the hardest."""
    table = beside_n4(folder, "controls", "arms_depo").drop(columns="against")
    names = ["n4", *(record["arm"] for record in arm_verdicts(folder, "controls", "arms_depo"))]
    hardest = averages(scores(folder / "arms_depo.csv", slice=HARDEST), "model")
    table.insert(2, f"at {HARDEST} hops", [percent(hardest[name]) for name in names])
    table["question"] = table.question.str.removesuffix(" (Depo)")
    return table.rename(columns={"points": "points above N = 4, paired by seed"})


def probe(json: Path) -> pd.DataFrame:
    """What is read in S after the wake pass and after pass 4, by N of the training."""
    numbers, rows = read_object(json), []
    shares = {(r["figure"], r["n_passes"], r["read"], r["pass"]): r["value"] for r in numbers["probe"]}
    for r in numbers["verdicts"]:
        n = r["n_passes"]
        row = {
            "task": TASKS[r["figure"]],
            "trained with": f"N = {n}" if n else "first weights",
            "read": probed(r["read"]),
        }
        row |= {f"after pass {k}": percent(shares[r["figure"], n, r["read"], k]) for k in (1, r["passes"])}
        rows.append(row | {PAIRED: points(Estimate.of(r)), "more passes": r["verdict"]})
    return pd.DataFrame(rows)


def probe_scores(folder: Path, figure: str, read: str) -> pd.DataFrame:
    """How much of something is read in S: a row for each seed, columns (N of the training, passes made)."""
    runs = scores(folder / "probe.csv", f"probe_{read}", figure=figure)
    return runs.pivot(index="seed", columns=["n_passes", "slice"], values="value")
