"""Datasets of Hugging Face: the same rows as from a file of JSON lines."""

import csv
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from packaging.version import Version

from lmsleep.errors import one_sentence
from lmsleep.tasks import Documents, TextLM, TextQA
from lmsleep.tasks.line_index import open_dataset, text_files

LINES = [
    {"context": f"Bird {i} is blue. " * (1 + i % 3), "question": f"Bird {i}?", "answer": "blue"} for i in range(30)
]


@pytest.fixture
def datasets(monkeypatch, tmp_path):
    """The package, with its cache in a folder of the test."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return datasets


def same_rows(one, other):
    rows = (task.rows(split="train", seed=0, step=1, batch_size=8) for task in (one, other))
    return all(a is b or torch.equal(a, b) for a, b in zip(*rows, strict=True))


def test_a_table_or_a_folder_gives_the_rows_of_the_same_lines(datasets, tmp_path):
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    dataset = datasets.Dataset.from_list(LINES)
    dataset.to_parquet(tmp_path / "all.parquet")
    dataset.select(range(11)).to_parquet(tmp_path / "part-1.parquet")
    dataset.select(range(11, 30)).to_parquet(tmp_path / "part-2.parquet")
    dataset.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict(train=dataset, other=dataset.select([0])).save_to_disk(tmp_path / "splits")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "train.jsonl").write_text((tmp_path / "lines.jsonl").read_text())
    arrow = next((tmp_path / "saved").glob("*.arrow"))
    wanted = TextQA(str(tmp_path / "lines.jsonl"), window_size=40)
    for name in ("all.parquet", "part-*.parquet", "saved", str(arrow), "splits", "splits:train", "plain"):
        assert same_rows(TextQA(str(tmp_path / name), window_size=40), wanted), name
    assert len(open_dataset(f"{tmp_path}/splits:other")) == 1


def test_cells_of_a_csv_file_are_text_as_they_stand_there(datasets, tmp_path):
    """Answers that a reader of tables would take for numbers or for nothing; commas and line ends inside of cells."""
    lines = [LINES[0] | {"answer": answer} for answer in ("007", "NA", "1.50", "a, b", "two\nlines", 'say "no"')] * 5
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with (tmp_path / "lines.csv").open("w", newline="", encoding="utf-8-sig") as file:
        table = csv.DictWriter(file, lines[0])
        table.writeheader()
        table.writerows(lines)
    made, wanted = (TextQA(str(tmp_path / f"lines.{kind}"), window_size=40) for kind in ("csv", "jsonl"))
    assert same_rows(made, wanted)
    (tmp_path / "bad.csv").write_text("context,question,answer\na,b,c\na,b,c,d\n")
    with pytest.raises(ValueError, match=r"bad\.csv cannot be read as a dataset: .*line 3"):
        _ = TextQA(str(tmp_path / "bad.csv")).slices


def test_a_column_of_text_is_a_text(datasets, tmp_path):
    texts = ["Once upon a time\n", "there was a wren."] * 60
    (tmp_path / "book.txt").write_text("".join(text.removesuffix("\n") + "\n" for text in texts))
    datasets.Dataset.from_dict({"title": ["a"] * 120, "body": texts}).to_parquet(tmp_path / "book.parquet")
    made = TextLM(str(tmp_path / "book.parquet"), window_size=16, column="body")
    assert same_rows(made, TextLM(str(tmp_path / "book.txt"), window_size=16))
    with pytest.raises(
        ValueError, match=r"book\.parquet, line 1: must have text in the column 'text', got title, body$"
    ):
        _ = TextLM(str(tmp_path / "book.parquet"), window_size=16).slices


def test_a_bad_row_is_named(datasets, tmp_path):
    datasets.Dataset.from_list([*LINES[:2], LINES[2] | {"answer": None}]).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"x\.parquet, line 3: answer must be text, .*, got null$"):
        _ = TextQA(str(tmp_path / "x.parquet"), window_size=40).slices


def test_a_file_that_is_no_text_is_named_in_words_of_ours(tmp_path):
    (tmp_path / "x.png").write_bytes(b"\x89PNG\n")
    with pytest.raises(ValueError, match=r"x\.png, line 1: must be text in UTF-8, got the byte 0x89 at position 0$"):
        _ = TextQA(str(tmp_path / "x.png")).slices


UNREADABLE = "/proc/self/mem"  # a file by its kind, of which no first byte can be had


@pytest.mark.skipif(not Path(UNREADABLE).is_file(), reason="there is no file that opens and cannot be read")
@pytest.mark.parametrize("task", [TextQA, TextLM, Documents])
def test_a_file_that_cannot_be_read_is_named(task):
    with pytest.raises(SystemExit, match=f"^error: '{UNREADABLE}' cannot be used: input/output error$"), one_sentence():
        _ = task(UNREADABLE).slices


def test_a_folder_that_cannot_be_read_is_named_and_not_left_out(tmp_path, monkeypatch):
    for folder in (tmp_path / "docs", tmp_path / "docs/private"):
        folder.mkdir()
        (folder / "a.md").write_text("The wren.")
    scan = os.scandir

    def refuse(path="."):
        if str(path).rstrip("/").endswith("private"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    rule = f"^error: '{tmp_path}/docs/private/?' cannot be used: permission denied$"
    for source in (tmp_path / "docs", tmp_path / "docs/private"):
        with pytest.raises(SystemExit, match=rule), one_sentence():
            _ = Documents(str(source)).slices
    assert len(text_files(f"{tmp_path}/docs/*")) == 1
    monkeypatch.chdir(tmp_path)
    for pattern in ("**/*.md", "docs/*/*.md", "docs/priv[a]te/**", "d*/private/?.md", f"{tmp_path}/docs/**/a.*"):
        for task in (Documents, TextLM):
            with (
                pytest.raises(SystemExit, match=r"^error: '.*private/?' cannot be used: permission denied$"),
                one_sentence(),
            ):
                _ = task(pattern).slices


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "must be as long as when it was indexed, but ends before"),
        (b"\xff" * 9999, "must be text in UTF-8, got the byte 0xff at position 0"),
        (b"\n" * 9999, "must be JSON, got expecting value at character 1"),
        (None, "there is no file or folder"),
    ],
)
def test_a_file_that_changes_while_a_run_reads_it_is_named(tmp_path, content, problem):
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    task = TextQA(str(path), window_size=40)
    task.rows(split="train", seed=0, step=0, batch_size=8)
    path.unlink() if content is None else path.write_bytes(content)
    where = f"{problem} '{path}'" if content is None else rf"{path}, from byte \d+ on: {problem}"
    with pytest.raises(SystemExit, match=f"^error: {where}$"), one_sentence():
        task.rows(split="train", seed=0, step=0, batch_size=8)


def test_what_cannot_be_read_is_one_sentence(datasets, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("no network")))
    (tmp_path / "bad.parquet").write_bytes(b"no table")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"bad\.parquet cannot be read as a dataset: .+$"):
        _ = TextQA(str(tmp_path / "bad.parquet")).slices
    for task in (TextQA, TextLM, Documents):
        with pytest.raises(
            ValueError, match=r"^train must have files in it, got the folder '.*empty', where there are"
        ):
            _ = task(str(tmp_path / "empty")).slices
    with pytest.raises(ValueError, match=r"^owner/name:test cannot be read as a dataset: no network$"):
        _ = TextQA("owner/name:test").slices
    with pytest.raises(
        ValueError, match=r"^train must be a file, a folder or a pattern of files, but there is none at 'x.parquet'$"
    ):
        _ = TextQA("x.parquet").slices


def test_without_the_package_there_is_one_sentence_and_files_of_lines_are_read(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"^owner/name needs the package datasets: pip install datasets$"):
        open_dataset("owner/name")
    for name in ("data/train.jsonl", "train.jsonl", "books/*.txt"):
        assert open_dataset(name) is None


@pytest.mark.parametrize(("rows", "texts"), [("train", ["test.txt"]), ("rows", ["b.md", "sub/a.txt", "sub/b.md"])])
def test_a_folder_of_rows_and_texts_is_refused_in_words_of_ours(datasets, tmp_path, monkeypatch, rows, texts):
    """The package speaks of splits, or of files of which nobody has heard. Before 5.1 it reads rows beside pages."""
    if texts[0].endswith(".md") and Version(datasets.__version__) < Version("5.1"):
        pytest.skip("this version of datasets reads the rows alone")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mixed"
    (folder / "sub").mkdir(parents=True)
    (folder / f"{rows}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    for name in texts:
        (folder / name).write_text("The wren.")
    kind = Path(texts[0]).suffix
    said = "cannot be read as a dataset: it has rows and other files; .* mixed/"
    with pytest.raises(ValueError, match=rf"^mixed {said}{rows}.jsonl: 'mixed/\*\*/\*{kind}' has texts alone$"):
        _ = TextQA("mixed").slices


def test_a_damaged_file_beside_others_is_not_called_a_mixture(datasets, tmp_path):
    (tmp_path / "README.md").write_text("Rows.")
    (tmp_path / "rows.jsonl").write_text("{")
    with pytest.raises(ValueError, match=r"cannot be read as a dataset: (?!it has rows)"):
        _ = TextQA(str(tmp_path)).slices
