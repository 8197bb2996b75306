"""Files that take their place whole."""

import pytest
import torch
from safetensors.torch import save_file

from lmsleep.atomic import atomic_write


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
