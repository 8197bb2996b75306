"""The numbers of results/paper: its README and its verdicts."""

from pathlib import Path

from tests.documents import rule110
from tests.documents.document import Document
from tests.documents.sources import (
    ahead,
    answers,
    at_the_end,
    markdown,
    millions,
    passes,
    percents,
    points,
    scores,
)

from lmsleep.figures.words import percent

OWN = (
    r"torch 2\.11",
    r"Jet-Nemotron 2B|Ouro 1\.4B",
    r"5 B tokens|4\.6 B\s+tokens|5 B\b",  # the paper's budgets
    r"95 % (?:t |Wilson )?interval",
    r"N = 1, 40 M tokens, one run each",  # the budget of figure 2a
    r"of 80 GB",
    r"Physics of Language Models\* 4\.1",
    r"scores 1\.66",  # log 75 over the tokens of an answer: tests/tasks/test_depo_chance.py
    r"over the last\s+60 %",  # a setting that was tried
)
BY_WINDOWS, PARALLEL = "reading by windows", "parallel sliding window"


def documents(root: Path) -> list[Document]:
    """The README and the verdicts."""
    folder = root / "results/paper"
    tables = {**rule110.tables(folder), "fig3": depo_table(folder), "fig6": fig6_table(folder)}
    said = (*rule110.sentences(folder), *depo_sentences(folder), *fig6_sentences(folder))
    return [
        Document("results/paper/README.md", tables, said, OWN),
        Document("results/paper/verdicts.yaml", {}, verdict_sentences(folder), OWN),
    ]


def depo_csv(folder: Path) -> Path:
    """The runs of Depo in words of one or two tokens."""
    return folder / "fig3_words.csv"


def depo_table(folder: Path) -> str:
    """Loss and accuracy for each number of hops, at three places of the curves."""
    loss, exact = (scores(depo_csv(folder), f"val_{name}") for name in ("loss", "exact"))
    hops, rows = sorted(exact.slice.unique()), []
    for tokens in (73_728_000, 193_536_000, 313_344_000):
        for n in passes(exact[exact.tokens == tokens]):
            at = [p[(p.tokens == tokens) & (p.n_passes == n)].set_index("slice").value for p in (loss, exact)]
            rows.append([millions(tokens, 1), str(n), *(f"{at[0][k]:.2f}; {percent(at[1][k])}" for k in hops)])
    return markdown(["tokens", "N", *(f"{k} hop{'s' if k > 1 else ''}" for k in hops)], rows)


def one_hop_begins(folder: Path, n: int) -> float:
    """The tokens of the first validation from which one hop is right more than twice as often as two."""
    exact = scores(depo_csv(folder), "val_exact")
    wide = exact[exact.n_passes == n].pivot(index="tokens", columns="slice", values="value")
    not_yet = wide.index[wide[1] <= 2 * wide[2]].max()
    return float(wide.index[wide.index > not_yet].min())


def depo_sentences(folder: Path) -> tuple[str, ...]:
    """What the page says of Depo."""
    final = at_the_end(depo_csv(folder)).set_index("n_passes").tokens
    begins = [millions(one_hop_begins(folder, n)) for n in (1, 2)]
    return (
        f"from {begins[0]} tokens on with N = 1 and from {begins[1]} with N = 2",
        f"({millions(final[4].max(), 1)})",
    )


def fig6_speeds(folder: Path) -> dict[tuple[str, int, int], float]:
    """Tokens a second by way of reading, window and N."""
    table = scores(folder / "fig6.csv", "tokens_per_second")
    return {(r["model"], r["slice"], r["n_passes"]): r["value"] for r in table.to_dict("records")}


def fig6_table(folder: Path) -> str:
    """Tokens a second against windows and N."""
    speed, rows = fig6_speeds(folder), []
    for window in (1000, 2000, 4000):
        rates = [speed[PARALLEL, window, 1], *(speed[BY_WINDOWS, window, n] for n in (1, 2, 3, 4))]
        cells = [f"{rate / 1e3:.1f} k" for rate in rates]
        rows.append([f"{window:,}", f"{cells[0]} tokens/s" if not rows else cells[0], *cells[1:]])
    return markdown(["window", PARALLEL, "by windows, N = 1", "N = 2", "N = 3", "N = 4"], rows)


def one_sequence(folder: Path) -> float:
    """By how much reading by windows of 1,000 is slower than in parallel with one sequence in a batch."""
    part = rule110.other(folder, "one sequence")
    part = part[(part.slice == 1000) & (part.n_passes == 1)].set_index("model").value
    return 1 - part[BY_WINDOWS] / part[PARALLEL]


def fig6_sentences(folder: Path) -> tuple[str, ...]:
    """What the page says of figure 6."""
    speed = fig6_speeds(folder)
    slower = 1 - speed[BY_WINDOWS, 1000, 1] / speed[PARALLEL, 1000, 1]
    memory = scores(folder / "fig6.csv", "peak_bytes")
    held = memory[memory.model == BY_WINDOWS].value / 1e9

    def rate(name: str, window: int, model: str = BY_WINDOWS) -> str:
        part = rule110.other(folder, name)
        return f"{part[(part.slice == window) & (part.model == model) & (part.n_passes == 1)].value.iloc[0] / 1e3:.1f}"

    one, beside = "one sequence", "beside training runs"
    return (
        f"{held.min():.0f} to {held.max():.0f} of 80 GB by windows of 2,000 and 4,000",
        f"Reading by windows costs no more than {percent(slower, 0)} (windows of 1,000)",
        f"batches of 3 had {rate('batches of 3', 2000)} k tokens/s and batches of 4 {rate('batches of 4', 2000)} k",
        f"windows of 1,000 had {rate(one, 1000)} k tokens/s against {rate(one, 1000, PARALLEL)} k in parallel, 2,000 "
        f"{rate(one, 2000)} against {rate(one, 2000, PARALLEL)} k and 4,000 {rate(one, 4000)} against "
        f"{rate(one, 4000, PARALLEL)} k",
        f"had {rate(beside, 1000)} k against {rate(beside, 1000, PARALLEL)} k with windows of 1,000",
    )


def verdict_sentences(folder: Path) -> tuple[str, ...]:
    """What the verdicts say."""
    end = at_the_end(folder / "fig2a.csv")
    final, left = rule110.finals_2b(folder), rule110.leaves(folder)
    six, both = rule110.both_t12(folder)
    depo = scores(depo_csv(folder), "val_exact", 193_536_000)
    one_hop = [depo[(depo.n_passes == n) & (depo.slice == 1)].value.iloc[0] for n in (1, 2)]
    tokens = at_the_end(depo_csv(folder)).groupby("n_passes").tokens.max() / 1e6
    speed = fig6_speeds(folder)
    slower = 1 - speed[BY_WINDOWS, 1000, 1] / speed[PARALLEL, 1000, 1]
    return (
        f"Three seeds, {millions(end.tokens.min())} tokens. The intervals decide "
        f"{', and '.join(rule110.decided_2a(folder))}",
        f"One seed, {millions(rule110.END_2B)} of 5 B tokens. N = 1 to 4 have {percents(list(final.values()))}, "
        f"always answering 1 has {percent(rule110.majority(32), 2)}",
        f"N = 1 stays above that from {millions(left[1])} tokens on",
        f"six seeds, N = 1, 2 and 4 have {answers(six)} at {millions(rule110.END_T12)} tokens",
        f"N = 2 is {points(ahead(both, 2))} points above N = 1 over six seeds, three of them run twice and averaged",
        f"saw {tokens[1]:.0f}, {tokens[2]:.0f} and {tokens[4]:.0f} M of 4.6 B tokens",
        f"at {millions(193_536_000)} tokens {percent(one_hop[0], 0)} with N = 1, {percent(one_hop[1], 0)} with N = 2",
        f"windows of 1,000 tokens trains {percent(slower, 0)} slower than a parallel sliding window in one "
        f"measurement, the fastest of two steps; with one sequence {percent(one_sequence(folder), 0)} slower",
    )
