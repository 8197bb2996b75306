"""A saved model, as transformers finds it."""

import pytest
import torch

from lmsleep.hub import tokenizer_files


@pytest.fixture(scope="module")
def folder(build, tmp_path_factory):
    """A model over bytes, windows of six, trained (it says) with N = 3; its tokenizer beside it."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    model = build("AGAG", vocab_size=257, dtype=torch.float32)
    model.save_pretrained(folder, trained={"n_passes": 3, "eviction": "sliding"}, files=tokenizer_files("bytes"))
    return folder
