"""The control of figure 3: the task can be learned where nothing is evicted."""

import pytest
import torch

from lmsleep.model import HybridConfig
from lmsleep.sleep import read_windows
from lmsleep.tasks import Depo
from lmsleep.training.metrics import SCORES, row_scores
from lmsleep.training.optimizer import OptimizerConfig


@pytest.mark.slow
def test_one_hop_is_learned_without_eviction():
    task = Depo(
        max_nodes=5, min_nodes=5, max_hops=3, test_hops=(1, 2, 3), n_queries=4, n_symbols=24, word_lengths=(1, 1),
        graph_length=12, question_length=16, window_size=4,
    )  # fmt: skip
    torch.manual_seed(0)
    whole = HybridConfig(
        task.vocab_size, d_model=48, pattern="AG", window_size=task.sequence_length, n_heads=2, decay_rates=(0.02, 1.0)
    )
    model, optimizer = whole.build(), OptimizerConfig(muon_lr=5e-3, adamw_lr=3e-3).build
    optimizer = optimizer(model.blocks, model)
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
