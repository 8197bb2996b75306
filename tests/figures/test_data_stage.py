"""Baselines against counting every possible answer, and the files against the task that made them."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lmsleep.cli import run
from lmsleep.data import RowsDataModule
from lmsleep.figures.data import answers_by_slice, chance, held_out, main, majority, make_data
from lmsleep.tasks import IGNORE, Batch, Rule110
from lmsleep.tensors import read_tensors


def batch(answers, levels):
    """Rows whose targets are `answers`, padded with IGNORE in front and behind."""
    width = max(map(len, answers)) + 2
    targets = torch.full((len(answers), width), IGNORE)
    for row, answer in zip(targets, answers, strict=True):
        row[1 : 1 + len(answer)] = torch.tensor(answer)
    return Batch(torch.zeros_like(targets), targets, torch.tensor(levels), None)


def guesses(guess, answers, levels):
    """The score of a guess by slice, where each row is one answer."""
    rows = batch(answers, levels)
    return {level: guess(own) for level, own in answers_by_slice(rows, (rows.targets == IGNORE).long().neg()).items()}


def draw(seed, lengths):
    """Rows of two slices with three possible tokens and answers of the given lengths."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [lengths[i] for i in torch.randint(len(lengths), (24,), generator=generator)]
    answers = [torch.randint(3, (size,), generator=generator).tolist() for size in sizes]
    return answers, [i % 2 for i in range(24)]


@pytest.mark.parametrize("lengths", [(2,), (1, 2, 3)], ids=["one length", "several lengths"])
@pytest.mark.parametrize("seed", [0, 1])
def test_majority_is_the_best_constant_answer(seed, lengths):
    answers, levels = draw(seed, lengths)
    found = guesses(majority, answers, levels)
    possible = [list(guess) for length in (1, 2, 3) for guess in itertools.product(range(3), repeat=length)]
    for level in (0, 1):
        of_level = [a for a, l in zip(answers, levels, strict=True) if l == level]
        best = max(sum(guess == answer for answer in of_level) for guess in possible)
        assert found[str(level)] == pytest.approx(best / len(of_level))


@pytest.mark.parametrize("lengths", [(2,), (1, 2, 3)], ids=["one length", "several lengths"])
@pytest.mark.parametrize("seed", [0, 1])
def test_chance_is_the_mean_over_every_uniform_guess(seed, lengths):
    answers, levels = draw(seed, lengths)
    found = guesses(chance, answers, levels)
    for level in (0, 1):
        of_level = [a for a, l in zip(answers, levels, strict=True) if l == level]
        places = [sorted({a[i] for a in of_level if len(a) > i}) for i in range(max(map(len, of_level)))]
        possible = list(itertools.product(*places))
        # a guess is right on an answer if it agrees in every place that the answer has
        right = sum(all(g == t for g, t in zip(guess, a, strict=False)) for guess in possible for a in of_level)
        assert found[str(level)] == pytest.approx(right / len(possible) / len(of_level))


def test_a_place_with_one_possible_token_costs_nothing():
    assert guesses(chance, [[0, 2], [1, 2]], [5, 5]) == {"5": 0.5}


def test_held_out_rows_are_the_test_rows_of_the_module():
    module = RowsDataModule(Rule110(steps=2, width=6, n_states=2), batch_size=4, eval_rows=15, eval_batch_size=5)
    rows, batches = held_out(module), list(module.test_dataloader())
    assert len(rows.tokens) == 15
    assert torch.equal(rows.targets, torch.cat([b.targets for b in batches]))


def test_held_out_rows_all_have_targets():
    """A row without any has no score, and would be one that every guess gets right."""

    class Some(Rule110):
        def rows(self, **how):
            drawn = super().rows(**how)
            drawn.targets[::2] = IGNORE
            return drawn

    module = RowsDataModule(Some(steps=2, width=6, n_states=2), batch_size=4, eval_rows=8)
    rows, batches = held_out(module), list(module.test_dataloader())
    assert torch.equal(rows.tokens, torch.cat([b.tokens[1::2] for b in batches])) and len(rows.slice) == 4
    assert (rows.targets != IGNORE).any(1).all()


def test_the_stage_writes_rows_and_baselines(tmp_path):
    config = tmp_path / "task.yaml"
    config.write_text(
        "data: {task: {class_path: lmsleep.tasks.Rule110, init_args: {steps: 3, width: 6, n_states: 2}},"
        " batch_size: 4, eval_rows: 64, eval_batch_size: 16}"
    )
    main(config, tmp_path / "data")
    rows = load_file(tmp_path / "data" / "rows.safetensors")
    baselines = json.loads((tmp_path / "data" / "baselines.json").read_text())
    assert rows["slice"].unique().tolist() == [3]
    damaged = bytearray((tmp_path / "data" / "rows.safetensors").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "damaged").write_bytes(damaged)
    with pytest.raises(ValueError, match="damaged' is damaged: it differs from the digest in it"):
        read_tensors(tmp_path / "damaged", "cpu")
    assert set(baselines) == {"majority", "chance"}
    assert baselines["chance"] == {"3": 0.25}
    assert baselines["majority"] == {"3": Rule110(steps=3, width=6, n_states=2).majority()}


def test_a_grid_over_steps_has_rows_for_each_of_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("grids: {fig2a: {steps: [1, 3], seeds: [0]}}")
    task = "{class_path: lmsleep.tasks.Rule110, init_args: {steps: 2, width: 6, n_states: 2}}"
    Path("task.yaml").write_text(f"data: {{task: {task}, batch_size: 4, eval_rows: 16}}")
    main(Path("task.yaml"), Path("data"), "fig2a")
    assert sorted(path.name for path in Path("data").iterdir()) == ["t1", "t3"]
    for t in (1, 3):
        assert load_file(f"data/t{t}/rows.safetensors")["slice"].unique().tolist() == [t]


def test_where_states_are_too_many_the_majority_is_that_of_the_rows(tmp_path):
    task = Rule110(steps=15, width=40, n_states=2)
    make_data(task, tmp_path, batch_size=4, eval_rows=32)
    targets = load_file(tmp_path / "rows.safetensors")["targets"]
    labels = [tuple(t[t != IGNORE].tolist()) for t in targets]
    baselines = json.loads((tmp_path / "baselines.json").read_text())
    assert baselines["majority"] == {"15": max(map(labels.count, labels)) / 32}


def test_each_of_several_answers_in_a_row_is_guessed_as_it_is_scored(tmp_path):
    """Each cell an answer: the commonest is as frequent as among all cells, and one of two is right half the time."""

    class Cells(Rule110):
        def answers(self, targets):
            return torch.where(targets == IGNORE, -1, (targets != IGNORE).cumsum(1) - 1)

    make_data(Cells(steps=15, width=40, n_states=4), tmp_path, batch_size=4, eval_rows=32)
    targets = load_file(tmp_path / "rows.safetensors")["targets"]
    cells = targets[targets != IGNORE].tolist()
    baselines = json.loads((tmp_path / "baselines.json").read_text())
    assert len(cells) == 4 * 32 and baselines["chance"] == {"15": 0.5}
    assert baselines["majority"] == {"15": max(sum(cells), len(cells) - sum(cells)) / len(cells)}


def test_depo_comes_with_what_is_scored_by_knowing_a_part(tmp_path):
    """By hand for 75 nodes: log 75 nats an answer, half of it a target, 72 names that are no neighbours."""
    config = tmp_path / "task.yaml"
    config.write_text("data: {task: {class_path: lmsleep.tasks.Depo}, batch_size: 1, eval_rows: 5}")
    main(config, tmp_path / "data")
    baselines = json.loads((tmp_path / "data" / "baselines.json").read_text())
    hops = ["1", "2", "4", "8", "16"]
    assert all(list(shares) == hops for shares in baselines.values())
    assert baselines["floor"] == pytest.approx(dict.fromkeys(hops, 2.1587), abs=1e-4)
    assert baselines["answer_floor"] == pytest.approx(dict.fromkeys(hops, 4.3175), abs=1e-4)
    assert baselines["names"] == dict.fromkeys(hops, 1 / 75)
    assert baselines["neighbours"] == dict.fromkeys(hops, 1 / 72) | {"1": 1.0}
    assert baselines["undirected"] == dict.fromkeys(hops, 0.5)


@pytest.mark.parametrize(
    ("steps", "more", "sentence"),
    [(-1, [], "steps must be .*, got -1"), (2, ["--dataset", "dataset.yaml"], "train must be .*, got -8")],
)
def test_what_cannot_be_made_is_refused_in_one_sentence(tmp_path, monkeypatch, steps, more, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task.yaml").write_text(
        f"data: {{task: {{class_path: lmsleep.tasks.Rule110, init_args: {{steps: {steps}}}}}, batch_size: 4}}"
    )
    (tmp_path / "dataset.yaml").write_text("train: -8")
    with pytest.raises(SystemExit, match=f"^error: {sentence}$"):
        run(main, ["--config", "task.yaml", "--out", "data", *more])
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("missing", ["config", "dataset"])
def test_a_missing_file_is_named_and_nothing_is_made(tmp_path, missing):
    (tmp_path / "config.yaml").write_text("data: {task: lmsleep.tasks.Rule110, batch_size: 4}")
    (tmp_path / "dataset.yaml").write_text("train: 2")
    (tmp_path / f"{missing}.yaml").unlink()
    files = [f"--{name}={tmp_path / name}.yaml" for name in ("config", "dataset")]
    with pytest.raises(SystemExit, match=f"^error: there is no file or folder '{tmp_path}/{missing}.yaml'$"):
        run(main, [*files, "--out", str(tmp_path / "data")])
    assert not (tmp_path / "data").exists()
