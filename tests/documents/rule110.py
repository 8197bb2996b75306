"""The numbers of results/paper/README.md about Rule 110: figures 2a and 2b, its part, and t = 12."""

from pathlib import Path

import pandas as pd
from tests.documents.pages import rule110
from tests.documents.pages.paper import other_runs
from tests.documents.pages.rule110 import END_PART, END_T12, MIDDLE_T12, majority
from tests.documents.pages.states import PAPER, bits_a_weight, share_read, times_read
from tests.documents.scores import ahead, averages, last_validations, means, passes, read, scores
from tests.documents.words import listed, percents, side

from lmsleep import HybridConfig
from lmsleep.checks import read_object
from lmsleep.figures.results import paper_values
from lmsleep.figures.stats import wilson
from lmsleep.figures.tables import printed
from lmsleep.figures.words import interval, millions, percent, points, signed


def rule110_sentences(root: Path) -> tuple[str, ...]:
    """All of them."""
    folder = root / "results/paper"
    early = *fig2a_sentences(folder), *fig2b_sentences(root)
    return (*early, *part_sentences(root), *t12_sentences(folder))


def printed_2b(root: Path) -> str:
    """What the paper prints for N = 1 to 4 in figure 2b."""
    values = paper_values(root / "docs/paper_values.csv")
    return listed(map(printed, values[values.figure == "fig2b"].sort_values("n_passes").to_dict("records")))


def fig2a_sentences(folder: Path) -> tuple[str, ...]:
    """Of figure 2a."""
    first = averages(other_runs(folder, "warm-up of 100 steps"), "slice")
    ends, early = last_validations(folder / "fig2a.csv"), other_runs(folder, "ended early")
    eight = ends[ends.slice == 8].value
    base, slow, withdrawn = (
        percent(other_runs(folder, name).value.iloc[0])
        for name in (
            "earlier loop: the paper's rates, our other choices",
            "earlier loop: slower decay, Muon 5e-3 and AdamW 3e-3",
            "withdrawn: one autocast region over all steps",
        )
    )
    return (
        f"Figure 2a: three seeds, {millions(ends.tokens.min())} tokens",
        f"Paired by seed, the intervals decide {rule110.decided_2a(folder)}",
        f"seeds 0 and 1 at {listed(f'{tokens / 1e6:.1f}' for tokens in early.tokens)} M tokens "
        f"({percents(early.value)} right)",
        f"had means of {percents(first)}",
        f"figure 2a scatters from {100 * eight.min():.0f} to {percent(eight.max(), 0)}",
        f"gave {base} for the base setting and {slow} with slower decay",
        f"Two earlier runs at {withdrawn}",
    )


def fig2b_sentences(root: Path) -> tuple[str, ...]:
    """Of figure 2b with all its tokens."""
    folder, csv = root / "results/paper", root / "results/paper/fig2b.csv"
    end, left = rule110.end_2b(folder), rule110.leaves(csv)
    exact = scores(csv, "val_exact", n_passes=1).set_index("tokens").value
    part, cut = rule110.ends_part(folder), scores(csv, "cut_exact").value
    ends, alone = rule110.ends_2b(folder), scores(csv, "test_n1_exact").query("n_passes > 1").value
    decay = exact[exact.index >= 0.8 * end.tokens].iloc[0]
    again = rule110.end_2b(folder, rule110.SECOND_SEED)
    tries = rule110.tries_at_the_end(folder)
    nothing, bare, *others = tries["nothing"], tries[rule110.BARE], *tries.drop(["nothing", rule110.BARE])
    return (
        f"on H200s, {read_object(folder / 'fig2b.meta.json')['seconds'] / 3600:.2f} hours of them",
        f"N = {listed(map(str, ends.index))} end at {percents(ends)} of the test rows",
        f"N = {listed(map(str, ends.index[1:]))} are {listed(f'{100 * (ends[n] - ends[1]):.1f}' for n in (2, 3, 4))} "
        "points above N = 1",
        f"The fourth pass adds {100 * (ends[4] - ends[3]):.1f} points",
        f"The two seeds of N = 1 differ by {100 * (end.value - again.value):.1f} points",
        f"changed and a schedule that ends at {millions(END_PART)} tokens",
        f"Without its short convolution N = 1 answers {percent(bare)}",
        f"they end at {100 * min(others):.1f} to {percent(max(others))}, the one with nothing changed at "
        f"{percent(nothing)}",
        f"of {len(tries) - 1} changes it is the only one",
        f"More passes were tried as well, for {millions(END_PART)} tokens. Without the convolution N = 2 answers "
        f"{bare_end(folder, 2)}, N = 3 {bare_end(folder, 3)}, N = 4 {bare_end(folder, 4)}",
        f"with it N = 2, 3 and 4 had {percents(part[[2, 3, 4]])}",
        *bare_sentences(folder),
        *states_sentences(csv),
        f"Another seed without the convolution answers {bare_end(folder, 1, 'no short convolution, another seed')}",
        f"Another seed ends at {percent(again.value)} ({interval(wilson(again.value, again.rows))})",
        f"from {millions(rule110.leaves(folder / rule110.SECOND_SEED)[1])} tokens on, and answers "
        f"{percent(scores(folder / rule110.SECOND_SEED, 'cut_exact').value.item())} with S cut",
        f"{read_object(folder / 'fig2b_seeds.meta.json')['seconds'] / 3600:.2f} hours of an H200",
        f"which prints {printed_2b(root)} % at 5 B tokens",
        f"stays above the majority line from {millions(left[1])} tokens on",
        f"{percent(decay)} at 4 B tokens, where it begins to fall",
        f"At {millions(END_PART)} tokens it had {percent(exact[END_PART])}; the run below, whose schedule ends there, "
        f"has {percent(part[1])}",
        f"With S cut they answer {100 * cut.min():.1f} to {percent(cut.max())}",
        f"it is right on the rows of one answer alone: {rule110.answers_of_none(folder)}",
        f"N = 2 to 4 that may not sleep at test answer {100 * alone.min():.1f} to {percent(alone.max())}",
    )


def states_sentences(csv: Path) -> tuple[str, ...]:
    """Of the states that training has read, in answer of which a table of them might do."""
    loss = scores(csv, "test_loss").set_index("n_passes").value
    ones = max(majority(32) ** 0.25, 0.5)
    model = HybridConfig(vocab_size=PAPER.vocab_size, window_size=PAPER.window_size)
    bits = {n: bits_a_weight(PAPER, ones, loss[n], model.num_params()) for n in (1, 4)}
    return (
        f"5 B tokens read each {times_read(PAPER, 5e9):.0f} times in the mean",
        f"({millions(END_PART)} tokens read {percent(share_read(PAPER, END_PART), 0)} of those in test rows, 60 M "
        f"{percent(share_read(PAPER, END_T12), 0)})",
        f"it takes {bits[1]:.1f} bits a weight for N = 1 and {bits[4]:.1f} for N = 4",
    )


def bare_sentences(folder: Path) -> tuple[str, ...]:
    """Of N = 1 without the short convolution, with all tokens of the whole figure."""
    csv = folder / rule110.WITHOUT
    end, with_it = (rule110.end_2b(folder, run) for run in (rule110.WITHOUT, "fig2b.csv"))
    exact = scores(csv, "val_exact").set_index("tokens").value.sort_index()
    loss, cut = (scores(csv, name).value.item() for name in ("test_loss", "cut_exact"))
    middle, late = (exact.index[exact.index >= billions * 1e9][0] for billions in (2, 4))
    return (
        f"it ends at {percent(end.value)}** ({interval(wilson(end.value, end.rows))} of the test rows, loss "
        f"{loss:.3f}; {percent(cut)} with S cut), where N = 1 with its convolution has {percent(with_it.value)}",
        f"from {millions(rule110.leaves(csv)[1])} tokens on and climbs slowly, to {percent(exact[middle])} at "
        f"{millions(middle)} and {percent(exact[late])} at {millions(late)}",
        f"ran in {read_object(folder / 'fig2b_noconv.meta.json')['seconds'] / 3600:.2f} hours of an H200",
    )


def bare_end(folder: Path, n: int, name: str = "more passes without short convolution") -> str:
    """What so many passes answer without the short convolution."""
    runs = other_runs(folder, name)
    end = runs[runs.n_passes == n].set_index("metric").value
    spread = interval(wilson(end.test_exact, end.test_rows))
    return f"{percent(end.test_exact)} ({spread}; loss {end.test_loss:.4f})"


def part_sentences(root: Path) -> tuple[str, ...]:
    """Of the part of figure 2b."""
    folder = root / "results/paper"
    ends, left, tokens, line = (
        rule110.ends_part(folder),
        rule110.leaves(folder / "fig2b_part.csv"),
        millions(END_PART),
        percent(majority(32), 2),
    )
    tested = read(folder / "fig2b_controls.csv").pivot(index="n_passes", columns="metric", values="value")
    rows = f"{tested.test_count[1]:,.0f}"
    return (
        f"A part of figure 2b: one seed, {tokens} tokens for every N",
        f"steps ({tokens} tokens, {percent(END_PART / 5e9, 0)} of the paper's 5 B)",
        f"Always answering 1 scores {line}",
        f"After {tokens} tokens N = 3 and 4 are {100 * (ends[3] - ends[1]):.1f} and {100 * (ends[4] - ends[1]):.1f} "
        "points ahead of N = 1",
        f"N = 2 is {100 * (ends[1] - ends[2]):.1f} points behind",
        f"the last fifth of {tokens} tokens",
        f"always answering 1 scores {percent(tested.cut_exact[1])} on the first {rows}",
        f"{signed(tested.test_n3_exact[2] - tested.test_exact[2])} points, within the noise of {rows} rows",
        f"above {line} is at {listed(f'{left[n] / 1e6:.0f}' for n in (1, 2, 3, 4))} M tokens for N = 1, 2, 3 and 4",
    )


def t12_sentences(folder: Path) -> tuple[str, ...]:
    """Of t = 12."""
    six = rule110.six_seeds(folder)
    middle, end = (rule110.first_set(folder, tokens) for tokens in (MIDDLE_T12, END_T12))
    two, four, both = ahead(six, 2), ahead(six, 4), rule110.both_sets(folder)
    return (
        f"to leave the majority line ({percent(majority(12), 2)})",
        f"With the six seeds, which were fixed before, the interval at {millions(END_T12)} tokens lies {side(two)} for "
        f"N = 2, and {side(four)} for N = 4 by a hair, {points(four)}",
        f"With both sets N = 2 is {points(ahead(both, 2))} points above N = 1, an interval narrower by luck: its six "
        f"differences scatter by {scatter(both):.1f} points, those of the sets by {scatter(six):.1f} and "
        f"{scatter(end):.1f}",
        f"N = 4 is {points(ahead(six, 4, 2))} points above N = 2",
        f"had {percents(means(middle, passes(middle)))} for N = 1, 2 and 4 at {millions(MIDDLE_T12, 1)}",
        f"and {percents(means(end, passes(end)))} for N = 1 and 2 at {millions(END_T12)}",
    )


def scatter(runs: pd.DataFrame) -> float:
    """Standard deviation over seeds of how far N = 2 is above N = 1, in points."""
    one, two = (averages(runs[runs.n_passes == n]) for n in (1, 2))
    return float(100 * (two - one).std())
