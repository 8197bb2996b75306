"""The table of README.md: a verdict on each claim of the paper at each scale, without intervals."""

from pathlib import Path

import pandas as pd
from tests.documents.pages import paper, rule110
from tests.documents.scores import ahead, last_validations, mean, passes, scores

from lmsleep.checks import read_object
from lmsleep.figures.results import CAPTIONS, Caption, direction, effect_verdict, paper_values, read_verdicts
from lmsleep.figures.tables import printed
from lmsleep.figures.words import percent

CLAIMS = {
    "fig2a": "2a: without sleep, more steps of Rule 110 are harder",
    "fig2b": "2b: sleeping answers more steps",
    "order": "2b: and more with every pass",
    "fig3": "3: more passes find names more hops away (Depo)",
    "fig4a": "4a: and solve longer problems (GSM-Infinite)",
    "fig4b": "4b: in a looped transformer, too",
    "fig5": "5: under a sliding window, too",
    "fig6": "6: reading by windows costs little",
    "latency": "Waking latency depends on neither N nor context",
}
GPU, PAPER = "(results/gpu/README.md)", "(results/paper/README.md)"
DEPO_BUDGET = 4.6e9  # tokens, of the paper


def claims(root: Path) -> pd.DataFrame:
    """A row for each claim."""
    header = ["claim of the paper", "scale `gpu`", "the paper's sizes", "the paper prints"]
    rows = [[claim, at_gpu(root, name), at_paper(root, name), in_paper(root, name)] for name, claim in CLAIMS.items()]
    return pd.DataFrame(rows, columns=header)


def at_gpu(root: Path, name: str) -> str:
    """The verdict on the figure, and the scores of its ends."""
    folder = root / "results/gpu"
    if name == "order":
        return f"N 2→4: {order(scores(folder / 'fig2b.csv'), GPU)}"
    caption, numbers = CAPTIONS[name], folder / f"{name}.json"
    if caption.measured:
        return "–"
    verdict = effect_verdict(caption, read_object(numbers)) if numbers.exists() else None
    if verdict is None:
        return "not run yet"
    return f"[{verdict.word}]{GPU}; {extremes(scores(folder / f'{name}.csv'), caption)}"


def order(runs: pd.DataFrame, link: str) -> str:
    """The verdict on the largest N against N = 2."""
    return f"[{direction(ahead(runs, max(passes(runs)), 2), 1)}]{link}"


def extremes(runs: pd.DataFrame, caption: Caption) -> str:
    """t = 4→16: 100.0→10.2 %; or, where a figure is about N, the same over all slices, and at the hardest."""
    least, most = caption.at(runs.slice.min()), caption.at(runs.slice.max())
    if caption.compares == "slice":
        return f"{least}→{runs.slice.max()}: {arrow(runs, 'slice')}"
    hardest, spread = runs[runs.slice == runs.slice.max()], f"N 1→{runs.n_passes.max()}: {arrow(runs, 'n_passes')}"
    if least == most:
        return f"{most}, {spread}"
    return f"all {caption.level}, {spread}; {most}: {arrow(hardest, 'n_passes')}"


def arrow(runs: pd.DataFrame, by: str) -> str:
    """Means at the least and the greatest of a column: 100.0→10.2 %."""
    first, last = (mean(runs[runs[by] == end]).value for end in (runs[by].min(), runs[by].max()))
    return f"{100 * first:.1f}→{percent(last)}"


def at_paper(root: Path, name: str) -> str:
    """The verdict written down, and what bears it out."""
    folder = root / "results/paper"
    written = read_verdicts(folder / "verdicts.yaml")
    verdict = f"[{written[name].word}]{PAPER}" if name in written else ""
    six = rule110.six_seeds(folder)
    if name == "fig2a":
        return f"{verdict}; {extremes(last_validations(folder / 'fig2a.csv'), CAPTIONS[name])}"
    if name == "fig2b":
        alone = percent(rule110.end_2b(folder).value)
        return (
            f"t = 12, N 1→4: {arrow(six, 'n_passes')}; t = 32: N = 1 has {alone} after all its tokens, unlike the "
            f"paper's; N 2→4 {verdict}"
        )
    if name == "order":
        return f"t = 12, N 2→4: {order(six, PAPER)}"
    if name == "fig3":
        tokens = last_validations(folder / "fig3_words.csv").tokens.max()
        return f"{verdict} at {percent(tokens / DEPO_BUDGET, 0)} of its tokens"
    if name == "fig6":
        slower = percent(paper.slower(paper.fig6_rates(folder)).max(), 0)
        alone, times = percent(paper.one_sequence(folder), 0), paper.times_slower(folder)
        return f"{verdict}; {slower} slower in one measurement (one sequence {alone}), N = 4 {times} times"
    if name == "latency":
        link = "(results/bench/wake_h100.md)"
        return f"[{paper.awake(folder)} ms]{link}; a sleep over 1,024 tokens {paper.pauses(folder)} ms"
    return verdict if (folder / f"{name}.csv").exists() else "not run"


def in_paper(root: Path, name: str) -> str:
    """The paper's numbers for the least and the largest N that they are known of, where these are furthest."""
    if name == "latency":
        return "never timed"
    values, figure = paper_values(root / "docs/paper_values.csv"), "fig2b" if name == "order" else name
    values = values[(values.figure == figure) & values.metric.str.endswith("accuracy") & values.n_passes.notna()]
    if values.empty:
        return "–"
    level = int(values.slice.max())
    at_level = values[values.slice == level].sort_values("n_passes").to_dict("records")
    first, last = at_level[name == "order"], at_level[-1]
    spread = f"N {first['n_passes']}→{last['n_passes']}: {printed(first)}→{printed(last)} %"
    return f"{CAPTIONS[figure].at(level)}, {spread}"
