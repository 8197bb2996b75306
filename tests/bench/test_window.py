"""`lmsleep bench window`: both ways of reading have the same loss and gradients, and the table is whole."""

import re
from dataclasses import asdict
from functools import partial

import pandas as pd
import pytest
import torch
import yaml

from lmsleep import HybridConfig
from lmsleep.bench.parallel import parallel_twin
from lmsleep.bench.window import PARALLEL, WINDOWED, Runner, _by_windows, _in_parallel, main, measure
from lmsleep.figures.table import COLUMNS
from lmsleep.model import SharedWeights
from lmsleep.windows import IGNORE

TINY = HybridConfig(vocab_size=7, d_model=16, pattern="AGa", window_size=4, n_heads=2)
SETTING = {"windows": [4, 8], "passes": [1, 2], "length": 16, "batch_sizes": [1, 2], "repeats": 1}


def test_both_ways_of_reading_train_on_the_same_loss(build, draw_tokens):
    tokens = draw_tokens(2, 18)
    targets = torch.full_like(tokens, IGNORE)
    targets[:, -6:] = tokens[:, -6:]
    results = []
    for parallel in (False, True):
        model = parallel_twin(build()) if parallel else build()
        value = (_in_parallel if parallel else partial(_by_windows, 1, "sliding"))(model, tokens, targets)
        names, weights = zip(*sorted(model.named_parameters()), strict=True)
        results.append((value, names, torch.autograd.grad(value, weights)))
    (loss, names, grads), (other, other_names, other_grads) = results
    torch.testing.assert_close(loss, other, rtol=1e-9, atol=1e-12)
    assert names == other_names
    for grad, wanted in zip(grads, other_grads, strict=True):
        torch.testing.assert_close(grad, wanted, rtol=1e-6, atol=1e-9)


def test_a_step_shares_weights_as_training_does(monkeypatch):
    """On a GPU; here it is made to, and each way of reading joins the projections of its blocks once."""
    joined, product = [], SharedWeights.product
    monkeypatch.setattr("lmsleep.bench.window._shared", lambda _: SharedWeights())
    monkeypatch.setattr(SharedWeights, "product", lambda self, *args: (joined.append(self), product(self, *args))[1])
    *_, frame = measure(TINY, **SETTING | {"windows": [4], "batch_sizes": [1]})
    assert len(set(map(id, joined))) == 6  # two steps, one of them timed, of each of the three ways
    assert (frame.value > 0).all()


def test_table_has_every_setting_once():
    *_, frame = measure(TINY, **SETTING)
    assert list(frame.columns) == COLUMNS
    settings = [(row.model, row.n_passes, row.slice) for row in frame.itertuples()]
    assert sorted(settings) == sorted(
        [(WINDOWED, n, w) for n in (1, 2) for w in (4, 8)] + [(PARALLEL, 1, w) for w in (4, 8)]
    )
    assert set(frame.metric) == {"tokens_per_second"}
    assert set(frame.tokens) <= {16, 32}
    assert (frame.value > 0).all()


@pytest.fixture
def config(tmp_path_factory):
    """A file that describes the model."""
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump({"model": {"model": asdict(TINY)}}))
    return path


def test_command_writes_the_table(config, tmp_path, capsys):
    main(config, **SETTING | {"passes": [1]}, out=tmp_path / "fig6.csv")
    assert set(pd.read_csv(tmp_path / "fig6.csv").n_passes) == {1}
    said = capsys.readouterr()
    assert WINDOWED in said.out
    assert re.match(rf"{WINDOWED}, N = 1: \d rows? of 16 tokens in \d+\.\d\d s$", said.err.splitlines()[0])


@pytest.mark.parametrize(("ends", "windows"), [((4, 2), {4}), ((8, 1), {4}), ((8, 2), {4, 8})])
def test_what_was_measured_before_an_end_is_kept(config, ends, windows, tmp_path, monkeypatch):
    step = Runner.step

    def ends_at(runner, tokens, targets, timed):
        if (runner.model.window_size, len(tokens)) == ends:
            raise KeyboardInterrupt
        step(runner, tokens, targets, timed)

    monkeypatch.setattr(Runner, "step", ends_at)
    with pytest.raises(KeyboardInterrupt):
        main(config, **SETTING, out=tmp_path / "fig6.csv")
    kept = pd.read_csv(tmp_path / "fig6.csv")
    assert set(kept.slice) == windows
    assert len(kept) == 3 * len(windows)
