"""The cost of reading, awake and asleep: latency of a token, pause at an overflow, and memory, against context length
and N; compared with a transformer of the same size with a key-value cache.

lmsleep bench wake    a small model, about a minute on a CPU
lmsleep bench wake --config configs/model/ouro_1_4b.yaml --window_size 1024 --contexts=[1,10,100]
"""

import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lmsleep.atomic import check_output, save_csv
from lmsleep.bench.subject import choose_device, random_model, read_model
from lmsleep.checks import check_distinct, check_integer, require
from lmsleep.memory import KV, AttentionCache
from lmsleep.model import HybridConfig, HybridLM
from lmsleep.runtime import Session, SleepEvent
from lmsleep.runtime.events import OnSleep
from lmsleep.runtime.memory import Memory
from lmsleep.tasks.base import MAX_LENGTH
from lmsleep.tidy import Measurement, measured, pivot_text
from lmsleep.windows import check_n_passes

WARM_UP = 5  # tokens read before the clock starts
BLOCK = 8  # tokens that a reader reads before the next one's turn
SLEEPS = 8  # single sleeps of each kind; the first is not timed


@dataclass
class TimedSession:
    """A timed session.

    Args:
        context: tokens read before.
        memory_bytes: of its memory, without weights.
        sleeps: receives its sleep events.
        fit, over: milliseconds of tokens that fit into the window, and of those that overflowed.
    """

    model: str
    n_passes: int
    context: int
    session: Session
    memory_bytes: int
    sleeps: list[SleepEvent] = field(default_factory=list)
    fit: list[float] = field(default_factory=list)
    over: list[float] = field(default_factory=list)

    def read(self, token: int) -> None:
        """Reads and times a token."""
        self.sleeps.clear()
        took = _milliseconds(partial(self.session.feed, token), self.session.model)
        (self.over if self.sleeps else self.fit).append(took)

    def metrics(self) -> dict[str, float]:
        """The metrics of `measure`; no pause if no token overflowed."""
        values = {"latency_mean_ms": float(np.mean(self.fit)), "amortised_ms": float(np.mean(self.fit + self.over))}
        values |= {f"latency_p{q}_ms": float(np.percentile(self.fit, q)) for q in (50, 99)}
        values |= {"pause_ms": float(np.mean(self.over))} if self.over else {}
        return values | {"memory_bytes": float(self.memory_bytes)}


def measure(
    config: HybridConfig,
    contexts: Sequence[int],
    passes: Sequence[int],
    n_tokens: int,
    device: str = "cpu",
    seed: int = 0,
    max_cache_bytes: float = 2e9,
) -> pd.DataFrame:
    """Latency and memory after contexts of several lengths, for the hybrid at each N and for its full-attention twin.

    Args:
        contexts: numbers of windows read before; if fewer tokens than a window are timed, somewhat less, so that one of
            them overflows.
        n_tokens: tokens timed at each context, 2 or more.
        max_cache_bytes: the twin is left out if its cache would be larger.

    Returns:
        A tidy table; `slice` is the number of windows, `tokens` their tokens. Metrics: `latency_mean_ms`,
        `latency_p50_ms`, `latency_p99_ms` of tokens that fit into the window; `pause_ms`, mean time of a token that
        overflows, sleep included; `amortised_ms`, mean over all tokens; `memory_bytes`, without weights. For N > 1,
        `sleep_ms`: median time of a sleep on one full window, with graphs (on CUDA) and eagerly.

    Raises:
        ValueError: if a number is out of range.
    """
    check_distinct(contexts=contexts, passes=passes)
    require(min(contexts) >= 1, "contexts must be 1 or more", min(contexts))
    check_integer("tokens", n_tokens, 2, MAX_LENGTH)  # one fits and one overflows
    require(0 <= max_cache_bytes < math.inf, "max_cache_gb must be finite and 0 or more", max_cache_bytes / 1e9)
    for n in passes:
        check_n_passes(n, "passes")
    model = reading_model(config, device, seed)
    # The first sleep compiles kernels and captures passes, and is not timed.
    first = Session(model, max(*passes, 2), static=True)
    first.feed(_tokens(config, model.window_size + 1), last_only=True)
    sleeps: dict[int, list[SleepEvent]] = {n: [] for n in passes}
    sessions = {n: _restarted(first, n, sleeps[n].append) for n in passes}
    # The window overflows in the middle of the timed tokens.
    early = min(WARM_UP + n_tokens // 2, model.window_size - 1) if n_tokens < model.window_size else 0
    places = {windows * model.window_size - early: windows for windows in sorted(contexts)}
    tokens = _tokens(config, WARM_UP + n_tokens).tolist()
    with ExitStack() as stack:
        readers: list[TimedSession] = []
        for before, context in pairwise((0, *places)):
            print(f"windows to read with every N: {places[context]}", file=sys.stderr)
            for n, session in sessions.items():
                session.feed(_tokens(config, context - before), last_only=True)
                branch = stack.enter_context(session.fork())
                readers.append(TimedSession("hybrid", n, context, branch, session.nbytes, sleeps[n]))
        print(f"timing {n_tokens} tokens of each, then full attention", file=sys.stderr)
        _time_readers(readers, tokens)
    for context in places:
        if twin := _twin(config, context, n_tokens, device, seed, max_cache_bytes):
            _time_readers([twin], tokens)
            readers.append(twin)
    measurements: list[Measurement] = [
        (reader.model, reader.n_passes, places[reader.context], reader.context, *metric)
        for reader in readers
        for metric in reader.metrics().items()
    ]
    return measured("latency", seed, measurements + _time_sleeps(model, first, [n for n in passes if n > 1]))


def _time_readers(readers: Sequence[TimedSession], tokens: list[int]) -> None:
    """Every reader reads the tokens one by one, the first ones untimed. They take turns, a block of tokens at a time,
    so that other load and clock rates affect all alike; twins read alone, since their large caches would slow the next
    reader."""
    for reader in readers:
        for token in tokens[:WARM_UP]:
            reader.session.feed(token)
    for start in range(WARM_UP, len(tokens), BLOCK):
        for reader in readers:
            for token in tokens[start : start + BLOCK]:
                reader.read(token)


def _time_sleeps(model: HybridLM, first: Session, passes: Sequence[int]) -> list[Measurement]:
    """Times sleeps on one full window, with graphs and eagerly in turns."""
    L = model.window_size
    awake = {True: _restarted(first), False: Session(model)}
    for session in awake.values():
        session.feed(_tokens(model.config, L), last_only=True)
    times: dict[tuple[int, bool], list[float]] = {}
    for _, n, static in product(range(SLEEPS), passes, (True, False)):
        session = awake[static].fork()
        session.n_passes = n
        times.setdefault((n, static), []).append(_milliseconds(session.sleep, model))
    names = {True: "one sleep", False: "one sleep, eager"}
    return [(names[static], n, 1, L, "sleep_ms", float(np.median(ms[1:]))) for (n, static), ms in times.items()]


def _restarted(session: Session, n_passes: int = 1, *callbacks: OnSleep) -> Session:
    """A session before its first token with another N, which shares the graphs of a static one."""
    other = session.fork()
    other.reset()
    other.n_passes, other.callbacks = n_passes, callbacks
    return other


def _milliseconds(work: Callable[[], object], model: HybridLM) -> float:
    """Wall time of `work` on the model's device."""
    start = time.perf_counter()
    work()
    if model.embedding.weight.is_cuda:
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start)


def _twin(
    config: HybridConfig, context: int, n_tokens: int, device: str, seed: int, max_cache_bytes: float
) -> TimedSession | None:
    """The full-attention twin with a cache of `context` random tokens; None if that is too large."""
    twin = full_attention_twin(config, context + n_tokens + WARM_UP)
    per_token = 2 * twin.kv_heads * twin.attention_head_dim * twin.depth
    if context * per_token * (2 if device.startswith("cuda") else 4) > max_cache_bytes:
        print(f"full attention over {context:,} tokens is left out: its cache would be too large", file=sys.stderr)
        return None
    model = reading_model(twin, device, seed)
    shape = (1, twin.kv_heads, context, twin.attention_head_dim)
    like = model.embedding.weight
    draw = partial(torch.randn, shape, device=like.device, dtype=like.dtype)
    layers = tuple(KV(draw(), draw()) for _ in twin.pattern)
    cache = AttentionCache(model.window_size, context, context, context, layers)
    session = Session(model, static=True)
    empty = model.init_fast_weights(1)
    session._groups = [Memory((0,), empty, cache, empty, model.init_cache())]
    return TimedSession("full attention", 1, context, session, cache.nbytes)


def _tokens(config: HybridConfig, n: int) -> torch.Tensor:
    return torch.randint(config.vocab_size or 1, (n,), generator=torch.Generator().manual_seed(n))


def full_attention_twin(config: HybridConfig, window_size: int) -> HybridConfig:
    """A transformer with as many blocks and, within a percent, parameters, and attention over `window_size` tokens."""
    pattern = "".join("A" if letter.isupper() else "a" for letter in config.pattern)
    twin = replace(config, pattern=pattern, window_size=window_size, loop=None)
    n_mlps = sum(letter.isupper() for letter in pattern)
    spare = config.num_params() - twin.num_params()
    return replace(twin, mlp_dim=twin.mlp_hidden + round(spare / (3 * config.d_model * n_mlps)))


def reading_model(config: HybridConfig, device: str, seed: int) -> HybridLM:
    """A model with random weights in evaluation mode, bfloat16 on CUDA and float32 elsewhere."""
    dtype = torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
    return random_model(config, device, seed).to(dtype).eval()


def main(
    config: Path = Path("configs/model/mini.yaml"),
    window_size: int | None = None,
    contexts: list[int] = [1, 3, 10, 30, 100, 300, 1000],  # noqa: B006
    passes: list[int] = [1, 2, 3, 4, 6],  # noqa: B006
    tokens: int = 96,
    device: str | None = None,
    max_cache_gb: float = 2.0,
    seed: int = 0,
    out: Path = Path("latency.csv"),
) -> None:
    """The command.

    Args:
        config: YAML file that describes the model.
        window_size: L; by default that of the model.
        contexts: numbers of windows read before the clock starts.
        passes: values of N.
        tokens: number of tokens timed at each context.
        device: by default cuda where there is one.
        max_cache_gb: largest cache of full attention.
        seed: of the weights.
        out: CSV file for the measurements.
    """
    check_output(out, "out")
    model = read_model(config)
    if window_size is not None:
        model = replace(model, window_size=window_size)
    frame = measure(model, contexts, passes, tokens, choose_device(device), seed, 1e9 * max_cache_gb)
    save_csv(out, frame)
    print(pivot_text(frame, slice="windows"))
    print(f"written to {out}")
