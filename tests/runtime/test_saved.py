"""A saved memory goes on exactly, in another process too, and is refused by a model that did not write it."""

import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.programs import start

from lmsleep import HybridConfig, Session
from lmsleep.settle import Settle


def session_of(build, tokens, eviction="hard", pattern="AGAG", **options):
    session = Session(build(pattern, **options), n_passes=2, eviction=eviction)
    session.feed(tokens)
    return session


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
@pytest.mark.parametrize("length", [1, 6, 15])
@pytest.mark.parametrize("pattern", ["AGAG", "WMJ"])
def test_goes_on_bit_for_bit(build, draw_tokens, tmp_path, eviction, length, pattern):
    session = session_of(build, draw_tokens(2, length), eviction, pattern, sliding_window=3)
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


def test_a_memory_of_a_sleep_of_ones_own_goes_on_by_that_alone(build, draw_tokens, tmp_path):
    session = Session(build(), on_overflow=Settle(0.05, 5))
    session.feed(draw_tokens(2, 15))
    session.save(tmp_path / "memory")
    again = Session.load(tmp_path / "memory", session.model, on_overflow=Settle(0.05, 5))
    more = draw_tokens(2, 15, seed=1)
    assert torch.equal(again.feed(more), session.feed(more))
    for other in ({}, {"on_overflow": Settle(0.05, 4)}):
        with pytest.raises(
            ValueError, match=r"^on_overflow must be lmsleep\.settle\.Settle\(threshold=0\.05, most=5\)"
        ):
            Session.load(tmp_path / "memory", session.model, **other)


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
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE)
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    process = start("elsewhere", str(tmp_path), folder=tmp_path, env=env, output=str(tmp_path / "said"))
    process.join(60)
    assert process.exitcode == 0, (tmp_path / "said").read_text()
    logits, states = torch.load(tmp_path / "out.pt")
    assert torch.equal(logits, session.feed(more))
    assert all(map(torch.equal, states, session.fast_weights.states))


def test_a_session_before_its_first_token(build, tmp_path):
    Session(build(), n_passes=5).save(tmp_path / "memory")
    again = Session.load(tmp_path / "memory", build())
    assert (again.n_passes, again.batch_size) == (5, None)
    for option in ({"n_passes": 2}, {"eviction": "hard"}, {"fast_weights": build().init_fast_weights(1)}):
        with pytest.raises(ValueError, match=f"{next(iter(option))} must be left out with a memory, which goes on as"):
            Session.load(tmp_path / "memory", build(), **option)


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
        with pytest.raises(ValueError, match=r"path must be a saved memory; .* is damaged"):
            Session.load(path, session.model)
    with pytest.raises(ValueError, match="there is no file"):
        Session.load(tmp_path / "nothing", session.model)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="is a safetensors file of something else"):
        Session.load(path, session.model)


def changed(path, change=lambda header: None, tensors=lambda tensors: tensors):
    """Writes a saved memory with another header and other tensors, without a digest, as those of before had none."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["lmsleep.memory"])
    del header["sha256"]
    change(header)
    save_file(tensors(load_file(path)), path, {"lmsleep.memory": json.dumps(header)})


def put(*keys, value):
    """change(header), which puts a value at a place in it."""

    def change(header):
        for key in keys[:-1]:
            header = header[key]
        header[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("version", value=2), "version of the saved memory must be 1, got 2"),
        (put("n_passes", value="2"), "n_passes in the header of the saved memory must be an integer, got '2'"),
        (put("n_passes", value=10**18), "n_passes must be at most 10000, got 1000000000000000000"),
        (put("n_passes", value=0), "n_passes must be 1 or more"),
        (put("eviction", value="soft"), "eviction in the header of the saved memory must be .*, got 'soft'"),
        (put("more", value=1), "the header of the saved memory must hold the fields of .*'more'"),
        (
            put("groups", value={}),
            r"groups in the header of .* must be tuple\[.*GroupSpec, ...\], got {}",
        ),
        (
            put("groups", 0, "rows", value=[0.0, 1]),
            "item 0 of rows in item 0 of groups in .* must be an integer, got 0.0",
        ),
        (put("groups", 0, "cache", "mask", value=True), "tensors of the saved memory must be .*mask"),
        (put("model", "config", value=[]), "config in model in the header .* must be .*HybridConfig"),
        (put("model", "config", "n_heads", value="2"), "n_heads in config in model in .* must be an integer, got '2'"),
        (put("model", "config", "newer", value=1), "config in model in .* must hold the fields of .*'newer'"),
        (put("model", "weights", value=3), "weights in model in .* must be a string, got 3"),
    ],
)
def test_a_header_of_other_values_is_one_sentence(build, draw_tokens, tmp_path, change, message):
    session, path = session_of(build, draw_tokens(2, 9)), tmp_path / "memory"
    session.save(path)
    changed(path, change)
    with pytest.raises(ValueError, match=message):
        Session.load(path, session.model)


def test_a_header_that_is_no_json_is_refused(build, tmp_path):
    for text, message in (("[" * 100_000, "recursion"), ("{", "is not valid JSON"), ("[]", "must be a JSON object")):
        save_file({}, tmp_path / "memory", {"lmsleep.memory": text})
        with pytest.raises(ValueError, match=message):
            Session.load(tmp_path / "memory", build())


def test_other_tensors_are_refused(build, draw_tokens, tmp_path):
    session, path = session_of(build, draw_tokens(2, 9)), tmp_path / "memory"
    session.save(path)
    changed(path, tensors=lambda t: {"0.x" if name == "0.core" else name: x for name, x in t.items()})
    with pytest.raises(ValueError, match=r"tensors of the saved memory must be \[.*'core'.*\], got \[.*'x'\]"):
        Session.load(path, session.model)


def cut_off(name):
    """change(tensors), which takes the last place from the last axis of one of them."""
    return lambda tensors: {key: x[..., :-1].contiguous() if key == f"0.{name}" else x for key, x in tensors.items()}


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (cut_off("S.0"), r"S\.0 of the saved memory must be torch\.float64 of shape \(2, 2, 8, 8\), got .* 7\)\)"),
        (cut_off("before.1"), r"before\.1 of the saved memory must be .*, got .*"),
        (cut_off("cache.0.1"), r"cache\.0\.1 of the saved memory must be .* of shape \(2, 2, [38], 8\), got .*"),
        (cut_off("core"), r"core of the saved memory must be torch\.float64 of shape \(2, 3, 16\), got .* 15\)\)"),
        (lambda tensors: {name: x[:1] for name, x in tensors.items()}, r"S\.0 .* shape \(2, .*, got .* \(1, .*"),
        (lambda tensors: {name: x.long() for name, x in tensors.items()}, r"S\.0 .*float64 of .*, got .*int64.*"),
    ],
)
def test_tensors_of_other_shapes_are_refused(build, draw_tokens, tmp_path, eviction, tensors, message):
    """A file of before the digest may have any: torch would take some, and say nothing."""
    session, path = session_of(build, draw_tokens(2, 9), eviction=eviction), tmp_path / "memory"
    session.save(path)
    changed(path, tensors=tensors)
    with pytest.raises(ValueError, match=f"^{message}$"):
        Session.load(path, session.model)


@pytest.mark.parametrize("dtype", [torch.long, torch.uint8])
def test_a_mask_that_is_none_is_refused(build, draw_tokens, tmp_path, dtype):
    """Not in the next reading, by torch and without a name."""
    session, path = Session(build("AG"), n_passes=2), tmp_path / "memory"
    session.feed(draw_tokens(2, 4), mask=torch.tensor([[True] * 4, [False] + [True] * 3]))
    session.save(path)
    changed(path, tensors=lambda tensors: {k: x.to(dtype) if x.dtype == torch.bool else x for k, x in tensors.items()})
    rule = rf"cache\.mask of the saved memory must be torch\.bool of shape \(2, 4\), got \({dtype}, \(2, 4\)\)"
    with pytest.raises(ValueError, match=f"^{rule}$"):
        Session.load(path, session.model)


def test_a_memory_of_autocast_goes_on_within_it(build, draw_tokens, tmp_path):
    """Its cache is in bfloat16, while S is not."""
    session, path = Session(build("AG").float(), n_passes=2), tmp_path / "memory"
    with torch.autocast("cpu", torch.bfloat16):
        session.feed(draw_tokens(2, 9))
        session.save(path)
        again = Session.load(path, session.model)
        assert {x.dtype for x in again.groups[0].tensors().values()} == {torch.float32, torch.bfloat16}
        assert torch.equal(again.feed([[1], [2]]), session.feed([[1], [2]]))


@pytest.mark.parametrize("lost", [(), ("embedding_std",), ("rope_theta", "zero_init", "loop")])
def test_a_memory_of_before_a_field_or_the_digest_goes_on(build, draw_tokens, tmp_path, lost):
    session, path = session_of(build, draw_tokens(2, 9)), tmp_path / "memory"
    session.save(path)

    def older(header):
        header["model"]["config"] = {k: v for k, v in header["model"]["config"].items() if k not in lost}
        header["model"]["config"]["decay_rates"] = [0.5, 0.6]  # of first weights, which the model has no more

    changed(path, older)
    assert torch.equal(Session.load(path, session.model).feed([[1], [2]]), session.feed([[1], [2]]))


def test_a_flipped_bit_is_refused(build, draw_tokens, tmp_path):
    session, path = session_of(build, draw_tokens(1, 9)), tmp_path / "memory"
    session.save(path)
    whole = path.read_bytes()
    for place in (-1, len(whole) // 2, whole.index(b"n_passes") + 13):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"path must be a saved memory; .* is damaged"):
            Session.load(path, session.model)


def test_a_failed_write_leaves_the_old_file(build, draw_tokens, tmp_path, monkeypatch):
    session, path = session_of(build, draw_tokens(1, 9)), tmp_path / "memory"
    session.save(path)
    before = path.read_bytes()

    def full(tensors, file, metadata):
        file.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("lmsleep.tensors.save_file", full)
    with pytest.raises(OSError, match="no space left"):
        session.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_does_not_exist_is_refused(build, tmp_path):
    with pytest.raises(ValueError, match="path must lie in a folder that exists"):
        Session(build()).save(tmp_path / "no" / "memory")
