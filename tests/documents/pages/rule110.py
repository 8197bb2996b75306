"""The tables of results/paper about Rule 110: figures 2a and 2b (whole, and a part of its tokens), and t = 12."""

from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from tests.documents.pages.gpu import passes_at_test
from tests.documents.pages.paper import other_runs, share_of_rows
from tests.documents.scores import ahead, average_runs, last_validations, mean, passes, read, scores
from tests.documents.words import listed

from lmsleep.data import RowsDataModule
from lmsleep.figures.stats import paired_differences
from lmsleep.figures.words import interval, millions, percent, points
from lmsleep.tasks import IGNORE, Rule110

MIDDLE_T12, END_T12, END_PART = 40_140_800, 60_006_400, 768_000_000  # tokens
FEW, BETWEEN = 40_038_400, 51_200_000  # of the first tries; between two validations of figure 2b
SECOND_SEED = "fig2b_seeds.csv"  # of figure 2b's N = 1
WITHOUT = "fig2b_noconv.csv"  # the short convolution, N = 1
BARE = "no short convolution (`conv_size=1`)"  # of what was tried
ROW_ERROR = 1.96 * (2 * 0.1 * 0.9 / 8192) ** 0.5  # of a difference of shares near 0.1, each over 8,192 rows


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    """All by name."""
    return {
        "fig2a": fig2a(folder),
        "tried at t = 8": tried(folder, "fig2a", 1, FEW).rename(columns={"val_exact": "exact at 40 M"}),
        "fig2b": fig2b(folder),
        "controls": controls(folder / "fig2b.csv"),
        "fig2b part": fig2b_part(folder),
        "controls part": controls(folder / "fig2b_controls.csv"),
        "tried at t = 32": tried(folder, "fig2b", 2, FEW).set_axis(["changed", "exact", "loss"], axis=1),
        "tried for longer": tried(folder, "fig2b", 1, END_PART).set_axis(["changed", "exact", "loss"], axis=1),
        "t = 12": t12(folder),
        "t = 12, pooled": t12_pooled(folder),
    }


@cache
def majority(t: int) -> float:
    """What always giving the more frequent answer scores, over all strings."""
    share = Rule110(steps=t).majority()
    assert share is not None
    return share


def fig2a(folder: Path) -> pd.DataFrame:
    """Every run of figure 2a at its end."""
    rows = []
    for t, runs in last_validations(folder / "fig2a.csv").groupby("slice"):
        of_all, by_seed = mean(runs), runs.set_index("seed").value.sort_index().map(percent)
        row = {"t": str(t)} | by_seed.rename("seed {}".format).to_dict()
        row |= {"mean": percent(of_all.value), "interval": interval(of_all)}
        rows.append(row | {"majority": percent(majority(int(str(t))), 2)})
    return pd.DataFrame(rows)


def decided_2a(folder: Path) -> str:
    """The pairs of t whose paired difference has an interval on one side of zero: t = 4 above 12, 14 and 16, say.

    All seeds are scored on the same rows, whose own error no interval over seeds has in it: a difference must exceed
    that too.
    """
    ends = last_validations(folder / "fig2a.csv").drop(columns="n_passes")
    below: dict[int, list[str]] = {}
    for base in sorted(map(int, ends.slice.unique())):
        for record in paired_differences(ends, "slice", base).to_dict("records"):
            if record["high"] < 0 and -record["value"] > ROW_ERROR:
                below.setdefault(base, []).append(str(record["slice"]))
    return ", and ".join(f"t = {base} above {listed(steps)}" for base, steps in below.items())


def tried(folder: Path, figure: str, digits: int, tokens: int) -> pd.DataFrame:
    """The settings tried for a figure with so many tokens: accuracy with so many digits, loss where it was noted."""
    runs = read(folder / "other_runs.csv")
    runs = runs[runs["set"].str.startswith("tried: ") & (runs.figure == figure) & (runs.tokens == tokens)]
    scores = zip(runs.metric, runs.value, strict=True)
    text = [percent(value, digits) if metric.endswith("_exact") else f"{value:.4f}" for metric, value in scores]
    runs = runs.assign(text=text, setting=runs["set"].str.removeprefix("tried: "))
    return runs.pivot(index="setting", columns="metric", values="text").loc[runs.setting.unique()].reset_index()


def tries_at_the_end(folder: Path) -> pd.Series:
    """Test accuracy of what was tried for figure 2b with the schedule of `END_PART` tokens, by what was changed."""
    runs = read(folder / "other_runs.csv").query("metric == 'test_exact' and tokens == @END_PART")
    runs = runs[runs["set"].str.startswith("tried: ")]
    return runs.set_index(runs["set"].str.removeprefix("tried: ")).value


def fig2b(folder: Path) -> pd.DataFrame:
    """The first validation from each billion tokens on (the last, if it ends just before) and the test, for every N."""
    places = [*(f"{billion} B" for billion in range(1, 6)), "test"]
    columns = {f"N = {n}": run_2b(folder / "fig2b.csv", n) for n in passes(scores(folder / "fig2b.csv"))}
    again = {"N = 1, seed 1": run_2b(folder / SECOND_SEED, 1)}
    return pd.DataFrame({"tokens": places} | columns | again)


def run_2b(csv: Path, n: int) -> list[str]:
    """The column of a run in `fig2b`."""
    run, its_loss = (
        scores(csv, f"val_{name}", n_passes=n).set_index("tokens").value.sort_index() for name in ("exact", "loss")
    )
    share, nats, rows = (scores(csv, f"test_{name}", n_passes=n).value.item() for name in ("exact", "loss", "rows"))
    seen = [run.index[run.index >= billion * 1e9 - BETWEEN] for billion in range(1, 6)]
    at = [min((t for t in near if t >= 1e9 * billion), default=near.max()) for billion, near in enumerate(seen, 1)]
    cells = [f"{percent(run[t])}; {its_loss[t]:.3f} ({millions(t)})" for t in at]
    return [*cells, accuracy_and_loss(share, nats, int(rows))]


def ends_2b(folder: Path) -> pd.Series:
    """Accuracy by N at the test of figure 2b's runs."""
    return scores(folder / "fig2b.csv", "test_exact").set_index("n_passes").value.sort_index()


def accuracy_and_loss(share: float, loss: float, rows: int) -> str:
    """A share of so many rows with its interval, and a loss."""
    return f"{share_of_rows(share, rows)}; {loss:.3f}"


def fig2b_part(folder: Path) -> pd.DataFrame:
    """Accuracy with its interval, and loss, at three places of the curves."""
    keys, rows = ["tokens", "n_passes"], []
    exact, loss, count = (
        scores(folder / "fig2b_part.csv", f"val_{name}").set_index(keys).value for name in ("exact", "loss", "rows")
    )
    for tokens in (261_120_000, 537_600_000, END_PART):
        shares = exact[tokens].items()
        cells = {f"N = {n}": accuracy_and_loss(v, loss[tokens, n], int(count[tokens, n])) for n, v in shares}
        rows.append({"tokens": millions(tokens)} | cells)
    return pd.DataFrame(rows)


def leaves(csv: Path) -> dict[int, float]:
    """For each N, the tokens of the first validation from which a run of t = 32 stays above the majority line."""
    tokens = {}
    for n, run in scores(csv, "val_exact").sort_values("tokens").groupby("n_passes"):
        on_line = run[run.value <= majority(32)]
        tokens[n] = run[run.tokens > on_line.tokens.max()].tokens.iloc[0]
    return tokens


def ends_part(folder: Path) -> pd.Series:
    """Accuracy by N at the end of the schedule of 768 M tokens."""
    return last_validations(folder / "fig2b_part.csv").set_index("n_passes").value


@cache
def rows_by_answers(t: int) -> Counter[str]:
    """How many test rows have which four answers, drawn as configs/experiment/paper/rule110.yaml says."""
    data = RowsDataModule(Rule110(steps=t), batch_size=1024, eval_rows=8192)
    targets = torch.cat([batch.targets for batch in data.test_dataloader()])
    return Counter(" ".join(map(str, answers)) for answers in targets[targets != IGNORE].view(-1, 4).tolist())


def ones_tested(t: int) -> float:
    """What always answering 1 scores on the test rows."""
    return rows_by_answers(t)["1 1 1 1"] / rows_by_answers(t).total()


def answers_of_none(folder: Path) -> str:
    """What figure 2b's models say of every row with S cut, when they know nothing of it: the four answers that as many
    of its test rows have as they get right. Raises ValueError if no four answers have so many."""
    drawn = rows_by_answers(32)
    said = {f"{count / drawn.total():.6g}": answers for answers, count in drawn.items()}
    by_n = scores(folder / "fig2b.csv", "cut_exact").set_index("n_passes").value.map("{:.6g}".format).map(said)
    if by_n.isna().any():
        raise ValueError(f"cut_exact must be the share of rows of one answer, got {by_n.to_dict()}")
    groups = by_n.groupby(by_n, sort=False).groups.items()
    return ", ".join(f"{answers} with N = {listed(map(str, n))}" for answers, n in groups)


class Ending(NamedTuple):
    """The test of a run."""

    value: float
    tokens: int
    rows: int


def end_2b(folder: Path, csv: str = "fig2b.csv") -> Ending:
    """That of figure 2b's run with N = 1."""
    test, rows = (scores(folder / csv, f"test_{name}", n_passes=1).iloc[0] for name in ("exact", "rows"))
    return Ending(test.value, int(test.tokens), int(rows.value))


def controls(csv: Path) -> pd.DataFrame:
    """Models of t = 32 with S cut, and with every number of passes."""
    table = read(csv)
    rows, table = [], table[(table.slice == "all") & ~table.metric.str.startswith("val_")]
    for n in passes(table):
        cells = [*map(percent, passes_at_test(table, n))]
        cells[n] = f"**{cells[n]}**"
        rows.append([str(n), *cells])
    return pd.DataFrame(rows, columns=["trained with N =", "S cut", "1 pass at test", *map(str, range(2, 7))])


def first_set(folder: Path, tokens: int) -> pd.DataFrame:
    """The runs of seeds 0 to 2 that came before the figure's: the same rows and first weights, runs of their own."""
    first = other_runs(folder, "first set")
    return first[first.tokens == tokens].astype({"seed": int, "n_passes": int})


def six_seeds(folder: Path, tokens: int = END_T12) -> pd.DataFrame:
    """The figure's runs at t = 12."""
    return scores(folder / "rule110_t12.csv", "val_exact", tokens=tokens)


def both_sets(folder: Path, tokens: int = END_T12) -> pd.DataFrame:
    """The figure's six seeds and the first set, the runs of a seed averaged."""
    return average_runs(six_seeds(folder, tokens), first_set(folder, tokens))


def t12(folder: Path) -> pd.DataFrame:
    """Every run at t = 12, and the differences paired by seed."""
    rows = []
    for tokens in (MIDDLE_T12, END_T12):
        runs = six_seeds(folder, tokens)
        for n in passes(runs):
            of_all, by_seed = mean(runs, n), runs[runs.n_passes == n].set_index("seed").value.sort_index().map(percent)
            row = {"tokens": millions(tokens, 1), "N": str(n)} | by_seed.rename({0: "seed 0"}).to_dict()
            row |= {"mean": percent(of_all.value), "interval": interval(of_all)}
            rows.append(row | {"against N = 1, points": points(ahead(runs, n)) if n > 1 else ""})
    return pd.DataFrame(rows)


def t12_pooled(folder: Path) -> pd.DataFrame:
    """The differences of both sets at t = 12, alone and together."""
    rows = []
    for tokens, n in ((MIDDLE_T12, 2), (MIDDLE_T12, 4), (END_T12, 2)):
        sets = (six_seeds(folder, tokens), first_set(folder, tokens), both_sets(folder, tokens))
        rows.append([millions(tokens, 1), f"N = {n}", *(points(ahead(runs, n)) for runs in sets)])
    header = ["tokens", "against N = 1, points", "six seeds", "first set, three seeds", "both, six seeds"]
    return pd.DataFrame(rows, columns=header)
