"""From a pretrained folder and a file of questions to a folder that answers, in one command."""

import json
import re
import shlex
import shutil
from pathlib import Path

import gsm_bpe
import pandas as pd
import pytest
import torch
from checkpoints import ouro_shapes, random_weights, tiny_ouro, write
from safetensors.torch import load_file

from lmsleep import HybridConfig, HybridLM, Session
from lmsleep.cli import main as lmsleep
from lmsleep.commands.finetune import unread
from lmsleep.hub import open_tokenizer
from lmsleep.pretrained import load_pretrained
from lmsleep.tasks import Documents, TextQA
from lmsleep.tasks.spec import build_task

L = 48
SHORT = [
    f"--data.task.init_args.window_size={L}",
    "--data.batch_size=4",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
]
AWAKE = [*SHORT, "--n_passes=1"]  # where nothing hangs on sleep, which takes most of the time


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Ouro with random weights and a tokenizer, of two layers: behind them one that sleeps is inserted."""
    folder = tmp_path_factory.mktemp("ouro")
    config = tiny_ouro() | {"vocab_size": 900, "num_hidden_layers": 2, "layer_types": ["full_attention"] * 2}
    write(folder, config, random_weights(ouro_shapes(config)))
    shutil.move(gsm_bpe.train_bpe(folder), folder / "tokenizer.json")
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": gsm_bpe.EOS}))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    lines = [
        {"context": f"The wren has {i} eggs. " * (1 + i % 7), "question": "How many eggs?", "answer": i}
        for i in range(40)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_one_command_trains_tests_and_leaves_a_folder_that_answers(folder, data, tmp_path, capsys):
    out = tmp_path / "tuned"
    lmsleep(["finetune", f"--model={folder}", f"--data={data}", f"--out={out}", "--trainer.max_steps=3", *SHORT])
    shown = capsys.readouterr().out
    assert "| windows | rows | exact | commonest answer | loss |" in shown
    said = re.search(r"The test does not show that the model reads: .*", shown)[0]  # three steps are too few
    assert said in (out / "README.md").read_text()
    assert shown.endswith("README.md shows how to ask\n")
    for title, share in TextQA(str(data), tokenizer=str(folder), window_size=L).baselines()["commonest"].items():
        assert re.search(rf"\| {title} \| \d \| \d\.\d{{3}} \| {share:.3f} \| \d\.\d{{3}} \|", shown)
    trained = json.loads((out / "config.json").read_text())["trained"]
    assert (trained["n_passes"], trained["steps"]) == (4, 3) and build_task(trained["task"]).train == str(data)
    logged = pd.read_csv(out / "version_0/metrics.csv")
    assert {"lr/muon", "grad_norm", "tokens_per_second", "sleeps_per_row", "change_of_S/pass-4"} <= set(logged)
    model = HybridLM.from_pretrained(out)
    before = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    assert 0 < (model.embedding.weight - before).abs().max() < 1e-2  # three small steps from the pretrained weights
    before = (out / "version_0/metrics.csv").read_bytes()
    lmsleep(["test", f"--config={out}/config.yaml", f"--ckpt_path={out}/last.ckpt"])  # other lines, as the guide has it
    assert (out / "version_0/metrics.csv").read_bytes() == before
    task = TextQA(str(data), tokenizer=str(out), window_size=L)
    session = Session(model, n_passes=4)
    session.feed(task.encode("The wren has 3 eggs. " * 9))
    assert session.generate(task.encode("\nQuestion: How many eggs?\nAnswer:"), 4, stop=task.eos_id).shape == (1, 4)


@pytest.mark.parametrize(("commonest", "shown"), [(0.16, True), (0.17, False), (0.24, False), (0.9, False)])
def test_a_model_that_gives_but_the_commonest_answer_is_told(commonest, shown):
    """24 of 100 have Wilson's interval 16.7 to 33.2 %, by the formula with z = 1.96: its centre is (24 + z²/2) /
    (100 + z²), its half width z sqrt(24 * 76 / 100 + z²/4) / (100 + z²)."""
    said = unread({"test/exact": 0.24, "test/rows": 100.0}, {"all": commonest})
    assert not said if shown else "reads: 24.0% of 100 answers are right (95 % interval 16.7% to 33.2%), and" in said
    assert shown or said.endswith(f"commonest one is right in {commonest:.1%}.")


def test_of_free_text_no_answer_is_the_commonest():
    assert unread({"test/token": 0.1, "test/rows": 9.0}, {}) == ""


@pytest.fixture
def documents(tmp_path):
    """20 documents of several windows of 16 tokens."""
    for i in range(20):
        (tmp_path / f"docs/{i % 3}").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"docs/{i % 3}/{i}.md").write_text(f"{i}. " + "The wren by the mill is blue.\n" * (2 + i % 5))
    return tmp_path / "docs"


def test_a_folder_of_documents_is_learned_asleep(folder, documents, tmp_path, capsys):
    """Its held-out loss falls, and the card goes on from a text."""
    out = tmp_path / "tuned"
    args = [f"--model={folder}", f"--data={documents}", f"--out={out}", "--window=16", "--n_windows=3"]
    rates = ["--muon_lr=3e-3", "--adamw_lr=1e-2", "--steps=10", "--trainer.val_check_interval=5", "--n_passes=2"]
    lmsleep(["finetune", *args, *rates, *SHORT[1:]])
    shown = capsys.readouterr().out
    assert "| windows | rows | token | loss | perplexity |" in shown and "| all | " in shown
    assert shown.endswith("README.md shows how to go on from a text\n")
    logged = pd.read_csv(out / "version_0/metrics.csv")
    assert "val/perplexity-1" in logged and not [name for name in logged if re.search("exact|answer|count", name)]
    first, last = logged["val/loss"].dropna()
    assert last < 0.9 * first and logged["sleeps_per_row"].max() > 0.5
    trained = json.loads((out / "config.json").read_text())["trained"]
    assert trained["after_loss"] and build_task(trained["task"]) == Documents(
        f"{tmp_path / 'docs'}", tokenizer=str(folder), window_size=16, n_windows=3
    )
    code = re.search(r"```python\n(.*?)```", (out / "README.md").read_text(), re.S)
    exec(code[1].replace(", 64, ", ", 4, "), {})


def test_files_are_read_once(folder, documents, tmp_path, monkeypatch):
    read, path = [], f"{documents}/**/*.md"
    index = Documents._index
    monkeypatch.setattr(
        Documents, "_index", lambda self, source, name: read.append(source) or index(self, source, name)
    )
    lmsleep(["finetune", f"--model={folder}", f"--data={path}", f"--out={tmp_path / 'out'}", "--steps=1", *AWAKE])
    assert read == [path]


def test_a_run_goes_on_and_one_of_fit_says_that_the_model_is_of_before(folder, documents, tmp_path, caplog):
    out = tmp_path / "tuned"
    line = ["finetune", f"--model={folder}", f"--data={documents}", f"--out={out}", "--window=16", *AWAKE[1:]]

    def steps():
        return json.loads((out / "config.json").read_text())["trained"]["steps"]

    lmsleep([*line, "--steps=1"])
    lmsleep([*line, "--steps=2", f"--ckpt_path={out}/last.ckpt"])
    with pytest.raises(
        SystemExit, match=r"^error: steps \(--steps, or those of --epochs\) must be 2 or more, .* got 1$"
    ):
        lmsleep([*line, "--steps=1", f"--ckpt_path={out}/last.ckpt"])
    assert steps() == 2 and not [said for said in caplog.messages if "to renew" in said or "to score" in said]
    again = ["fit", f"--config={out}/config.yaml", f"--ckpt_path={out}/last.ckpt", "--trainer.max_steps=3"]
    lmsleep([*again, "--trainer.val_check_interval=1"])
    said = next(said for said in caplog.messages if "to renew" in said)
    assert "the model and README.md in " in said and steps() == 2
    lmsleep(said.partition("lmsleep ")[2].split())
    assert steps() == 3


def test_a_run_goes_on_with_the_same_documents_alone(folder, documents, tmp_path):
    """With one more, others are held out, which were trained on."""
    out = tmp_path / "tuned"
    line = ["finetune", f"--model={folder}", f"--data={documents}", f"--out={out}", "--window=16", *AWAKE[1:]]
    lmsleep([*line, "--steps=1"])
    (documents / "more.md").write_text("One more. " * 40)
    refused = "--data must be 'Documents: .*', with which the checkpoint was trained, got 'Documents: "
    with pytest.raises(SystemExit, match=refused):
        lmsleep([*line, "--steps=2", f"--ckpt_path={out}/last.ckpt"])


def test_what_differs_where_a_run_goes_on_is_named_as_it_was_typed(folder, documents, tmp_path, monkeypatch):
    """Not by the setting of the run that the option stands for."""
    monkeypatch.chdir(tmp_path)
    line = ["finetune", f"--model={folder}", "--data=docs", "--window=16", "--steps=1", *SHORT[1:]]
    lmsleep([*line, "--out=tuned"])
    shutil.copytree(folder, "copy")
    trained, new = "with which the checkpoint was trained, got", "; other settings are a new run from these weights: "
    new += "lmsleep export, then --model"
    for more, sentence in (
        ("--window=32", f"--window must be 16, {trained} 32{new}"),
        ("--n_windows=2", f"--n_windows must be 4, {trained} 2{new}"),
        ("--muon_lr=0.5", f"--muon_lr must be 0.001, {trained} 0.5{new}"),
        ("--batch_size=2", f"--batch_size must be 4, {trained} 2{new}"),
        ("--model=copy", f"--model must be '{folder}', {trained} 'copy'{new}"),
        ("--tokenizer=bytes", f"--tokenizer must be '{folder}', {trained} 'bytes'{new}"),
        ("--data=docs/0", f"--data must be 'docs', {trained} 'docs/0'{new}"),
        ("--lora.rank=2", "--lora.rank must be left out, without which the checkpoint was trained, got 2"),
        ("--n_passes=2", f"--n_passes must be 4, {trained} 2; --sleep.allow_other_n=true uses it all the same"),
    ):
        with pytest.raises(SystemExit, match=f"^error: {re.escape(sentence)}"):
            lmsleep([*line, more, "--out=other", "--ckpt_path=tuned/last.ckpt"])
    with pytest.raises(SystemExit, match=r"^error: --out must be a folder without last.ckpt, got '.*tuned'; go on "):
        lmsleep([*line, "--out=tuned"])
    assert not (tmp_path / "other").exists() and len([*(tmp_path / "tuned").glob("version_*")]) == 1


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("--window=2000000", "--window must be at most 1048576, got 2000000"),
        ("--lora.rank=2 --lora.alpha=x", "--lora.alpha must be a finite number or null, got x"),
        ("--lora.rank=2 --lora.alpha=0", "--lora.alpha must be finite and more than 0, or null, got 0.0"),
        ("--n_passes=20000", "--n_passes must be at most 10000, got 20000"),
        ("--epochs=0", "--epochs must be an integer of 1 or more, got 0"),
        ("--trainer.val_check_interval=0", "--trainer.val_check_interval must be more than 0, or null, got 0"),
        ("--trainer.log_every_n_steps -1", "--trainer.log_every_n_steps must be 0 or more, got -1"),
        (
            "--trainer.callbacks+=WarmupStage --trainer.callbacks.steps=1 --trainer.callbacks.train=nothing",
            "train of the warm-up stage must match the name of a parameter, got 'nothing', which matches none",
        ),
    ],
)
def test_what_is_out_of_range_is_named_as_it_was_typed(folder, data, tmp_path, capsys, given, sentence):
    with pytest.raises(SystemExit) as end:
        lmsleep(
            ["finetune", f"--model={folder}", f"--data={data}", f"--out={tmp_path / 'out'}", *SHORT, *given.split()]
        )
    said = end.value.code if isinstance(end.value.code, str) else capsys.readouterr().err.splitlines()[-1]
    assert said == f"error: {sentence}" and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            "--trainer.devices=2 --trainer.strategy=ddp",
            "--data.eval_batch_size must leave a batch of test for each of 2 ranks, and not 1 in all, got 4",
        ),
        (
            "--trainer.enable_checkpointing=false",
            "--trainer.enable_checkpointing must be true: the checkpoint is exported, got false",
        ),
        (
            "--trainer.fast_dev_run=true",
            "--trainer.fast_dev_run must be false: it leaves no checkpoint to export, got true",
        ),
        (
            "--trainer.limit_test_batches=0.0",
            "--trainer.limit_test_batches must be more than 0: README.md has the scores, got 0.0",
        ),
        (
            "--checkpoint.dirpath=other",
            "--checkpoint.dirpath must be left out: --out is the folder for all that is made",
        ),
    ],
)
def test_what_the_test_or_the_export_would_lack_is_refused_before_training(
    folder, documents, tmp_path, capsys, given, sentence
):
    args = [f"--model={folder}", f"--data={documents}", f"--val={documents}", f"--out={tmp_path / 'out'}", "--steps=1"]
    with pytest.raises(SystemExit) as end:
        lmsleep(["finetune", *args, "--window=16", *SHORT[1:], *given.split()])
    said = end.value.code if isinstance(end.value.code, str) else capsys.readouterr().err.splitlines()[-1]
    assert said == f"error: {sentence}" and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("data", "given", "sentence"),
    [
        (
            "mixed",
            [],
            r"mixed, line 1: must have the field 'context', .*; all of it is read as rows, since it has "
            r"mixed/rows.jsonl: 'mixed/\*\*/\*.txt' has texts alone",
        ),
        (
            "mixed/*",
            [],
            r"mixed/a.txt, line 1: must be JSON, .*; all of it is read as rows, since it has "
            r"mixed/rows.jsonl: 'mixed/\*\*/\*.txt' has texts alone",
        ),
        ("notes.md", ["--context={text}"], "--context must be left out with data without questions, got '{text}'"),
        ("notes.md", ["--text={text}"], "--text must be left out with files that are documents themselves, got .*"),
        (
            "notes.md",
            ["--val=mixed/rows.jsonl"],
            r"--val must be text, got rows in 'mixed/rows.jsonl'; --text '\{body\}', a template over .*",
        ),
        ("train.jsonl", ["--n_windows=2"], "--n_windows must be left out with data with questions, got 2"),
        (
            "notes.jsonl",
            [],
            r"notes.jsonl, line 1: must have the field 'context', got body; templates name other fields, as --context "
            r"'\{body\}', or --text '\{body\}' without questions",
        ),
        ("notes.jsonl", ["--text={text}"], "notes.jsonl, line 1: must have the field 'text', got body"),
        ("empty", [], "--data must have files in it, got the folder 'empty', where there are none to read"),
        (
            "split",
            [],
            r"split cannot be read as a dataset: it has rows and other files; all of it is read as rows, since it has "
            r"split/train.jsonl: 'split/\*\*/\*.txt' has texts alone",
        ),
    ],
)
def test_data_that_does_not_fit_its_options_is_one_sentence(folder, data, tmp_path, monkeypatch, given, sentence):
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "mixed", "split"):
        (tmp_path / name).mkdir()
    (tmp_path / "split" / "train.jsonl").write_text('{"body": "The wren."}')
    (tmp_path / "split" / "test.txt").write_text("The wren.")
    for name, text in {"a.txt": "The wren.", "b.txt": "The mole.", "rows.jsonl": '{"body": "The wren."}'}.items():
        (tmp_path / "mixed" / name).write_text(text)
    (tmp_path / "notes.md").write_text("The wren.")
    (tmp_path / "notes.jsonl").write_text('{"body": "The wren."}')
    with pytest.raises(SystemExit, match=f"^error: {sentence}$"):
        lmsleep(["finetune", f"--model={folder}", f"--data={data}", "--out=tuned", *given, *SHORT])
    assert not (tmp_path / "tuned").exists()


def test_a_pattern_that_the_shell_replaced_should_stand_in_quotes(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("a.md", "b.md"):
        (tmp_path / name).write_text("The wren.")
    with pytest.raises(SystemExit):
        lmsleep(["finetune", f"--model={folder}", "--data", "a.md", "b.md", "--out=tuned", *SHORT])
    assert "error: there is no option b.md; a pattern of files must stand in quotes" in capsys.readouterr().err


def test_the_settings_of_a_run_take_the_place_of_the_preset(folder, data, tmp_path):
    args = ["--sleep.n_passes=2", "--sleep.eviction=sliding", "--trainer.max_steps=1", *SHORT]
    lmsleep(["finetune", f"--model={folder}", f"--data={data}", f"--out={tmp_path}", *args])
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    sleep = {"n_passes": 2, "eviction": "sliding", "after_loss": False, "wake_passes": 1, "on_overflow": None}
    assert saved["sleep"] == sleep


def test_one_setting_of_the_model_changes_that_of_the_weights_and_no_other(data, tmp_path):
    """What is set on the command line makes the model of `load_pretrained` with the same change: its loop too."""
    source = tmp_path / "model"
    sizes = HybridConfig(900, d_model=32, pattern="AAAAAA", window_size=8, n_heads=2, n_kv_heads=1, loop=(1, 5))
    sizes.build().save_pretrained(source)
    shutil.move(gsm_bpe.train_bpe(tmp_path), source / "tokenizer.json")
    (source / "tokenizer_config.json").write_text(json.dumps({"eos_token": gsm_bpe.EOS}))
    args = ["finetune", f"--model={source}", f"--data={data}", "--steps=1", "--n_passes=2", *SHORT]
    for out, more, loop in (("middle", [], (2, 6)), ("all", ["--model.model.loop=null"], None)):
        lmsleep([*args, f"--out={tmp_path / out}", "--model.model.pattern=AAAAAjAj", *more])
        changes = {"pattern": "AAAAAjAj"} | ({"loop": None} if more else {})
        model = HybridLM.from_pretrained(tmp_path / out)
        assert model.config == load_pretrained(source, L, **changes).config and model.config.loop == loop
        lmsleep(["test", f"--config={tmp_path / out}/config.yaml", f"--ckpt_path={tmp_path / out}/last.ckpt"])


def test_adapters_are_merged_into_what_is_saved(folder, data, tmp_path):
    lmsleep(
        ["finetune", f"--model={folder}", f"--data={data}", f"--out={tmp_path}", "--lora.rank=2", "--steps=2", *AWAKE]
    )
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["lora"]["rank"] == 2 and any("lora_B" in name for name in saved["state_dict"])
    weights, before = load_file(tmp_path / "model.safetensors"), load_file(folder / "model.safetensors")
    assert not any("lora" in name for name in weights)
    torch.testing.assert_close(weights["embedding.weight"], before["model.embed_tokens.weight"], rtol=0, atol=0)
    change = weights["blocks.layers.0.mixer.q_proj.weight"] - before["model.layers.0.self_attn.q_proj.weight"]
    assert torch.linalg.matrix_rank(change, rtol=1e-3) == 2
    HybridLM.from_pretrained(tmp_path)
    with pytest.raises(
        SystemExit, match=r"^error: --lora\.rank must be 2, with which the checkpoint was trained, got 3$"
    ):
        args = ["--lora.rank=3", "--steps=3", f"--ckpt_path={tmp_path}/last.ckpt", *AWAKE]
        lmsleep(["finetune", f"--model={folder}", f"--data={data}", f"--out={tmp_path}", *args])


def test_an_epoch_shows_every_row_once_and_what_is_learned_is_logged(folder, data, tmp_path):
    args = [
        "--epochs=2",
        "--n_passes=2",
        "--trainer.log_every_n_steps=4",
        "--trainer.accumulate_grad_batches=2",
        *SHORT,
    ]
    args[args.index("--data.batch_size=4")] = "--data.batch_size=8"
    lmsleep(["finetune", f"--model={folder}", f"--data={data}", f"--out={tmp_path}", *args])
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2 * 32 // 8 // 2
    logged = pd.read_csv(tmp_path / "version_0/metrics.csv")
    assert {"lr/muon", "lr/adamw", "grad_norm", "tokens_per_second", "sleeps_per_row", "train/loss"} <= set(logged)
    assert "change_of_S/pass-2" in logged and (logged["grad_norm"].dropna() > 0).all()
    assert {"val/exact-2", "val/loss-2", "test/exact-1", "test/loss-2"} <= set(logged)


def test_the_card_asks_as_it_says(folder, data, tmp_path, capsys):
    args = ["finetune", f"--model={folder}", f"--data={data}", f"--out={tmp_path}", "--steps=1", *SHORT]
    lmsleep([*args, "--context=Of old: {context}\n", "--n_passes=1"])
    capsys.readouterr()
    code = re.search(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(), re.S)
    assert code and "How many eggs?" in code[1] and "session.read('The wren has" in code[1]
    exec(code[1], page := {})
    document = re.search(r"read\('(.*)'\)", code[1])[1]
    assert page["session"].prompter.texts(document)[0] == f"Of old: {document}\n"
    assert capsys.readouterr().out.endswith("\n")
    command = re.search(r"```bash\nlmsleep (.*?)\n```", (tmp_path / "README.md").read_text(), re.S)[1]
    (tmp_path / "mine.txt").write_text("The wren has 3 eggs.")
    words = shlex.split(command.replace("TEXT.txt", str(tmp_path / "mine.txt")))
    assert words[-2:] == ["--ask", "How many eggs?"]
    lmsleep([*words, "--max_new_tokens=4"])
    assert (tmp_path / "config.yaml").is_file() and (tmp_path / "tokenizer.json").is_file()


@pytest.mark.parametrize(
    ("templates", "asked"),
    [
        (["--context={question}\\n{context}", "--question=A:"], "A question?"),
        (["--question=How many?"], ""),
    ],
)
def test_the_card_asks_where_the_question_has_no_place_behind_the_document(folder, data, tmp_path, templates, asked):
    args = ["finetune", f"--model={folder}", f"--data={data}", f"--out={tmp_path}", "--steps=1", *AWAKE]
    lmsleep([*args, *templates])
    command = re.search(r"```bash\nlmsleep (.*?)\n```", (tmp_path / "README.md").read_text(), re.S)[1]
    (tmp_path / "mine.txt").write_text("The wren has 3 eggs.")
    words = shlex.split(command.replace("TEXT.txt", str(tmp_path / "mine.txt")))
    assert words[-1] == asked
    lmsleep([*words, "--max_new_tokens=4"])


def test_a_line_end_in_a_template_is_written_as_the_help_shows_it(folder, data, tmp_path, recwarn):
    templates = [
        r"--question=\nQ: {question}\tA:",
        r"--answer= {answer}\\n",
        r"--data.task.init_args.context={context}\n",
    ]
    lmsleep(["finetune", f"--model={folder}", f"--data={data}", f"--out={tmp_path}", *templates, "--steps=1", *AWAKE])
    task = json.loads((tmp_path / "config.json").read_text())["trained"]["task"]["init_args"]
    assert (task["question"], task["answer"], task["context"]) == ("\nQ: {question}\tA:", r" {answer}\n", "{context}\n")
    assert [str(warning.message) for warning in recwarn if "backslash" in str(warning.message)] == [
        r"answer has a backslash and an n, which is no line end (in YAML, \n within double quotes is): ' {answer}\\n'"
    ]


def test_a_question_that_no_one_could_ask_is_refused_before_training(folder, data, tmp_path):
    """In a file of settings, where it is only warned of, the card shows no code that would fail."""
    lines = [{"q": f"How many {i}?", "doc": f"The wren has {i} eggs. " * 3, "answer": i} for i in range(60)]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, lines)))
    args = ["finetune", f"--model={folder}", f"--data={tmp_path}/own.jsonl", f"--out={tmp_path / 'out'}"]
    with pytest.raises(
        SystemExit, match=r"^error: --context must call its question \{question\} or .* got '\{q\} \{doc"
    ):
        lmsleep([*args, "--context={q} {doc}", "--question=A:", "--steps=1", *AWAKE])
    assert not (tmp_path / "out").exists()
    (tmp_path / "own.yaml").write_text("data: {task: {init_args: {context: '{q} {doc}', question: 'A:'}}}")
    with pytest.warns(UserWarning, match=r"^context must call its question"):
        lmsleep([*args, "--steps=1", f"--config={tmp_path}/own.yaml", *AWAKE])
    card = (tmp_path / "out/README.md").read_text()
    assert "| windows | rows |" in card and "session" not in card.split("# A language model")[1].split("| | |")[0]


def test_a_model_that_learned_from_conversations_is_asked_in_one(folder, tmp_path):
    said = [("user", "The wren has 3 eggs."), ("assistant", "Good."), ("user", "How many eggs?"), ("assistant", "3")]
    line = json.dumps({"messages": [{"role": role, "content": content} for role, content in said]})
    (tmp_path / "chat.jsonl").write_text(f"{line}\n" * 30)
    (tmp_path / "model").mkdir()
    for path in folder.iterdir():
        shutil.copy(path, tmp_path / "model")
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}"
    (tmp_path / "model" / "chat_template.jinja").write_text(template + "<assistant>{% endif %}")
    given = {"model": tmp_path / "model", "data": tmp_path / "chat.jsonl", "out": tmp_path / "tuned", "steps": 1}
    lmsleep(["finetune", *(f"--{name}={value}" for name, value in given.items()), *AWAKE])
    session = Session.from_pretrained(tmp_path / "tuned")
    assert session.prompter.format_question("{question}") == "<user>{question}\n<assistant>"
    assert "session.ask('How many eggs?')" in (tmp_path / "tuned" / "README.md").read_text()
    assert (tmp_path / "tuned" / "chat_template.jinja").is_file()


def test_a_model_without_tokenizer_takes_the_one_that_is_named(folder, data, tmp_path):
    """As `save_pretrained` of transformers leaves a model alone."""
    bare = shutil.copytree(folder, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    command = ["finetune", f"--model={bare}", f"--data={data}", f"--out={tmp_path / 'tuned'}", "--steps=1"]
    with pytest.raises(SystemExit, match=r"bare must hold tokenizer.json, found none; tokenizer may be .*, or bytes"):
        lmsleep([*command, *AWAKE])
    lmsleep([*command, "--tokenizer=bytes", "--data.task.init_args.window_size=99", *AWAKE[1:]])
    assert Session.from_pretrained(tmp_path / "tuned").prompter.tokenizer.get_vocab_size() == 257


def test_another_tokenizer_than_the_model_s_is_warned_of(folder, data, tmp_path):
    args = ["--steps=1", "--window=64", "--data.task.init_args.tokenizer=bytes", *AWAKE[1:]]
    with pytest.warns(
        UserWarning, match=r"^tokenizer bytes \(257 tokens\) is another than the model's own, .* \(\d+ tokens\)"
    ):
        lmsleep(["finetune", f"--model={folder}", f"--data={data}", f"--out={tmp_path}", *args])
    assert open_tokenizer(tmp_path).get_vocab_size() == 257


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--stps=3", "there is no option --stps, but there is --steps"),
        ("--lora.rnk=3", "there is no option --lora.rnk, but there is --lora.rank"),
        ("--sleep.n_pases=3", "there is no option --sleep.n_pases, but there is --n_passes.*"),
        ("--data.task.init_args.helt_out=3", "there is no option .*helt_out, but there is .*held_out"),
        ("-x=3", "there is no option -x"),
        ("--steps=x", "--steps must be an integer of 1 or more, got x"),
        ("--trainer.max_steps=0", "--steps must be an integer of 1 or more, got 0"),
        ("--epochs=0", "--epochs must be an integer of 1 or more, got 0"),
        ("--lora.rank=-1", "--lora.rank must be an integer of 1 or more, got -1"),
        ("--lora.alpha=4", "--lora.rank must be given"),
        ("--muon_lr=x", "--muon_lr must be a finite number, got x"),
    ],
)
def test_a_mistyped_option_is_one_sentence_that_says_what_was_meant(folder, data, capsys, argument, sentence):
    with pytest.raises(SystemExit, match="2"):
        lmsleep(["finetune", f"--model={folder}", f"--data={data}", argument])
    assert re.fullmatch(f"error: {sentence}\n", capsys.readouterr().err)


def test_help_lists_the_options_with_their_defaults(capsys):
    with pytest.raises(SystemExit, match="0"):
        lmsleep(["finetune", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    for name in ("--window", "--epochs", "--lora.rank", "--sleep.n_passes N_PASSES", "--question"):
        assert f" {name}" in told
    assert re.search("--window( WINDOW)?, --data.task.init_args.window_size WINDOW", told)  # before Python 3.13, twice
    assert all(f"(default: {default})" in told for default in (512, 500, 8, "tuned", "'{context}'"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": "nowhere"}, "--model must be a folder or a name on the Hugging Face hub .*"),
        (
            {"data": "none.jsonl"},
            "--data must be a file, a folder or a pattern of files, but there is none at 'none.jsonl'",
        ),
        ({"context": "{"}, r"--context must have a field of a line in braces, as \{context\}, got '\{'"),
        ({"out": "model"}, "--out must be another folder than that of the model, got 'model'"),
        (
            {"out": "saved"},
            "--out must be a folder without model.safetensors, config.json, got '.*saved'; --checkpoint.*",
        ),
        ({"out": "train.jsonl"}, "--out must be a new or an existing folder, got 'train.jsonl': .* is a file"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(folder, data, tmp_path, monkeypatch, change, sentence):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, "model")
    Path("saved").mkdir()
    for name in ("model.safetensors", "config.json"):
        shutil.copy(folder / name, "saved")
    shutil.copy(data, "train.jsonl")
    given = {"model": "model", "data": "train.jsonl", "out": "tuned"} | change
    with pytest.raises(SystemExit, match=f"^error: {sentence}$"):
        lmsleep(["finetune", *(f"--{name}={value}" for name, value in given.items()), *SHORT])
