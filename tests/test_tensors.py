"""Tensors against what was saved, whatever happens to the file."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from lmsleep.tensors import read_tensors, save_tensors, usable_device
from test_atomic import full_disk

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2], dtype=torch.int16)}


def test_tensors_and_header_read_back(tmp_path):
    save_tensors(tmp_path / "x", TENSORS, "entry", {"n": [1, "two"]})
    got, metadata = read_tensors(tmp_path / "x", "cpu")
    assert got.keys() == TENSORS.keys() and all(torch.equal(got[name], x) for name, x in TENSORS.items())
    assert '"n": [1, "two"]' in metadata["entry"]
    assert load_file(tmp_path / "x").keys() == TENSORS.keys()
    first = (tmp_path / "x").read_bytes()
    save_tensors(tmp_path / "x", TENSORS, "entry", {"n": [1, "two"]})
    assert (tmp_path / "x").read_bytes() == first


def test_any_flipped_bit_is_noticed_or_changes_nothing(tmp_path):
    path = tmp_path / "x"
    save_tensors(path, TENSORS, "entry", {"n": 1})
    whole, metadata = path.read_bytes(), read_tensors(path, "cpu")[1]
    quiet = 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            got, said = read_tensors(path, "cpu")
        except ValueError as error:
            assert "is damaged" in str(error)
        else:
            quiet += 1
            assert all(torch.equal(got[name], x) for name, x in TENSORS.items())
            assert said.keys() != metadata.keys() or '"n": 1' in said["entry"]
    assert quiet < 20  # in the name of the digest alone


def test_files_without_a_digest_are_read_and_others_refused(tmp_path):
    save_file(TENSORS, tmp_path / "x", {"format": "pt"})
    assert read_tensors(tmp_path / "x", "cpu")[0].keys() == TENSORS.keys()
    for content in (b"", b"\xff" * 100, (tmp_path / "x").read_bytes()[:-1]):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(ValueError, match="x' is damaged or no safetensors file"):
            read_tensors(tmp_path / "x", "cpu")
    shared = torch.zeros(3)
    with pytest.raises(ValueError, match=r"^tensors must not share memory: .*$"):
        save_tensors(tmp_path / "y", {"a": shared, "b": shared}, "entry", {})


@pytest.mark.parametrize("free", [0, 100, 50_000])
def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path, free):
    with full_disk(free), pytest.raises(OSError) as error:
        save_tensors(tmp_path / "x", {"a": torch.zeros(100_000)}, "entry", {})
    assert (error.value.filename, error.value.strerror) == (str(tmp_path / "x"), "File too large")
    assert not list(tmp_path.iterdir())


def test_a_device_that_is_none_is_one_sentence():
    assert str(usable_device(None)) == str(usable_device("cpu")) == "cpu"
    for name in ("gpu", "", 3.5, "cuda:99"):
        with pytest.raises(ValueError, match=r"^device must be one that torch can use here, got "):
            usable_device(name)
