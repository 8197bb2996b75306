"""A stage that reads what is not what another stage writes says so in one sentence with the name of the file."""

import importlib
import shutil

import pytest
import torch
from safetensors.torch import save_file

from lmsleep.figures import draw, report, results, table
from lmsleep.figures.evaluate import read_rows
from lmsleep.figures.plots.baselines import baselines
from lmsleep.model import HybridConfig
from lmsleep.tidy import COLUMNS

HALF = '{"test_exact": [{"n_passes": 1, "val'
NUMBERS = [
    HALF,
    "",
    "[]",
    "3",
    '{"test_exact": null}',
    '{"test_exact": []}',
    '{"test_exact": [3]}',
    '{"test_exact": [{"n_passes": 1}]}',
    '{"test_exact": [{"n_passes": 1, "value": "x", "n": 1}]}',
    '{"overall": [{"n_passes": 4}]}',
    '{"overall": 3}',
    '{"difference": {"a": 1}, "test_exact": [{"n_passes": 1, "value": 0.5, "n": 1}]}',
    '{"text": []}',
    '{"text": null}',
    '{"controls": [{}]}',
    '{"verdicts": [{"value": 1}]}',
    "[" * 100_000,
]
HEADER = ",".join(COLUMNS)
ROW = "fig2b,AG,1,0,all,20,test_exact,0.5"
TABLES = ["", HEADER, "a,b\n1,2", f"{HEADER}\n{ROW[:9]}", f"{HEADER}\n{ROW.replace('0.5', 'x')}",
          f"{HEADER}\n{ROW.replace('20', '1e999')}", f"{HEADER}\n{ROW},3,4", '{"a": 1}', "\0"]  # fmt: skip
DRAWINGS = ["", "<svg", '<svg viewBox="0 0 64 40" xmlns="http://www.w3.org/2000/svg"><g>', "<a/>",
            '<svg xmlns="http://www.w3.org/2000/svg"></svg>',
            '<svg viewBox="0 0 1 1" xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>',
            '<svg viewBox="0 0 1 1" xmlns="http://www.w3.org/2000/svg" onload="1"></svg>']  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"),
    [("fig2b.json", text) for text in NUMBERS]
    + [("fig2b.csv", text) for text in TABLES]
    + [("fig2b.svg", text) for text in DRAWINGS],
    ids=lambda text: text[:24],
)
def test_the_report_names_the_figure_whose_file_holds_something_else(write_report, results, name, text):
    (results / name).write_text(text)
    with pytest.raises(ValueError, match=r"fig2b\.") as error:
        write_report()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["fig2b.json", "fig2b.csv", "fig2b.svg"])
def test_bytes_that_are_no_text_are_named(write_report, results, name):
    (results / name).write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ValueError, match=rf"{name}"):
        write_report()


def test_how_runs_were_made_is_of_the_kind_that_is_written(write_report, results):
    odd = [HALF, "[]", '{"commit": [3]}', '{"torch": 3}', '{"seconds": "1"}', '{"seconds": NaN}', '{"runs": null}']
    for text in odd:
        (results / "fig2b.meta.json").write_text(text)
        with pytest.raises(ValueError, match=r"fig2b\.meta\.json"):
            write_report()


@pytest.mark.parametrize("scales", [[], ["mini", "mini"], ["large"]])
def test_a_page_of_no_scale_is_not_written(tmp_path, scales):
    with pytest.raises(ValueError, match=r"^scales must be one or more of smoke, mini, gpu, paper, got \["):
        report.main(scales, tmp_path, tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["[1]", "fig2b: 3", "fig2b: {}", "fig2b: {verdict: agrees}", "{"])
def test_verdicts_of_another_shape_are_named(tmp_path, text):
    (tmp_path / "verdicts.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"verdicts\.yaml"):
        results.read_verdicts(tmp_path / "verdicts.yaml")


@pytest.mark.parametrize("text", [*TABLES, f"{HEADER}\n{ROW}"], ids=lambda text: text[-24:])
@pytest.mark.parametrize("figure", ["fig2a", "fig2b", "fig3", "fig4a", "text", "probe"])
def test_a_figure_is_drawn_of_no_other_table(tmp_path, figure, text):
    """The last has all columns, and not what figures are drawn of."""
    (tmp_path / "in.csv").write_text(text)
    (tmp_path / "baselines.json").write_text("{}")
    with pytest.raises(ValueError, match=r"in\.csv|baseline"):
        draw.main(figure, "mini", tmp_path / "in.csv", tmp_path / "out", tmp_path)
    assert not list(tmp_path.glob("out*"))


NO_TEXT, NO_INTEGER = ["", " "], ["", "nan", "x", "1.5", "1e999", "9" * 30]
ODD = {  # what a hand may leave in a column
    **dict.fromkeys(("figure", "model", "metric"), NO_TEXT),
    **dict.fromkeys(("n_passes", "seed", "tokens"), NO_INTEGER),
    "slice": ["", "easy", "1.5"],
    "value": ["", "nan", "NaN", "-inf", "x", "1e999", "0,5"],
}


@pytest.mark.parametrize(("column", "got"), [(name, got) for name in ODD for got in ODD[name]])
def test_a_value_that_is_none_is_named_by_file_line_and_column(
    tmp_path, write_report, results, monkeypatch, column, got
):
    """Behind a blank line, in every reader of tables of results; nothing is written."""
    row = ROW.split(",")
    row[COLUMNS.index(column)] = f'"{got}"'
    path = results / "fig2b.csv"
    path.write_text(f"{HEADER}\n{ROW}\n\n{','.join(row)}\n{ROW}\n")
    (tmp_path / "scores").symlink_to(results)
    (tmp_path / "params.yaml").write_text("grids: {fig2b: {n_passes: [1]}}")
    (tmp_path / "baselines.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(table, "run_folders", lambda *_: [])
    for use in (
        lambda: draw.main("fig2b", "mini", path, tmp_path / "out", tmp_path),
        lambda: draw.main("controls", "mini", tmp_path / "scores", tmp_path / "out"),
        lambda: table.main("fig2b", tmp_path, tmp_path / "out.csv", path),
        write_report,
    ):
        with pytest.raises(ValueError, match=rf"fig2b\.csv: line 4: {column} must be .*, got {got!r}$"):
            use()
    assert not list(tmp_path.glob("out*"))


def test_a_table_with_a_value_too_many_in_every_line_is_not_read_askew(tmp_path):
    (tmp_path / "in.csv").write_text(f"{HEADER}\nx,{ROW}\nx,{ROW}\n")
    with pytest.raises(ValueError, match=r"in\.csv: a line must have as many values as there are columns, got 'more'$"):
        draw.read(tmp_path / "in.csv")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("x,20,0.5", "line 3: step must be an integer, got 'x'"),
        ("2,,0.5", "line 3: tokens must be an integer, got ''"),
        ("2,20,x", "line 3: exact must be a number or nothing, got 'x'"),
    ],
)
def test_a_validation_that_is_none_is_named_by_file_line_and_column(tmp_path, row, said):
    (tmp_path / "curve.csv").write_text(f"step,tokens,exact\n1,10,0.5\n{row}\n")
    with pytest.raises(ValueError, match=rf"^{tmp_path}/curve\.csv: {said}$"):
        table.validations(tmp_path)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("fig2b,AG,x,32,exact accuracy,0.1,", "line 2: n_passes must be an integer or nothing, got 'x'"),
        ("fig2b,AG,1,1.5,exact accuracy,0.1,", "line 2: slice must be an integer or nothing, got '1.5'"),
        ("", "rows must be one or more, got 0"),
    ],
)
def test_a_line_of_the_papers_values_is_named(tmp_path, row, said):
    (tmp_path / "paper.csv").write_text(f"{','.join(results.PAPER_COLUMNS)}\n{row}\n")
    with pytest.raises(ValueError, match=rf"^{tmp_path}/paper\.csv: {said}$"):
        results.paper_values(tmp_path / "paper.csv")
    (tmp_path / "paper.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"paper\.csv: columns must be figure, "):
        results.paper_values(tmp_path / "paper.csv")


@pytest.mark.parametrize("text", [HALF, "[]", '{"majority": 3}', '{"majority": {"12": "x"}, "chance": {}}'])
def test_baselines_of_another_shape_are_named(tmp_path, text):
    (tmp_path / "baselines.json").write_text(text)
    with pytest.raises(ValueError, match=r"baselines\.json"):
        baselines(tmp_path, "majority")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("config.yaml", text) for text in ("", "[]", "3", "model: 3", "model: {model: {}}", "{", "data: ${x}")),
        *(("run.json", text) for text in ("[]", HALF)),
        *(("curve.csv", text) for text in ("", "step,tokens,exact", "a\n1", "step,tokens,exact\n1,x,0.5")),
    ],
)
def test_a_table_is_made_of_no_other_run(tmp_path, name, text):
    (tmp_path / "config.yaml").write_text("{model: {model: {pattern: AG}}, data: {seed: 0}, sleep: {n_passes: 2}}")
    (tmp_path / "curve.csv").write_text("step,tokens,exact\n1,20,0.5\n")
    assert table.curve("fig2b", tmp_path).value.tolist() == [0.5]
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=name):
        table.curve("fig2b", tmp_path)


@pytest.mark.parametrize(
    "text", ['{"seconds": "1"}', '{"seconds": NaN}', '{"hardware": ["GPU"]}', '{"torch": 2}', '{"commit": true}', "[]"]
)
def test_a_run_that_was_made_with_something_else_is_named(tmp_path, text):
    for name, content in (("a", '{"seconds": 2, "hardware": "GPU", "commit": null}'), ("b", text)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(content)
    made_with = {"runs": 1, "seconds": 2, "hardware": ["GPU"], "torch": [], "commit": []}
    assert table.provenance([tmp_path / "a"]) == made_with
    with pytest.raises(ValueError, match=rf"^{tmp_path}/b/run\.json"):
        table.provenance([tmp_path / "a", tmp_path / "b"])


def test_scores_of_another_shape_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "run_folders", lambda *_: [])
    for text in TABLES:
        (tmp_path / "scores.csv").write_text(text)
        with pytest.raises(ValueError, match=r"scores\.csv"):
            table.main("fig2b", tmp_path, tmp_path / "out.csv", tmp_path / "scores.csv")


def test_rows_that_are_not_for_the_model_are_named(tmp_path):
    model, path = HybridConfig(vocab_size=3, d_model=8, pattern="AG", n_heads=2, window_size=4).build(), tmp_path / "x"
    sound = {name: torch.zeros(2, 8, dtype=torch.long) for name in ("tokens", "targets", "answers")}
    sound["slice"] = torch.zeros(2, dtype=torch.long)

    def read(**others):
        save_file({name: x for name, x in (sound | others).items() if x is not None}, path)
        return read_rows(path, model)

    assert set(read()) == set(sound)
    odd = [{name: None} for name in sound]
    odd += [{name: torch.zeros(3, 4, 5, dtype=torch.long)} for name in ("tokens", "targets")]
    odd += [{"tokens": sound["tokens"] + 3}, {"targets": sound["targets"] - 1}]
    odd += [{"tokens": torch.zeros(2, 8)}, {name: x[:0] for name, x in sound.items()}]
    for others in odd:
        with pytest.raises(ValueError, match=rf"^{path}"):
            read(**others)
    shutil.copyfile(__file__, path)
    with pytest.raises(ValueError, match=str(path)):
        read_rows(path, model)


@pytest.mark.parametrize("name", ["train", "measure"])
def test_a_stage_writes_to_no_place_that_is_empty(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"^Stage `{name}`"):
        importlib.import_module(f"lmsleep.figures.{name}").main(["", "nothing"])
    assert not list(tmp_path.iterdir())
