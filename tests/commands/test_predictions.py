"""`lmsleep predict` writes every answer of the test rows, as `lmsleep test` counts them."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import yaml

from lmsleep.cli import main
from lmsleep.commands.predictions import COLUMNS, PredictionWriter, answers_of
from lmsleep.tasks import IGNORE, Depo, Rule110

SMOKE = Path(__file__).parents[2] / "configs" / "experiment" / "smoke"
QUIET = ["--trainer.logger=false", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]
TASKS = {"rule110": Rule110, "depo": Depo}
pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.fixture
def lmsleep(tmp_path):
    """lmsleep(command, task, "--key=value", ...): on the smoke configuration of a task, into a folder of its name."""

    def lmsleep(command, task, *args):
        ends = [f"--trainer.default_root_dir={command}", "--checkpoint.dirpath=fit", "--sleep.n_passes=2"]
        saved = [] if command == "fit" else ["--ckpt_path=fit/last.ckpt"]
        main([command, f"--config={SMOKE / task}.yaml", *QUIET, *ends, *saved, *args])

    return lmsleep


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Where the first run of a task is kept."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def fitted(lmsleep, kept):
    """fitted(task): makes fit/ the run of one step, which trains once for all tests."""

    def fitted(task):
        if not (kept / task).exists():
            lmsleep("fit", task, "--trainer.max_steps=1")
            shutil.copytree("fit", kept / task)
        else:
            shutil.copytree(kept / task, "fit")

    return fitted


def scores(capsys):
    """{slice: {name: score}} of the table that `lmsleep test` prints, and the line of all under "all"."""
    rows = [re.split("[│┃]", line)[1:-1] for line in capsys.readouterr().out.splitlines() if line[:1] in "│┃"]
    (_, *names), *lines = ([cell.strip() for cell in row] for row in rows)
    return {
        level: {name: float(cell.replace(",", "")) for name, cell in zip(names, cells, strict=True)}
        for level, *cells in lines
    }


@pytest.mark.parametrize("task", TASKS)
def test_the_answers_are_those_that_test_counts(lmsleep, tmp_path, capsys, task):
    lmsleep("fit", task, "--trainer.max_steps=20")
    capsys.readouterr()
    lmsleep("test", task)
    wanted = scores(capsys)
    lmsleep("predict", task)
    table = pd.read_csv(tmp_path / "predict" / "predictions.csv", dtype={"expected": str, "answered": str})
    assert list(table.columns) == COLUMNS
    assert 0 < table.right.mean() < 1
    assert table.right.mean() == pytest.approx(wanted["all"]["exact"], abs=1e-4)
    for level, of_level in table.groupby("slice"):
        assert of_level.right.mean() == pytest.approx(wanted[str(level)]["exact"], abs=1e-4)
        assert len(of_level) == wanted[str(level)]["count"]
    expected, answered = table.expected.str.split(), table.answered.str.split()
    assert (table.right == (expected == answered)).all()
    hits = [a == b for e, s in zip(expected, answered, strict=True) for a, b in zip(e, s, strict=True)]
    assert sum(hits) / len(hits) == pytest.approx(wanted["all"]["token"], abs=1e-4)


def test_it_leaves_the_predictions_alone(lmsleep, fitted, tmp_path):
    fitted("rule110")
    lmsleep("predict", "rule110", "--trainer.logger=null")
    assert [path.name for path in (tmp_path / "predict").iterdir()] == ["predictions.csv"]


LOGGED = ["--trainer.logger=lightning.pytorch.loggers.CSVLogger", "--trainer.logger.save_dir=logs"]


@pytest.mark.parametrize(
    ("command", "logger", "left"),
    [
        ("predict", LOGGED, {"predict", "predict/predictions.csv"}),  # as of a configuration of `lmsleep fit`
        ("predict", ["--trainer.logger=true"], {"predict", "predict/predictions.csv"}),
        ("validate", ["--trainer.logger=null"], set()),
        ("test", ["--trainer.logger=null"], set()),
        (
            "test",
            LOGGED,
            {"logs", *(f"logs/lightning_logs{end}" for end in ("", "/version_0", "/version_0/metrics.csv"))},
        ),
    ],
)
def test_nothing_is_left_that_nobody_asked_for(lmsleep, fitted, tmp_path, command, logger, left):
    fitted("rule110")
    before = set(tmp_path.rglob("*"))
    lmsleep(command, "rule110", *logger)
    assert {str(path.relative_to(tmp_path)) for path in set(tmp_path.rglob("*")) - before} == left


@pytest.mark.parametrize("task", TASKS)
def test_rows_are_in_the_order_of_the_task(lmsleep, fitted, tmp_path, task):
    fitted(task)
    lmsleep("predict", task)
    table = pd.read_csv(tmp_path / "predict" / "predictions.csv", dtype={"expected": str})
    data = yaml.safe_load((tmp_path / "fit" / "config.yaml").read_text())["data"]
    made = TASKS[task](**data["task"]["init_args"])
    n_rows = 0
    for step in range(made.held_out_steps("test", data["eval_batch_size"], data["eval_rows"])):
        batch = made.rows(split="test", seed=0, step=step, batch_size=data["eval_batch_size"])
        fields = (batch.slice, batch.targets, made.answers(batch.targets))
        for level, targets, owners in zip(*(field.tolist() for field in fields), strict=True):
            lines = table[table.row == n_rows]
            assert set(lines["slice"]) == {level}
            assert " ".join(lines.expected) == " ".join(str(t) for t, o in zip(targets, owners, strict=True) if o >= 0)
            n_rows += 1
    assert set(table.row) == set(range(n_rows))


def test_predictions_lie_beside_the_checkpoint_or_where_the_run_says(lmsleep, fitted, tmp_path, capsys):
    fitted("rule110")
    for words, folder in (
        (["--ckpt_path=fit/last.ckpt"], "fit"),
        (["--ckpt_path=last"], "fit"),
        (["--ckpt_path=null"], ""),
        (["--ckpt_path=fit/last.ckpt", "--trainer.default_root_dir=other"], "other"),
    ):
        lmsleep("predict", "rule110", "--trainer.default_root_dir=null", *words)
        (tmp_path / folder / "predictions.csv").unlink()
        assert capsys.readouterr().out.startswith(f"{Path(folder, 'predictions.csv')}: ")
        assert not list(tmp_path.rglob("predictions.csv"))


def test_one_answer_of_one_row_is_told_in_the_singular(lmsleep, fitted, capsys):
    fitted("rule110")
    lmsleep("predict", "rule110", "--data.eval_rows=1", "--data.eval_batch_size=1")
    assert capsys.readouterr().out == "predict/predictions.csv: 1 answer of 1 row\n"


def test_fit_and_test_write_no_predictions(lmsleep, fitted, tmp_path):
    fitted("rule110")
    lmsleep("test", "rule110")
    assert not list(tmp_path.rglob("predictions.csv"))


def test_an_interrupted_prediction_leaves_the_table_that_was_there(lmsleep, fitted, tmp_path, monkeypatch):
    fitted("rule110")
    (tmp_path / "predict").mkdir()
    (tmp_path / "predict" / "predictions.csv").write_text("before")
    rows = [answers_of([1], [1], [0])] * 40  # the end comes in the second batch of 32
    monkeypatch.setattr("lmsleep.commands.predictions.answers_of", lambda *_: rows.pop())
    with pytest.raises(IndexError):
        lmsleep("predict", "rule110")
    assert [(p.name, p.read_text()) for p in (tmp_path / "predict").iterdir()] == [("predictions.csv", "before")]


def test_several_devices_are_refused(lmsleep, fitted, tmp_path, monkeypatch):
    fitted("rule110")
    monkeypatch.setattr("lightning.pytorch.Trainer.world_size", 2)
    with pytest.raises(SystemExit, match=r"^error: --trainer\.devices must be 1 to write predictions, got 2$"):
        lmsleep("predict", "rule110")
    assert not (tmp_path / "predict").exists()


def test_answers_of_a_row():
    targets, said = [IGNORE, 5, 6, 7, 8], [1, 5, 6, 7, 9]
    assert answers_of(targets, said, [-1, 0, 0, 1, 1]) == [("5 6", "5 6", 1), ("7 8", "7 9", 0)]
    assert answers_of(targets, said, [-1, -1, -1, 0, -1]) == [("7", "7", 1)]


def test_of_free_text_nothing_is_called_right_or_an_answer(lmsleep, tmp_path, capsys):
    (tmp_path / "book.txt").write_text("".join(f"The wren has {i} eggs.\n" for i in range(200)))
    text = "{class_path: lmsleep.tasks.TextLM, init_args: {train: book.txt, window_size: 12}}"
    given = [f"--data.task={text}", "--model.model.window_size=12", "--sleep.after_loss=true"]
    lmsleep("fit", "rule110", "--trainer.max_steps=1", *given)
    capsys.readouterr()
    lmsleep("test", "rule110", *given)
    assert {*scores(capsys)["all"]} == {"loss", "token", "rows", "perplexity"}
    lmsleep("predict", "rule110", *given)
    table = pd.read_csv(tmp_path / "predict" / "predictions.csv")
    assert [*table] == ["row", "slice", "expected", "answered", "expected_text", "answered_text"]
    assert capsys.readouterr().out == f"predict/predictions.csv: {len(table)} rows\n"


@pytest.mark.parametrize("own", ["test", "held out"])
def test_a_row_of_a_user_s_file_has_its_place_there(lmsleep, tmp_path, own):
    """Contexts of different lengths, which are read in another order than that of the file, and an empty line."""
    lines = [{"context": "c" * (5 + 7 * (i * 7 % 5)), "answer": f"{i}"} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n\n".join(map(json.dumps, lines)))
    arguments = {"train": "rows.jsonl", "window_size": 12, "question": "?"}
    arguments |= {"test": "rows.jsonl"} if own == "test" else {}
    task = json.dumps({"class_path": "lmsleep.tasks.TextQA", "init_args": arguments})
    sizes = ["--model.model.window_size=12", "--data.batch_size=8", "--data.eval_batch_size=8"]
    given = [f"--data.task={task}", *sizes]
    lmsleep("fit", "rule110", "--trainer.max_steps=1", *given)
    lmsleep("predict", "rule110", *given)
    table = pd.read_csv(tmp_path / "predict" / "predictions.csv", dtype={"expected_text": str})
    assert [lines[row]["answer"] for row in table.row] == [text.strip() for text in table.expected_text]
    assert table.row.is_monotonic_increasing and len(table) == (40 if own == "test" else 4)


def test_answers_in_text_stand_beside_those_in_tokens(tmp_path):
    """Depo's tokens through a stand-in that names them; what is kept is read back from the file, a bare \\r too."""
    methods = {"answers": lambda self, t: torch.zeros_like(t), "decode": lambda self, t: f"<\r{t[1]}>"}
    task = type("Named", (), methods | {"has_answers": True})()
    loader = SimpleNamespace(dataset=None)
    trainer = SimpleNamespace(received_sigterm=False, world_size=1, predict_dataloaders=loader)
    writer, module = PredictionWriter(tmp_path), SimpleNamespace(task=task, predict_step=lambda batch: None)
    writer.setup(trainer, module, "predict")
    said = {"targets": torch.tensor([[3, 4]]), "predictions": torch.tensor([[3, 5]])}
    writer.on_predict_batch_end(trainer, module, said, SimpleNamespace(slice=torch.tensor([2])), 0)
    writer.on_predict_end(trainer, module)
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert (table.expected_text[0], table.answered_text[0]) == ("<\r4>", "<\r5>")
