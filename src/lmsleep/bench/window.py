"""Figure 6: training throughput against window size. (a) A fully parallel sliding window against reading by windows at
N = 1, (b) reading by windows at N = 1..4.

lmsleep bench window                 a small model, about a minute on a CPU
lmsleep bench window --shape ouro    the paper's sizes with random weights, on a GPU

Timed are forward and backward passes over sequences whose last window carries the loss. The optimizer's step is left
out: it costs the same in every setting, and is shared by the batches that gradients are accumulated over.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from lmsleep.bench.parallel import make_parallel, parallel_hidden
from lmsleep.bench.shapes import SHAPES
from lmsleep.bench.tables import Measurement, tidy, wide, write
from lmsleep.memory import Eviction, check_eviction, check_n_passes
from lmsleep.model import HybridConfig, HybridLM
from lmsleep.sleep import IGNORE, read_windows

PARALLEL, WINDOWED = "parallel sliding window", "reading by windows"
Loss = Callable[[HybridLM, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Args:
        config: the model; its window is exchanged.
        windows: window sizes L, each dividing `length`.
        passes: values of N.
        length: tokens of a sequence, T.
        batch_sizes: tried in turn; the fastest counts.
        repeats: timed steps. The fastest counts: others are slowed by what else the machine does.
        eviction: of reading by windows.
    """

    config: HybridConfig
    windows: tuple[int, ...]
    passes: tuple[int, ...] = (1, 2, 3, 4)
    length: int = 12_000
    batch_sizes: tuple[int, ...] = (1,)
    repeats: int = 3
    eviction: Eviction = "hard"

    def __post_init__(self) -> None:
        check_eviction(self.eviction)
        for n_passes in self.passes:
            check_n_passes(n_passes)
        for window in self.windows:
            if window < 1 or self.length % window:
                raise ValueError(f"windows must divide length={self.length}, got {window}")
        for name, value in (("batch_sizes", min(self.batch_sizes, default=0)), ("repeats", self.repeats)):
            if value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}")


SETTINGS = {
    "mini": Setting(SHAPES["mini"], (16, 32, 64, 128), length=256, batch_sizes=(4,), repeats=5),
    "ouro": Setting(SHAPES["ouro"], (1000, 2000, 4000), batch_sizes=(1, 2)),
}


def measure(setting: Setting, device: str = "cpu", seed: int = 0) -> pd.DataFrame:
    """Training throughput for every window size, in parallel and by windows at every N.

    Returns:
        A tidy table; `slice` is the window size, `tokens` those of a batch. Metrics: `tokens_per_second`, counting each
        token once whatever N; on CUDA `peak_bytes`, the most memory allocated.
    """
    measurements: list[Measurement] = []
    for window in setting.windows:
        config = replace(setting.config, window_size=window, zero_init=False)
        torch.manual_seed(seed)
        with torch.device(device):
            model = HybridLM(config)
        model.blocks.checkpointing = True  # as for sequences of this length in earnest
        for n_passes in setting.passes:
            measurements += _fastest(WINDOWED, n_passes, model, _by_windows(n_passes, setting.eviction), setting)
        measurements += _fastest(PARALLEL, 1, make_parallel(model), _in_parallel, setting)
        del model
    return tidy("fig6", seed, measurements)


def _by_windows(n_passes: int, eviction: Eviction) -> Loss:
    def loss(model: HybridLM, tokens: Tensor, targets: Tensor) -> Tensor:
        value = read_windows(model, tokens, targets, n_passes, eviction=eviction).loss
        assert value is not None, "the last window carries loss"
        return value

    return loss


def _in_parallel(model: HybridLM, tokens: Tensor, targets: Tensor) -> Tensor:
    last = slice(-model.window_size, None)
    logits = model.logits(parallel_hidden(model, tokens)[:, last])
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide.flatten(0, 1), targets[:, last].flatten(), ignore_index=IGNORE)


def _fastest(name: str, n_passes: int, model: HybridLM, loss: Loss, setting: Setting) -> Iterator[Measurement]:
    """The measurements of the batch size with the highest throughput; none if no batch fits."""
    best: dict[str, float] = {}
    for batch_size in setting.batch_sizes:
        try:
            values = _throughput(model, loss, batch_size, setting)
        except torch.cuda.OutOfMemoryError:
            print(
                f"{name}, N = {n_passes}, window {model.window_size}: batch {batch_size} is too large", file=sys.stderr
            )
            break
        finally:
            model.zero_grad(set_to_none=True)
        if values["tokens_per_second"] > best.get("tokens_per_second", 0):
            best = values
    tokens = int(best.pop("tokens", 0))
    for metric, value in best.items():
        yield name, n_passes, model.window_size, tokens, metric, value


def _throughput(model: HybridLM, loss: Loss, batch_size: int, setting: Setting) -> dict[str, float]:
    weight = model.embedding.weight
    tokens = torch.randint(model.config.vocab_size or 1, (batch_size, setting.length), device=weight.device)
    targets = torch.full_like(tokens, IGNORE)
    targets[:, -model.window_size :] = tokens[:, -model.window_size :]
    if weight.is_cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(1 + setting.repeats):
        start = time.perf_counter()
        with torch.autocast(weight.device.type, torch.bfloat16, enabled=weight.is_cuda):
            value = loss(model, tokens, targets)
        value.backward()
        value.item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    speed = tokens.numel() / min(seconds[1:])  # the first step warms up
    peak = {"peak_bytes": float(torch.cuda.max_memory_allocated())} if weight.is_cuda else {}
    return {"tokens": tokens.numel(), "tokens_per_second": speed} | peak


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "lmsleep bench window", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SETTINGS, default="mini", help="model and sizes (default: mini)")
    parser.add_argument("--windows", type=int, nargs="+", help="window sizes L")
    parser.add_argument("--passes", type=int, nargs="+", metavar="N", help="values of N (default: 1 2 3 4)")
    parser.add_argument("--length", type=int, help="tokens of a sequence")
    parser.add_argument("--batch-sizes", type=int, nargs="+", help="tried in turn; the fastest counts")
    parser.add_argument("--repeats", type=int, help="timed steps, of which the fastest counts (default: 5; ouro: 3)")
    parser.add_argument("--eviction", choices=["hard", "sliding"], help="of reading by windows (default: hard)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("fig6.csv"), help="tidy table (default: fig6.csv)")
    args = parser.parse_args(argv)
    given = {
        name: getattr(args, name) for name in ("windows", "passes", "length", "batch_sizes", "repeats", "eviction")
    }
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items() if v is not None}
    try:
        frame = measure(replace(SETTINGS[args.shape], **given), args.device, args.seed)
        write(frame, args.out)
    except ValueError as error:
        parser.error(str(error))
    print(wide(frame, slice="window"))
    print(f"written to {args.out}")
