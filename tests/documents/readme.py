"""The numbers of README.md."""

import json
from pathlib import Path

import pandas as pd
from tests.documents import rule110
from tests.documents.document import Document
from tests.documents.paper import BY_WINDOWS, PARALLEL, depo_csv, fig6_speeds, one_hop_begins
from tests.documents.seeds import CHOSEN_ON
from tests.documents.sources import (
    DEPO_HOPS,
    ahead,
    answers,
    at_the_end,
    depo_runs,
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

from lmsleep.figures.draw_runtime import flatness
from lmsleep.figures.results import paper_values
from lmsleep.figures.words import percent, signed

OWN = (
    r"arXiv\s+\d{4}\.\d{5}",
    r"Python 3\.\d+",
    r"flash-linear-attention 0\.6 needs triton 3\.7\.1",
    r"Jet-Nemotron\s+2B|Ouro 1\.4B",
    r"95 % t interval",
    r"5 B\b",  # the paper's budget
    r"4\.6 B\b",
    r"5 and 15 ms",  # what results/bench/train_h100.md aims at
)
HERE, PAPER, STATUS = (
    "mini scale here (2 CPU cores, models of 60k to 150k parameters)",
    "the paper's own numbers",
    "status at the paper's sizes",
)
LINK = "(results/paper/README.md)"
STEP_COMMIT = "e99447c"  # of the newest timed step in results/bench


def documents(root: Path) -> list[Document]:
    """The page."""
    rows = [fig2a(root), fig2b(root), fig3(root), *(operations(root, *of) for of in GSM), fig6(root), latency(root)]
    table = markdown(["claim of the paper", HERE, PAPER, STATUS], rows)
    return [Document("README.md", {"claims": table}, (*mini_sentences(root), *paper_sentences(root)), OWN)]


def most_seeds(root: Path, figure: str) -> pd.DataFrame:
    """Test scores of a mini figure, of all seeds that were run."""
    more = root / f"results/seeds/{figure}.csv"
    return scores(more if more.exists() else root / f"results/mini/{figure}.csv")


def mini_sentences(root: Path) -> tuple[str, ...]:
    """What the page says of mini runs."""
    rule, depo = most_seeds(root, "fig2b"), depo_runs(root)
    shown = scores(root / "results/mini/fig2b.csv")
    late = rule[rule.seed > CHOSEN_ON]
    second = (
        f"{late.seed.nunique()} seeds, says {points(ahead(late, 2))} and {points(ahead(late, 4))}" if len(late) else ""
    )
    k, near, far = int(depo.slice.max()), depo[depo.slice == DEPO_HOPS], depo[depo.slice == depo.slice.max()]
    return (
        f"Thin lines are seeds: in these {shown.seed.nunique()} runs N = 1, 2 and 4 answer {answers(shown)}",
        f"[all {rule.seed.nunique()} seeds that were run](results/seeds/README.md) they answer {answers(rule)}",
        f"**N = 2 is {points(ahead(rule, 2))} points above N = 1**, N = 4 {points(ahead(rule, 4))}",
        *([f"the second look alone, {second}"] if second else []),
        f"At {DEPO_HOPS} hops N = 1, 2 and 4 answer {answers(near)} over {depo.seed.nunique()} seeds: N = 2 is "
        f"{points(ahead(near, 2))} points above N = 1 and N = 4 {points(ahead(near, 4))}; the intervals lie "
        f"{side(ahead(near, 2))} and {side(ahead(near, 4))}",
        f"at {k} hops they answer {answers(far)}",
    )


def paper_sentences(root: Path) -> tuple[str, ...]:
    """What the page says of runs at the paper's sizes."""
    folder = root / "results/paper"
    end, six, nine = rule110.END_T12, *rule110.both_t12(folder)
    first, left = nine[nine.seed >= rule110.FIRST_SET], rule110.leaves(folder)
    majority, far = percent(rule110.majority(32), 2), millions(at_the_end(depo_csv(folder)).tokens.max())
    timed = json.loads((root / "results/bench/train_h100_fused.json").read_text())["rows"]
    step = {row["n_passes"]: row["ms_per_step"] for row in timed if row["commit"] == STEP_COMMIT}
    return (
        f"After {millions(end)} tokens N = 1, 2 and 4 answer {answers(six)} with six seeds",
        f"**N = 2 is {points(ahead(nine, 2))} points above N = 1** over nine pairs of runs: six seeds give "
        f"{points(ahead(six, 2))}, an earlier set of three {points(ahead(first, 2))}; "
        f"N = 4, six seeds, {points(ahead(six, 4))}",
        f"one seed and {millions(rule110.END_2B)} of the paper's 5 B tokens give "
        f"{percents(list(rule110.finals_2b(folder).values()))} for N = 1, 2, 3 and 4 ({majority} by always "
        "answering 1)",
        f"N = 1 leaves that line at {millions(left[1])} tokens",
        f"except 2b for {millions(rule110.END_2B)} of 5 B tokens and 3, with words, for up to {far} of 4.6 B",
        f"Training at the paper's small windows takes {step[1]:.1f} and {step[4]:.1f} ms a step for N = 1 and 4",
    )


def against(part: pd.DataFrame) -> str:
    """against N = 1, points: N = 2 +12.3 (+1.0 to +20.1), N = 4 ..."""
    base, *others = passes(part)
    apart = ", ".join(f"N = {n} {points(ahead(part, n, base))}" for n in others)
    return f"against N = {base}, points: {apart}"


def each(part: pd.DataFrame) -> str:
    """N = 1: 12.3 %, N = 2: ..."""
    return ", ".join(f"N = {n}: {percent(mean(part, n).value)}" for n in passes(part))


def seeds_of(part: pd.DataFrame) -> str:
    """(5 seeds), or that one gives no interval."""
    n = part.seed.nunique()
    return f"({n} seeds)" if n > 1 else "(one seed: no interval)"


def steps(part: pd.DataFrame) -> str:
    """t = 4: 12.3 %, 8: ..."""
    shares = [f"{t}: {percent(mean(part, level=t).value)}" for t in sorted(map(int, part.slice.unique()))]
    return "t = " + ", ".join(shares)


def fig2a(root: Path) -> list[str]:
    """Figure 2a's row."""
    mini, end = scores(root / "results/mini/fig2a.csv"), at_the_end(root / "results/paper/fig2a.csv")
    decided = ", and ".join(rule110.decided_2a(root / "results/paper"))
    return [
        "Fig. 2a: the plain hybrid loses accuracy as Rule 110 runs for more steps",
        f"{steps(mini)} {seeds_of(mini)}",
        "no values printed",
        f"[agrees]{LINK} at {millions(end.tokens.min())} tokens as far as {end.seed.nunique()} seeds decide "
        f"({decided}): {steps(end)}",
    ]


def fig2b(root: Path) -> list[str]:
    """Figure 2b's row."""
    part, folder = most_seeds(root, "fig2b"), root / "results/paper"
    six, nine = rule110.both_t12(folder)
    far = ", ".join(f"N = {n}: {percent(share)}" for n, share in rule110.finals_2b(folder).items())
    return [
        "Fig. 2b: more passes answer more steps",
        f"t = {part.slice.iloc[0]}: {each(part)}; {against(part)} {seeds_of(part)}",
        f"t = 32: {listed(rule110.printed(folder))} % for N = 1, 2, 3 and 4",
        f"[not reached]{LINK}: {millions(rule110.END_2B)} of 5 B tokens, 1 seed: {far}, majority "
        f"{percent(rule110.majority(32), 2)}; N = 1 leaves it at {millions(rule110.leaves(folder)[1])}, the paper's "
        f"not by 5 B. At t = 12, {millions(rule110.END_T12)} tokens: {each(six)}; N = 2 {points(ahead(nine, 2))} (nine "
        f"pairs of runs), N = 4 {points(ahead(six, 4))} (6 seeds)",
    ]


def fig3(root: Path) -> list[str]:
    """Figure 3's row."""
    part, folder = depo_runs(root), root / "results/paper"
    near, end = part[part.slice == DEPO_HOPS], at_the_end(depo_csv(folder))
    hops = "; ".join(f"{k}: {each(part[part.slice == k])}" for k in sorted(map(int, part.slice.unique())))
    one = end[(end.n_passes == 1) & (end.slice == 1)].iloc[0]
    begins = millions(one_hop_begins(folder, 1))
    return [
        "Fig. 3: more passes find answers more hops away",
        f"hops {hops}; at {DEPO_HOPS} hops {against(near)} ({part.seed.nunique()} seeds)",
        "no values printed",
        f"[not reached]{LINK}: run with names of one or two tokens and no separators, not with the printed layout; "
        f"1 hop begins to be learned (N = 1: from {begins} tokens on, {percent(one.value, 0)} at "
        f"{millions(one.tokens)} of 4.6 B), more hops do not yet",
    ]


GSM = (
    ("fig4a", "Fig. 4a: GSM-Infinite, hard eviction, hybrid", (6, 8)),
    ("fig4b", "Fig. 4b: the same, looped transformer with Jet layers", (6, 8)),
    ("fig5", "Fig. 5: the same under a sliding window", (2, 8)),
)


def operations(root: Path, figure: str, claim: str, ops: tuple[int, int]) -> list[str]:
    """The row of a figure of GSM-Infinite; the paper's numbers for two counts of operations."""
    part, paper = scores(root / f"results/mini/{figure}.csv"), paper_values(root / "docs/paper_values.csv")
    most = int(part.slice.max())
    paper = paper[(paper.figure == figure) & (paper.metric == "accuracy") & paper.n_passes.notna()]
    printed = []
    for op in ops:
        of_op = paper[paper.slice == op].sort_values("n_passes").iloc[[0, -1]]
        shares = [f"{percent(float(row['value']))} (N = {row['n_passes']})" for row in of_op.to_dict("records")]
        printed.append(f"op {op}: {', '.join(shares)}")
    here = f"op {most}: {each(part[part.slice == most])}; all ops {against(part)} {seeds_of(part)}"
    return [claim, here, "; ".join(printed), "not run"]


def fig6(root: Path) -> list[str]:
    """Figure 6's row."""
    mini, ouro = fig6_speeds(root / "results/mini"), fig6_speeds(root / "results/paper")
    largest = max(window for _, window, _ in mini)
    costs = [slower(ouro, window) for window in (1000, 2000, 4000)]
    times = [ouro[BY_WINDOWS, window, 1] / ouro[BY_WINDOWS, window, 4] for window in (1000, 2000, 4000)]
    return [
        "Fig. 6: reading by windows costs little where windows are large, and as 1 / N",
        f"windows of {largest} tokens: {slower(mini, largest)} than a parallel sliding window; N = 4 "
        f"{mini[BY_WINDOWS, largest, 1] / mini[BY_WINDOWS, largest, 4]:.1f} times slower than N = 1",
        "no values printed",
        f"[agrees]{LINK} for Ouro's shape on an H100, batch tuned: windows of 1,000, 2,000 and 4,000 tokens "
        f"{listed(costs)}; N = 4 {min(times):.1f} to {max(times):.1f} times slower than N = 1",
    ]


def slower(speed: dict[tuple[str, int, int], float], window: int) -> str:
    """How much slower reading by windows is than in parallel."""
    cost = 1 - speed[BY_WINDOWS, window, 1] / speed[PARALLEL, window, 1]
    return f"{percent(cost, 0)} slower" if cost >= 0.005 else "no slower"


def latency(root: Path) -> list[str]:
    """The row about latency."""
    mini, ouro = (read(root / f"results/{scale}/latency.csv") for scale in ("mini", "paper"))
    token = ouro[(ouro.model == "hybrid") & (ouro.metric == "latency_mean_ms")].value
    return [
        "Waking latency depends on neither N nor context",
        flat(mini),
        "never timed",
        f"Ouro's shape on an H100: [{token.min():.1f} to {token.max():.1f} ms a token](results/bench/wake_h100.md); "
        f"{flat(ouro)}",
    ]


def flat(table: pd.DataFrame) -> str:
    """How latency changes with context and N."""
    changes = [f"{signed(of['slope'])} ± {100 * of['half_width']:.1f} %" for of in flatness(table).values()]
    return f"{changes[0]} for ten times the context, {changes[1]} for a pass more"
