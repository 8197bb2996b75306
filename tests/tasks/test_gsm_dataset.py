import hashlib
import json
import pickle
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gsm_bpe import train_bpe
from gsm_verify import verify_dataset
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tests.programs import FORKS

from lmsleep.tasks.base import stream
from lmsleep.tasks.gsm import MINI, Dataset, DatasetConfig, TokenizerFile, WordVocabulary, dataset, make_dataset
from lmsleep.tasks.gsm.draws import Draws
from lmsleep.tasks.gsm.problem import draw_problem
from lmsleep.tasks.gsm.stored import write_split

CONFIG = DatasetConfig(MINI, train=160, val=20, test=40)
WORDS = WordVocabulary(MINI.templates, MINI.max_value)


def contents(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def metadata(path: Path) -> dict:
    with safe_open(path, "np") as file:
        return json.loads(file.metadata()["lmsleep.gsm"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_dataset(folder, CONFIG)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of the dataset."""
    return Path(shutil.copytree(made, tmp_path / "gsm"))


def test_rows_are_those_of_the_streams(folder: Path):
    stored = Dataset(folder, WORDS)
    for split, n in (("train", 160), ("val", 20), ("test", 40)):
        rows = stored.split(split)
        assert len(rows) == n and np.bincount(rows.ops).tolist() == [0] + [n // 4] * 4
        for row in (0, 1, n - 1):
            draws = Draws(stream(0, split, row))
            expected = draw_problem(draws, MINI, WORDS, op=1 + row % 4, split=split)
            assert rows.tokens(row).tolist() == expected.ids
            assert (rows.starts[row], rows.answers[row]) == (expected.start, expected.answer)
    assert verify_dataset(folder, WORDS) == 220


def test_format_is_as_documented(folder: Path):
    assert set(contents(folder)) == {"train.safetensors", "val.safetensors", "test.safetensors"}
    made = metadata(folder / "train.safetensors")["made"]
    assert all(metadata(path)["made"] == made for path in folder.iterdir())
    assert (made["config"]["train"], made["config"]["problem"]["length"]) == (160, [132, 160])
    arrays = load_file(folder / "train.safetensors")
    first = arrays["tokens"][arrays["offsets"][0] : arrays["offsets"][1]]
    assert first[-1] == made["vocabulary"]["eos_id"] and first.dtype == np.int32
    assert WORDS.decode(first[arrays["start"][0] : -1]) == str(arrays["answer"][0])


def test_interrupted_run_leaves_whole_files_and_what_is_missing_is_made(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    other = tmp_path / "other"

    def interrupt(path: Path, *args):
        if path.name == "val.safetensors":
            raise KeyboardInterrupt
        write_split(path, *args)

    monkeypatch.setattr(dataset, "write_split", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_dataset(other, CONFIG)
    with pytest.raises(ValueError, match=r"val.safetensors is missing"):
        Dataset(other)
    monkeypatch.undo()
    kept = (other / "train.safetensors").stat().st_mtime_ns
    make_dataset(other, CONFIG)
    assert (other / "train.safetensors").stat().st_mtime_ns == kept
    assert contents(other) == contents(folder)


def test_finished_dataset_is_not_made_again(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dataset, "draw_problem", lambda *_, **__: pytest.fail("drew rows"))
    assert make_dataset(folder, CONFIG).config["seed"] == 0
    with pytest.raises(ValueError, match="another configuration"):
        make_dataset(folder, replace(CONFIG, seed=1))


def test_ctrl_c_is_heard_by_the_main_process_alone():
    before = signal.getsignal(signal.SIGINT)
    with dataset.fresh_processes(1) as pool:
        assert pool.apply(signal.getsignal, (signal.SIGINT,)) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) is before
    with ThreadPoolExecutor(1) as thread, thread.submit(dataset.fresh_processes, 1).result() as pool:
        assert pool.apply(abs, (-1,)) == 1


def test_duplicates_are_made_anew_and_workers_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # One place, one item, a constant: 400 problems in all, some 320 of them in train.
    tiny = replace(MINI, ops=(1, 1), width=(1, 1), length=(20, 60), window_sizes=())
    config = DatasetConfig(tiny, train=100, val=0, test=20)
    rows = make_dataset(tmp_path / "a", config).split("train")
    # Row by row: the first of its stream that none before it has.
    seen: set[int] = set()
    for row in range(100):
        draws = Draws(stream(0, "train", row))
        problem = draw_problem(draws, tiny, WORDS, op=1, split="train", seen=seen)
        assert rows.tokens(row).tolist() == problem.ids
        seen.add(problem.fingerprint)
    assert len(seen) == 100 and set(rows.fingerprints.tolist()) == seen
    assert verify_dataset(tmp_path / "a", WORDS) == 120
    monkeypatch.setattr("multiprocessing.get_context", lambda _: FORKS)  # as fresh as those that it would spawn
    make_dataset(tmp_path / "b", config, workers=2)
    assert contents(tmp_path / "b") == contents(tmp_path / "a")
    monkeypatch.setattr("lmsleep.tasks.gsm.problem.MAX_ATTEMPTS", 200)
    with pytest.raises(ValueError, match="no new problem"):
        make_dataset(tmp_path / "c", replace(config, train=400))
    assert not (tmp_path / "c").exists()


def test_range_that_no_problem_fits_leaves_nothing(tmp_path: Path):
    config = replace(CONFIG, problem=replace(MINI, length=(10, 14), window_sizes=(8,)))
    with pytest.raises(ValueError, match="length 10, 14: no problem of op"):
        make_dataset(tmp_path / "deep" / "gsm", config)
    assert not list(tmp_path.iterdir())


def test_failed_write_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        make_dataset(tmp_path, CONFIG)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["train.safetensors", "test.safetensors"])
@pytest.mark.parametrize("damage", ["flip", "flip the header", "cut", "remove"])
def test_damage_is_found(folder: Path, name: str, damage: str):
    path = folder / name
    data = bytearray(path.read_bytes())
    if "flip" in damage:
        data[data.index(b"train") if "header" in damage else len(data) // 2] ^= 1
    path.write_bytes(data[:-40] if damage == "cut" else data)
    if damage == "remove":
        path.unlink()
    with pytest.raises(ValueError, match=f"{name} is {'missing' if damage == 'remove' else 'damaged'}"):
        Dataset(folder)


def test_files_of_two_datasets_are_refused(folder: Path, tmp_path: Path):
    make_dataset(tmp_path / "other", replace(CONFIG, seed=1))
    (tmp_path / "other/test.safetensors").replace(folder / "test.safetensors")
    with pytest.raises(ValueError, match=r"test.safetensors was made otherwise than a file beside it"):
        Dataset(folder)


def test_a_stray_file_of_a_split_without_rows_is_refused(folder: Path, tmp_path: Path):
    make_dataset(tmp_path / "other", replace(CONFIG, val=0))
    (folder / "val.safetensors").replace(tmp_path / "other/val.safetensors")
    with pytest.raises(ValueError, match=r"val.safetensors was made otherwise than a file beside it"):
        Dataset(tmp_path / "other")


@pytest.mark.parametrize("header", ["[]", "null", '"a"', '{"made": []}', '{"made": null, "sha256": "a"}'])
def test_metadata_of_another_shape_is_damage(folder: Path, header: str):
    save_file(load_file(folder / "val.safetensors"), folder / "val.safetensors", {"lmsleep.gsm": header})
    with pytest.raises(ValueError, match=r"val.safetensors is damaged"):
        Dataset(folder)


@pytest.mark.parametrize("place", ["file", "file/deeper"])
def test_a_file_in_place_of_the_folder_is_refused_before_rows_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
):
    (tmp_path / "file").touch()
    monkeypatch.setattr(dataset, "draw_split", lambda *_: pytest.fail("drew rows"))
    with pytest.raises(ValueError, match=r"^folder must be a new or an existing folder, got .*file is a file$"):
        make_dataset(tmp_path / place, CONFIG)


def test_a_dataset_without_rows_is_refused():
    with pytest.raises(ValueError, match="one of them must have rows"):
        replace(CONFIG, train=0, val=0, test=0)


def test_a_file_under_the_name_of_another_split_is_refused(folder: Path):
    (folder / "val.safetensors").replace(folder / "test.safetensors")
    with pytest.raises(ValueError, match=r"test.safetensors is damaged"):
        Dataset(folder)


def test_dataset_of_another_format(folder: Path):
    for path in list(folder.iterdir()):
        write_split(path, metadata(path)["made"] | {"format": "other"}, load_file(path))
    with pytest.raises(ValueError, match=r"train.safetensors is damaged or not a 'lmsleep gsm-infinite dataset 3'"):
        Dataset(folder)


def test_a_dataset_goes_to_another_process(folder: Path):
    copy = pickle.loads(pickle.dumps(Dataset(folder)))
    assert copy.split("val").tokens(3).tolist() == Dataset(folder).split("val").tokens(3).tolist()
    assert copy.sha256 == Dataset(folder).sha256


def test_wrong_tokenizer(folder: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"another vocabulary \(of 166 tokens\) .* \(bpe900.json, 900 tokens\)"):
        Dataset(folder, TokenizerFile(train_bpe(tmp_path)))
    with pytest.raises(ValueError, match="another vocabulary"):
        Dataset(folder, WordVocabulary(MINI.templates, 100))


def test_unknown_and_empty_splits(tmp_path: Path):
    make_dataset(tmp_path / "gsm", replace(CONFIG, val=0))
    stored = Dataset(tmp_path / "gsm")
    with pytest.raises(ValueError, match="no row of 'val'"):
        stored.split("val")
    with pytest.raises(ValueError, match="split must be one of"):
        stored.split("valid")


def test_verification_finds_a_wrong_answer(folder: Path):
    """A file that is whole, with a checksum that fits, but that says something else than its text."""
    path = folder / "test.safetensors"
    arrays = dict(load_file(path))
    arrays["answer"] = arrays["answer"].copy()
    arrays["answer"][7] += 1
    write_split(path, metadata(path)["made"], arrays)
    with pytest.raises(ValueError, match="row 7 of test"):
        verify_dataset(folder, WORDS)


def test_dataset_under_a_tokenizer_file(tmp_path: Path):
    path = train_bpe(tmp_path)
    problem = replace(MINI, templates=("zoo",), length=(700, 900), instruction=True, window_sizes=(256,))
    config = DatasetConfig(problem, train=16, val=0, test=8, tokenizer=path)
    made = make_dataset(tmp_path / "gsm", config)
    assert verify_dataset(tmp_path / "gsm", TokenizerFile(path), rows=10) == 18
    moved = tmp_path / "moved.json"
    moved.write_bytes(Path(path).read_bytes())
    assert make_dataset(tmp_path / "gsm", replace(config, tokenizer=str(moved))).sha256 == made.sha256
    assert str(tmp_path).encode() not in (tmp_path / "gsm/train.safetensors").read_bytes()


@pytest.mark.parametrize(("field", "value"), [("train", 161), ("val", -4)])
def test_bad_configurations_name_their_field(field: str, value: int):
    with pytest.raises(ValueError, match=f"^{field} must be"):
        replace(CONFIG, **{field: value})
