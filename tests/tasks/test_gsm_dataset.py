import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gsm_bpe import train_bpe
from safetensors.numpy import load_file

from lmsleep.tasks.base import stream
from lmsleep.tasks.gsm_infinite import (
    MINI,
    Dataset,
    DatasetConfig,
    TokenizerFile,
    WordVocabulary,
    make,
    make_dataset,
    verify_dataset,
)
from lmsleep.tasks.gsm_infinite.dataset import json_hash, write_manifest, write_shard
from lmsleep.tasks.gsm_infinite.draws import Draws
from lmsleep.tasks.gsm_infinite.problem import draw_problem

CONFIG = DatasetConfig(MINI, train=160, val=20, test=40, shard_rows=64)
WORDS = WordVocabulary(MINI.templates, MINI.max_value)


def contents(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_dataset(tmp_path / "gsm", CONFIG)
    return tmp_path / "gsm"


def test_rows_are_those_of_the_streams(folder: Path):
    dataset = Dataset(folder, WORDS)
    for split, n in (("train", 160), ("val", 20), ("test", 40)):
        rows = dataset.split(split)
        assert len(rows) == n and np.bincount(rows.ops).tolist() == [0] + [n // 4] * 4
        for row in (0, 1, n - 1):  # the last one of `train` lies in the third shard
            draws = Draws(stream(0, split, row))
            expected = draw_problem(draws, MINI, WORDS, op=1 + row % 4, split=split)
            assert rows.tokens(row).tolist() == expected.ids
            assert (rows.starts[row], rows.answers[row]) == (expected.start, expected.answer)
    assert verify_dataset(folder, WORDS) == 220


def test_format_is_as_documented(folder: Path):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [s["rows"] for s in manifest["splits"]["train"]] == [64, 64, 32]
    names = {s["file"] for shards in manifest["splits"].values() for s in shards}
    assert set(contents(folder)) == names | {"manifest.json"}
    for shard in manifest["splits"]["train"]:
        assert contents(folder)[shard["file"]] == shard["sha256"]
    arrays = load_file(folder / "train-00002.safetensors")
    first = arrays["tokens"][arrays["offsets"][0] : arrays["offsets"][1]]
    assert first[-1] == manifest["vocabulary"]["eos_id"] and first.dtype == np.int32
    assert WORDS.decode(first[arrays["start"][0] : -1]) == str(arrays["answer"][0])


def test_workers_change_nothing(folder: Path, tmp_path: Path):
    make_dataset(tmp_path / "two", CONFIG, workers=2)
    assert contents(tmp_path / "two") == contents(folder)


def test_interrupted_run_keeps_its_shards(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    other = tmp_path / "other"
    calls = []

    def interrupt(path: Path, *args):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(path)
        write_shard(path, *args)

    monkeypatch.setattr(make, "write_shard", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_dataset(other, CONFIG)
    with pytest.raises(ValueError, match="no finished dataset"):
        Dataset(other)
    calls[0].write_bytes(calls[0].read_bytes()[:-9])  # a damaged one is made again
    times = {p: p.stat().st_mtime_ns for p in calls}
    monkeypatch.undo()
    make_dataset(other, CONFIG)
    assert [p.stat().st_mtime_ns == times[p] for p in calls] == [False, True, True]
    assert contents(other) == contents(folder)


def test_finished_dataset_is_not_made_again(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(make, "draw_row", lambda *_: pytest.fail("drew rows"))
    assert make_dataset(folder, CONFIG)["config_sha256"]
    with pytest.raises(ValueError, match="another configuration"):
        make_dataset(folder, replace(CONFIG, seed=1))


def test_duplicates_across_shards_are_made_anew(tmp_path: Path):
    # One place, one item, a constant: 400 problems in all, some 320 of them in train.
    tiny = replace(MINI, ops=(1, 1), width=(1, 1), length=(20, 60), window_sizes=())
    config = DatasetConfig(tiny, train=200, val=0, test=20, shard_rows=25)
    make_dataset(tmp_path / "a", config)
    assert len(set(Dataset(tmp_path / "a").split("train").fingerprints.tolist())) == 200
    assert verify_dataset(tmp_path / "a", WORDS) == 220
    # The rows do not depend on how they are cut into shards, or on who drew them.
    make_dataset(tmp_path / "b", replace(config, shard_rows=70))
    make_dataset(tmp_path / "one", replace(config, shard_rows=200))
    marks = [Dataset(tmp_path / name).split("train").fingerprints.tolist() for name in ("a", "b", "one")]
    assert marks[0] == marks[1] == marks[2]
    with pytest.raises(ValueError, match="no new problem"):
        make_dataset(tmp_path / "c", replace(config, train=400))
    assert not (tmp_path / "c").exists()


def test_range_that_no_problem_fits_leaves_nothing(tmp_path: Path):
    config = replace(CONFIG, problem=replace(MINI, length=(10, 14), window_sizes=(8,)))
    with pytest.raises(ValueError, match="length 10, 14: no problem of op"):
        make_dataset(tmp_path / "deep" / "gsm", config, workers=2)
    assert not list(tmp_path.iterdir())


def test_failed_write_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        make_dataset(tmp_path, CONFIG)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["train-00001.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_is_found(folder: Path, name: str, damage: str):
    path = folder / name
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes(data[:-40] if damage == "cut" else data)
    if damage == "remove":
        path.unlink()
    with pytest.raises(ValueError, match=name if name != "manifest.json" or damage == "remove" else "damaged"):
        Dataset(folder)


def test_manifest_of_another_format(folder: Path):
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sha256"]
    write_manifest(folder, manifest | {"format": "other"})
    with pytest.raises(ValueError, match="another format"):
        Dataset(folder)
    (folder / "manifest.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="damaged"):
        Dataset(folder)


def test_wrong_tokenizer(folder: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"another vocabulary \(words of terse, numbers to 99, 166 tokens\)"):
        Dataset(folder, TokenizerFile(train_bpe(tmp_path)))
    with pytest.raises(ValueError, match="another vocabulary"):
        Dataset(folder, WordVocabulary(MINI.templates, 100))


def test_unknown_and_empty_splits(tmp_path: Path):
    make_dataset(tmp_path / "gsm", replace(CONFIG, val=0))
    dataset = Dataset(tmp_path / "gsm")
    with pytest.raises(ValueError, match="no row of 'val'"):
        dataset.split("val")
    with pytest.raises(ValueError, match="split must be one of"):
        dataset.split("valid")


def test_verification_finds_a_wrong_answer(folder: Path):
    """A shard that is whole, with checksums that fit, but that says something else than its text."""
    name = "test-00000.safetensors"
    arrays = dict(load_file(folder / name))
    arrays["answer"] = arrays["answer"].copy()
    arrays["answer"][7] += 1
    write_shard(folder / name, arrays, "any")
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sha256"]
    manifest["splits"]["test"][0]["sha256"] = contents(folder)[name]
    write_manifest(folder, manifest)
    with pytest.raises(ValueError, match="row 7 of test"):
        verify_dataset(folder, WORDS)


def test_dataset_under_a_tokenizer_file(tmp_path: Path):
    path = train_bpe(tmp_path)
    problem = replace(MINI, templates=("zoo",), length=(700, 900), instruction=True, window_sizes=(256,))
    config = DatasetConfig(problem, train=16, val=0, test=8, shard_rows=8, tokenizer=path)
    manifest = make_dataset(tmp_path / "gsm", config)
    assert verify_dataset(tmp_path / "gsm", TokenizerFile(path), rows=10) == 18
    moved = tmp_path / "moved.json"
    moved.write_bytes(Path(path).read_bytes())
    assert make_dataset(tmp_path / "gsm", replace(config, tokenizer=str(moved))) == manifest
    assert str(tmp_path) not in json.dumps(manifest) and json_hash(manifest)


@pytest.mark.parametrize(("field", "value"), [("train", 161), ("val", -4), ("shard_rows", 0)])
def test_bad_configurations_name_their_field(field: str, value: int):
    with pytest.raises(ValueError, match=f"^{field} must be"):
        replace(CONFIG, **{field: value})
