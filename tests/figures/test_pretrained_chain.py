"""Figures 4a, 4b and 5 by the commands of dvc.yaml at paper scale, from tiny checkpoints in the published format.

What differs from the paper's settings are sizes, budgets, the device, and rates: two steps are not warmed up to.
"""

import importlib
import json
import math
import re
import shlex
import shutil
from contextlib import contextmanager
from inspect import signature
from pathlib import Path

import pandas as pd
import pytest
import torch
from checkpoints import jet_nemotron_shapes, ouro_shapes, random_weights, tiny_jet_nemotron, tiny_ouro, write
from dvc.repo import Repo
from gsm_bpe import GPT2, QWEN, train_bpe
from omegaconf import OmegaConf
from safetensors.torch import load_file
from tokenizers import Tokenizer

from lmsleep.cli import run as run_main
from lmsleep.figures.train import RESUME
from lmsleep.model.trained import trained_sleeps
from lmsleep.pretrained import from_lightning
from lmsleep.tasks.gsm import DatasetConfig, ProblemConfig, make_dataset, solve

ROOT = Path(__file__).parents[2]
JET, OURO = Path("models/jet_nemotron_2b"), Path("models/ouro_1_4b")
TOKENS = 600
STEPS = 2
MODELS = {"fig4a": JET, "fig4b": OURO, "fig5": OURO}
WINDOWS = {"gsm_jet_nemotron": 128, "gsm_ouro": 128, "gsm_ouro_sliding": 96}
pytestmark = pytest.mark.slow
PROBLEM = {"length": [140, 220], "width": [1, 2], "instruction": False}


def write_checkpoints():
    """In half precision, the embeddings of more rows than there are tokens, as published."""
    for folder, config, shapes, split, shards in (
        (JET, tiny_jet_nemotron(), jet_nemotron_shapes, QWEN, 2),
        (OURO, tiny_ouro(), ouro_shapes, GPT2, 1),
    ):
        config |= {"vocab_size": TOKENS + 20}
        weights = {name: value.bfloat16() for name, value in random_weights(shapes(config)).items()}
        write(folder, config, weights, shards)
        shutil.move(train_bpe(folder, TOKENS, split), folder / "tokenizer.json")


@contextmanager
def edited(path):
    config = OmegaConf.load(path)
    yield config
    OmegaConf.save(config, path)


def shrink_configs():
    for name, window in WINDOWS.items():
        with edited(f"configs/experiment/paper/{name}.yaml") as config:
            config.model.optimizer.update({"warmup_steps": 0, "weight_decay": 0.0})
            config.data.task.init_args.window_size = window
            config.data.update({"batch_size": 2, "eval_batch_size": 24, "num_workers": 0})
            config.trainer.update({"accelerator": "cpu", "accumulate_grad_batches": 2, "val_check_interval": 2 * STEPS})
            if name == "gsm_ouro_sliding":  # leaves its warm-up behind; gsm_ouro ends within it
                config.trainer.callbacks[0].init_args.steps = STEPS - 1
    for name, window_sizes in (("gsm_qwen", [128]), ("gsm_ouro", [128, 96])):
        with edited(f"configs/dataset/{name}.yaml") as config:
            config.update({"train": 32, "val": 8, "test": 16})
            config.problem.update(PROBLEM | {"window_sizes": window_sizes})


def shrink_params():
    params = OmegaConf.load("configs/scale/paper.yaml")
    for name in MODELS:
        params.figures[name].max_steps = STEPS
        params.grids[name] = {"n_passes": [1, 2], "seeds": [0]}
    OmegaConf.save(params, "params.yaml")


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """Makes a folder with all that the stages need the current one. Stage -> its command."""
    folder = tmp_path_factory.mktemp("paper")
    shutil.copytree(ROOT / "configs", folder / "configs")
    shutil.copy(ROOT / "dvc.yaml", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("torch.cuda.is_available", lambda: False)  # in bfloat16 small differences would vanish
        patch.setattr("os.cpu_count", lambda: 1)  # a process of its own for each shard would take longer than the rows
        write_checkpoints()
        shrink_configs()
        shrink_params()
        repo = Repo.init(str(folder), no_scm=True)
        yield {stage.addressing: shlex.split(stage.cmd) for stage in repo.index.stages}
        repo.close()


def run(command, *more):
    """What `python -m module argument ...` does, in this process."""
    assert command[:2] == ["python", "-m"]
    main, words = importlib.import_module(command[2]).main, [*command[3:], *more]
    main(words) if "argv" in signature(main).parameters else run_main(main, words)


@pytest.fixture(scope="module", params=list(MODELS))
def figure(request, commands):
    """The name of a figure all of whose stages have run."""
    name = request.param
    for stage in ("data@{}", "train_{}@1-0", "train_{}@2-0", "evaluate@{}", "table@{}", "figure@{}"):
        run(commands[stage.format(name)])
    return name


def checkpoint(figure, n_passes):
    return f"runs/paper/{figure}/n{n_passes}-s0/last.ckpt"


def published(figure):
    """Tensors of the checkpoint, in float32."""
    tensors = {}
    for file in MODELS[figure].glob("*.safetensors"):
        tensors |= load_file(file)
    return {name: value.float() for name, value in tensors.items()}


def test_the_test_rows_are_problems_under_the_model_s_tokenizer(figure):
    tokenizer = Tokenizer.from_file(str(MODELS[figure] / "tokenizer.json"))
    rows = load_file(f"data/paper/{figure}/rows.safetensors")
    assert len(rows["tokens"]) == 16
    for tokens, kept, targets, op in zip(rows["tokens"], rows["mask"], rows["targets"], rows["slice"], strict=True):
        solution = solve(tokenizer.decode(tokens[kept].tolist(), skip_special_tokens=False))
        assert solution.op == op and solution.answer == solution.stated
        said = tokenizer.decode(targets[targets >= 0].tolist(), skip_special_tokens=False)
        assert said.strip() == f"{solution.answer}<|endoftext|>"


@pytest.mark.parametrize("n_passes", [1, 2])
def test_a_run_sleeps_as_its_figure_says(figure, n_passes):
    model = from_lightning(checkpoint(figure, n_passes))
    config = model.config
    eviction = "sliding" if figure == "fig5" else "hard"
    sleeps = {"n_passes": n_passes, "eviction": eviction, "after_loss": False, "wake_passes": 1}
    assert trained_sleeps(model.trained, figure) == sleeps
    assert config.window_size == (96 if figure == "fig5" else 128)
    # the middle half of eight blocks; all of them and the two inserted ones
    assert (config.pattern, config.loop_range) == (
        ("JAJWAJJJ", (2, 6)) if figure == "fig4a" else ("AAAAjAAAAj", (0, 10))
    )


def ours(figure, name):
    """Our name of a tensor of the checkpoint; behind every fourth block of Ouro is one without an MLP."""
    whole = {"model.embed_tokens.weight": "embedding.weight", "lm_head.weight": "head.weight"}
    whole["model.norm.weight"] = "norm.weight" if figure == "fig4a" else "blocks.pass_norm.weight"
    if name in whole:
        return whole[name]
    layer, part = name.removeprefix("model.layers.").split(".", 1)
    behind = 0 if figure == "fig4a" else int(layer) // 4
    return f"blocks.layers.{int(layer) + behind}.{part.replace('self_attn', 'mixer')}"


@pytest.mark.parametrize("n_passes", [1, 2])
def test_training_starts_from_the_checkpoint(figure, n_passes):
    after = from_lightning(checkpoint(figure, n_passes)).state_dict()
    outside = ("embed_tokens.weight", "model.norm.weight", "lm_head.weight")
    names = {n for n in published(figure) if n.endswith(("_proj.weight", *outside))}
    assert len(names) > 8 * 5
    for name in names:
        before = published(figure)[name]
        moved = (after[ours(figure, name)] - before).abs().max()
        if figure == "fig4b":  # ends within the warm-up
            assert moved == 0, name
        else:
            assert 0 < moved < 0.05 * before.std(), name
    for inserted in () if figure == "fig4a" else (4, 9):
        assert after[f"blocks.layers.{inserted}.mixer.o_proj.weight"].any()


@pytest.mark.parametrize("n_passes", [1, 2])
@pytest.mark.parametrize("figure", ["fig5"], indirect=True)
def test_a_token_that_was_never_read_keeps_its_embedding(figure, n_passes):
    before = published(figure)["model.embed_tokens.weight"]
    moved = from_lightning(checkpoint(figure, n_passes)).embedding.weight != before
    unread = torch.ones(len(before), dtype=torch.bool)
    unread[load_file(f"data/paper/{figure}/problems/train.safetensors")["tokens"].long()] = False
    assert unread.sum() >= 20 and not moved[unread].any() and moved.any()


def test_the_table_holds_every_operation_count_of_every_run(figure):
    table = pd.read_csv(f"results/paper/{figure}.csv", dtype={"slice": str})
    assert set(table.figure) == {figure} and set(table.n_passes) == {1, 2}
    for n_passes, part in table.groupby("n_passes"):
        counts = part[part.metric == "test_count"].set_index("slice").value.to_dict()
        assert counts == {**{str(op): 2 for op in range(1, 9)}, "all": 16}, n_passes
        exact = part[part.metric == "test_exact"]
        assert set(exact.slice) == {"all", *map(str, range(1, 9))} and exact.value.between(0, 1).all()
        assert part[part.metric == "test_loss"].value.map(math.isfinite).all()


def test_the_same_weights_answer_otherwise_where_they_sleep_otherwise(figure):
    scores = pd.read_csv(
        f"runs/paper/scores/{figure}.csv"
    )  # not rounded: inserted layers have only begun to say something
    for n_passes, other in ((1, 2), (2, 1)):
        run = scores[scores.n_passes == n_passes]
        ways = [run[run.metric == f"{way}_loss"].value.tolist() for way in ("test", "cut", f"test_n{other}")]
        assert all(len(losses) == 9 for losses in ways) and len(set(map(tuple, ways))) == 3


def test_the_figure_is_drawn_and_its_numbers_have_wilson_intervals(figure):
    results = Path("results/paper")
    assert (results / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (results / f"{figure}.svg").read_text()
    numbers = json.loads((results / f"{figure}.json").read_text())["test_exact"]
    assert {(row["slice"], row["n_passes"]) for row in numbers} == {(op, n) for op in range(1, 9) for n in (1, 2)}
    for row in numbers:
        n, p, z = row["rows"], row["value"], 1.959964
        centre, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        assert n == 2
        assert row["wilson_low"] == pytest.approx(max(0, (centre - half) / (1 + z**2 / n)), abs=1e-6)
        assert row["wilson_high"] == pytest.approx((centre + half) / (1 + z**2 / n), abs=1e-6)


@pytest.fixture
def larger(commands, tmp_path):
    """A tokenizer with more tokens than the checkpoints have embeddings for."""
    return train_bpe(tmp_path, TOKENS + 21)


def test_problems_are_not_drawn_with_more_tokens_than_the_model_has(commands, larger, tmp_path):
    dataset = tmp_path / "dataset.yaml"
    OmegaConf.save(OmegaConf.merge(OmegaConf.load("configs/dataset/gsm_qwen.yaml"), {"tokenizer": larger}), dataset)
    words = [str(dataset) if word == "configs/dataset/gsm_qwen.yaml" else word for word in commands["data@fig4a"]]
    words[words.index("--out") + 1] = str(tmp_path / "data")
    sentence = f"error: tokenizer {larger} must have at most the 620 tokens of {JET}, got 621"
    with pytest.raises(SystemExit, match=f"^{re.escape(sentence)}$"):
        run(words)
    assert not (tmp_path / "data").exists()


def test_a_run_on_more_tokens_than_the_model_has_does_not_start(commands, larger, tmp_path):
    problem = ProblemConfig(**PROBLEM | {"window_sizes": [128], "ops": [1, 1], "layers": [3]})
    make_dataset(tmp_path / "problems", DatasetConfig(problem, train=4, val=1, test=1, tokenizer=larger))
    task = [f"--data.task.init_args.path={tmp_path / 'problems'}", f"--data.task.init_args.tokenizer={larger}"]
    before = set(RESUME.glob("*"))
    with pytest.raises(SystemExit, match=r"^error: vocab_size of the model must be at least [^\n]*621[^\n]*620$"):
        run([*commands["train_fig4a@1-0"][:3], "runs/refused", *commands["train_fig4a@1-0"][4:]], *task)
    assert set(RESUME.glob("*")) == before and not Path("runs/refused").exists()
