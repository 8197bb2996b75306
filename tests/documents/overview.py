"""The numbers of results/README.md."""

from pathlib import Path

from tests.documents.document import Document, document
from tests.documents.pages import arms, overview, paper, rule110, states
from tests.documents.pages.overview import most_seeds
from tests.documents.pages.seeds import CHOSEN_ON, DEPO_HOPS, count_runs, depo_runs
from tests.documents.paper import whose_hops
from tests.documents.readme import step_times
from tests.documents.rule110 import printed_2b
from tests.documents.scores import ahead, last_validations, means, passes, read, row_error, scores
from tests.documents.words import listed, percents

from lmsleep.figures.stats import wilson
from lmsleep.figures.words import interval, millions, percent, points
from lmsleep.tidy import WINDOWED


def documents(root: Path) -> list[Document]:
    """The page."""
    sentences = (*mini_sentences(root), *paper_sentences(root), *speed_sentences(root))
    return [document("results/README.md", overview.tables(root), sentences)]


def mini_sentences(root: Path) -> tuple[str, ...]:
    """Of mini runs."""
    shown, rule = scores(root / "results/mini/fig2b.csv"), most_seeds(root, "fig2b")
    late, depo = rule[rule.seed > CHOSEN_ON], depo_runs(root)
    near, farthest = depo[depo.slice == DEPO_HOPS], depo.slice.max()
    today, far = near[near.again == 0], depo[depo.slice == farthest]
    hardest = scores(root / "results/mini/fig4a.csv", slice=4)
    commonest = read(root / "results/mini/majority.csv").set_index("slice").value["4"]
    return (
        f"The {shown.seed.nunique()} runs that `make repro` draws",
        f"they answer {percents(means(shown))} for N = 1, 2 and 4",
        f"Training reads all of the {2**states.MINI.width:,} states there are, each "
        f"{states.times_read(states.MINI, shown.tokens.max()):.0f} times in the mean",
        f"[all {rule.seed.nunique()} seeds](seeds/README.md) answer {percents(means(rule))} for N = 1, 2 and 4",
        f"**N = 2 is {points(ahead(rule, 2))} points above N = 1**, N = 4 {points(ahead(rule, 4))}",
        f"the second look alone, {late.seed.nunique()} seeds, says {points(ahead(late, 2))} and "
        f"{points(ahead(late, 4))}",
        f"At {DEPO_HOPS} hops the {today.seed.nunique()} seeds of today's code decide nothing (N = 2 "
        f"{points(ahead(today, 2))}, N = 4 {points(ahead(today, 4))}); with {count_runs(near) - count_runs(today)} "
        f"runs of an earlier code N = 2 is {points(ahead(near, 2))}",
        f"At 4 operations, the hardest, N = 1, 2 and 4 have {percents(means(hardest))} in figure 4a, and the commonest "
        f"answer {percent(commonest)}",
        f"At {farthest} hops all {count_runs(far)} runs answer {percents(means(far))}",
    )


def paper_sentences(root: Path) -> tuple[str, ...]:
    """Of runs at the paper's sizes, and of scale gpu beside them."""
    folder = root / "results/paper"
    six, both = rule110.six_seeds(folder), rule110.both_sets(folder)
    left, ends, end = rule110.leaves(folder / "fig2b.csv"), rule110.ends_part(folder), rule110.end_2b(folder)
    spread, all_ends = interval(wilson(end.value, end.rows)), rule110.ends_2b(folder)
    bare, whole = rule110.tries_at_the_end(folder)[rule110.BARE], rule110.end_2b(folder, rule110.WITHOUT)
    more = paper.other_runs(folder, "more passes without short convolution").query("metric == 'test_exact'")
    gpu = scores(root / "results/gpu/fig3.csv")
    depo = folder / "fig3.csv"
    two_hops = scores(depo, slice=2).sort_values("n_passes")
    four_hops = scores(depo, n_passes=4, slice=4).value.item()
    awake = scores(depo, "test_n1_exact", n_passes=4, slice=2).value.item()
    ordered = most_seeds(root, "fig2b"), scores(root / "results/gpu/fig2b.csv"), six
    return (
        f"decide {rule110.decided_2a(folder)} after "
        f"{millions(last_validations(folder / 'fig2a.csv').tokens.min())} tokens",
        f"**N = 2 is {points(ahead(six, 2))} points above N = 1** over the six seeds fixed before, after "
        f"{millions(rule110.END_T12)} tokens; with three earlier runs averaged in, {points(ahead(both, 2))}. N = 4 is "
        f"{points(ahead(six, 4))} above N = 1",
        f"N = 1 answers {percent(end.value)} ({spread} over its rows)",
        f"always answering 1 gives {percent(rule110.majority(32), 2)}, a line that ours leaves at {millions(left[1])} "
        "tokens",
        f"N = {listed(map(str, all_ends.index))} end at {percents(all_ends)}",
        f"has been read {states.times_read(states.PAPER, 5e9):.0f} times",
        f"(at most {row_error(end.rows):.1f} points for {end.rows:,} rows, {row_error(1000):.1f} for 1,000)",
        f"{millions(rule110.END_PART)} tokens of a schedule that ends there give {percents(ends)} for N = 1, 2, 3 and "
        "4",
        f"without its short convolution N = 1 has {percent(bare)} after {millions(rule110.END_PART)} "
        f"tokens, where N = 2, 3 and 4 have {percents(more.value)}, and {percent(whole.value)} after "
        f"{millions(whole.tokens)}",
        f"another seed ends at {percent(rule110.end_2b(folder, rule110.SECOND_SEED).value)}",
        f"The paper prints {printed_2b(root)} %.",
        whose_hops(depo),
        f"N = {listed(map(str, passes(two_hops)))} end at {percents(two_hops.value)} of the answers at two hops, and "
        f"four begin with N = 4 alone, at its end ({percent(four_hops)}). Two hops it follows in its sleep: without, "
        f"it has {percent(awake)}",
        f"two hops from {millions(paper.hop_begins(folder / 'fig3_first.csv', 4, 2))} on",
        f"over all hops N = 4 is {points(ahead(gpu, 4))} points above N = 1, N = 2 {points(ahead(gpu, 2))}",
        f"one of four times the blocks is ahead in four, and {points(arms.above_all(root / 'results/gpu', 'deep16'))} "
        "points with all its runs",
        f"N = 4 is {listed(points(ahead(runs, 4, 2)) for runs in ordered)} points above N = 2",
    )


def speed_sentences(root: Path) -> tuple[str, ...]:
    """Of speed."""
    mini, folder = root / "results/mini", root / "results/paper"
    small = paper.fig6_rates(mini)
    slower, times = paper.slower(small), (small[WINDOWED, 1] / small[WINDOWED, 4]).iloc[-1]
    largest = paper.slower(paper.fig6_rates(folder)).max()
    step, cpu, read_before = step_times(root), paper.latency(mini), paper.latency(folder).groupby("slice").mean()
    return (
        f"{percent(largest, 0)} slower than a parallel sliding window at most, in one measurement, the fastest of two "
        "steps",
        f"with one sequence {percent(paper.one_sequence(folder), 0)} slower. N = 4 is {paper.times_slower(folder)} "
        "times slower than N = 1",
        f"by windows of {small.index[0]} to {small.index[-1]} tokens {100 * slower.min():.0f} to "
        f"{percent(slower.max(), 0)} slower, most with the smallest, and N = 4 {times:.1f} times with the largest",
        f"takes {paper.awake(folder)} ms a token on an H100",
        f"{percent(1 - read_before['100'] / read_before['10'], 0)} faster",
        f"a sleep over 1,024 tokens takes {paper.pauses(folder)} ms for N = 2 to 6",
        f"{cpu.min():.1f} to {cpu.max():.1f} ms a token on a CPU",
        f"{step['rule110.yaml', 1]:.1f} and {step['rule110.yaml', 4]:.1f} ms a step for N = 1 and 4",
    )
