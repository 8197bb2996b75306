"""The numbers of README.md: a verdict at each scale, no intervals."""

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pandas as pd
from tests.documents import rule110
from tests.documents.document import Document
from tests.documents.paper import BY_WINDOWS, depo_csv, fig6_speeds
from tests.documents.sources import at_the_end, listed, markdown, mean, passes, percents, read, scores

from lmsleep.figures.results import CAPTIONS, load_figure, paper_values, read_verdicts
from lmsleep.figures.words import percent

OWN = (r"arXiv\s+\d{4}\.\d{5}", r"Python 3\.\d+(?: or 3\.\d+)?", r"Jet-Nemotron\s+2B|Ouro 1\.4B", r"95 % interval")
HEADER = ["claim of the paper", "scale `gpu`", "the paper's sizes", "the paper prints"]
CLAIMS = {
    "fig2a": "2a: without sleep, more steps of Rule 110 are harder",
    "fig2b": "2b: more passes answer more steps",
    "fig3": "3: more passes find names more hops away (Depo)",
    "fig4a": "4a: and solve longer problems (GSM-Infinite)",
    "fig4b": "4b: so does a looped transformer with Jet layers",
    "fig5": "5: and under a sliding window",
    "fig6": "6: reading by windows costs little, and as 1 / N",
    "latency": "Waking latency depends on neither N nor context",
}
LINK = "(results/paper/README.md)"


def documents(root: Path) -> list[Document]:
    """The page."""
    rows = [[claim, at_gpu(root, name), at_paper(root, name), printed(root, name)] for name, claim in CLAIMS.items()]
    shown = scores(root / "results/gpu/fig2b.csv")
    alone, *asleep = (mean(shown, n).value for n in passes(shown))
    said = (
        f"(N = 1) it is right in {percent(alone)} of rows, with N = {listed([str(n) for n in passes(shown)[1:]])} in "
        f"{percents(asleep)}"
    )
    found = json.loads((root / "results/gpu/controls.json").read_text())["verdicts"]
    arm = {r["arm"]: r["exact"] for r in found if r["figure"] == "arms"}
    equal = (
        f"N = 1 with four times the steps is right in {percent(arm['steps4'])}, with four times the blocks in "
        f"{percent(arm['deep16'])}"
    )
    return [Document("README.md", {"claims": markdown(HEADER, rows)}, (said, equal), OWN)]


def at_gpu(root: Path, name: str) -> str:
    """The verdict on the figure, and the scores of its ends."""
    caption = next(c for c in CAPTIONS if c.name == name)
    if caption.measured:
        return "–"
    table = root / f"results/gpu/{name}.csv"
    verdict = load_figure(table.parent, caption).verdict
    if not table.exists() or verdict is None:
        return "not run yet"
    return f"[{verdict.word}](results/gpu/README.md); {extremes(scores(table), caption.compares, caption.at)}"


def extremes(part: pd.DataFrame, compares: str | None, at: Callable[[int], str]) -> str:
    """t = 4 → 16: 100.0 → 10.2 %; or, where a figure is about N, the same at the slice that is hardest."""
    if compares == "slice":
        return f"{at(int(part.slice.min()))} → {part.slice.max()}: {arrow(part, 'slice')}"
    hardest = part[part.slice == part.slice.max()]
    return f"{at(int(part.slice.max()))}, N 1 → {hardest.n_passes.max()}: {arrow(hardest, 'n_passes')}"


def arrow(part: pd.DataFrame, by: str) -> str:
    """Means at the least and the greatest of a column: 100.0 → 10.2 %."""
    first, last = (100 * mean(part[part[by] == end]).value for end in (part[by].min(), part[by].max()))
    return f"{first:.1f} → {last:.1f} %"


def at_paper(root: Path, name: str) -> str:
    """The verdict written down, and what bears it out."""
    folder = root / "results/paper"
    written = read_verdicts(folder / "verdicts.yaml")
    word = f"[{written[name].word}]{LINK}" if name in written else ""
    if name == "fig2a":
        end = at_the_end(folder / "fig2a.csv")
        return f"{word}; {extremes(end, 'slice', 't = {}'.format)}"
    if name == "fig2b":
        share, six = percent(rule110.END_2B / 5e9, 0), rule110.both_t12(folder)[0]
        return f"t = 32: {word} at {share} of its tokens; {extremes(six, 'n_passes', 't = {}, 60 M tokens'.format)}"
    if name == "fig3":
        return f"{word} at {percent(at_the_end(depo_csv(folder)).tokens.max() / 4.6e9, 0)} of its tokens"
    if name == "fig6":
        return f"{word}; at most {cost(folder)} slower, N = 4 {slowdown(folder)} times"
    if name == "latency":
        table = read(folder / "latency.csv")
        token = table[(table.model == "hybrid") & (table.metric == "latency_mean_ms")].value
        return f"[{token.min():.1f} to {token.max():.1f} ms a token](results/bench/wake_h100.md)"
    return word if (folder / f"{name}.csv").exists() else "not run"


def cost(folder: Path) -> str:
    """By how much reading by windows is slower than in parallel, at most."""
    speed = fig6_speeds(folder)
    least = min(speed[BY_WINDOWS, w, n] / speed[m, w, n] for m, w, n in speed if n == 1 and m != BY_WINDOWS)
    return percent(1 - least, 0)


def slowdown(folder: Path) -> str:
    """How many times slower N = 4 is than N = 1, over the windows."""
    speed = fig6_speeds(folder)
    times = [speed[BY_WINDOWS, w, 1] / speed[BY_WINDOWS, w, 4] for m, w, n in speed if m == BY_WINDOWS and n == 4]
    return f"{min(times):.1f} to {max(times):.1f}"


def printed(root: Path, name: str) -> str:
    """The paper's numbers for the least and the largest N that they are known of, where these are furthest."""
    if name == "latency":
        return "never timed"
    table = paper_values(root / "docs/paper_values.csv")
    part = table[(table.figure == name) & table.metric.str.endswith("accuracy") & table.n_passes.notna()]
    if part.empty:
        return "no numbers"
    level = int(part.slice.max())
    ends = part[part.slice == level].sort_values("n_passes").iloc[[0, -1]].to_dict("records")
    shares = " → ".join(f"{word(r['note'])}{Decimal(r['value']).scaleb(2)}" for r in ends)
    at = next(c for c in CAPTIONS if c.name == name).at(level)
    return f"{at}, N {ends[0]['n_passes']} → {ends[1]['n_passes']}: {shares} %"


def word(note: str) -> str:
    """About or more than, where the paper says so."""
    return next((f"{w} " for w in ("about", ">") if note.startswith(w)), "")
