"""What a linear probe reads in S, against simulations, walks and solutions written by hand."""

import numpy as np
import pandas as pd
import pytest
import torch

from lmsleep import HybridConfig
from lmsleep.cli import run
from lmsleep.figures import probe as module
from lmsleep.figures.plots.probe import probe, probe_gains
from lmsleep.figures.probe import main, probe_targets, ridge, states_after_passes
from lmsleep.tasks import Batch, Depo, Rule110

RULE110 = Rule110(steps=3, width=6, n_states=2)
DEPO = Depo(
    max_nodes=5,
    min_nodes=2,
    max_hops=4,
    test_hops=(1, 4),
    n_queries=2,
    graph_length=20,
    question_length=12,
    window_size=10,
)
NEXT = {"111": 0, "110": 1, "101": 1, "100": 0, "011": 1, "010": 1, "001": 1, "000": 0}  # Rule 110's table


def simulated(cells, steps):
    for _ in range(steps):
        n = len(cells)
        cells = [NEXT["".join(str(cells[(i + d) % n]) for d in (-1, 0, 1))] for i in range(n)]
    return cells


def test_of_rule_110_the_rows_of_the_last_state_and_its_label_are_looked_for():
    batch = RULE110.rows(split="test", seed=1, step=0, batch_size=20)
    found = probe_targets(RULE110, batch)
    assert list(found) == [*(f"after_{k}_steps" for k in (0, 1, 2, 4, 8)), "label"]
    for i, row in enumerate(batch.tokens.tolist()):
        for k in (0, 1, 2, 4, 8):
            assert found[f"after_{k}_steps"][i].tolist() == simulated(row[6:12], k)
    assert torch.equal(found["label"], batch.targets[:, -1:])  # the answer for the last state


def test_of_depo_the_nodes_some_hops_after_each_node_are_looked_for():
    batch = DEPO.rows(split="test", seed=1, step=1, batch_size=20)
    found = probe_targets(DEPO, batch)
    for i, row in enumerate(batch.tokens.tolist()):
        after = {row[j]: row[j + 2] for j in range(0, 20, 4)}
        for k in (1, 2, 4):
            for node in range(1, 6):
                reached = node
                for _ in range(k):
                    reached = after[reached]
                assert found[f"after_{k}_hops"][i, node - 1] == reached - 1


def test_another_task_is_refused():
    words = Depo(naming="words", max_nodes=5, max_hops=4, test_hops=(1,), n_queries=2, graph_length=75)
    with pytest.raises(ValueError, match=r"^task must be Rule110, or Depo with a name for each node alone, got Depo"):
        probe_targets(words, words.rows(split="test", seed=0, step=0, batch_size=1))


@pytest.mark.parametrize("n_passes", [1, 2, 4])
def test_states_are_those_after_each_pass_of_the_last_sleep(build, rows, n_passes):
    model, (tokens, targets) = build(), rows
    found = states_after_passes(model, Batch(tokens, targets, tokens[:, 0]), 3, n_passes=n_passes)
    S = model.init_fast_weights(len(tokens))
    with torch.no_grad():
        h = model.embed(tokens[:, :6])
        for _ in range(n_passes):
            h, S = model.blocks(h, S)
        h, wanted = model.embed(tokens[:, 6:12]), []
        for _ in range(3):
            h, S = model.blocks(h, S)
            wanted.append(S)
    assert len(found) == 3
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got.states, want.states)


def test_the_dual_is_ridge_regression(monkeypatch):
    """Against the solution in the features, with the penalty in the same unit; one class is the sign of a feature."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(400, 30, generator=generator, dtype=torch.double) * torch.rand(30, generator=generator) + 1
    truth = {"sign": (X[:, :1] > 1).long(), "three": torch.randint(3, (400, 2), generator=generator)}
    monkeypatch.setattr(module, "PENALTIES", (0.1,))
    found = ridge(X, truth, (200, 50, 100))
    fit = (X - X[:200].mean(0)) / X[:200].std(0)
    unit = fit[:200].square().sum(1).mean()
    for name, classes in (("sign", 2), ("three", 3)):
        right = []
        for values in truth[name].T:
            Y = torch.nn.functional.one_hot(values[:200], classes).double()
            A = fit[:200].T @ fit[:200] + 0.1 * unit * torch.eye(30)
            outputs = fit @ torch.linalg.solve(A, fit[:200].T @ (Y - Y.mean(0))) + Y.mean(0)
            right.append((outputs.argmax(1) == values)[300:].double().mean().item())
        assert found[name] == pytest.approx(np.mean(right))
    assert found["sign"] > 0.8 and found["three"] < 0.5


def test_many_rows_with_few_features_in_float32_have_a_solution(monkeypatch):
    """What rounding makes of eigenvalues that are zero must not outweigh the penalty."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(2000, 12, generator=generator) @ torch.randn(12, 900, generator=generator)
    truth = {"sign": (X[:, :1] > 0).long()}
    monkeypatch.setattr(module, "PENALTIES", (1e-7,))
    monkeypatch.setattr(module, "FEATURES", 500)
    assert ridge(X, truth, (1500, 200, 300))["sign"] > 0.9


def test_the_penalty_is_chosen_by_the_rows_in_the_middle(monkeypatch):
    """With features that are noise but for one, a strong penalty is better, on rows that neither fit nor test."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(140, 300, generator=generator, dtype=torch.double)
    truth = {"bit": (X[:, :1] + torch.randn(140, 1, generator=generator) > 0).long()}
    scores = {}
    for penalties in ((1e-3,), (1.0,), (1e-3, 1.0)):
        monkeypatch.setattr(module, "PENALTIES", penalties)
        scores[penalties] = [
            ridge(X, truth, (60, 40, 40))["bit"],
            ridge(X[:100], truth | {"bit": truth["bit"][:100]}, (60, 40, 40))["bit"],
        ]
    (weak, weak_chosen), (strong, strong_chosen), (both, _) = scores.values()
    assert weak_chosen != strong_chosen
    assert both == (weak if weak_chosen > strong_chosen else strong)


@pytest.fixture
def runs(saved_run, tmp_path):
    """Runs of both tasks at N = 1 and 2 with two seeds, their models with random weights."""
    for figure, task in (("fig2b", RULE110), ("fig3", DEPO)):
        config = HybridConfig(d_model=16, pattern="AG", n_heads=2, zero_init=False)
        for n in (1, 2):
            for seed in (0, 1):
                torch.manual_seed(seed)
                model = config.for_task(task.vocab_size, task.window_size).build()
                saved_run(f"{figure}/n{n}-s{seed}", model, task, seed, n_passes=n)
    return tmp_path / "runs"


def test_every_run_is_read_after_every_pass_and_drawn(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "READ", 64)
    out = tmp_path / "out" / "probe.csv"
    options = ["--passes=[1,2]", "--seeds=[0,1]", "--most=3", "--rows=[128,32,32]"]
    run(main, ["--runs", str(runs), "--out", str(out), *options])
    table = pd.read_csv(out, dtype={"slice": str})
    read = table[table.metric.str.startswith("probe_")]
    counts = read.groupby(["figure", "n_passes"]).size().to_dict()
    assert counts == {(f, n): 2 * 3 * things for f, things in (("fig2b", 6), ("fig3", 3)) for n in (0, 1, 2)}
    assert set(read.slice) == {"1", "2", "3"} and read.value.between(0, 1).all()
    cells = read[(read.metric == "probe_after_0_steps")]
    assert cells.value.min() > 0.7  # random weights keep what they read
    _, numbers = probe(table, tmp_path, "smoke")
    assert len(numbers["probe"]) == 3 * 3 * (6 + 3) and len(numbers["verdicts"]) == 3 * (6 + 3)


def test_what_passes_add_is_the_difference_paired_by_seed():
    values = {(1, 0): 0.5, (1, 1): 0.6, (1, 2): 0.7, (2, 0): 0.7, (2, 1): 0.81, (2, 2): 0.89}
    rows = [
        {"figure": "fig2b", "n_passes": 2, "metric": "probe_label", "seed": s, "passes": m, "value": v}
        for (m, s), v in values.items()
    ]
    (record,) = probe_gains(pd.DataFrame(rows))
    assert (record["read"], record["passes"], record["n"], record["verdict"]) == ("label", 2, 3, "more")
    assert record["value"] == pytest.approx(0.2)
