"""`lmsleep bench wake`: what it measures is what a session does, and memory stays where it is."""

from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from lmsleep import HybridConfig, Session
from lmsleep.bench.subject import read_model
from lmsleep.bench.wake import BLOCK, SLEEPS, WARM_UP, TimedSession, full_attention_twin, main, measure
from lmsleep.figures.table import COLUMNS
from lmsleep.runtime.memory import Memory

MODELS = Path(__file__).parents[2] / "configs" / "model"
TINY = HybridConfig(vocab_size=11, d_model=16, pattern="AGa", window_size=4, n_heads=2)


@pytest.fixture(scope="module")
def frame():
    return measure(TINY, contexts=[50, 2, 9], passes=[1, 3], n_tokens=10)


def values(frame, metric, model="hybrid"):
    return frame[(frame.metric == metric) & (frame.model == model)]


def test_table_is_tidy_and_whole(frame):
    assert list(frame.columns) == COLUMNS
    assert set(frame.figure) == {"latency"}
    assert (frame.tokens == frame["slice"] * 4).all()
    metrics = {"latency_mean_ms", "latency_p50_ms", "latency_p99_ms", "amortised_ms", "memory_bytes"}
    hybrid = frame[frame.model == "hybrid"].groupby(["n_passes", "slice"]).metric.agg(set)
    assert len(hybrid) == 6
    assert all(of == metrics | {"pause_ms"} for of in hybrid)
    twin = frame[frame.model == "full attention"].groupby("slice").metric.agg(set)
    assert len(twin) == 3
    assert all(of == metrics for of in twin)
    assert (frame.value > 0).all()


@pytest.mark.parametrize("n_tokens", [2, 3, 9, 20])
def test_a_window_longer_than_what_is_timed_overflows_within_it(n_tokens):
    frame = measure(replace(TINY, window_size=32), contexts=[1, 3], passes=[2], n_tokens=n_tokens)
    hybrid = frame[frame.model == "hybrid"]
    assert set(hybrid.tokens) == {32 - WARM_UP - n_tokens // 2, 96 - WARM_UP - n_tokens // 2}
    assert set(hybrid[hybrid.metric == "pause_ms"].slice) == {1, 3}
    assert hybrid.value.notna().all()


def test_memory_is_flat_for_the_hybrid_and_grows_with_the_context_for_its_twin(frame):
    assert values(frame, "memory_bytes").value.nunique() == 1
    twin = values(frame, "memory_bytes", "full attention")
    # Keys and values of 2 heads of width 8 in 3 blocks, four bytes a number.
    assert (twin.value == twin.tokens * 2 * 2 * 8 * 3 * 4).all()


def test_the_first_sleep_of_all_is_not_timed(monkeypatch):
    events = []
    read, sleep = TimedSession.read, Memory.sleep
    monkeypatch.setattr(TimedSession, "read", lambda *args: (events.append("read"), read(*args)))
    monkeypatch.setattr(Memory, "sleep", lambda *args: (events.append("sleep"), sleep(*args))[1])
    measure(replace(TINY, window_size=32), contexts=[1], passes=[3], n_tokens=20)  # overflows once while it is timed
    timed = events[events.index("read") : len(events) - events[::-1].index("read")]
    assert timed.count("sleep") == 1 and events.index("sleep") < events.index("read")


def test_hybrid_readers_of_all_contexts_take_turns_and_twins_read_after_them(monkeypatch):
    turns = []
    read = TimedSession.read
    monkeypatch.setattr(TimedSession, "read", lambda reader, token: (turns.append(reader), read(reader, token)))
    measure(TINY, contexts=[5, 2], passes=[1, 3], n_tokens=2 * BLOCK)
    blocks = [(reader.model, reader.n_passes, reader.context) for reader in turns[::BLOCK]]
    hybrid = [("hybrid", n, context) for context in (8, 20) for n in (1, 3)]
    assert blocks == hybrid * 2 + [("full attention", 1, context) for context in (8, 20) for _ in range(2)]


def test_a_sleep_alone_is_timed_in_graphs_and_eagerly(monkeypatch):
    sleeps, sleep = [], Memory.sleep

    def watched(memory, model, on_overflow, eviction, run=None):
        sleeps.append((getattr(on_overflow, "keywords", {}).get("n_passes"), run is not None))
        return sleep(memory, model, on_overflow, eviction, run)

    monkeypatch.setattr(Memory, "sleep", watched)
    frame = measure(TINY, contexts=[2], passes=[1, 3, 4], n_tokens=4)
    assert sleeps[-4 * SLEEPS :] == [(3, True), (3, False), (4, True), (4, False)] * SLEEPS
    alone = frame[frame.metric == "sleep_ms"]
    assert list(zip(alone.model, alone.n_passes, strict=True)) == [
        (name, n) for n in (3, 4) for name in ("one sleep", "one sleep, eager")
    ]


def test_the_mean_lies_between_the_parts_it_is_made_of(frame):
    wide = frame[frame.model == "hybrid"].pivot(index=["n_passes", "slice"], columns="metric", values="value")
    low, high = wide[["latency_mean_ms", "pause_ms"]].min(axis=1), wide[["latency_mean_ms", "pause_ms"]].max(axis=1)
    assert (low <= wide.amortised_ms * (1 + 1e-9)).all()
    assert (wide.amortised_ms <= high * (1 + 1e-9)).all()
    assert (wide.latency_p50_ms <= wide.latency_p99_ms).all()


@pytest.mark.parametrize(
    "config", [TINY, read_model(MODELS / "mini.yaml"), replace(read_model(MODELS / "ouro_1_4b.yaml"), window_size=1024)]
)
def test_the_twin_has_the_same_size(config):
    twin = full_attention_twin(config, 100)
    assert twin.pattern.upper() == "A" * config.depth
    assert twin.window_size == 100
    assert abs(twin.num_params() / config.num_params() - 1) < 0.01


def test_the_twin_reads_as_a_transformer_does():
    torch.manual_seed(0)
    twin = full_attention_twin(TINY, 30)
    model = twin.build().double()
    tokens = torch.randint(11, (1, 20))
    with torch.no_grad():
        wake = model.wake(tokens[:, :12], model.init_fast_weights(1), model.init_cache())
        wanted, _ = model(tokens)
    session = Session(model, static=True)
    empty = model.init_fast_weights(1)
    session._groups = [Memory((0,), empty, wake.cache, empty, model.init_cache())]
    got = torch.cat([session.feed(token) for token in tokens[0, 12:]], dim=1)
    torch.testing.assert_close(got, wanted[:, 12:], rtol=1e-9, atol=1e-12)


def test_a_cache_that_is_too_large_is_left_out(capsys):
    frame = measure(TINY, contexts=[2, 40], passes=[1], n_tokens=3, max_cache_bytes=10_000)
    assert values(frame, "memory_bytes", "full attention")["slice"].tolist() == [2]
    assert "full attention over 157 tokens is left out" in capsys.readouterr().err


def written(config, path):
    """The configuration as a YAML file."""
    path.write_text(yaml.safe_dump({"model": {"model": asdict(config)}}))
    return path


def test_command_writes_the_table(tmp_path, capsys):
    config = written(TINY, tmp_path / "tiny.yaml")
    main(config, contexts=[1, 3], passes=[2], tokens=8, out=tmp_path / "latency.csv")
    table = pd.read_csv(tmp_path / "latency.csv")
    assert set(table["slice"]) == {1, 3}
    said, progress = capsys.readouterr()
    assert [word for word in progress.split() if word.isdigit()] == ["1", "3", "8"]
    assert "latency_p50_ms" in said and "–" in said and "NaN" not in said


def test_a_file_without_a_model_is_named(tmp_path):
    (tmp_path / "run.yaml").write_text("trainer: {max_steps: 3}")
    with pytest.raises(ValueError, match=r"config must name a model under model.model, '.*run.yaml' does not"):
        read_model(tmp_path / "run.yaml")
