"""The numbers of results/README.md: every figure at every scale, with intervals."""

import json
from pathlib import Path

import pandas as pd
from tests.documents import rule110
from tests.documents.document import Document
from tests.documents.paper import BY_WINDOWS, PARALLEL, depo_csv, fig6_speeds, one_hop_begins
from tests.documents.readme import cost, slowdown
from tests.documents.seeds import CHOSEN_ON
from tests.documents.sources import (
    DEPO_HOPS,
    ahead,
    answers,
    at_the_end,
    depo_runs,
    ends,
    listed,
    markdown,
    mean,
    millions,
    passes,
    percents,
    points,
    read,
    scores,
    side,
)

from lmsleep.figures.plots.runtime import flatness
from lmsleep.figures.words import percent, signed

OWN = (
    r"95 % (?:t )?intervals?",
    r"5 B\b",  # the paper's budget
    r"4\.6 B\b",
    r"60k to 150k parameters",
    r"5 and 15 ms",  # what results/bench/train_h100.md aims at
)
STEPS = "train_h100_8d87959.json"  # the newest in results/bench
GSM = {"fig4a": "4a, hard eviction", "fig4b": "4b, looped, Jet layers", "fig5": "5, sliding window"}
SCALES = ("mini", "gpu", "paper")
ACROSS = ["scale", "slice", "seeds", "N = 1", "N = 2", "N = 3", "N = 4", "N = 2 above N = 1", "N = 4 above N = 1"]


def documents(root: Path) -> list[Document]:
    """The page."""
    tables = {"fig2a": fig2a(root), "fig2b": fig2b(root), "fig3": fig3(root), "gsm": operations(root)}
    said = (*mini_sentences(root), *paper_sentences(root), *speed_sentences(root))
    return [Document("results/README.md", tables, said, OWN)]


def most_seeds(root: Path, figure: str) -> pd.DataFrame:
    """Test scores of a mini figure, of all seeds that were run."""
    more = root / f"results/seeds/{figure}.csv"
    return scores(more if more.exists() else root / f"results/mini/{figure}.csv")


def of_scale(root: Path, figure: str) -> dict[str, pd.DataFrame]:
    """The scores of a figure at each scale that has it: of all seeds at mini scale, at paper scale of validations."""
    found = {"mini": depo_runs(root) if figure == "fig3" else most_seeds(root, figure)}
    for scale in SCALES[1:]:
        table = root / f"results/{scale}/{figure}.csv"
        if table.exists():
            part = scores(table)
            found[scale] = at_the_end(table) if part.empty else part
    return found


def across(scale: str, level: str, part: pd.DataFrame) -> list[str]:
    """A row: means by N, and how far N = 2 and 4 are above N = 1, paired by seed."""
    there = passes(part)
    means = [percent(mean(part, n).value) if n in there else "" for n in (1, 2, 3, 4)]
    return [scale, level, str(part.seed.nunique()), *means, *(points(ahead(part, n)) for n in (2, 4))]


def fig2a(root: Path) -> str:
    """Accuracy against t."""
    rows = []
    for scale, part in of_scale(root, "fig2a").items():
        for t in sorted(map(int, part.slice.unique())):
            whole = mean(part, level=t)
            rows.append([scale, str(t), str(whole.n), percent(whole.value), ends(whole)])
    return markdown(["scale", "t", "seeds", "right", "95 % interval"], rows)


def fig2b(root: Path) -> str:
    """Accuracy against N, at several numbers of steps."""
    folder = root / "results/paper"
    six, nine = rule110.both_t12(folder)
    rows = [across(scale, f"t = {part.slice.iloc[0]}", part) for scale, part in of_scale(root, "fig2b").items()]
    rows.insert(-1, across("paper", "t = 12", six))
    pooled = ["paper", "t = 12, with an earlier set", str(nine.seed.nunique()), *[""] * 4, points(ahead(nine, 2)), ""]
    rows.insert(-1, pooled)
    return markdown(ACROSS, rows)


def fig3(root: Path) -> str:
    """Accuracy against N, at each number of hops; paper's sizes have seen too little."""
    rows = [
        across(scale, f"{k} hop{'s' if k > 1 else ''}", part[part.slice == k])
        for scale, part in of_scale(root, "fig3").items()
        for k in sorted(map(int, part.slice.unique()))
    ]
    return markdown(ACROSS, rows)


def operations(root: Path) -> str:
    """Accuracy on GSM-Infinite over all numbers of operations."""
    rows = [
        [name, *across(scale, f"{part.slice.min()} to {part.slice.max()} operations", part)]
        for figure, name in GSM.items()
        for scale, part in of_scale(root, figure).items()
    ]
    return markdown(["figure", *ACROSS], rows)


def mini_sentences(root: Path) -> tuple[str, ...]:
    """What the page says of mini runs."""
    rule, depo = most_seeds(root, "fig2b"), depo_runs(root)
    shown = scores(root / "results/mini/fig2b.csv")
    late = rule[rule.seed > CHOSEN_ON]
    k, near, far = int(depo.slice.max()), depo[depo.slice == DEPO_HOPS], depo[depo.slice == depo.slice.max()]
    return (
        f"the {shown.seed.nunique()} runs that `make repro` draws answer {answers(shown)} for N = 1, 2 and 4",
        f"[all {rule.seed.nunique()} seeds that were run](seeds/README.md) {answers(rule)}",
        f"**N = 2 is {points(ahead(rule, 2))} points above N = 1**, N = 4 {points(ahead(rule, 4))}",
        f"the second look alone, {late.seed.nunique()} seeds, says {points(ahead(late, 2))} and "
        f"{points(ahead(late, 4))}",
        f"at {DEPO_HOPS} hops the intervals lie {side(ahead(near, 2))} for N = 2 and {side(ahead(near, 4))} for N = 4",
        f"At {k} hops they answer {answers(far)}",
    )


def paper_sentences(root: Path) -> tuple[str, ...]:
    """What the page says of runs at the paper's sizes."""
    folder = root / "results/paper"
    six, nine = rule110.both_t12(folder)
    first, left = nine[nine.seed >= rule110.FIRST_SET], rule110.leaves(folder)
    hop, end = one_hop_begins(folder, 1), at_the_end(depo_csv(folder))
    one = end[(end.n_passes == 1) & (end.slice == 1)].iloc[0]
    return (
        f"decide {', and '.join(rule110.decided_2a(folder))} after "
        f"{millions(at_the_end(folder / 'fig2a.csv').tokens.min())} tokens",
        f"**N = 2 is {points(ahead(nine, 2))} points above N = 1** over nine pairs of runs after "
        f"{millions(rule110.END_T12)} tokens: six seeds give {points(ahead(six, 2))}, an earlier set of three "
        f"{points(ahead(first, 2))}; N = 4, six seeds, {points(ahead(six, 4))}",
        f"one seed and {millions(rule110.END_2B)} of the paper's 5 B tokens give "
        f"{percents(list(rule110.finals_2b(folder).values()))} for N = 1, 2, 3 and 4, where always answering 1 gives "
        f"{percent(rule110.majority(32), 2)}",
        f"leaves that line at {millions(left[1])} tokens",
        f"The paper prints {listed(rule110.printed(folder))} %",
        f"from {millions(hop)} tokens on with N = 1, {percent(one.value, 0)} at {millions(one.tokens)} of 4.6 B",
    )


def speed_sentences(root: Path) -> tuple[str, ...]:
    """What the page says of speed."""
    mini, paper = root / "results/mini", root / "results/paper"
    speed = fig6_speeds(mini)
    largest = max(window for _, window, _ in speed)
    slower = 1 - speed[BY_WINDOWS, largest, 1] / speed[PARALLEL, largest, 1]
    token = read(paper / "latency.csv")
    token = token[(token.model == "hybrid") & (token.metric == "latency_mean_ms")].value
    timed = json.loads((root / "results/bench" / STEPS).read_text())["rows"]
    step = {
        row["n_passes"]: row["ms_per_step"] for row in timed if row["commit"] in STEPS and row["run"] == "rule110.yaml"
    }
    return (
        f"at most {cost(paper)} slower than a parallel sliding window; N = 4 is {slowdown(paper)} times slower",
        f"{percent(slower, 0)} slower and {speed[BY_WINDOWS, largest, 1] / speed[BY_WINDOWS, largest, 4]:.1f} times",
        f"{token.min():.1f} to {token.max():.1f} ms a token on an H100, {flat(paper)}",
        f"On a CPU: {flat(mini)}",
        f"{step[1]:.1f} and {step[4]:.1f} ms a step for N = 1 and 4",
    )


def flat(folder: Path) -> str:
    """How latency changes with context and N."""
    slopes = flatness(read(folder / "latency.csv")).values()
    changes = [f"{signed(of['slope'])} ± {100 * of['half_width']:.1f} %" for of in slopes]
    return f"{changes[0]} for ten times the context, {changes[1]} for a pass more"
