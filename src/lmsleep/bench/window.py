"""Figure 6: training throughput against window size. (a) A fully parallel sliding window against reading by windows at
N = 1, (b) reading by windows at N = 1..4.

lmsleep bench window    a small model, about a minute on a CPU
lmsleep bench window --config configs/model/ouro_1_4b.yaml --windows=[1000,2000,4000] --length 12000 --repeats 3
                        the paper's sizes with random weights, on a GPU; batches of --batch_sizes=[1,2,4] as well

Forward and backward passes over sequences whose last window carries the loss are timed, without the optimizer's step,
which costs the same in every setting.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from lmsleep.atomic import check_output, save_csv
from lmsleep.bench.parallel import parallel_hidden, parallel_twin
from lmsleep.bench.subject import choose_device, random_model, read_model
from lmsleep.checks import check_distinct, check_integer, counted, require, typed
from lmsleep.model import HybridConfig, HybridLM, SharedWeights
from lmsleep.sleep import masked_cross_entropy, read_windows
from lmsleep.tasks.base import MAX_LENGTH
from lmsleep.tidy import PARALLEL, WINDOWED, Measurement, measured, pivot_text
from lmsleep.windows import IGNORE, Eviction, check_n_passes

Loss = Callable[[HybridLM, Tensor, Tensor], Tensor]


def measure(
    config: HybridConfig,
    windows: Sequence[int],
    passes: Sequence[int],
    length: int,
    batch_sizes: Sequence[int] = (1,),
    repeats: int = 3,
    eviction: Eviction = "hard",
    device: str = "cpu",
    seed: int = 0,
) -> Iterator[pd.DataFrame]:
    """Training throughput for every window size, in parallel and by windows at every N; arguments as of `main`.

    Yields:
        The tidy table so far, after each batch size; `slice` is the window size, `tokens` those of the fastest batch.
        Metrics: `tokens_per_second`, counting each token once for any N; on CUDA `peak_bytes`, the peak memory.

    Raises:
        ValueError: if a number is out of range.
    """
    typed(Eviction, eviction, "eviction")
    check_distinct(windows=windows, passes=passes)
    for n in passes:
        check_n_passes(n, "passes")
    check_integer("length", length, 1, MAX_LENGTH)
    for window in windows:
        require(window >= 1 and length % window == 0, f"windows must divide length={length}", window)
    for name, value in (("batch_sizes", min(batch_sizes, default=0)), ("repeats", repeats)):
        require(value >= 1, f"{name} must be 1 or more", value)
    measurements: list[Measurement] = []
    for window in windows:
        model = random_model(replace(config, window_size=window), device, seed)
        model.blocks.checkpointing = True
        twin = parallel_twin(model)
        runners = [Runner(WINDOWED, n, model, partial(_by_windows, n, eviction)) for n in passes]
        runners.append(Runner(PARALLEL, 1, twin, _in_parallel))
        of_window: list[Measurement] = []
        for batch_size in batch_sizes:
            # In turns, so that other load affects all alike.
            for repeat, runner in product(range(1 + repeats), runners):
                if runner.fits:
                    runner.step(*_batch(runner.model, batch_size, length), timed=repeat > 0)
            of_window = [m for runner in runners for m in runner.measurements(window)]
            yield measured("fig6", seed, measurements + of_window)
        measurements += of_window
        del model, twin, runners


@dataclass
class Runner:
    """A way to train, and its fastest step so far: seconds, tokens of the batch, and on CUDA the peak memory."""

    name: str
    n_passes: int
    model: HybridLM
    loss: Loss
    seconds: float = math.inf
    tokens: int = 1
    peak_bytes: int = 0
    fits: bool = True

    def step(self, tokens: Tensor, targets: Tensor, timed: bool) -> None:
        """One forward and backward pass over (B, T) each; if memory does not suffice, `fits` becomes False."""
        if tokens.is_cuda:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        try:
            with torch.autocast(tokens.device.type, torch.bfloat16, enabled=tokens.is_cuda):
                value = self.loss(self.model, tokens, targets)
            value.backward()
            value.item()  # waits for the device
        except torch.cuda.OutOfMemoryError:
            print(f"{self.name}, N = {self.n_passes}: batch {len(tokens)} is too large", file=sys.stderr)
            self.fits = False
            return
        finally:
            self.model.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - start
        read = f"{counted(len(tokens), 'rows')} of {tokens.shape[1]:,} tokens"
        print(f"{self.name}, N = {self.n_passes}: {read} in {seconds:.2f} s", file=sys.stderr)
        if timed and tokens.numel() / seconds > self.tokens / self.seconds:
            self.seconds, self.tokens = seconds, tokens.numel()
            self.peak_bytes = torch.cuda.max_memory_allocated() if tokens.is_cuda else 0

    def measurements(self, window: int) -> list[Measurement]:
        """The results; empty if no batch fitted."""
        if math.isinf(self.seconds):
            return []
        metrics = {"tokens_per_second": self.tokens / self.seconds}
        if self.peak_bytes:
            metrics["peak_bytes"] = float(self.peak_bytes)
        return [(self.name, self.n_passes, window, self.tokens, *metric) for metric in metrics.items()]


def _batch(model: HybridLM, batch_size: int, length: int) -> tuple[Tensor, Tensor]:
    """Random tokens (B, T), and targets on the last window alone."""
    tokens = torch.randint(model.vocab_size, (batch_size, length), device=model.embedding.weight.device)
    targets = torch.full_like(tokens, IGNORE)
    targets[:, -model.window_size :] = tokens[:, -model.window_size :]
    return tokens, targets


def _shared(tokens: Tensor) -> SharedWeights | None:
    """On a GPU, as in training."""
    return SharedWeights() if tokens.is_cuda else None


def _by_windows(n_passes: int, eviction: Eviction, model: HybridLM, tokens: Tensor, targets: Tensor) -> Tensor:
    value = read_windows(model, tokens, targets, n_passes, eviction=eviction, shared=_shared(tokens)).loss
    assert value is not None, "the last window carries loss"
    return value


def _in_parallel(model: HybridLM, tokens: Tensor, targets: Tensor) -> Tensor:
    last = slice(-model.window_size, None)
    logits = model.logits(parallel_hidden(model, tokens, _shared(tokens))[:, last])
    return masked_cross_entropy(logits, targets[:, last])


def main(
    config: Path = Path("configs/model/mini.yaml"),
    windows: list[int] = [16, 32, 64, 128],  # noqa: B006
    passes: list[int] = [1, 2, 3, 4],  # noqa: B006
    length: int = 256,
    batch_sizes: list[int] = [4],  # noqa: B006
    repeats: int = 5,
    eviction: Eviction = "hard",
    device: str | None = None,
    seed: int = 0,
    out: Path = Path("fig6.csv"),
) -> None:
    """The command.

    Args:
        config: YAML file that describes the model; its window size is replaced.
        windows: window sizes L, each dividing the length.
        passes: values of N.
        length: tokens of a sequence, T.
        batch_sizes: tried in turn; the fastest counts.
        repeats: timed steps, of which the fastest counts.
        eviction: of reading by windows.
        device: by default cuda where there is one.
        seed: of the weights.
        out: CSV file for the measurements.
    """
    check_output(out, "out")
    settings = (windows, passes, length, batch_sizes, repeats, eviction, choose_device(device), seed)
    table = pd.DataFrame()
    for table in measure(read_model(config), *settings):
        save_csv(out, table)
    print(pivot_text(table, slice="window"))
    print(f"written to {out}")
