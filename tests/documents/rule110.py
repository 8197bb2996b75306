"""The numbers of results/paper that come from Rule 110: figures 2a and 2b, and t = 12."""

from functools import cache
from pathlib import Path

import pandas as pd
from tests.documents.sources import (
    ahead,
    at_the_end,
    average_runs,
    ends,
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

from lmsleep.figures.results import paper_values
from lmsleep.figures.stats import paired_differences, wilson
from lmsleep.figures.words import percent, signed
from lmsleep.tasks import Rule110

END_T12, END_2B = 60_006_400, 768_000_000  # tokens


def tables(folder: Path) -> dict[str, str]:
    """The tables of results/paper/README.md that are about Rule 110."""
    return {
        "fig2a": fig2a_table(folder),
        "tried at t = 8": tried_t8(folder),
        "fig2b": fig2b_table(folder),
        "controls": controls_table(folder),
        "tried at t = 32": tried_t32(folder),
        "t = 12": t12_table(folder),
        "t = 12, pooled": pooled_table(folder),
    }


def sentences(folder: Path) -> tuple[str, ...]:
    """Its sentences about Rule 110."""
    return (*fig2a_sentences(folder), *fig2b_sentences(folder), *t12_sentences(folder))


@cache
def majority(t: int) -> float:
    """What always giving the more frequent answer scores, over all strings."""
    share = Rule110(steps=t).majority()
    assert share is not None
    return share


def other(folder: Path, name: str) -> pd.DataFrame:
    """One of the sets of runs that no figure shows."""
    table = read(folder / "other_runs.csv")
    part = table[table["set"] == name]
    assert len(part), name
    return part.assign(slice=part.slice.astype(int))


def fig2a_table(folder: Path) -> str:
    """Every run of figure 2a at its end."""
    final = at_the_end(folder / "fig2a.csv")
    header = ["t", *(f"seed {s}" for s in sorted(final.seed.unique())), "mean", "interval", "majority"]
    rows = []
    for t, part in final.groupby("slice"):
        shares, whole = part.sort_values("seed").value, mean(part)
        rows.append(
            [str(t), *map(percent, shares), percent(whole.value), ends(whole), percent(majority(int(str(t))), 2)]
        )
    return markdown(header, rows)


ROW_ERROR = 1.96 * (2 * 0.1 * 0.9 / 8192) ** 0.5  # of a difference of shares near 0.1, each over 8,192 rows


def decided_2a(folder: Path) -> list[str]:
    """The pairs of t whose paired difference has an interval on one side of zero: t = 4 above 12, 14 and 16, say.

    All seeds are scored on the same rows, whose own error no interval over seeds has in it: a difference must exceed
    that too.
    """
    final = at_the_end(folder / "fig2a.csv").drop(columns="n_passes")
    above: dict[int, list[str]] = {}
    for base in sorted(map(int, final.slice.unique())):
        for record in paired_differences(final, "slice", base).to_dict("records"):
            if record["high"] < 0 and -record["value"] > ROW_ERROR:
                above.setdefault(base, []).append(str(record["slice"]))
    return [f"t = {base} above {listed(those)}" for base, those in above.items()]


def fig2a_sentences(folder: Path) -> tuple[str, ...]:
    """What the page says of figure 2a."""
    first = other(folder, "warm-up of 100 steps").groupby("slice").value.mean()
    final = at_the_end(folder / "fig2a.csv")
    eight = final[final.slice == 8].value
    loop, slower = (
        other(folder, f"earlier loop: {name}").value.iloc[0]
        for name in ("the paper's rates, our other choices", "slower decay, Muon 5e-3 and AdamW 3e-3")
    )
    early = other(folder, "ended early")
    withdrawn = other(folder, "withdrawn: one autocast region over all steps").value.iloc[0]
    return (
        f"Figure 2a: three seeds, {millions(final.tokens.min())} tokens",
        f"Paired by seed, the intervals decide {', and '.join(decided_2a(folder))}",
        f"seeds 0 and 1 at {' and '.join(f'{tokens / 1e6:.1f}' for tokens in early.tokens)} M tokens "
        f"({percents(list(early.value))} right)",
        f"had means of {percents(list(first))}",
        f"figure 2a scatters from {100 * eight.min():.0f} to {percent(eight.max(), 0)}",
        f"gave {percent(loop)} for the base setting and {percent(slower)} with slower decay",
        f"Two earlier runs at {percent(withdrawn)}",
    )


def tried_t8(folder: Path) -> str:
    """The settings tried at t = 8."""
    table = read(folder / "other_runs.csv")
    part = table[table["set"].str.startswith("tried: ") & (table.figure == "fig2a")]
    rows = [[row["set"].removeprefix("tried: "), percent(row["value"])] for row in part.to_dict("records")]
    return markdown(["setting", "exact at 40 M"], rows)


def fig2b_table(folder: Path) -> str:
    """Accuracy with its interval, and loss, at three places of the curves."""
    exact, loss, rows = (scores(folder / "fig2b.csv", f"val_{name}") for name in ("exact", "loss", "rows"))
    lines = []
    for tokens in (261_120_000, 537_600_000, END_2B):
        cells = []
        for n in passes(exact):
            share, nats, count = (
                p[(p.tokens == tokens) & (p.n_passes == n)].value.iloc[0] for p in (exact, loss, rows)
            )
            cells.append(f"{percent(share)} ({ends(wilson(share, int(count)))}); {nats:.3f}")
        lines.append([millions(tokens), *cells])
    return markdown(["tokens", *(f"N = {n}" for n in passes(exact))], lines)


def leaves(folder: Path) -> dict[int, float]:
    """For each N, the tokens of the first validation from which figure 2b's run stays above the majority line."""
    exact = scores(folder / "fig2b.csv", "val_exact").sort_values("tokens")
    found = {}
    for n, run in exact.groupby("n_passes"):
        on_it = run[run.value <= majority(32)]
        found[int(str(n))] = run[run.tokens > on_it.tokens.max()].tokens.iloc[0]
    return found


def finals_2b(folder: Path) -> dict[int, float]:
    """Accuracy of each N at the end of figure 2b's schedule."""
    final = at_the_end(folder / "fig2b.csv")
    return dict(zip(map(int, final.n_passes), final.value, strict=True))


def printed(folder: Path) -> list[str]:
    """What the paper prints for N = 1 to 4 in figure 2b: about 10, > 30."""
    table = paper_values(folder.parents[1] / "docs/paper_values.csv")
    part = table[table.figure == "fig2b"].sort_values("n_passes")
    return [f"{row['note'].split(';')[0]} {float(row['value']) * 100:.0f}" for row in part.to_dict("records")]


def fig2b_sentences(folder: Path) -> tuple[str, ...]:
    """What the page says of figure 2b."""
    final, left = finals_2b(folder), leaves(folder)
    tokens = at_the_end(folder / "fig2b.csv").tokens.max()
    cut = read(folder / "fig2b_controls.csv")
    rows = cut[cut.metric == "test_count"].value.iloc[0]
    one_more = cut[(cut.n_passes == 2) & (cut.metric == "test_n3_exact")].value.iloc[0] - of(cut, 2, "test_exact")
    return (
        f"Figure 2b: one seed, {millions(tokens)} tokens for every N",
        f"steps ({millions(tokens)} tokens, {percent(tokens / 5e9, 0)} of the paper's 5 B)",
        f"Always answering 1 scores {percent(majority(32), 2)}",
        f"After {millions(tokens)} tokens N = 3 and 4 are {100 * (final[3] - final[1]):.1f} and "
        f"{100 * (final[4] - final[1]):.1f} points ahead of N = 1",
        f"N = 2 is {100 * (final[1] - final[2]):.1f} points behind",
        f"the last fifth of {millions(tokens)} tokens",
        f"The paper prints {listed(printed(folder))} % at 5 B tokens",
        f"N = 1 stays above the majority line from {millions(left[1])} tokens on, where the paper's is near it to 5 B",
        f"always answering 1 scores {percent(of(cut, 1, 'cut_exact'))} on the first {rows:,.0f}",
        f"{signed(one_more)} points, within the noise of {rows:,.0f} rows",
        f"above {percent(majority(32), 2)} is at {', '.join(f'{left[n] / 1e6:.0f}' for n in (1, 2, 3))} and "
        f"{millions(left[4])} tokens for N = 1, 2, 3 and 4",
    )


def of(table: pd.DataFrame, n: int, metric: str) -> float:
    """The one value of an N and a metric."""
    return table[(table.n_passes == n) & (table.metric == metric)].value.iloc[0]


def controls_table(folder: Path) -> str:
    """The models of figure 2b with S cut, and with every number of passes."""
    table = read(folder / "fig2b_controls.csv")
    rows = []
    for n in passes(table):
        cells = [percent(of(table, n, "test_exact" if m == n else f"test_n{m}_exact")) for m in range(1, 7)]
        cells[n - 1] = f"**{cells[n - 1]}**"
        rows.append([str(n), percent(of(table, n, "cut_exact")), *cells])
    return markdown(["trained with N =", "S cut", "1 pass at test", *map(str, range(2, 7))], rows)


def tried_t32(folder: Path) -> str:
    """The settings tried at t = 32."""
    table = read(folder / "other_runs.csv")
    part = table[table["set"].str.startswith("tried: ") & (table.figure == "fig2b")]
    rows = []
    for name in part["set"].unique():
        run = part[part["set"] == name].set_index("metric").value
        rows.append([name.removeprefix("tried: "), percent(run["val_exact"], 2), f"{run['val_loss']:.4f}"])
    return markdown(["changed", "exact", "loss"], rows)


def first_set(folder: Path, tokens: int) -> pd.DataFrame:
    """The runs of seeds 0 to 2 that came before the figure's: the same rows and first weights, runs of their own."""
    first = other(folder, "first set")
    return first[first.tokens == tokens].astype({"seed": int, "n_passes": int})


def pooled_t12(folder: Path, tokens: int) -> pd.DataFrame:
    """The figure's six seeds and the first set, the runs of a seed averaged."""
    six = scores(folder / "rule110_t12.csv", "val_exact", tokens)
    return average_runs(pd.concat([six, first_set(folder, tokens)]))


def both_t12(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The ends of the figure's six seeds, and of these and the first set."""
    return scores(folder / "rule110_t12.csv", "val_exact", END_T12), pooled_t12(folder, END_T12)


def t12_table(folder: Path) -> str:
    """Every run at t = 12, and the differences paired by seed."""
    rows = []
    for tokens in (40_140_800, END_T12):
        part = scores(folder / "rule110_t12.csv", "val_exact", tokens)
        for n in passes(part):
            shares, whole = part[part.n_passes == n].sort_values("seed").value, mean(part, n)
            apart = points(ahead(part, n)) if n > 1 else ""
            rows.append([millions(tokens, 1), str(n), *map(percent, shares), percent(whole.value), ends(whole), apart])
    seeds = [f"seed {s}" if s == 0 else str(s) for s in range(6)]
    return markdown(["tokens", "N", *seeds, "mean", "interval", "against N = 1, points"], rows)


def pooled_table(folder: Path) -> str:
    """The differences of both sets at t = 12, alone and together."""
    rows = []
    for tokens, n in ((40_140_800, 2), (40_140_800, 4), (END_T12, 2)):
        six = scores(folder / "rule110_t12.csv", "val_exact", tokens)
        sets = [points(ahead(part, n)) for part in (six, first_set(folder, tokens), pooled_t12(folder, tokens))]
        rows.append([millions(tokens, 1), f"N = {n}", *sets])
    return markdown(["tokens", "against N = 1, points", "six seeds", "first set, three seeds", "both, six seeds"], rows)


def t12_sentences(folder: Path) -> tuple[str, ...]:
    """What the page says of t = 12."""
    part = scores(folder / "rule110_t12.csv", "val_exact", END_T12)
    firsts = [first_set(folder, tokens) for tokens in (40_140_800, END_T12)]
    sentence = [percents([mean(first, n).value for n in passes(first)]) for first in firsts]
    two, four = ahead(part, 2), ahead(part, 4)
    return (
        f"to leave the majority line ({percent(majority(12), 2)})",
        f"With both sets N = 2 is {points(ahead(pooled_t12(folder, END_T12), 2))} points above N = 1",
        f"With the six seeds alone the interval at {millions(END_T12)} tokens lies {side(two)} for N = 2, and "
        f"{side(four)} for N = 4 by a hair, {points(four)}",
        f"N = 4 is {points(ahead(part, 4, 2))} points above N = 2",
        f"had {sentence[0]} for N = 1, 2 and 4 at {millions(40_140_800, 1)}",
        f"and {sentence[1]} for N = 1 and 2 at {millions(END_T12)}",
    )
