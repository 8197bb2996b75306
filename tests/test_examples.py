"""The examples: a task, a fast-weight rule, a sleep, a family of models and a loop of one's own, a file each."""

import importlib
import os
import re
import runpy
import shlex
import sys
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from tests.programs import start
from tokenizers import Tokenizer

from lmsleep import HybridConfig, Session, read_windows
from lmsleep.model import check_mixer, mixers
from lmsleep.pretrained import load_pretrained, loading
from lmsleep.tasks import IGNORE, TextQA

EXAMPLES = Path(__file__).parents[1] / "examples"
L = 6


@pytest.fixture
def example(monkeypatch):
    """example(name): the module of that name in examples/; the letters it registers are gone after the test."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setattr(mixers, "MIXERS", dict(mixers.MIXERS))

    def example(name):
        sys.modules.pop(name, None)
        return importlib.import_module(name)

    return example


@pytest.mark.parametrize("split", ["train", "val"])
def test_copy_asks_for_symbols_of_an_evicted_window(example, split):
    task = example("copy_task").Copy(n_symbols=5, n_windows=3, answer_length=4, window_size=6)
    assert task.sequence_length == 22 and task.slices == (1, 2, 3)
    levels = set()
    for step in range(3):
        tokens, targets, level, mask = task.rows(split=split, seed=1, step=step, batch_size=40)
        assert tokens.shape == targets.shape == (40, 22) and tokens.max() < task.vocab_size and mask is None
        assert (targets[:, :18] == IGNORE).all()
        for row, target, k in zip(tokens.tolist(), targets.tolist(), level.tolist(), strict=True):
            assert row[18] == 5 + k - 1
            assert target[18:] == row[18 - 6 * k :][:4] and row[19:] == target[18:21]
        levels.add(frozenset(level.tolist()))
    assert levels == ({frozenset({1, 2, 3})} if split == "train" else {frozenset({k}) for k in (1, 2, 3)})


@pytest.mark.parametrize("change", [{"n_symbols": 0}, {"answer_length": 7}])
def test_copy_refuses_what_does_not_fit(example, change):
    with pytest.raises(ValueError, match=f"^{next(iter(change))} must be "):
        example("copy_task").Copy(**change)


def hebbian_loop(layer, x, S, mask):
    """The rule written out over time for one row: x (n, D), S (H, K, V)."""
    H, K, V = layer.state_shape
    a = layer.decay_logit.sigmoid()
    outputs = []
    for x_t, counts in zip(x, mask, strict=True):
        q, k = ((W @ x_t).view(H, K) for W in (layer.q_proj.weight, layer.k_proj.weight))
        v = (layer.v_proj.weight @ x_t).view(H, V)
        q, k = q / q.norm(dim=1, keepdim=True), k / k.norm(dim=1, keepdim=True)
        if counts:
            S = torch.stack([a[h] * S[h] + torch.outer(k[h], v[h]) for h in range(H)])
        outputs.append(layer.o_proj.weight @ torch.cat([S[h].T @ q[h] for h in range(H)]))
    return torch.stack(outputs), S


def test_hebbian_equals_the_loop_over_time(example, build, draw_tokens):
    example("hebbian_rule")
    model = build("AH", fast_value_dim=5)
    layer = model.blocks.layers[1].mixer
    mask = torch.tensor([[True] * L, [False, True, True, False, True, True]])
    ctx = model.blocks.context(model.embed(draw_tokens(2, L)), model.init_cache(), mask)
    x, S = torch.randn(2, L, 16).double(), torch.randn(2, *layer.state_shape).double()
    y, after, left = layer(x, S, None, ctx)
    assert left is None
    for row in range(2):
        want, want_S = hebbian_loop(layer, x[row], S[row], mask[row])
        torch.testing.assert_close(y[row][mask[row]], want[mask[row]])
        torch.testing.assert_close(after[row], want_S)


def test_hebbian_keeps_the_contract(example):
    check_mixer(example("hebbian_rule").Hebbian, HybridConfig(d_model=16, n_heads=2, fast_value_dim=5))


def test_a_registered_rule_sleeps_as_the_built_in_ones_do(example, build, draw_tokens):
    """Streaming equals reading in one go, S is all that crosses, and gradients reach the rule through it."""
    example("hebbian_rule")
    model, tokens = build("AH"), draw_tokens(3, 2 * L + 2)
    targets = tokens.clone()
    targets[:, : 2 * L] = IGNORE
    out = read_windows(model, tokens, targets, n_passes=3)
    S, cache, logits = out.fast_weights, model.init_cache(), []
    states = read_windows(model, tokens[:, : 2 * L], n_passes=3).fast_weights
    for t in range(2 * L, 2 * L + 2):
        wake = model.wake(tokens[:, t : t + 1], states, cache)
        states, cache = wake.S, wake.cache
        logits.append(model.logits(wake.h))
    torch.testing.assert_close(torch.cat(logits, dim=1), out.scored_logits)
    torch.testing.assert_close(states[0], S[0])
    out.loss.backward()
    layer = model.blocks.layers[1].mixer
    assert layer.decay_logit.grad.any() and layer.k_proj.weight.grad.any()


def test_the_letter_builds_from_a_configuration(example):
    with pytest.raises(ValueError, match=r"^pattern must be made of"):
        HybridConfig(pattern="AH")
    example("hebbian_rule")
    inserted = HybridConfig(vocab_size=7, window_size=4, d_model=16, n_heads=2, pattern="Ah").build().blocks.layers[1]
    assert type(inserted.mixer).__name__ == "Hebbian" and not inserted.mixer.o_proj.weight.any()
    assert inserted.mlp is None


def test_passes_by_window_are_counted_from_the_first(example, build, draw_tokens):
    """By hand: four passes over the first window, two over each that follows."""
    model, tokens = build("AG"), draw_tokens(3, 3 * L)
    S = model.init_fast_weights(3)
    for n_passes, window in zip((4, 2, 2), tokens.split(L, dim=1), strict=True):
        h = model.embed(window)
        for _ in range(n_passes):
            h, S = model.blocks(h, S)
    by_window = example("passes_by_window").PassesByWindow((4, 2))
    assert torch.equal(read_windows(model, tokens, on_overflow=by_window).fast_weights[0], S[0])


def test_the_loss_of_a_loop_in_torch_is_algorithm_1_written_out(example, build, draw_tokens):
    """Of text every window has loss, which is taken before the window sleeps."""
    loop, model, rows = example("torch_loop"), build("AG"), draw_tokens(3, 2 * L + 3)
    S, nats = model.init_fast_weights(3), 0
    for window, coming in zip(rows[:, :-1].split(L, dim=1), rows[:, 1:].split(L, dim=1), strict=True):
        h, after = model.blocks(model.embed(window), S)
        nats += F.cross_entropy(model.logits(h).mT, coming, reduction="sum")
        for _ in range(loop.N - 1):
            h, after = model.blocks(h, after)
        S = after
    torch.testing.assert_close(loop.loss_of(model, rows), nats / (3 * (2 * L + 2)))


def test_a_loop_in_torch_trains_and_saves_what_a_session_takes(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.txt").write_text("the wren by the mill is blue. " * 30)
    code = (EXAMPLES / "torch_loop.py").read_text()
    for long, short in (("steps: int = 200", "steps: int = 40"), ("BATCH = 32, 4, 3, 16", "BATCH = 32, 4, 3, 4")):
        assert long in code
        code = code.replace(long, short)
    monkeypatch.setattr(sys, "argv", ["torch_loop.py", str(tmp_path / "*.txt"), str(tmp_path / "loop")])
    exec(code, {"__name__": "__main__"})
    first, last = re.findall(r"loss (\S+)", capsys.readouterr().out)
    assert float(last) < float(first) / 2
    session = Session.from_pretrained(tmp_path / "loop")
    assert (session.n_passes, session.eviction) == (4, "hard")
    said = session.generate("the wren by", 9, temperature=0)[0]
    assert session.prompter and session.prompter.decode(said.tolist()) == " the mill"


@pytest.mark.parametrize("window", [None, 5])
def test_a_family_of_ones_own_has_the_logits_of_transformers(example, tmp_path, monkeypatch, window):
    transformers = pytest.importorskip("transformers")
    monkeypatch.setattr(loading, "BACKBONES", dict(loading.BACKBONES))
    torch.manual_seed(0)
    sizes = {"vocab_size": 23, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 5, "head_dim": 8}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "sliding_window": window}
    theirs = transformers.MistralForCausalLM(transformers.MistralConfig(**sizes, **heads)).eval()
    theirs.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="mistral"):
        load_pretrained(tmp_path, window_size=16)
    example("mistral")
    model, tokens = load_pretrained(tmp_path, window_size=16), torch.randint(23, (2, 16))
    assert model.config.pattern == ("WWWWjW" if window else "AAAAjA")
    with torch.no_grad():
        torch.testing.assert_close(model(tokens)[0], theirs(tokens).logits, rtol=1e-5, atol=1e-5)


SCRIPTS = ["birds.py", "copy_task.py", "hebbian_rule.py", "mistral.py", "passes_by_window.py", "torch_loop.py"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_file_is_short(name):
    assert len((EXAMPLES / name).read_text().splitlines()) < 100


def test_all_train_by_the_command_line(tmp_path):
    """30 steps of the example task with the example rule and sleep; the loss falls."""
    options = [
        f"--config={EXAMPLES / 'copy_task.yaml'}",
        "--model.model.pattern=AH",
        "--model.model.rule_options={H: {decay_logits: [1, 4]}}",
        "--sleep.on_overflow=passes_by_window.PassesByWindow",
        "--sleep.on_overflow.passes=[3,2]",
        "--trainer.max_steps=30",
        "--trainer.val_check_interval=10",
        "--data.batch_size=32",
        "--data.eval_rows=64",
        "--data.eval_batch_size=32",
        f"--trainer.default_root_dir={tmp_path}",
        "--trainer.logger=false",
        "--trainer.enable_progress_bar=false",
        f"--checkpoint.dirpath={tmp_path}",
        "--trainer.callbacks+=lmsleep.training.LearningCurve",
        f"--trainer.callbacks.path={tmp_path / 'curve.csv'}",
    ]
    paths = os.pathsep.join([str(EXAMPLES), os.environ.get("PYTHONPATH", "")])
    env, said = os.environ | {"PYTHONPATH": paths}, tmp_path / "said"
    run = start("hebbian_rule", "fit", *options, folder=EXAMPLES.parent, env=env, output=str(said))
    run.join()
    assert run.exitcode == 0, said.read_text()[-2000:]
    curve = pd.read_csv(tmp_path / "curve.csv")
    assert list(curve.step) == [10, 20, 30] and {"exact-1", "exact-2"} <= set(curve.columns)
    assert curve.loss.iloc[-1] < curve.loss.iloc[0]
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["model_config"]["pattern"] == "AH"
    assert saved["model_config"]["rule_options"] == {"H": {"decay_logits": [1, 4]}}
    assert saved["sleep"]["on_overflow"] == "passes_by_window.PassesByWindow(passes=(3, 2))"
    told = re.search(r"^to score it: (PYTHONPATH=.* python .*hebbian_rule\.py test .*)$", said.read_text(), re.M)
    assert told, said.read_text()
    paths, _, script, *words = shlex.split(told[1])
    env |= {"PYTHONPATH": paths.removeprefix("PYTHONPATH=")}
    run = start(Path(script).stem, *words, folder=EXAMPLES.parent, env=env, output=str(tmp_path / "scored"))
    run.join()
    scored = (tmp_path / "scored").read_text()
    assert run.exitcode == 0 and re.search(r"test.*exact", scored), scored[-2000:]


def birds(folder):
    """Runs the script in a folder, where transformers is not installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setitem(sys.modules, "transformers", None)
        runpy.run_path(str(EXAMPLES / "birds.py"), run_name="__main__")


@pytest.fixture(scope="module")
def aviary(tmp_path_factory):
    """A folder with what the birds' script makes."""
    folder = tmp_path_factory.mktemp("birds")
    birds(folder)
    return folder


def test_the_birds_that_are_read_have_colours_of_their_own(aviary):
    """So that no answer is right by chance of the text."""
    notes = (aviary / "notes.txt").read_text()
    assert sorted(re.findall(r"is (\w+)\.", notes)) == ["blue", "green", "red"] and "wren" in notes


def test_the_birds_are_read_without_a_warning(aviary):
    """No line has copies, and contexts fill the window of the command."""
    task = TextQA(str(aviary / "train.jsonl"), tokenizer=str(aviary / "tiny"), window_size=24)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert str(task).startswith("TextQA: 800 rows") and task.slices == (1,)
    lines = (aviary / "train.jsonl").read_text().splitlines()
    assert len(set(lines)) == len(lines) == 1000 and {line.count(" is ") - 1 for line in lines} == {1, 2, 3}


def test_the_llama_of_the_birds_is_one_of_transformers(aviary):
    transformers = pytest.importorskip("transformers")
    model, report = transformers.AutoModelForCausalLM.from_pretrained(aviary / "tiny", output_loading_info=True)
    assert type(model).__name__ == "LlamaForCausalLM" and not any(report.values())
    assert transformers.AutoTokenizer.from_pretrained(aviary / "tiny").eos_token == "<eos>"


@pytest.mark.parametrize("name", ["train.jsonl", "notes.txt", "tiny"])
def test_the_birds_replace_nothing(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(SystemExit, match=f"^error: {name} would be replaced: move it away, or .+"):
        birds(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "mine"


def test_birds_that_cannot_be_written_are_said_in_a_sentence():
    with pytest.raises(SystemExit, match=r"^error: tiny cannot be written: .+$"):
        birds("/proc")  # where nobody can write, root neither


def test_the_tokenizer_of_the_birds_encodes_letters_that_no_line_has(aviary):
    tokenizer = Tokenizer.from_file(str(aviary / "tiny/tokenizer.json"))
    asked = "Où est le WREN?"
    assert tokenizer.decode(tokenizer.encode(asked).ids) == f" {asked}"
    assert len(tokenizer.encode("The wren by the mill is red.").ids) == 8, "words are tokens, of which 24 are a window"
