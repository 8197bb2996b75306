r"""Stage `evaluate`: the test scores of every run of a figure, as trained and under other ways to sleep.

python -m lmsleep.figures.evaluate --figure fig2b --runs runs/mini/fig2b --data data/mini/fig2b \
    --out runs/mini/scores/fig2b.csv
"""

import math
from argparse import ArgumentError
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from lmsleep.atomic import save_csv
from lmsleep.checks import LAST, naming_file, require
from lmsleep.errors import Parser, argument_sentence, of_constructors, options
from lmsleep.figures.settings import has_arms, merge_configs
from lmsleep.figures.table import run_columns, run_folders
from lmsleep.metrics import SliceScores
from lmsleep.model import HybridLM
from lmsleep.model.trained import trained_sleeps
from lmsleep.pretrained import from_lightning
from lmsleep.settle import Settle, forget
from lmsleep.sleep import OnOverflow, read_windows, sleep
from lmsleep.tasks import IGNORE
from lmsleep.tensors import read_tensors
from lmsleep.windows import by_window, check_batch

THRESHOLDS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)  # of `Settle`


def main(figure: str, runs: Path, data: Path, out: Path) -> None:
    """Writes the scores of every cell of a figure's grid.

    Args:
        figure: its name.
        runs: folder of run folders.
        data: folder with rows.safetensors, or of such folders.
        out: the CSV.
    """
    save_csv(out, pd.concat([evaluate_run(figure, run, data) for run in run_folders(figure, runs)]))


def evaluate_run(figure: str, run: Path, data: Path) -> pd.DataFrame:
    """Test scores of one run in all `ways_to_sleep`, tidy; of sleeps that stop when S settles also their mean number of
    passes. Scores that are not finite are left out, unless they are those of its own sleep, which nothing may do
    without."""
    columns = run_columns(figure, run)
    folder = data if (data / "rows.safetensors").exists() else data / run.name.split("-")[0]  # a folder for each t
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = from_lightning(run / LAST).to(device)
    sleeps = trained_sleeps({name: of for name, of in model.trained.items() if name != "on_overflow"}, run)
    files = {"": folder / "rows.safetensors", "needle_": folder / "needle.safetensors"}
    tested = {name: read_rows(path, model) for name, path in files.items() if path.exists() or not name}
    with naming_file(run / "config.yaml"):
        config = merge_configs([run / "config.yaml"])
        batch_size = config["data"].get("eval_batch_size") or config["data"]["batch_size"]
        bf16 = config["trainer"].get("precision") == "bf16-mixed"
        ways = ways_to_sleep(sleeps.pop("n_passes"), has_arms(figure), own_sleep(config["sleep"].get("on_overflow")))
    records = []
    for (way, on_overflow), (kind, rows) in product(ways.items(), tested.items()):
        settled: list[Tensor] = []  # passes of each row
        if isinstance(on_overflow, Settle):
            on_overflow = replace(on_overflow, record=settled.append)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16 and device.type == "cuda"):
            scored = score_rows(model, rows, on_overflow, batch_size=batch_size, **sleeps)
        scored |= {"passes": float(torch.cat(settled).double().mean())} if settled else {}
        for name, value in scored.items():
            if way != "test" and not math.isfinite(value):
                continue
            metric, _, level = name.partition("-")
            records.append(columns | {"slice": level or "all", "metric": f"{way}_{kind}{metric}", "value": value})
    return pd.DataFrame(records)


def ways_to_sleep(trained: int, is_arm: bool, own: OnOverflow | None = None) -> dict[str, OnOverflow]:
    """What begins the names of metrics -> how a run sleeps for them: with the N that it was trained with, or by its
    `own` sleep; with S cut at every overflow; with every other N to 6. An arm with N to 8 and, if it sleeps so, until S
    settles."""
    most = 8 if is_arm else 6
    ways: dict[str, OnOverflow] = {"test": own or partial(sleep, n_passes=trained), "cut": forget}
    ways |= {f"test_n{n}": partial(sleep, n_passes=n) for n in range(1, most + 1) if own or n != trained}
    return ways | ({f"settle_{t:g}": Settle(t, most) for t in THRESHOLDS} if is_arm and trained > 1 else {})


def own_sleep(spec: Any) -> OnOverflow | None:
    """What `sleep.on_overflow` of a run's configuration names, built as `lmsleep fit` does. Raises ValueError if it
    cannot be imported, or its arguments do not fit."""
    parser = Parser(exit_on_error=False)
    parser.add_argument("--on_overflow", type=OnOverflow | None)
    try:
        parsed = parser.parse_object({"on_overflow": spec})
    except ArgumentError as error:
        raise ValueError(argument_sentence(str(error), options(parser)).replace("--", "")) from None
    with of_constructors():
        return parser.instantiate(parsed).on_overflow


def read_rows(path: Path, model: HybridLM) -> dict[str, Tensor]:
    """The test rows in a file of stage `data`. Raises ValueError if they do not fit the model."""
    with naming_file(path):
        rows, _ = read_tensors(path, "cpu")
        check_batch(rows["tokens"], rows["targets"], rows.get("mask"), len(model.embedding.weight))
        require(rows.keys() >= {"answers", "slice"}, "rows must have answers and slices", ", ".join(rows))
        return rows


@torch.no_grad()
def score_rows(
    model: HybridLM, rows: dict[str, Tensor], on_overflow: OnOverflow, batch_size: int, **sleeps: Any
) -> dict[str, float]:
    """Scores per slice over test rows, see `SliceScores.compute`; for each tensor `by_<name>` (R, T) in `rows` also
    `<name>_loss-<group>` and `<name>_count-<group>`, mean loss and number of targets of each group 0, 1, ... (-1: in no
    group). `sleeps` are arguments of `read_windows`."""
    device = model.embedding.weight.device
    sizes = {name: int(value.max()) + 1 for name, value in rows.items() if name.startswith("by_")}
    sums = {name: torch.zeros(2, size, dtype=torch.float64, device=device) for name, size in sizes.items()}
    totals = SliceScores(tuple(rows["slice"].unique().tolist())).to(device)
    for part in batches(rows, model.window_size, batch_size):
        part = {name: value.to(device) for name, value in part.items()}
        sleeps |= {"mask": part.get("mask"), "on_overflow": on_overflow}
        reading = read_windows(model, part["tokens"], part["targets"], **sleeps)
        assert reading.scored_logits is not None and reading.scored_targets is not None
        logits, targets = reading.scored_logits, reading.scored_targets
        totals.update(logits, targets, part["answers"][:, -targets.shape[1] :], part["slice"])
        if not sums:
            continue
        nats = F.cross_entropy(logits.float().mT, targets, ignore_index=IGNORE, reduction="none").double()
        for name, total in sums.items():
            group = part[name][:, -targets.shape[1] :].long()
            counted = (group >= 0) & (targets != IGNORE)
            for value, weight in zip(total, (nats, torch.ones_like(nats)), strict=True):
                value.index_add_(0, group[counted], weight[counted])
    means = {name: float(value) for name, value in totals.compute().items()}
    for name, (nats, count) in sums.items():
        for group in count.nonzero()[:, 0].tolist():
            means[f"{name[3:]}_loss-{group}"] = float(nats[group] / count[group])
            means[f"{name[3:]}_count-{group}"] = float(count[group])
    return means


def batches(rows: dict[str, Tensor], window_size: int, batch_size: int) -> Iterator[dict[str, Tensor]]:
    """Batches of at most `batch_size` of the rows (R, ...), all with loss in the same windows, since a window with loss
    in one row keeps the others from sleeping; cut behind the last of these."""
    kinds, kind = by_window(rows["targets"] != IGNORE, window_size).unique(dim=0, return_inverse=True)
    for i, flags in enumerate(kinds):
        end = (int(flags.nonzero().max()) + 1) * window_size
        for chosen in (kind == i).nonzero()[:, 0].split(batch_size):
            yield {name: value[chosen, :end] if value.ndim > 1 else value[chosen] for name, value in rows.items()}


if __name__ == "__main__":
    from lmsleep.cli import run

    run(main)
