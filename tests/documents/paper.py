"""The numbers of results/paper: of its README and of its verdicts."""

import math
from pathlib import Path

import pandas as pd
from tests.documents.document import Document, document
from tests.documents.pages import paper, rule110
from tests.documents.pages.paper import fig6_rates, hop_begins, one_sequence, other_runs, rates, slower
from tests.documents.pages.rule110 import END_T12, majority
from tests.documents.rule110 import rule110_sentences
from tests.documents.scores import ahead, last_validations, means, scores
from tests.documents.words import listed, percents

from lmsleep.checks import read_object
from lmsleep.figures.words import millions, percent, points
from lmsleep.tidy import PARALLEL, WINDOWED


def documents(root: Path) -> list[Document]:
    """The README and the verdicts."""
    folder = root / "results/paper"
    sentences = (*rule110_sentences(root), *depo_sentences(folder), *fig6_sentences(folder))
    tables = paper.tables(folder) | rule110.tables(folder)
    return [
        document("results/paper/README.md", tables, sentences),
        document("results/paper/verdicts.yaml", {}, verdict_sentences(folder)),
    ]


def depo_sentences(folder: Path) -> tuple[str, ...]:
    """Of Depo, in the printed layout and with words."""
    csv, words = folder / "fig3.csv", folder / "fig3_words.csv"
    begins = [millions(hop_begins(words, n)) for n in (1, 2)]
    hours = read_object(folder / "fig3.meta.json")["seconds"] / 3600
    return (
        f"{hours:.2f} hours of one",
        whose_hops(csv),
        f"One of 75 names at random is {percent(1 / 75)}",
        *hops_in_sleep(csv),
        *first_n4(folder),
        *where_they_part(folder),
        f"from {begins[0]} tokens on with N = 1 and from {begins[1]} with N = 2",
        f"({millions(last_validations(words).query('n_passes == 4').tokens.max(), 1)})",
    )


def hops_in_sleep(csv: Path) -> tuple[str, ...]:
    """What figure 3's models answer with other numbers of passes, and with S cut."""
    one, two = (
        [
            scores(csv, "test_exact" if n == 4 else f"test_n{n}_exact", n_passes=4, slice=hops).value.item()
            for n in range(1, 7)
        ]
        for hops in (1, 2)
    )
    more = scores(csv, "test_n6_exact", n_passes=1, slice=2).value.item()
    return (
        f"Asked with 1 to 6 passes, it answers {percents(one)} at one hop and {percents(two)} at two",
        f"more passes make it worse ({percent(more)} with six)",
        f"With S cut no model answers more than {percent(scores(csv, 'cut_exact').value.max())}",
    )


def where_they_part(folder: Path) -> tuple[str, ...]:
    """From which validation on two runs of one command differ; and two of Rule 110 that do not."""
    keys = ["tokens", "slice"]
    once, again = (
        other_runs(folder, f"one command, {time} time").set_index(keys).value for time in ("first", "second")
    )
    apart = (once - again).abs().groupby("tokens").max()
    assert list(apart.index) == [4_608_000, 9_216_000, 13_824_000] and apart.iloc[0] == 0
    trial = (
        other_runs(folder, "nothing changed, until the rate falls").query("metric == 'val_loss'").set_index("tokens")
    )
    whole = scores(folder / "fig2b.csv", "val_loss", n_passes=1).set_index("tokens")
    assert (trial.value == whole.value[trial.index]).all()
    return (
        f"after 200 they are up to {apart.iloc[1]:.5f} nats apart",
        f"at all {len(trial)} validations before that, over {millions(trial.index.max())} tokens",
    )


def first_n4(folder: Path) -> tuple[str, ...]:
    """Of figure 3's first run of N = 4, beside that in its place."""
    first, second = folder / "fig3_first.csv", folder / "fig3.csv"
    begins = [hop_begins(first, 4, hops) for hops in (1, 2)]
    end = last_validations(first).tokens.max()
    shares = (scores(csv, "val_exact", n_passes=4, tokens=end).set_index("slice").value for csv in (first, second))
    ended, beside = (percents(hops[[1, 2]]) for hops in shares)
    start, again = (
        scores(csv, "val_loss", n_passes=4, slice=1, tokens=46_080_000).value.item() for csv in (first, second)
    )
    hours = read_object(folder / "fig3_first.meta.json")["seconds"] / 3600
    return (
        f"found one hop from {millions(begins[0])} and two from {millions(begins[1])} tokens on and had "
        f"{ended} at {millions(end)}, where the second has {beside}",
        f"after {hours:.2f} hours of an H200",
        f"the two had {start:.4f} and {again:.4f} nats at one hop after 1,000 steps",
    )


def whose_hops(csv: Path) -> str:
    """When figure 3's runs begin to find one hop and two; that of N = 2 never found two."""
    one, two = ([hop_begins(csv, n, hops) for n in (1, 2, 4)] for hops in (1, 2))
    assert math.isnan(two[1])
    return (
        f"one hop is right more than twice as often as two from {listed(f'{tokens / 1e6:.0f}' for tokens in one)} M "
        f"tokens on with N = 1, 2 and 4; two hops are right more than twice as often as four from "
        f"{millions(two[0])} with N = 1 and from {millions(two[2])} with N = 4, and never with N = 2"
    )


def fig6_sentences(folder: Path) -> tuple[str, ...]:
    """Of figure 6."""
    memory = scores(folder / "fig6.csv", "peak_bytes", model=WINDOWED).value / 1e9
    sets = ("one sequence", "beside training runs", "batches of 3", "batches of 4")
    single, beside, *more = (rates(other_runs(folder, name)) / 1e3 for name in sets)
    three, four = (by_window[WINDOWED, 1][2000] for by_window in more)

    def windowed_and_parallel(by_window: pd.DataFrame, window: int, unit: str = "") -> str:
        return f"{by_window[WINDOWED, 1][window]:.1f}{unit} against {by_window[PARALLEL, 1][window]:.1f} k"

    return (
        f"{memory.min():.0f} to {memory.max():.0f} of 80 GB by windows of 2,000 and 4,000",
        f"Reading by windows costs no more than {percent(slower(fig6_rates(folder))[1000], 0)} (windows of 1,000)",
        f"batches of 3 had {three:.1f} k tokens/s and batches of 4 {four:.1f} k",
        f"windows of 1,000 had {windowed_and_parallel(single, 1000, ' k tokens/s')} in parallel, 2,000 "
        f"{windowed_and_parallel(single, 2000)} and 4,000 {windowed_and_parallel(single, 4000)}",
        f"had {windowed_and_parallel(beside, 1000, ' k')} with windows of 1,000",
    )


def verdict_sentences(folder: Path) -> tuple[str, ...]:
    """What the verdicts say."""
    words, depo, first = (folder / f"{name}.csv" for name in ("fig3_words", "fig3", "fig3_first"))
    early, left = last_validations(folder / "fig2a.csv"), rule110.leaves(folder / "fig2b.csv")
    seen = last_validations(depo).tokens.drop_duplicates()  # the same for every N
    one_hop = scores(words, "val_exact", tokens=193_536_000, slice=1).set_index("n_passes").value
    tokens = last_validations(words).groupby("n_passes").tokens.max() / 1e6
    ends, again = rule110.ends_2b(folder), rule110.end_2b(folder, rule110.SECOND_SEED)
    six = rule110.six_seeds(folder)
    return (
        f"Three seeds, {millions(early.tokens.min())} tokens. The intervals decide {rule110.decided_2a(folder)}",
        f"N = {listed(map(str, ends.index))} end at {percents(ends)} of test rows",
        f"{percent(again.value)} with another seed",
        f"a schedule of 40,000 of 100,000 steps, {millions(seen.item())} of 4.6 B tokens",
        f"Of its runs {whose_hops(depo)}",
        f"found them from {hop_begins(first, 4) / 1e6:.0f} and {millions(hop_begins(first, 4, 2))} on",
        f"Always answering 1 has {percent(majority(32), 2)}, and our N = 1 stays above that from {millions(left[1])} "
        "tokens on",
        f"six seeds, N = 1, 2 and 4 have {percents(means(six))} at {millions(END_T12)} tokens",
        f"N = 2 is {points(ahead(six, 2))} points above N = 1 and N = 4 {points(ahead(six, 4))}",
        f"saw {tokens[1]:.0f}, {tokens[2]:.0f} and {tokens[4]:.0f} M of 4.6 B tokens",
        f"at {millions(193_536_000)} tokens {percent(one_hop[1], 0)} with N = 1, {percent(one_hop[2], 0)} with N = 2",
        f"windows of 1,000 tokens trains {percent(slower(fig6_rates(folder))[1000], 0)} slower than a parallel sliding "
        f"window in one measurement, the fastest of two steps; with one sequence {percent(one_sequence(folder), 0)} "
        "slower",
    )
