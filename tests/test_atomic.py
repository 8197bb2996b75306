"""Files that take their place whole."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.disks import full_disk

from lmsleep.atomic import atomic_write, check_output, remove_stale


def test_a_file_of_safetensors_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    with atomic_write(tmp_path / "tensors") as temporary:
        save_file({"x": torch.zeros(2)}, temporary)
    assert (tmp_path / "tensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a folder that takes no files")
def test_a_folder_that_takes_no_files_is_not_called_missing():
    sentence = r"^path must be one that can be written, got '/proc/x'$"
    with pytest.raises(ValueError, match=sentence), atomic_write("/proc/x"):
        pytest.fail("nothing can be written")


def test_the_content_is_on_the_disk_before_its_name(tmp_path, monkeypatch):
    """What a crash of the machine may cut off cannot be tried here: the order of the calls to the system is."""
    calls = []

    def sync(descriptor):
        calls.append(os.fstat(descriptor).st_size)

    def replace(temporary, path):
        calls.append(path.name)
        os.replace(temporary, path)

    monkeypatch.setattr("lmsleep.atomic.os.fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    with atomic_write(tmp_path / "file") as temporary:
        temporary.write_text("whole")
    assert calls == [len("whole"), "file"]


def test_a_block_that_fails_leaves_the_old_file_alone(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(OSError, match="full"), atomic_write(tmp_path / "file") as temporary:
        temporary.write_text("new")
        raise OSError("full")
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize("free", [0, 100, 50_000])
def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path, free):
    path = tmp_path / "x"
    with full_disk(free), pytest.raises(OSError) as error, atomic_write(path) as temporary:
        temporary.write_text("a" * 100_000)
    assert (error.value.filename, error.value.strerror) == (str(path), "File too large")
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_place_of_a_file_is_named_before_the_work(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(ValueError, match=r"^path must be a regular file, got '.*x'$"), atomic_write(tmp_path / "x"):
        pytest.fail("the work began")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_pipe_or_a_device_stays_what_it_is(tmp_path):
    os.mkfifo(pipe := tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"^path must be a regular file, got '.*pipe'$"), atomic_write(pipe):
        pytest.fail("it would be replaced")
    assert pipe.is_fifo() and len(list(tmp_path.iterdir())) == 1
    for device in map(Path, ("/dev/null", "/dev/stdout")):
        with pytest.raises(ValueError, match=rf"^out must be a regular file, got '{device}'$"):
            check_output(device, "out")


def test_an_error_about_another_file_stays_as_it_is(tmp_path):
    with pytest.raises(FileNotFoundError) as error, atomic_write(tmp_path / "x"):
        (tmp_path / "other").read_text()
    assert error.value.filename == str(tmp_path / "other")


def test_the_next_writer_removes_what_killed_ones_left_and_nothing_that_is_being_written(tmp_path):
    others = [".file.0123abcd.json", ".file2.0123abcd", "file.0123abcd"]
    for name in [".file.0123abcd", *others]:
        (tmp_path / name).touch()
    with atomic_write(tmp_path / "file") as one, atomic_write(tmp_path / "file") as two:
        one.write_text("one")
        two.write_text("two")
        remove_stale(tmp_path / "file")
        assert {path.name for path in tmp_path.iterdir()} == {one.name, two.name, *others}
    assert {path.name for path in tmp_path.iterdir()} == {"file", *others}


def test_the_file_before_can_be_kept(tmp_path):
    for text in ("a", "b", "c"):
        with atomic_write(tmp_path / "new", tmp_path / "old") as temporary:
            temporary.write_text(text)
    assert (tmp_path / "new").read_text() == "c" and (tmp_path / "old").read_text() == "b"


@pytest.mark.parametrize("links", [True, False])
def test_a_kill_at_any_call_leaves_a_file_in_its_place(tmp_path, monkeypatch, links):
    """Of the calls that give files their names, each is in turn the last."""

    def no_links(*_):
        raise OSError("no links here")

    for fatal in ("unlink", "replace"):
        (tmp_path / "new").write_text("a")
        (tmp_path / "old").write_text("z")
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            if not links:
                patch.setattr("os.link", no_links)

            def stop(*_, **__):
                raise KeyboardInterrupt

            with atomic_write(tmp_path / "new", tmp_path / "old") as temporary:
                temporary.write_text("b")
                patch.setattr(type(temporary), fatal, stop)
        assert (tmp_path / "new").read_text() == "a"


def test_what_cannot_be_written_is_found_by_a_look_that_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("old")
    for name in ("file", "new"):
        check_output(tmp_path / name)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
    for folder in ("file", "none"):
        with pytest.raises(ValueError, match=rf"^out must lie in a folder that exists, got '.*{folder}/x'$"):
            check_output(tmp_path / folder / "x", "out")


def test_a_look_goes_on_where_another_writer_removes_what_it_left(tmp_path, monkeypatch):
    """It is not locked, and so left over for others, before it is removed."""
    unlink = os.unlink

    def beaten(path):
        monkeypatch.undo()
        remove_stale(tmp_path / "file")
        assert not list(tmp_path.iterdir())
        unlink(path)

    monkeypatch.setattr(os, "unlink", beaten)
    check_output(tmp_path / "file")
    assert os.unlink is unlink
