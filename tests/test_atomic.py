"""Files that take their place whole."""

import pytest
import torch
from safetensors.torch import save_file

from lmsleep.atomic import atomic_write, check_writable, sweep


def test_a_file_of_safetensors_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    with atomic_write(tmp_path / "tensors") as temporary:
        save_file({"x": torch.zeros(2)}, temporary)
    assert (tmp_path / "tensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_block_that_fails_leaves_the_old_file_alone(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(OSError, match="full"), atomic_write(tmp_path / "file") as temporary:
        temporary.write_text("new")
        raise OSError("full")
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "old"


def test_the_next_writer_removes_what_killed_ones_left_and_nothing_that_is_being_written(tmp_path):
    others = [".file.0123abcd.json", ".file2.0123abcd", "file.0123abcd"]
    for name in [".file.0123abcd", *others]:
        (tmp_path / name).touch()
    with atomic_write(tmp_path / "file") as one, atomic_write(tmp_path / "file") as two:
        one.write_text("one")
        two.write_text("two")
        sweep(tmp_path / "file")
        assert {path.name for path in tmp_path.iterdir()} == {one.name, two.name, *others}
    assert {path.name for path in tmp_path.iterdir()} == {"file", *others}


def test_the_file_before_can_be_kept(tmp_path):
    for text in ("a", "b", "c"):
        with atomic_write(tmp_path / "new", tmp_path / "old") as temporary:
            temporary.write_text(text)
    assert (tmp_path / "new").read_text() == "c" and (tmp_path / "old").read_text() == "b"


def test_a_folder_that_cannot_be_written_is_found_by_a_look(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        check_writable(tmp_path / "file" / "folder")
