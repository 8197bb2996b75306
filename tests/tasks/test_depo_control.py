"""The control of figure 3: the task can be learned where nothing is evicted."""

from pathlib import Path

import pytest
import torch

from lmsleep.figures.settings import merge_configs
from lmsleep.metrics import SCORES, row_scores
from lmsleep.model import HybridConfig
from lmsleep.sleep import read_windows
from lmsleep.tasks.spec import build_task
from lmsleep.training.optimizer import OptimizerConfig

EXPERIMENT = Path(__file__).parents[2] / "configs/experiment/depo.yaml"


@pytest.mark.slow
def test_one_hop_is_learned_without_eviction():
    config = merge_configs([EXPERIMENT])
    task = build_task(config["data"]["task"])
    torch.manual_seed(0)
    model = HybridConfig(**config["model"]["model"]).for_task(task.vocab_size, task.sequence_length).build()
    optimizer = OptimizerConfig(**config["model"]["optimizer"]).build(model.blocks, model)
    for step in range(1000):
        batch = task.rows(split="train", seed=0, step=step, batch_size=64)
        loss = read_windows(model, batch.tokens, batch.targets).loss
        assert loss is not None
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    batch = task.rows(split="val", seed=0, step=0, batch_size=256)
    assert batch.slice.unique().tolist() == [1]
    with torch.no_grad():
        reading = read_windows(model, batch.tokens, batch.targets)
    assert reading.scored_logits is not None and reading.scored_targets is not None
    sums, counts = row_scores(reading.scored_logits, reading.scored_targets, task.answers(reading.scored_targets))
    exact = SCORES.index("exact")
    assert sums[exact].sum() / counts[exact].sum() > 0.8  # a guess among the names of the cycle is right in 1 of 5
