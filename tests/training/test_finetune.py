"""From a pretrained folder and a file of questions to a folder that answers, in one command."""

import json
import shutil

import gsm_bpe
import pytest
import torch
from checkpoints import ouro_shapes, random_weights, tiny_ouro, write
from safetensors.torch import load_file

from lmsleep import HybridLM, Session
from lmsleep.cli import main as lmsleep
from lmsleep.tasks import TextQA
from lmsleep.tasks.spec import build_task

L = 48
SHORT = [
    f"--data.task.init_args.window_size={L}",
    "--data.batch_size=4",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.logger=false",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Ouro with random weights and a tokenizer."""
    folder = tmp_path_factory.mktemp("ouro")
    config = tiny_ouro() | {"vocab_size": 900}
    write(folder, config, random_weights(ouro_shapes(config)))
    shutil.move(gsm_bpe.train_bpe(folder), folder / "tokenizer.json")
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": gsm_bpe.EOS}))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    lines = [
        {"context": f"The wren has {i} eggs. " * (1 + i % 7), "question": "How many eggs?", "answer": i}
        for i in range(60)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_one_command_trains_tests_and_leaves_a_folder_that_answers(folder, data, tmp_path, capsys):
    out = tmp_path / "tuned"
    lmsleep(["finetune", f"--model={folder}", f"--data={data}", f"--out={out}", "--trainer.max_steps=3", *SHORT])
    assert "test/exact-1" in capsys.readouterr().out
    trained = json.loads((out / "config.json").read_text())["trained"]
    assert (trained["n_passes"], trained["steps"]) == (4, 3) and build_task(trained["task"]).train == str(data)
    model = HybridLM.from_pretrained(out)
    before = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    assert 0 < (model.embedding.weight - before).abs().max() < 1e-2  # three small steps from the pretrained weights
    task = TextQA(str(data), tokenizer=str(out), window_size=L)
    session = Session(model, n_passes=4)
    session.feed(task.encode("The wren has 3 eggs. " * 9))
    assert session.generate(task.encode("\nQuestion: How many eggs?\nAnswer:"), 4, stop=task.eos_id).shape == (1, 4)


def test_the_settings_of_a_run_take_the_place_of_the_preset(folder, data, tmp_path):
    args = ["--sleep.n_passes=2", "--sleep.eviction=sliding", "--trainer.max_steps=1", *SHORT]
    lmsleep(["finetune", f"--model={folder}", f"--data={data}", f"--out={tmp_path}", *args])
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["sleep"] == {"n_passes": 2, "eviction": "sliding", "after_loss": False, "wake_passes": 1}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": "nowhere"}, "model must be a folder or a name on the Hugging Face hub .*"),
        ({"data": "none.jsonl"}, "train must be a file or a pattern of files, but there is none at 'none.jsonl'"),
        ({"out": "model"}, "out must be another folder than that of the model, got 'model'"),
        ({"out": "train.jsonl"}, "folder must be a new or an existing folder, got 'train.jsonl': .* is a file"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(folder, data, tmp_path, monkeypatch, change, sentence):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, "model")
    shutil.copy(data, "train.jsonl")
    given = {"model": "model", "data": "train.jsonl", "out": "tuned"} | change
    with pytest.raises(SystemExit, match=f"^error: {sentence}$"):
        lmsleep(["finetune", *(f"--{name}={value}" for name, value in given.items()), *SHORT])
