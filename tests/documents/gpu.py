"""The numbers of results/gpu."""

import json
from pathlib import Path

import pandas as pd
from tests.documents.document import Document, document
from tests.documents.pages import arms, gpu
from tests.documents.pages.rule110 import majority, ones_tested
from tests.documents.pages.states import PAPER, share_read
from tests.documents.readme import step_times
from tests.documents.scores import (
    ahead,
    average_runs,
    averages,
    last_validations,
    mean,
    paired_p,
    read,
    row_error,
    scores,
    welch,
)
from tests.documents.words import NUMERALS, listed, percents

from lmsleep.figures.plots.text import validations
from lmsleep.figures.results import paper_values
from lmsleep.figures.stats import STEPS, UNDECIDED, Estimate, compare_steps, mean_difference
from lmsleep.figures.words import millions, nats, percent, points
from lmsleep.windows import Windows

LINE = 0.4  # between the runs of Depo that found 8 hops and those that did not
CLEAR = 0.2  # between the runs of Mamba-2 on Rule 110 that left the plateau and those that did not
MAMBA = ("_awake", "_delta_awake"), ("", "_delta")
SETTLED = "0.5"  # less than half of S: the threshold whose mean number of passes is nearest to four


def documents(root: Path) -> list[Document]:
    """The page."""
    folder = root / "results/gpu"
    return [document("results/gpu/README.md", gpu.tables(folder) | arms.tables(folder), sentences(folder))]


def sentences(folder: Path) -> tuple[str, ...]:
    """What the page says."""
    trained = (read(folder / f"{name}.csv").tokens.max() for name in ("fig2a", "fig2b", "fig3", *gpu.GSM))
    spans = (f"{millions(tokens, 1)} tokens a run" for tokens in trained)
    return (
        *spans,
        *states_sentences(folder),
        *figure_sentences(folder),
        *arm_sentences(folder),
        *passes_sentences(folder),
        *probe_sentences(folder),
        *text_sentences(folder),
        *memory_sentences(folder),
    )


def states_sentences(folder: Path) -> tuple[str, ...]:
    """Of the rows of Rule 110's test: their states, their own error, and one answer to all of them."""
    read_by = [share_read(PAPER, read(folder / f"{name}.csv").tokens.max()) for name in ("fig2b", "arms")]
    rows = int(scores(folder / "fig2b.csv", "test_rows").value.max())
    return (
        f"which read {percent(read_by[0], 0)} of the states in test rows",
        f"(and {percent(read_by[1], 0)} of the states in test rows)",
        f"(at most {row_error(rows):.1f} points for {rows:,} rows, {row_error(1000):.1f} for 1,000)",
        f"is right in {percent(majority(16), 2)} of all rows and in {percent(ones_tested(16), 2)} of those tested",
    )


def figure_sentences(folder: Path) -> tuple[str, ...]:
    """Of figures 2a, 2b, 3 and 4b."""
    rule, last = scores(folder / "fig2b.csv"), last_validations(folder / "fig2b.csv")
    earlier = gpu.earlier_runs(folder)
    above = [points(ahead(average_runs(last, earlier), n)) for n in (2, 3, 4)]
    unslept, hops = scores(folder / "fig2a.csv"), scores(folder / "fig3.csv")
    far = hops[hops.slice == hops.slice.max()]
    reached = [str((far[far.n_passes == n].value > LINE).sum()) for n in (1, 2, 4)]
    alone = averages(hops[hops.n_passes == 1])
    tuned = sorted(read(folder / "fig3_rates.csv").exact)
    seconds = sum(json.loads(path.read_text())["seconds"] for path in folder.glob("*.meta.json"))
    steps = compare_steps(read(folder / "fig2a.csv"))["difference"]
    lower = sum(record["high"] < 0 for record in steps)
    return (
        f"{lower} of {len(steps)} differences from t = {steps[0]['base']} have an interval below zero",
        f"Rule 110 without sleep, {NUMERALS[unslept.groupby('slice').seed.nunique().min()]} seeds",
        f"they took {seconds / 3600:.1f} hours",
        f"N = 4 is {points(ahead(rule, 4, 2))} points above N = 2 and {points(ahead(rule, 4, 3))} above N = 3",
        f"With all {len(last) + len(earlier)} runs, a seed's averaged first, N = 2, 3 and 4 are {listed(above)} points "
        "above N = 1",
        f"N = 4 is {points(ahead(hops, 4))} points above N = 1 over all hops, N = 2 {points(ahead(hops, 2))}",
        f"above {percent(LINE, 0)} right there are {listed(reached)} of {far.seed.nunique()} runs with N = 1, 2 and 4",
        f"have a standard deviation of {100 * alone.std():.1f} points over all hops",
        f"ahead by {100 * (tuned[-1] - tuned[-2]):.1f} points",
        f"{percent(last_validations(folder / 'pretrained.csv').value.mean())} of answers right at its last validation",
        where_fig5_gains(folder),
    )


def where_fig5_gains(folder: Path) -> str:
    """At how many operations N = 4 is furthest above N = 1 under a sliding window, in the paper and here."""
    printed = paper_values(folder.parents[1] / "docs/paper_values.csv").query(
        "figure == 'fig5' and metric == 'accuracy'"
    )
    theirs, ours = (
        runs.assign(value=runs.value.astype(float)).groupby(["slice", "n_passes"]).value.mean().unstack()
        for runs in (printed, scores(folder / "fig5.csv"))
    )
    most = [(by_n[4] - by_n[1]).loc[[*theirs.index]].idxmax() for by_n in (theirs, ours)]
    return f"of {listed(map(str, theirs.index))} operations that is {most[0]}, and here {most[1]}"


def arm_sentences(folder: Path) -> tuple[str, ...]:
    """Of the arms on Rule 110."""
    n4, ten, questions = arms.of_arm(folder, "n4"), arms.ten_runs(folder), arms.questions(folder)
    verdicts = [r for group in arms.GROUPS for r in arms.arm_verdicts(folder, group, "arms")]
    decided = sum(r["verdict"] != UNDECIDED for r in verdicts)
    kept = sum(questions * paired_p(*arms.pairs(folder, r["arm"], r["against"])) < 0.05 for r in verdicts)
    before = [questions * welch(runs, ten)[1] for runs in arms.earlier_runs(folder).values()]
    steps4, small = arms.of_arm(folder, "steps4"), percent(mean(scores(folder / "small.csv")).value)
    awake, asleep = (pd.concat([arms.of_arm(folder, f"mamba{kind}") for kind in of]) for of in MAMBA)
    sleep = [Windows(length, 24, (False,) * 4 + (True,)).token_passes(4) / length for length in (100, 120)]
    deep, deep16 = arms.of_arm(folder, "deep16"), arms.all_runs(folder, "deep16")
    n4_runs = arms.all_runs(folder, "n4")
    together = paired_p(*(of[deep16[0].index] for of, _ in (deep16, n4_runs)))
    return (
        f"up to {NUMERALS[max(r['n'] for r in verdicts)]} seeds ({n4.index.min()} to {n4.index.max()})",
        f"{decided} of the {questions} questions of this task are decided",
        f"{kept} of the {questions} stay below 0.05 with p times {questions}",
        f"is ahead in {NUMERALS[(steps4 > n4).sum()]} of {NUMERALS[len(steps4)]} seeds and far behind in one**",
        f"by seed: {percents(steps4)}",
        f"One with four times as many blocks is ahead in {NUMERALS[(deep > n4).sum()]} of {NUMERALS[len(deep)]}, too "
        f"(`deep16`: {percents(deep)})",
        f"**four times as many blocks are {points(arms.above_all(folder, 'deep16'))} points above N = 4** "
        f"({deep16[1]} runs of {len(deep16[0])} seeds against {n4_runs[1]}; p times {questions} is "
        f"{questions * together:.2f}), four times as many steps {points(arms.above_all(folder, 'steps4'))}",
        f"{sum(p < 0.05 for p in before)} of {len(before)} stayed below 0.05 with p times {questions}",
        f"has {percent(n4.mean())} in its {len(n4)} runs, which go from {100 * n4.min():.1f} to {percent(n4.max())}, "
        f"and figure 2b's runs of these seeds have {percent(ten[n4.index].mean())}",
        f"(`small`, d = 192, one seed) has {small}",
        f"4.0 times the operations of N = 1, a sleep with N = 4 {sleep[0]:.1f} times here and {sleep[1]:.1f} times on "
        f"Depo: they have {percent(4 / sleep[0] - 1, 0)} and {percent(4 / sleep[1] - 1, 0)} more than N = 4",
        f"at most {percent(awake.max())} in a run that does not sleep, and more than {percent(CLEAR, 0)} in "
        f"{(asleep > CLEAR).sum()} of its {len(asleep)} runs that do",
        f"right in {small} of test rows",
    )


def passes_sentences(folder: Path) -> tuple[str, ...]:
    """Of arms that make other passes at test than in training."""
    at_test = json.loads((folder / "ablations.json").read_text())["arms_at_test"]
    exact = {(r["arm"], r["threshold"], r["passes"]): r["exact"] for r in at_test}
    drawn, fixed = (percents(exact[arm, None, n] for n in (1, 2, 4, 8)) for arm in ("drawn", "n4"))
    ((passes, settled),) = ((n, value) for (arm, end, n), value in exact.items() if (arm, end) == ("n4", SETTLED))
    return (
        f"{drawn} with 1, 2, 4 and 8 passes at test",
        f"one trained with N = 4 alone has {fixed}",
        f"this model takes {passes:.1f} passes in the mean, and {percent(settled)} are right",
    )


def probe_sentences(folder: Path) -> tuple[str, ...]:
    """Of the probe."""
    verdicts, p = json.loads((folder / "probe.json").read_text())["verdicts"], []
    for r in verdicts:
        wide = arms.probe_scores(folder, r["figure"], r["read"])
        p.append(paired_p(wide[r["n_passes"], r["passes"]], wide[r["n_passes"], 1]))
    decided = sum(Estimate.of(r).sign != 0 for r in verdicts)
    left = [arms.probe_scores(folder, *what) for what in (("fig2b", "label"), ("fig3", "after_2_hops"))]
    label, hops = (points(mean_difference(wide[4, 4] - wide[1, 1])) for wide in left)
    return (
        f"Of {len(verdicts)} rows {decided} have an interval without zero; of these the label with N = 4 alone has a "
        f"small p ({min(p):.4f}, times {len(verdicts)} {len(verdicts) * min(p):.3f})",
        f"is {label} points from what the one pass of N = 1 leaves",
        f"is {hops} points",
    )


def text_sentences(folder: Path) -> tuple[str, ...]:
    """Of natural text."""
    curves = {(r["n_passes"], r["last_tokens"]): r for r in validations(read(folder / "text.csv"))}
    fewest, longest = min(tokens for _, tokens in curves), max(tokens for _, tokens in curves)
    alone, slept = curves[1, longest], curves[4, fewest]
    numbers = json.loads((folder / "text.json").read_text())
    (apart,) = (r for r in numbers["text"] if (r["n_passes"], r["against"]) == (4, STEPS))
    of_n = {
        (r["metric"], r["n_passes"]): r["value"]
        for r in numbers["losses"]
        if r["slice"] == 0 and r["tokens"] == fewest and r["n_passes"] == r["trained_as"]
    }
    cut = [of_n["cut_loss", n] - of_n["test_loss", n] for n in (1, 4)]
    name = {
        k: scores(folder / "text.csv", f"{k}_repeat_loss", n_passes=1, tokens=fewest, slice=1) for k in ("cut", "test")
    }
    name = {k: runs.value.mean() for k, runs in name.items()}
    (middle,) = (r for (n, tokens), r in curves.items() if n == 1 and fewest < tokens < longest)
    return (
        f"N = 1 passes {middle['lowest']:.3f} at {millions(middle['at_tokens'], 0)} tokens",
        f"N = 4 is {nats(Estimate.of(apart))} nats a byte from N = 1 after equal steps",
        f"N = 1 loses {cut[0]:.3f} nats a byte, N = 4 {cut[1]:.3f}",
        f"costs N = 1 {name['cut']:.3f} nats a byte in place of {name['test']:.3f}",
        f"its validation loss is lowest, {alone['lowest']:.3f} nats a byte, after {millions(alone['at_tokens'], 0)} of "
        f"{millions(longest, 0)} tokens, and {alone['last']:.3f} at the end",
        f"where N = 4 ends at {slept['last']:.3f} after {millions(slept['last_tokens'], 0)}",
    )


def memory_sentences(folder: Path) -> tuple[str, ...]:
    """Of a card of 24 GB; Rule 110 was measured as a benchmark."""
    peak = step_times(folder.parents[1], "peak_bytes")["rule110.yaml", 4]
    return (f"Rule 110 with N = 4 holds [{peak / 2**30:.1f}](../bench/train_h100.md)",)
