r"""Stage `probe`: linear probes of S after each pass of a sleep.

python -m lmsleep.figures.probe --runs runs/gpu --out results/gpu/probe.csv --passes=[1,4] --seeds=[100,101,102]

The last window that sleeps gets passes 1 to --most, those before it as many as in the training. From S after each
pass, ridge regression predicts on Rule 110 the cells of that window's state, as they are and after 1, 2, 4 and 8 steps,
and the label; on Depo the node 1, 2 and 4 hops after each node. So it does for a model with initial weights (N = 0);
`majority` is the score of the most frequent value.
"""

from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from lmsleep.atomic import save_csv
from lmsleep.checks import LAST, check_distinct, require
from lmsleep.figures.settings import merge_configs
from lmsleep.figures.table import run_columns
from lmsleep.memory import FastWeights
from lmsleep.model import HybridLM
from lmsleep.model.trained import trained_sleeps
from lmsleep.pretrained import from_lightning
from lmsleep.sleep import Pass, read_windows
from lmsleep.tasks import Batch, Depo, Rule110, Task
from lmsleep.tasks.rule110 import rule110_step
from lmsleep.tasks.spec import build_task
from lmsleep.tidy import COLUMNS

STEPS, HOPS = (0, 1, 2, 4, 8), (1, 2, 4)
PENALTIES = tuple(10.0**k for k in range(-4, 3))  # relative to the mean square of a row's features
READ = 512  # rows of a forward pass
FEATURES = 4096  # columns of a matrix product


def main(
    runs: Path,
    out: Path,
    passes: Sequence[int],
    seeds: Sequence[int],
    most: int = 8,
    rows: tuple[int, int, int] = (8192, 1024, 2048),
    figures: Sequence[str] = ("fig2b", "fig3"),
) -> None:
    """Writes a row for each run, pass and probe; the pass is in the column `slice`.

    Args:
        runs: folder with the runs of all figures.
        out: the CSV.
        passes: N of the runs.
        seeds: of the runs.
        most: passes over the last window.
        rows: numbers of rows to fit on, to choose the penalty on, and to test on.
        figures: of Rule 110 and Depo.
    """
    check_distinct(passes=passes, seeds=seeds, figures=figures)
    require(most >= 1, "most must be 1 or more", most)
    require(min(rows) >= 2, "rows must be 2 or more each", rows)
    records = []
    for figure in figures:
        for run in [runs / figure / f"n{n}-s{seed}" for n in passes for seed in seeds]:
            columns = run_columns(figure, run)
            model = from_lightning(run / LAST)
            sleeps = trained_sleeps(model.trained, run)
            models = {columns["n_passes"]: model}
            if columns["n_passes"] == max(passes):
                torch.manual_seed(columns["seed"])
                models[0] = model.config.build().eval()
            for n, probed in models.items():
                for record in probe_run(probed, run, sleeps, most, rows):
                    records.append(columns | {"n_passes": n} | record)
            print(f"{run}: read", flush=True)
    save_csv(out, pd.DataFrame(records)[COLUMNS].round({"value": 6}))


def probe_run(
    model: HybridLM, run: Path, sleeps: dict[str, Any], most: int, rows: tuple[int, int, int]
) -> Iterator[dict[str, Any]]:
    """slice, metric and value of all probes of a model on the task of a run: `probe_<what>` after each pass,
    `majority_<what>` with slice 0; `sleeps` as of `trained_sleeps`."""
    config = merge_configs([run / "config.yaml"])
    task = build_task(config["data"]["task"], from_anywhere=True)
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    count = -(-sum(rows) // READ)
    batches = [task.rows(split="test", seed=0, step=step, batch_size=READ) for step in range(count)]
    truths = [probe_targets(task, batch) for batch in batches]
    truth = {name: torch.cat([one[name] for one in truths]).to(model.embedding.weight.device) for name in truths[0]}
    states = [flatten_states(states_after_passes(model, batch, most, **sleeps)) for batch in batches]
    for made in range(1, most + 1):
        X = torch.cat([part[made - 1] for part in states])
        for name, value in ridge(X, truth, rows).items():
            yield {"slice": made, "metric": f"probe_{name}", "value": value}
    for name, values in truth.items():
        often = values[: rows[0]].mode(dim=0).values
        share = (values[-rows[2] :] == often).double().mean().item()
        yield {"slice": 0, "metric": f"majority_{name}", "value": share}


@torch.no_grad()
def states_after_passes(model: HybridLM, batch: Batch, most: int, n_passes: int, **sleeps: Any) -> list[FastWeights]:
    """S after passes 1 .. `most` over the last window that sleeps, with N passes over those before. `sleeps` are
    arguments of `read_windows`."""
    trace: list[FastWeights] = []

    def watched(blocks: Pass, h: Tensor, S: FastWeights) -> tuple[Tensor, FastWeights]:
        left, trace[:] = (h, S), [S]
        for made in range(2, max(most, n_passes) + 1):
            h, S = blocks(h, S)
            trace.append(S)
            left = (h, S) if made <= n_passes else left
        return left

    device = model.embedding.weight.device
    mask = None if batch.mask is None else batch.mask.to(device)
    tokens, targets = batch.tokens.to(device), batch.targets.to(device)
    read_windows(model, tokens, targets, mask=mask, on_overflow=watched, **sleeps)
    return trace[:most]


def flatten_states(trace: list[FastWeights]) -> Tensor:
    """All entries of S after each pass: (passes, B, F)."""
    return torch.stack([torch.cat([state.flatten(1) for state in S.states], dim=1) for S in trace])


def probe_targets(task: Task, batch: Batch) -> dict[str, Tensor]:
    """The targets of the probes by name: classes (B, J) of J values. Raises ValueError for another task, or a Depo
    whose test rows do not have all names."""
    if isinstance(task, Rule110):
        last = batch.tokens[:, : task.n_states * task.width].unflatten(1, (task.n_states, -1))[:, -1].numpy()
        cells = np.arange(task.width - 1, -1, -1, dtype=np.uint64)
        states = (last.astype(np.uint64) << cells).sum(axis=1)
        rows = []
        for _ in range(max(*STEPS, task.steps) + 1):
            rows.append(torch.from_numpy(((states[:, None] >> cells) & np.uint64(1)).astype(np.int64)))
            states = rule110_step(states, task.width)
        return {f"after_{k}_steps": rows[k] for k in STEPS} | {"label": rows[task.steps][:, :1]}
    if not isinstance(task, Depo) or task.naming != "text" or task.n_symbols not in (None, task.max_nodes):
        raise ValueError(f"task must be Rule110, or Depo with a name for each node alone, got {task}")
    n = task.max_nodes
    edges = batch.tokens[:, task.graph_length - 4 * n : task.graph_length].unflatten(1, (n, 4))
    after = torch.zeros(len(edges), n, dtype=torch.long).scatter(1, edges[..., 0] - 1, edges[..., 2] - 1)
    reached = [torch.arange(n).expand_as(after)]
    for _ in range(max(HOPS)):
        reached.append(after.gather(1, reached[-1]))
    return {f"after_{k}_hops": reached[k] for k in HOPS}


def ridge(X: Tensor, truth: dict[str, Tensor], rows: tuple[int, int, int]) -> dict[str, float]:
    """The accuracy on `truth`, classes (R, J) by name, of ridge regression on features X (R, F).

    Fitted on the first of the R rows, with the penalty chosen on those after them, tested on the last. Features are
    standardised, classes one-hot, the largest output is the answer. Solved in the dual: (K + penalty I) a = Y, with
    K = X X^T over the mean of its diagonal.
    """
    n, n_chosen, n_tested = rows
    chosen, tested = slice(n, n + n_chosen), slice(len(X) - n_tested, len(X))
    mean, spread = X[:n].mean(0), X[:n].std(0)
    X = (X - mean) / (spread + 1e-6 * spread.max())
    # In float64: in float32, K has negative eigenvalues larger than the smallest penalty.
    K = reduce(torch.add, (part @ part[:n].T for part in map(Tensor.double, X.split(FEATURES, dim=1))))
    K = K / K[:n].diagonal().mean()
    sizes = {name: int(values.max()) + 1 for name, values in truth.items()}
    Y = torch.cat([F.one_hot(values[:n], sizes[name]).flatten(1) for name, values in truth.items()], dim=1).double()
    offset = Y.mean(0)
    eye = torch.eye(n, dtype=torch.double, device=X.device)
    best: dict[str, tuple[float, float]] = {}
    for penalty in PENALTIES:
        a = torch.cholesky_solve(Y - offset, torch.linalg.cholesky(K[:n] + penalty * eye))
        outputs = (K @ a + offset).split([values.shape[1] * sizes[name] for name, values in truth.items()], dim=1)
        for (name, values), output in zip(truth.items(), outputs, strict=True):
            right = output.unflatten(1, (-1, sizes[name])).argmax(-1) == values
            score = float(right[chosen].double().mean()), float(right[tested].double().mean())
            best[name] = max(best.get(name, (-1.0, 0.0)), score, key=lambda pair: pair[0])
    return {name: score for name, (_, score) in best.items()}


if __name__ == "__main__":
    from lmsleep.cli import run

    run(main)
