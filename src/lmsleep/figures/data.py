"""Stage `data`: the test rows of a figure's runs, and the scores of answering without reading.

python -m lmsleep.figures.data --figure fig2b --config configs/experiment/rule110.yaml --out data/mini/fig2b
"""

import math
import os
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lmsleep.atomic import save_json
from lmsleep.checks import require, typed
from lmsleep.data import RowsDataModule
from lmsleep.figures.corpus import write_corpus, write_questions
from lmsleep.figures.settings import grid, merge_configs
from lmsleep.pretrained import pretrained_config
from lmsleep.tasks import IGNORE, Batch, Task
from lmsleep.tasks.base import split_answers
from lmsleep.tasks.gsm import DatasetConfig, make_dataset
from lmsleep.tasks.gsm.dataset import dataset_encoder
from lmsleep.tasks.spec import build_task
from lmsleep.tensors import save_tensors


def main(
    config: Path, out: Path, figure: str | None = None, dataset: Path | None = None, corpus: int | None = None
) -> None:
    """Writes rows.safetensors and baselines.json; with a corpus, rows.safetensors and needle.safetensors.

    Args:
        config: YAML file of an experiment.
        out: the folder. If the figure has a grid over Rule 110's steps t, a folder t<t> in it for each t.
        figure: its name, for its grid in params.yaml.
        dataset: YAML file of a GSM-Infinite dataset, written to <out>/problems first.
        corpus: seed of the split of Python's standard library, which is copied to <out>/corpus first.
    """
    settings = merge_configs([config])
    if corpus is not None:
        write_corpus(out / "corpus", corpus)
    if (out / "corpus").is_dir():
        write_questions(build_task(settings["data"]["task"], from_anywhere=True), out / "corpus", out)
        return
    if dataset:
        problems = typed(DatasetConfig, merge_configs([dataset]), str(dataset))
        check_vocabulary(problems, settings)
        make_dataset(out / "problems", problems, workers=os.cpu_count() or 1)
    steps = grid(figure).get("steps") if figure else None
    places = {out / f"t{t}": [f"data.task.init_args.steps={t}"] for t in steps} if steps else {out: []}
    for folder, overrides in places.items():
        merged = merge_configs([config], overrides)
        make_data(build_task(merged["data"].pop("task"), from_anywhere=True), folder, **merged["data"])


def check_vocabulary(dataset: DatasetConfig, config: dict[str, Any]) -> None:
    """Raises ValueError if the dataset's tokenizer has more tokens than the pretrained weights of a run."""
    source = config.get("model", {}).get("init_from")
    if source is None or dataset.tokenizer is None:
        return
    size, rows = dataset_encoder(dataset).vocab_size, pretrained_config(source).vocab_size
    assert rows is not None
    require(size <= rows, f"tokenizer {dataset.tokenizer} must have at most the {rows} tokens of {source}", size)


def make_data(task: Task, out: Path, **data: int) -> None:
    """Writes the test rows of `task` as tensors (R, T), and their baselines."""
    rows = held_out(RowsDataModule(task, **data))
    out.mkdir(parents=True, exist_ok=True)
    tensors = {name: value for name, value in rows._asdict().items() if value is not None}
    tensors["answers"] = task.answers(rows.targets)
    save_tensors(out / "rows.safetensors", tensors, "lmsleep.rows", {})
    answers = answers_by_slice(rows, tensors["answers"])
    guesses = {guess.__name__: {level: guess(a) for level, a in answers.items()} for guess in (majority, chance)}
    save_json(out / "baselines.json", guesses | task.baselines())


def held_out(module: RowsDataModule) -> Batch:
    """All test rows of a data module that have targets, in one batch, with masked padding to the longest."""
    batches = [
        batch if batch.mask is not None else batch._replace(mask=torch.ones_like(batch.tokens, dtype=torch.bool))
        for batch in module.test_dataloader()
    ]
    tokens, targets, mask = (
        pad_sequence([row for batch in batches for row in getattr(batch, name)], batch_first=True, padding_value=fill)
        for name, fill in (("tokens", 0), ("targets", IGNORE), ("mask", False))
    )
    whole = Batch(tokens, targets, torch.cat([b.slice for b in batches]), None if mask.all() else mask)
    asked = (targets != IGNORE).any(1)
    return Batch._make(None if field is None else field[asked] for field in whole)


def answers_by_slice(rows: Batch, numbers: Tensor) -> dict[str, list[tuple[int, ...]]]:
    """The tokens of every answer in the rows of each slice; `numbers` (R, T) as of `Task.answers`."""
    found: dict[int, list[tuple[int, ...]]] = {level: [] for level in rows.slice.unique().tolist()}
    for level, *of_row in zip(*(x.tolist() for x in (rows.slice, numbers, rows.targets)), strict=True):
        found[level] += [answer for (answer,) in split_answers(*of_row)]
    return {str(level): answers for level, answers in found.items() if answers}


def majority(answers: Sequence[tuple[int, ...]]) -> float:
    """How often the most frequent answer is right."""
    return Counter(answers).most_common(1)[0][1] / len(answers)


def chance(answers: Sequence[tuple[int, ...]]) -> float:
    """How often a uniform guess is right among the tokens that occur as first, second, ... one of an answer."""
    options = [len(set(place) - {None}) for place in zip_longest(*answers)]
    return math.fsum(1 / math.prod(options[: len(answer)]) for answer in answers) / len(answers)


if __name__ == "__main__":
    from lmsleep.cli import run

    run(main)
