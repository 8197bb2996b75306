"""A saved memory goes on exactly, in another process too, and is refused by a model that did not write it."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lmsleep import HybridConfig, Session


def session_of(build, tokens, eviction="hard", pattern="AGAG", **options):
    session = Session(build(pattern, **options), n_passes=2, eviction=eviction)
    session.feed(tokens)
    return session


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
@pytest.mark.parametrize("length", [1, 6, 15])
def test_goes_on_bit_for_bit(build, draw_tokens, tmp_path, eviction, length):
    session = session_of(build, draw_tokens(2, length), eviction)
    session.save(tmp_path / "memory.safetensors")
    again = Session.load(tmp_path / "memory.safetensors", session.model)
    assert (again.n_passes, again.eviction) == (2, eviction)
    more = draw_tokens(2, 15, seed=1)
    assert torch.equal(again.feed(more), session.feed(more))
    assert all(map(torch.equal, again.fast_weights.states, session.fast_weights.states))


def test_rows_at_different_places_and_masks_are_kept(build, draw_tokens, tmp_path):
    model = build()
    session = Session(model, n_passes=2, eviction="sliding")
    session.feed(draw_tokens(3, 8), mask=draw_tokens(3, 8, seed=2) > 2)
    session.feed([[1, 2], [], [3]])
    session.save(tmp_path / "memory")
    again = Session.load(tmp_path / "memory", model)
    assert torch.equal(again.feed([[1] * 9] * 3), session.feed([[1] * 9] * 3))


ELSEWHERE = """
import sys, torch
from lmsleep import HybridConfig, HybridLM, Session
folder = sys.argv[1]
session = Session.load(folder + "/memory", HybridLM.from_pretrained(folder + "/model"))
logits = session.feed(torch.load(folder + "/more.pt"))
torch.save((logits, session.fast_weights.states), folder + "/out.pt")
"""


def test_model_and_memory_go_on_in_another_process(build, draw_tokens, tmp_path):
    session = session_of(build, draw_tokens(2, 15))
    more = draw_tokens(2, 15, seed=1)
    session.save(tmp_path / "memory")
    session.model.save_pretrained(tmp_path / "model")
    torch.save(more, tmp_path / "more.pt")
    subprocess.run([sys.executable, "-c", ELSEWHERE, str(tmp_path)], check=True)
    logits, states = torch.load(tmp_path / "out.pt")
    assert torch.equal(logits, session.feed(more))
    assert all(map(torch.equal, states, session.fast_weights.states))


def test_a_session_before_its_first_token(build, tmp_path):
    Session(build(), n_passes=5).save(tmp_path / "memory")
    again = Session.load(tmp_path / "memory", build())
    assert (again.n_passes, again.batch_size) == (5, None)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"pattern": "AGAM"}, "its pattern was 'AGAG', got 'AGAM'"),
        ({"window_size": 7}, "its window_size was 6, got 7"),
        ({"dtype": torch.float32}, "model must be in torch.float64, as when the memory was written, got torch.float32"),
    ],
)
def test_the_memory_of_another_model_is_refused(build, draw_tokens, tmp_path, other, message):
    session_of(build, draw_tokens(1, 9)).save(tmp_path / "memory")
    with pytest.raises(ValueError, match=message):
        Session.load(tmp_path / "memory", build(**({"pattern": "AGAG"} | other)))


def test_other_weights_of_the_same_shape_are_refused(build, draw_tokens, tmp_path):
    session = session_of(build, draw_tokens(1, 9))
    session.save(tmp_path / "memory")
    torch.manual_seed(1)
    other = HybridConfig(**session.model.config.to_dict()).build().double()
    with pytest.raises(ValueError, match="it has the same configuration but other weights"):
        Session.load(tmp_path / "memory", other)


def test_damaged_files_are_refused(build, draw_tokens, tmp_path):
    session, path = session_of(build, draw_tokens(1, 9)), tmp_path / "memory"
    session.save(path)
    whole = path.read_bytes()
    for kept in (0, 5, 200, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match=r"path must be a saved memory; .* cannot be read"):
            Session.load(path, session.model)
    with pytest.raises(ValueError, match="there is no file"):
        Session.load(tmp_path / "nothing", session.model)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="is a safetensors file of something else"):
        Session.load(path, session.model)


def test_a_newer_version_or_a_lost_tensor_is_refused(build, draw_tokens, tmp_path):
    session, path = session_of(build, draw_tokens(1, 9)), tmp_path / "memory"
    session.save(path)
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        header = file.metadata()
    save_file({name: t for name, t in tensors.items() if name != "0.core"} | {"0.x": tensors["0.core"]}, path, header)
    with pytest.raises(ValueError, match="tensors of the saved memory must be"):
        Session.load(path, session.model)
    newer = json.loads(header["lmsleep.memory"]) | {"version": 2}
    save_file(tensors, path, {"lmsleep.memory": json.dumps(newer)})
    with pytest.raises(ValueError, match="version of the saved memory must be 1, got 2"):
        Session.load(path, session.model)


def test_a_failed_write_leaves_the_old_file(build, draw_tokens, tmp_path, monkeypatch):
    session, path = session_of(build, draw_tokens(1, 9)), tmp_path / "memory"
    session.save(path)
    before = path.read_bytes()

    def full(tensors, file, metadata):
        file.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("lmsleep.runtime.saved.save_file", full)
    with pytest.raises(OSError, match="no space left"):
        session.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_does_not_exist_is_refused(build, tmp_path):
    with pytest.raises(ValueError, match="path must lie in a folder that exists"):
        Session(build()).save(tmp_path / "no" / "memory")
