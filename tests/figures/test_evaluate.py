"""Test scores against reading every held-out batch on its own, as a training run does."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import yaml

from lmsleep import HybridConfig
from lmsleep.cli import run
from lmsleep.data import RowsDataModule
from lmsleep.figures.data import held_out, make_data
from lmsleep.figures.evaluate import THRESHOLDS, batches, evaluate_run, main, own_sleep, score_rows
from lmsleep.settle import Settle, forget
from lmsleep.sleep import read_windows, sleep
from lmsleep.tasks import IGNORE, GSMInfinite, Rule110
from lmsleep.tasks.gsm import MINI, DatasetConfig, make_dataset
from lmsleep.windows import Windows


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Problems of many lengths: their answers lie in different windows."""
    folder = tmp_path_factory.mktemp("gsm") / "problems"
    problem = replace(MINI, length=(60, 120), window_sizes=(16,))
    make_dataset(folder, DatasetConfig(problem, train=16, val=0, test=72))
    return GSMInfinite(str(folder), window_size=16)


def as_rows(task, module):
    rows = held_out(module)
    tensors = {name: value for name, value in rows._asdict().items() if value is not None}
    return {**tensors, "answers": task.answers(rows.targets)}


def test_the_module_shows_every_stored_row_once_whatever_eval_rows_says(stored):
    module = RowsDataModule(stored, batch_size=4, eval_rows=8, eval_batch_size=16)
    rows = held_out(module)
    assert len(rows.tokens) == 72 and len(torch.unique(rows.tokens, dim=0)) == 72
    assert rows.mask is not None and rows.tokens.shape[1] > min(b.tokens.shape[1] for b in module.test_dataloader())


@pytest.mark.parametrize("batch_size", [5, 500])
def test_parts_hold_each_row_once_and_have_loss_in_the_same_windows(stored, batch_size):
    rows = as_rows(stored, RowsDataModule(stored, batch_size=4, eval_batch_size=16))
    seen = []
    for part in batches(rows, 16, batch_size):
        assert len(part["tokens"]) <= batch_size
        flags = [Windows.of(row[None], 16).carry_loss for row in part["targets"]]
        assert all(f == flags[0] for f in flags) and flags[0][-1]
        seen += [tuple(row[kept].tolist()) for row, kept in zip(part["tokens"], part["mask"], strict=True)]
    assert sorted(seen) == sorted(
        tuple(row[kept].tolist()) for row, kept in zip(rows["tokens"], rows["mask"], strict=True)
    )


@pytest.mark.parametrize("n_passes", [1, 3])
@pytest.mark.parametrize("name", ["stored", "rule110"])
def test_scores_equal_those_of_the_batches_as_they_were_drawn(stored, name, n_passes):
    task = stored if name == "stored" else Rule110(steps=2, width=6, n_states=2)
    module = RowsDataModule(task, batch_size=4, eval_rows=30, eval_batch_size=16)
    torch.manual_seed(0)
    config = HybridConfig(d_model=16, pattern="AG", n_heads=2, zero_init=False)
    model = config.for_task(task.vocab_size, task.window_size).build()
    found = score_rows(model, as_rows(task, module), partial(sleep, n_passes=n_passes), batch_size=7)
    nats, n, exact, answers = 0.0, 0, 0, 0
    for batch in module.test_dataloader():
        with torch.no_grad():
            reading = read_windows(model, batch.tokens, batch.targets, n_passes, mask=batch.mask)
        for logits, targets in zip(reading.scored_logits, reading.scored_targets, strict=True):
            counted = targets != IGNORE
            nats += torch.nn.functional.cross_entropy(logits[counted], targets[counted], reduction="sum").item()
            n += int(counted.sum())
            exact += bool((logits.argmax(-1) == targets)[counted].all())
            answers += 1
    assert found["loss"] == pytest.approx(nats / n, rel=1e-5)
    assert found["exact"] == pytest.approx(exact / answers)


def test_a_group_of_targets_has_the_mean_of_their_losses():
    torch.manual_seed(0)
    config = HybridConfig(vocab_size=11, d_model=16, pattern="AG", window_size=4, n_heads=2, zero_init=False)
    model = config.build().eval()
    both = torch.randint(11, (9, 13))
    rows = {"tokens": both[:, :-1], "targets": both[:, 1:].clone(), "slice": torch.zeros(9, dtype=torch.int64)}
    rows["targets"][:4, :4] = IGNORE  # rows of two kinds
    rows["answers"] = torch.where(rows["targets"] == IGNORE, -1, 0)
    rows["by_place"] = torch.randint(-1, 3, (9, 12), dtype=torch.int8)
    rows["by_place"][rows["by_place"] == 1] = 3  # a group without targets
    found = score_rows(model, rows, partial(sleep, n_passes=2), 2, after_loss=True)
    nats, counts = dict.fromkeys((0, 2, 3), 0.0), dict.fromkeys((0, 2, 3), 0)
    for i in range(9):
        tokens, targets = rows["tokens"][i : i + 1], rows["targets"][i : i + 1]
        with torch.no_grad():
            logits = read_windows(model, tokens, targets, 2, after_loss=True).logits[0]
        for logit, target, group in zip(logits, targets[0], rows["by_place"][i].tolist(), strict=True):
            if target != IGNORE and group >= 0:
                nats[group] += torch.nn.functional.cross_entropy(logit, target).item()
                counts[group] += 1
    assert {name: value for name, value in found.items() if name.startswith("place_count")} == {
        f"place_count-{group}": count for group, count in counts.items()
    }
    for group, count in counts.items():
        assert found[f"place_loss-{group}"] == pytest.approx(nats[group] / count, rel=1e-5)


@pytest.mark.parametrize("loop", [None, (1, 2), (0, 2), (2, 4)])
def test_nothing_of_an_evicted_window_crosses_the_cut(loop):
    torch.manual_seed(0)
    config = HybridConfig(
        vocab_size=11, d_model=16, pattern="AGAG", window_size=4, n_heads=2, loop=loop, zero_init=False
    )
    model = config.build().eval()
    tokens = torch.randint(11, (2, 12))
    targets = torch.full_like(tokens, IGNORE)
    targets[:, 8:] = tokens[:, 8:]
    other = torch.cat([(tokens[:, :8] + 1) % 11, tokens[:, 8:]], dim=1)
    with torch.no_grad():
        a, b = (read_windows(model, x, targets, on_overflow=forget).scored_logits for x in (tokens, other))
        asleep, changed = (read_windows(model, x, targets, n_passes=2).scored_logits for x in (tokens, other))
    torch.testing.assert_close(a, b, atol=0, rtol=0)
    assert not torch.allclose(asleep, changed)  # without the cut the windows do reach the answer


@pytest.fixture
def grid(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("grids: {fig2b: {n_passes: [1], seeds: [0]}}")


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_without_runs_is_refused(grid, tmp_path, there):
    runs, out = tmp_path / "runs", tmp_path / "out" / "scores.csv"
    if there:
        runs.mkdir()
    with pytest.raises(SystemExit, match=f"^error: --runs must be a folder with all cells of fig2b, got '{runs}' "):
        run(main, ["--figure", "fig2b", "--runs", str(runs), "--data", str(tmp_path), "--out", str(out)])
    assert not out.parent.exists()


def test_a_run_that_has_not_trained_is_named(grid, tmp_path):
    (tmp_path / "runs" / "n1-s0").mkdir(parents=True)
    with pytest.raises(SystemExit, match=f"^error: there is no file or folder '{tmp_path}/runs/n1-s0/config.yaml'$"):
        run(
            main,
            ["--figure", "fig2b", "--runs", str(tmp_path / "runs"), "--data", ".", "--out", str(tmp_path / "x.csv")],
        )
    assert not (tmp_path / "x.csv").exists()


RULE110 = Rule110(steps=2, width=6, n_states=2)


@pytest.mark.parametrize(("figure", "most"), [("fig2b", 6), ("arms", 8)])
def test_a_run_is_tested_with_its_own_passes_with_others_with_none_and_an_arm_until_s_settles(
    saved_run, tmp_path, figure, most
):
    """An arm counts passes over both windows of every row, here by asking for those of one row at a time."""
    torch.manual_seed(0)
    config = HybridConfig(d_model=16, pattern="AG", n_heads=2, zero_init=False)
    model = config.for_task(RULE110.vocab_size, RULE110.window_size).build().eval()
    make_data(RULE110, tmp_path / "data", batch_size=16, eval_rows=8)
    table = evaluate_run(figure, saved_run("reset-s0", model, RULE110, n_passes=3), tmp_path / "data")
    assert set(table.model) == {"reset" if figure == "arms" else "AG"} and set(table.n_passes) == {3}
    found = table[table.slice == "all"].set_index("metric").value
    settles = {f"settle_{t:g}_" for t in THRESHOLDS} if figure == "arms" else set()
    ways = {"test_", "cut_"} | {f"test_n{n}_" for n in range(1, most + 1) if n != 3} | settles
    assert {metric for metric in found.index if metric.endswith("exact")} == {f"{way}exact" for way in ways}
    batch = next(iter(RowsDataModule(RULE110, batch_size=16, eval_rows=8).test_dataloader()))
    for metric, passes in (("test_loss", 3), ("test_n1_loss", 1), (f"test_n{most}_loss", most)):
        with torch.no_grad():
            assert found[metric] == pytest.approx(
                read_windows(model, *batch[:2], n_passes=passes).loss.item(), rel=1e-5
            )
    for threshold in THRESHOLDS if figure == "arms" else ():
        made = []
        with torch.no_grad():
            for tokens, targets in zip(batch.tokens.split(1), batch.targets.split(1), strict=True):
                rule = Settle(threshold, 8, made.append)
                read_windows(model, tokens, targets, on_overflow=rule)
        assert found[f"settle_{threshold:g}_passes"] == pytest.approx(torch.cat(made).double().mean().item())


def test_a_run_with_a_sleep_of_its_own_is_tested_with_that_and_with_every_n(saved_run, tmp_path):
    """An arm of configs/arms.yaml may set it; `most` of a sleep that never settles is its N."""
    torch.manual_seed(0)
    config = HybridConfig(d_model=16, pattern="AG", n_heads=2, zero_init=False)
    model = config.for_task(RULE110.vocab_size, RULE110.window_size).build().eval()
    make_data(RULE110, tmp_path / "data", batch_size=16, eval_rows=8)
    own = {"class_path": "lmsleep.settle.Settle", "init_args": {"threshold": 0.0, "most": 3, "record": None}}
    folder = saved_run("mine-s0", model, RULE110, on_overflow="lmsleep.settle.Settle(threshold=0.0, most=3)")
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    settings["sleep"]["on_overflow"] = own
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    found = evaluate_run("arms", folder, tmp_path / "data")
    found = found[found.slice == "all"].set_index("metric").value
    ways = {"test", "cut", *(f"test_n{n}" for n in range(1, 9))}
    assert {metric.removesuffix("_loss") for metric in found.index if metric.endswith("_loss")} - ways == {
        f"{way}_answer" for way in ways
    }
    assert found["test_loss"] == found["test_n3_loss"] != found["test_n1_loss"]
    (folder / "config.yaml").write_text((folder / "config.yaml").read_text().replace("Settle", "Seddle"))
    sentence = f"^{folder}/config.yaml: on_overflow must be a function or a class that can be called: .* 'Seddle'$"
    with pytest.raises(ValueError, match=sentence):
        evaluate_run("arms", folder, tmp_path / "data")


def test_a_sleep_of_its_own_may_have_another_among_its_arguments(tmp_path, monkeypatch):
    """As `lmsleep fit` builds it."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "cautious.py").write_text(
        "from lmsleep.sleep import OnOverflow\n\n\n"
        "class Cautious:\n"
        "    def __init__(self, rule: OnOverflow, share: float = 0.5) -> None:\n"
        "        self.rule, self.share = rule, share\n\n"
        "    def __call__(self, blocks, h, S):\n"
        "        return self.rule(blocks, h, S)\n"
    )
    rule = {"class_path": "lmsleep.settle.Settle", "init_args": {"threshold": 0.1, "most": 3}}
    own = own_sleep({"class_path": "cautious.Cautious", "init_args": {"rule": rule, "share": 1}})
    assert own.rule == Settle(threshold=0.1, most=3) and own.share == 1
    with pytest.raises(ValueError, match=r"^on_overflow.init_args.share must be a finite number, got half$"):
        own_sleep({"class_path": "cautious.Cautious", "init_args": {"rule": rule, "share": "half"}})


def test_only_of_its_own_passes_a_score_that_is_not_finite_is_kept(saved_run, tmp_path, monkeypatch):
    config = HybridConfig(d_model=16, pattern="AG", n_heads=2)
    model = config.for_task(RULE110.vocab_size, RULE110.window_size).build()
    make_data(RULE110, tmp_path / "data", batch_size=16, eval_rows=8)
    broken = {"loss": float("nan"), "exact": 0.5}
    monkeypatch.setattr("lmsleep.figures.evaluate.score_rows", lambda *_, **__: broken)
    table = evaluate_run("fig2b", saved_run("n3-s0", model, RULE110, n_passes=3), tmp_path / "data")
    assert [metric for metric in table.metric if metric.endswith("loss")] == ["test_loss"]
    assert sum(table.metric.str.endswith("exact")) == 7
