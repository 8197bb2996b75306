"""What reading costs, awake and asleep: latency of a token, pause at an overflow, and memory, against the length of the
context and N; beside a transformer of the same size with a key-value cache.

lmsleep bench wake                                   a small model, about a minute on a CPU
lmsleep bench wake --shape ouro --contexts 1 10 100  Ouro 1.4B with random weights, on a GPU
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lmsleep.bench.shapes import SHAPES, full_attention_twin, random_model
from lmsleep.bench.tables import Measurement, tidy, wide, write
from lmsleep.memory import AttentionCache, check_n_passes
from lmsleep.model import HybridConfig, HybridLM
from lmsleep.runtime import Session, SleepEvent
from lmsleep.runtime.memory import Group, Memory

WARM_UP = 5  # tokens read before the clock starts


def measure(
    config: HybridConfig,
    contexts: Sequence[int],
    passes: Sequence[int],
    n_tokens: int,
    device: str = "cpu",
    seed: int = 0,
    max_cache_bytes: float = 2e9,
) -> pd.DataFrame:
    """Latency and memory after contexts of so many windows, for the hybrid at each N and for its full-attention twin.

    Both read single tokens in buffers of fixed size, on CUDA as one graph. The twin's cache holds random numbers: its
    speed does not depend on them, and a cache of any length is there at once.

    Args:
        contexts: numbers of windows read before the clock starts.
        n_tokens: tokens timed at each context.
        max_cache_bytes: the twin is left out where its cache would be larger.

    Returns:
        A tidy table; `slice` is the number of windows, `tokens` their tokens. Metrics: `latency_mean_ms`,
        `latency_p50_ms`, `latency_p99_ms` of tokens that fit into the window; `pause_ms`, mean time of a token that
        overflows, sleep included; `amortised_ms`, mean over all; `memory_bytes`, all that is held beside the weights.

    Raises:
        ValueError: if a number is out of range.
    """
    _check(contexts, passes, n_tokens)
    sizes = [(windows, windows * (config.window_size or 0)) for windows in sorted(contexts)]
    measurements = list(_hybrid(config, sizes, passes, n_tokens, device, seed))
    for windows, context in sizes:
        values = _twin(config, context, n_tokens, device, seed, max_cache_bytes)
        measurements += [("full attention", 1, windows, context, *item) for item in values.items()]
    return tidy("latency", seed, measurements)


def _check(contexts: Sequence[int], passes: Sequence[int], n_tokens: int) -> None:
    for name, value in (("contexts", min(contexts, default=0)), ("tokens", n_tokens)):
        if value < 1:
            raise ValueError(f"{name} must be 1 or more, got {value}")
    for n_passes in passes:
        check_n_passes(n_passes)


def _hybrid(
    config: HybridConfig,
    sizes: Sequence[tuple[int, int]],
    passes: Sequence[int],
    n_tokens: int,
    device: str,
    seed: int,
) -> Iterator[Measurement]:
    model = random_model(config, device, seed)
    for n_passes in passes:
        sleeps: list[SleepEvent] = []
        session, read = Session(model, n_passes, callbacks=[sleeps.append], static=True), 0
        for windows, context in sizes:
            session.feed(_tokens(config, context - read), last_only=True)
            read = context
            with session.fork() as branch:
                values = _timed(branch, sleeps, n_tokens)
            values["memory_bytes"] = session.nbytes
            for metric, value in values.items():
                yield "hybrid", n_passes, windows, context, metric, value


def _twin(
    config: HybridConfig, context: int, n_tokens: int, device: str, seed: int, max_cache_bytes: float
) -> dict[str, float]:
    """The full-attention twin with a cache of `context` tokens; nothing if that is too large."""
    twin = full_attention_twin(config, context + n_tokens + WARM_UP)
    per_token = 2 * twin.kv_heads * twin.attention_head_dim * twin.depth
    if context * per_token * (2 if device.startswith("cuda") else 4) > max_cache_bytes:
        print(f"full attention over {context:,} tokens is left out: its cache would be too large", file=sys.stderr)
        return {}
    model = random_model(twin, device, seed)
    shape = (1, twin.kv_heads, context, twin.attention_head_dim)
    like = model.embedding.weight
    draw = partial(torch.randn, shape, device=like.device, dtype=like.dtype)
    layers = tuple((draw(), draw()) for _ in twin.pattern)
    cache = AttentionCache(model.window_size, context, context, context, layers)
    session = Session(model, static=True)
    empty = model.init_fast_weights(1)
    session._groups = [Group((0,), Memory(empty, cache, empty, model.init_cache()))]
    return _timed(session, [], n_tokens) | {"memory_bytes": cache.nbytes}


def _timed(session: Session, sleeps: list[SleepEvent], n_tokens: int) -> dict[str, float]:
    """Milliseconds of single tokens, those that overflow apart."""
    tokens = _tokens(session.model.config, WARM_UP + n_tokens).tolist()
    for token in tokens[:WARM_UP]:
        session.feed(token)
    fit, over = [], []
    for token in tokens[WARM_UP:]:
        sleeps.clear()
        start = time.perf_counter()
        session.feed(token)
        _wait(session.model)
        (over if sleeps else fit).append(1e3 * (time.perf_counter() - start))
    values = {"latency_mean_ms": float(np.mean(fit)), "amortised_ms": float(np.mean(fit + over))}
    values |= {f"latency_p{q}_ms": float(np.percentile(fit, q)) for q in (50, 99)}
    return values | ({"pause_ms": float(np.mean(over))} if over else {})


def _tokens(config: HybridConfig, n: int) -> torch.Tensor:
    return torch.randint(config.vocab_size or 1, (n,), generator=torch.Generator().manual_seed(n))


def _wait(model: HybridLM) -> None:
    if model.embedding.weight.is_cuda:
        torch.cuda.synchronize()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "lmsleep bench wake", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="mini", help="the model (default: mini)")
    parser.add_argument("--contexts", type=int, nargs="+", default=[1, 3, 10, 30, 100, 300, 1000], metavar="WINDOWS")
    parser.add_argument("--passes", type=int, nargs="+", default=[1, 2, 3, 4, 6], metavar="N")
    parser.add_argument("--tokens", type=int, default=96, help="tokens timed at each context (default: 96)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--max-cache-gb", type=float, default=2.0, help="largest cache of full attention (default: 2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("latency.csv"), help="tidy table (default: latency.csv)")
    args = parser.parse_args(argv)
    try:
        frame = measure(
            SHAPES[args.shape],
            args.contexts,
            args.passes,
            args.tokens,
            args.device,
            args.seed,
            1e9 * args.max_cache_gb,
        )
        write(frame, args.out)
    except ValueError as error:
        parser.error(str(error))
    print(wide(frame, slice="windows"))
    print(f"written to {args.out}")
