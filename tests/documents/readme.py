"""The numbers of README.md: a verdict at each scale, no intervals."""

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pandas as pd
from tests.documents import rule110
from tests.documents.document import Document
from tests.documents.paper import BY_WINDOWS, depo_csv, fig6_speeds, one_sequence
from tests.documents.sources import ahead, at_the_end, in_words, listed, markdown, mean, passes, percents, read, scores

from lmsleep.figures.results import CAPTIONS, direction, load_figure, paper_values, read_verdicts
from lmsleep.figures.words import percent

OWN = (r"arXiv\s+\d{4}\.\d{5}", r"Python 3\.\d+(?: or 3\.\d+)?", r"Jet-Nemotron\s+2B|Ouro 1\.4B", r"95 % interval")
HEADER = ["claim of the paper", "scale `gpu`", "the paper's sizes", "the paper prints"]
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
LINK = "(results/paper/README.md)"
STEPS = "train_h100_8d87959.json"  # the newest in results/bench


def documents(root: Path) -> list[Document]:
    """The page."""
    rows = [[claim, at_gpu(root, name), at_paper(root, name), printed(root, name)] for name, claim in CLAIMS.items()]
    shown = scores(root / "results/gpu/fig2b.csv")
    alone, *asleep = (mean(shown, n).value for n in passes(shown))
    found = json.loads((root / "results/gpu/controls.json").read_text())["verdicts"]
    arm = {r["arm"]: r["exact"] for r in found if r["figure"] == "arms"}
    most = max(r["n"] for r in found if r["arm"] in ("steps4", "deep16"))
    said = (
        f"Without sleep (N = 1) all four are right in {percent(alone)} of test rows, with N = "
        f"{listed([str(n) for n in passes(shown)[1:]])} in {percents(asleep)}",
        f"With the operations of N = 4, {in_words(most)} seeds, N = 1 has {percent(arm['steps4'])} after four times "
        f"the steps, {percent(arm['deep16'])} with four times the blocks",
        "One narrower run of N = 4 with as many steps has "
        f"{percent(mean(scores(root / 'results/gpu/small.csv')).value)}",
        whole_runs(root),
    )
    return [Document("README.md", {"claims": markdown(HEADER, rows)}, said, OWN)]


def step_times(root: Path) -> dict[tuple[str, int], float]:
    """Milliseconds of a training step on an H100 by configuration and N, at the commit that the file names."""
    timed = json.loads((root / "results/bench" / STEPS).read_text())["rows"]
    return {(row["run"], row["n_passes"]): row["ms_per_step"] for row in timed if row["commit"] in STEPS}


def whole_runs(root: Path) -> str:
    """How long a run of the paper's budget would take, its steps alone."""
    ms = step_times(root)
    rule = [97_657 * ms["rule110.yaml", n] / 60_000 for n in (1, 4)]
    depo = [100_000 * ms["depo_4block.yaml", n] / 3_600_000 for n in (1, 4)]
    return (
        f"figure 2b would take {rule[0]:.0f} (N = 1) to {rule[1]:.0f} minutes (N = 4) a seed on one H100, figure 3 as "
        f"4 blocks {depo[0]:.1f} to {depo[1]:.1f} hours"
    )


def at_gpu(root: Path, name: str) -> str:
    """The verdict on the figure, and the scores of its ends."""
    if name == "order":
        return f"N 2→4: {order(scores(root / 'results/gpu/fig2b.csv'), '(results/gpu/README.md)')}"
    caption = next(c for c in CAPTIONS if c.name == name)
    if caption.measured:
        return "–"
    table = root / f"results/gpu/{name}.csv"
    verdict = load_figure(table.parent, caption).verdict
    if not table.exists() or verdict is None:
        return "not run yet"
    part = scores(table)
    over = f" over all {caption.level}" if caption.compares == "n_passes" and part.slice.nunique() > 1 else ""
    return f"[{verdict.word}](results/gpu/README.md){over}; {extremes(part, caption.compares, caption.at)}"


def order(part: pd.DataFrame, link: str) -> str:
    """The verdict on the largest N against N = 2."""
    apart = ahead(part, max(passes(part)), 2)
    return f"[{direction(apart.low, apart.high, 1)}]{link}"


def extremes(part: pd.DataFrame, compares: str | None, at: Callable[[int], str]) -> str:
    """t = 4→16: 100.0→10.2 %; or, where a figure is about N, the same at the slice that is hardest."""
    if compares == "slice":
        return f"{at(int(part.slice.min()))}→{part.slice.max()}: {arrow(part, 'slice')}"
    hardest = part[part.slice == part.slice.max()]
    return f"{at(int(part.slice.max()))}, N 1→{hardest.n_passes.max()}: {arrow(hardest, 'n_passes')}"


def arrow(part: pd.DataFrame, by: str) -> str:
    """Means at the least and the greatest of a column: 100.0→10.2 %."""
    first, last = (100 * mean(part[part[by] == end]).value for end in (part[by].min(), part[by].max()))
    return f"{first:.1f}→{last:.1f} %"


def at_paper(root: Path, name: str) -> str:
    """The verdict written down, and what bears it out."""
    folder = root / "results/paper"
    written = read_verdicts(folder / "verdicts.yaml")
    word = f"[{written[name].word}]{LINK}" if name in written else ""
    six = rule110.both_t12(folder)[0]
    if name == "fig2a":
        end = at_the_end(folder / "fig2a.csv")
        return f"{word}; {extremes(end, 'slice', 't = {}'.format)}"
    if name == "fig2b":
        share = percent(rule110.END_2B / 5e9, 0)
        return (
            f"t = 12, N 1→4: {arrow(six, 'n_passes')}; t = 32: {word} at {share} of its tokens: unlike the paper's, "
            "N = 1 leaves guessing and N = 2 falls below it"
        )
    if name == "order":
        return f"t = 12, N 2→4: {order(six, LINK)}"
    if name == "fig3":
        return f"{word} at {percent(at_the_end(depo_csv(folder)).tokens.max() / 4.6e9, 0)} of its tokens"
    if name == "fig6":
        alone = percent(one_sequence(folder), 0)
        return (
            f"{word}; {cost(folder)} slower in one measurement (one sequence {alone}), N = 4 {slowdown(folder)} times"
        )
    if name == "latency":
        link = "(results/bench/wake_h100.md)"
        return f"[{token_range(folder)} ms]{link}; a sleep over 1,024 tokens {pauses(folder)} ms"
    return word if (folder / f"{name}.csv").exists() else "not run"


def latency(folder: Path) -> pd.Series:
    """Mean milliseconds of a token that fits into the window, for every N and context."""
    table = read(folder / "latency.csv")
    return table[(table.model == "hybrid") & (table.metric == "latency_mean_ms")].value


def token_range(folder: Path) -> str:
    """From the fastest to the slowest: 3.6 to 4.1."""
    return f"{latency(folder).min():.1f} to {latency(folder).max():.1f}"


def pauses(folder: Path) -> str:
    """From the shortest to the longest of the tokens that overflow and sleep: 27 to 107."""
    table = read(folder / "latency.csv")
    pause = table[(table.model == "hybrid") & (table.metric == "pause_ms") & (table.n_passes > 1)].value
    return f"{pause.min():.0f} to {pause.max():.0f}"


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
    figure = "fig2b" if name == "order" else name
    part = table[(table.figure == figure) & table.metric.str.endswith("accuracy")]
    part = part[part.n_passes.notna()]
    if part.empty:
        return "–"
    level = int(part.slice.max())
    known = part[part.slice == level].sort_values("n_passes").to_dict("records")[name == "order" :]
    shares = [f"{word(r['note'])}{Decimal(r['value']).scaleb(2)}" for r in known]
    at = next(c for c in CAPTIONS if c.name == figure).at(level)
    return f"{at}, N {known[0]['n_passes']}→{known[-1]['n_passes']}: {shares[0]}→{shares[-1]} %"


def word(note: str) -> str:
    """About or more than, where the paper says so."""
    return next((f"{w} " for w in ("about", ">") if note.startswith(w)), "")
