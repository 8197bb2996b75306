"""What the pages say of the states of Rule 110 that training reads, against rows as drawn and a model that is kept."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from tests.documents.pages.states import bits_a_weight

from lmsleep import HybridLM, read_windows
from lmsleep.tasks import Rule110
from lmsleep.tasks.base import stream

ROOT = Path(__file__).parents[2]


def test_the_share_of_tested_states_that_training_reads_is_that_of_its_rows():
    task = Rule110(steps=0)
    known = np.zeros(1 << task.width, bool)
    for step in range(1170):
        known[states(task.rows(split="train", seed=100, step=step, batch_size=512))] = True
    tested = states(task.rows(split="test", seed=0, step=0, batch_size=8192))
    page = " ".join((ROOT / "results/gpu/README.md").read_text().split())
    assert f"which read {100 * known[tested].mean():.0f} % of the states in test rows" in page


def test_the_kept_model_answers_states_that_its_training_never_read():
    task = Rule110(steps=12)
    known = np.zeros(1 << task.width, bool)
    for step in range(4680):
        drawn = stream(100, "train", step).integers(0, 1 << 24, (512, 4), dtype=np.uint64)
        known[drawn.astype(np.int64)] = True  # the bits of the rows' states: test_the_layout_is_that_of_the_docstring
    batch = task.rows(split="test", seed=0, step=0, batch_size=96)
    model = HybridLM.from_pretrained(ROOT / "results/gpu/model", dtype=torch.float32)
    with torch.no_grad():
        out = read_windows(model, batch.tokens, batch.targets, n_passes=4)
    new = ~known[states(batch)].reshape(96, 4)
    right = (out.scored_logits.argmax(-1) == out.scored_targets).numpy()
    assert 0.5 < new.mean() < 0.65 and right[new].mean() > 0.99


def states(batch):
    """The states of Rule 110's rows as numbers: 24 cells each."""
    cells = batch.tokens[:, :96].reshape(-1, 24)
    return (cells << torch.arange(23, -1, -1)).sum(dim=1).numpy()


def test_a_table_of_all_states_holds_what_its_losses_leave_unknown():
    few = Rule110(width=3, n_states=1)  # eight states
    assert bits_a_weight(few, ones=0.5, loss=0.0, weights=8) == 1.0
    assert bits_a_weight(few, ones=0.25, loss=0.0, weights=4) == pytest.approx(2 * stats.entropy([0.25, 0.75], base=2))
    assert bits_a_weight(few, ones=0.5, loss=np.log(2), weights=8) == pytest.approx(0)
