"""The table of README.md: a verdict on each claim of the paper at each scale, without intervals."""

from pathlib import Path

import pandas as pd
from tests.documents.pages import rule110
from tests.documents.scores import ahead, passes, scores

from lmsleep.checks import read_object
from lmsleep.figures.results import CAPTIONS, direction, effect_verdict, paper_values, read_verdicts
from lmsleep.figures.tables import printed

CLAIMS = {
    "fig2a": "2a: without sleep, more steps of Rule 110 are harder",
    "fig2b": "2b: sleeping answers more steps",
    "order": "2b: and more with every pass",
    "fig3": "3: more passes find names more hops away (Depo)",
    "fig4a": "4a: and solve longer problems (GSM-Infinite)",
    "fig4b": "4b: in a looped transformer, too",
    "fig5": "5: under a sliding window, too",
    "fig6": "6: reading by windows costs little",
}
BESIDES = {"fig5": "warm-ups differ"}  # what else than N is not the same
GPU, PAPER = "[scale `gpu`](results/gpu/README.md)", "[the paper's sizes](results/paper/README.md)"


def claims(root: Path) -> pd.DataFrame:
    """A row for each claim."""
    header = ["claim of the paper", GPU, PAPER, "the paper prints"]
    rows = [[claim, at_gpu(root, name), at_paper(root, name), in_paper(root, name)] for name, claim in CLAIMS.items()]
    return pd.DataFrame(rows, columns=header)


def at_gpu(root: Path, name: str) -> str:
    """The verdict on the figure."""
    folder = root / "results/gpu"
    if name == "order":
        return order(scores(folder / "fig2b.csv"))
    caption, numbers = CAPTIONS[name], folder / f"{name}.json"
    if caption.measured:
        return "–"
    verdict = effect_verdict(caption, read_object(numbers)) if numbers.exists() else None
    if verdict is None:
        return "not run yet"
    return ", ".join([verdict.word, *([BESIDES[name]] if name in BESIDES else [])])


def order(runs: pd.DataFrame) -> str:
    """The verdict on the largest N against N = 2."""
    return direction(ahead(runs, max(passes(runs)), 2), 1)


def in_order(folder: Path) -> str:
    """Whether the one seed of every N in figure 2b answers more with each pass."""
    rising = rule110.ends_2b(folder).is_monotonic_increasing
    return "in order, one seed" if rising else "out of order, one seed"


def at_paper(root: Path, name: str) -> str:
    """The verdict written down; of figure 2b at fewer steps, too, where six seeds were run."""
    folder = root / "results/paper"
    written = read_verdicts(folder / "verdicts.yaml")
    verdict = written[name].word if name in written else "not run"
    six = rule110.six_seeds(folder)
    if name == "fig2b":
        fewer = direction(ahead(six, max(passes(six))), 1)
        words = verdict if verdict == fewer else f"t = 12: {fewer}; t = 32: {verdict}"
        return f"{words}, N = 1 contradicted"
    if name == "order":
        return f"t = 12: {order(six)}; t = 32: {in_order(folder)}"
    return verdict


def in_paper(root: Path, name: str) -> str:
    """The paper's numbers, where the claim is furthest: for N = 1 and the most passes; of the order, for N = 2."""
    values, figure = paper_values(root / "docs/paper_values.csv"), "fig2b" if name == "order" else name
    values = values[(values.figure == figure) & values.metric.str.endswith("accuracy") & values.n_passes.notna()]
    if values.empty:
        return "–"
    furthest = values[values.slice == values.slice.max()].sort_values("n_passes").to_dict("records")
    if name == "order":
        return f"N = 2: {printed(furthest[1])} %"
    return f"{printed(furthest[0])} → {printed(furthest[-1])} %"
