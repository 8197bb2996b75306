"""The numbers of results/gpu that come from its arms: controls, ablations, and what S holds."""

import json
import re
from pathlib import Path

import pandas as pd
from tests.documents.sources import in_words, markdown, mean, paired_p, percents, points, scores, welch

from lmsleep.figures import words
from lmsleep.figures.stats import mean_difference
from lmsleep.figures.words import percent
from lmsleep.sleep import Windows

# Of the commit of figure 2b, where N = 4 has ten runs.
OF_FIGURE_2B = ("steps4", "deep16", "full", "attention", "reset", "embed", "cut")
PROBED = {"fig2b": "Rule 110", "fig3": "Depo"}
HARDEST = 8  # hops


def tables(folder: Path) -> dict[str, str]:
    """The tables about arms."""
    beside = {name: verdicts(folder, name) for name in ("controls", "ablations")}
    return {**beside, "all ten": against_ten(folder), "depo": depo(folder), "probe": probe(folder / "probe.json")}


def sentences(folder: Path) -> tuple[str, ...]:
    """What the page says of arms."""
    return (*rule_110_sentences(folder), *probe_sentences(folder))


def scored(figure: Path, name: str) -> list[dict]:
    """The verdicts of a figure on arms of one task."""
    found = json.loads(figure.read_text())["verdicts"]
    return [record for record in found if record.get("figure", "arms") == name]


def read_exact(folder: Path, arm: str, figure: str) -> float:
    """The mean of an arm over seeds and slices."""
    return json.loads((folder / f"{figure}.json").read_text())["exact"][arm]


def verdicts(folder: Path, figure: str) -> str:
    """Each arm beside the one that it is compared with."""
    rows = [["N = 4 (`n4`)", "", percent(read_exact(folder, "n4", "arms")), "", ""]]
    rows += [
        [r["question"], r["against"], percent(r["exact"]), words.points(r["value"], r["low"], r["high"]), r["verdict"]]
        for r in scored(folder / f"{figure}.json", "arms")
    ]
    return markdown(["question", "against", "right", "points apart, paired by seed", "verdict"], rows)


def questions(folder: Path) -> int:
    """How many questions the arms of Rule 110 answer."""
    return sum(len(scored(folder / f"{figure}.json", "arms")) for figure in ("controls", "ablations"))


def of_arm(folder: Path, arm: str) -> pd.Series:
    """The scores of an arm on Rule 110, by seed."""
    part = scores(folder / "arms.csv")
    return part[part.model == arm].set_index("seed").value


def ten_runs(folder: Path) -> pd.Series:
    """The scores of figure 2b with N = 4, by seed."""
    part = scores(folder / "fig2b.csv")
    return part[part.n_passes == 4].set_index("seed").value


def against_ten(folder: Path) -> str:
    """The arms of figure 2b's commit against all its runs with N = 4."""
    rows = []
    for arm in OF_FIGURE_2B:
        apart, p = welch(of_arm(folder, arm), ten_runs(folder))
        rows.append([f"`{arm}`", percent(of_arm(folder, arm).mean()), points(apart), small(questions(folder) * p)])
    header = ["arm", "right", f"points above N = 4, {len(ten_runs(folder))} runs", f"p, times {questions(folder)}"]
    return markdown(header, rows)


def small(p: float) -> str:
    """A corrected p, 1 at most: below 0.001, 0.003, 1."""
    return "below 0.001" if p < 0.001 else f"{min(p, 1):.1g}"


def rule_110_sentences(folder: Path) -> tuple[str, ...]:
    """Of the arms on Rule 110."""
    again, ten, asked = of_arm(folder, "n4"), ten_runs(folder), questions(folder)
    there = ten[again.index]
    corrected = [asked * welch(of_arm(folder, arm), ten)[1] for arm in OF_FIGURE_2B]
    steps4 = paired_p(of_arm(folder, "steps4"), again)
    at = {
        r["passes"]: r["exact"]
        for r in json.loads((folder / "ablations.json").read_text())["arms_at_test"]
        if r["arm"] == "drawn" and not r["threshold"]
    }
    more = [Windows(length, 24, (False,) * 4 + (True,)).token_passes(4) / length for length in (100, 120)]
    return (
        f"{in_words(len(again))} seeds so far ({again.index.min()} to {again.index.max()})",
        f"of the {asked} questions of this task",
        f"p = {steps4:.3f}, and {asked} times that is {asked * steps4:.2f}",
        f"{sum(p < 0.05 for p in corrected)} of {len(corrected)} stay below 0.05 with p times {asked}",
        f"has {percent(again.mean())} in its {len(again)} runs, which go from {100 * again.min():.1f} to "
        f"{percent(again.max())}, and figure 2b's runs of these seeds have {percent(there.mean())}",
        f"(`small`, d = 192, one seed) has {percent(mean(scores(folder / 'small.csv')).value)}",
        f"4.0 times the operations of N = 1, a sleep with N = 4 {more[0]:.1f} times here and {more[1]:.1f} times on "
        f"Depo: they have {percent(4 / more[0] - 1, 0)} and {percent(4 / more[1] - 1, 0)} more than N = 4",
        f"{percents([at[n] for n in (1, 2, 4, 8)])} with 1, 2, 4 and 8 passes at test",
        f"right in {percent(mean(scores(folder / 'small.csv')).value)} of test rows",
    )


def depo(folder: Path) -> str:
    """The controls on Depo: over all hops, and at the hardest."""
    part = scores(folder / "arms_depo.csv")
    hardest = part[part.slice == HARDEST].groupby("model").value.mean()
    rows = [["N = 4 (`n4`)", percent(read_exact(folder, "n4", "arms_depo")), percent(hardest["n4"]), "", ""]]
    rows += [
        [
            r["question"].removesuffix(" (Depo)"),
            percent(r["exact"]),
            percent(hardest[r["arm"]]),
            words.points(r["value"], r["low"], r["high"]),
            r["verdict"],
        ]
        for r in scored(folder / "controls.json", "arms_depo")
    ]
    return markdown(["question", "right", f"at {HARDEST} hops", "points above N = 4, paired by seed", "verdict"], rows)


def probe(figure: Path) -> str:
    """What is read in S after the wake pass and after pass 4, by N of the training."""
    found = json.loads(figure.read_text())
    at = {(r["figure"], r["n_passes"], r["read"], r["pass"]): r["value"] for r in found["probe"]}
    rows = []
    for r in found["verdicts"]:
        key = r["figure"], r["n_passes"], r["read"]
        trained = f"N = {r['n_passes']}" if r["n_passes"] else "first weights"
        shares = [percent(at[*key, made]) for made in (1, r["passes"])]
        apart = words.points(r["value"], r["low"], r["high"])
        what = re.sub(r"\b1 (step|hop)s", r"1 \1", r["read"].replace("_", " "))
        rows.append([PROBED[r["figure"]], trained, what, *shares, apart, r["verdict"]])
    header = ["task", "trained with", "read", "after pass 1", "after pass 4", "points apart, paired by seed"]
    return markdown([*header, "more passes"], rows)


def readable(folder: Path, figure: str, what: str) -> pd.DataFrame:
    """How much of something is read in S: a row for each seed, columns (N of the training, passes made)."""
    part = scores(folder / "probe.csv", f"probe_{what}")
    part = part[part.figure == figure]
    return part.pivot(index="seed", columns=["n_passes", "slice"], values="value")


def probe_sentences(folder: Path) -> tuple[str, ...]:
    """What the page says of the probe."""
    found = json.loads((folder / "probe.json").read_text())["verdicts"]
    p = []
    for r in found:
        wide = readable(folder, r["figure"], r["read"])
        p.append(paired_p(wide[r["n_passes"], r["passes"]], wide[r["n_passes"], 1]))
    apart = sum(r["low"] > 0 or r["high"] < 0 for r in found)
    hops, label = readable(folder, "fig3", "after_2_hops"), readable(folder, "fig2b", "label")
    return (
        f"Of {len(found)} rows {apart} have an interval without zero; of these the label with N = 4 alone has a small "
        f"p ({min(p):.4f}, times {len(found)} {len(found) * min(p):.3f})",
        f"is {points(mean_difference(label[4, 4] - label[1, 1]))} points from what the one pass of N = 1 leaves",
        f"is {points(mean_difference(hops[4, 4] - hops[1, 1]))} points",
    )
