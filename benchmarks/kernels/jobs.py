"""What our kernels do and those of libraries do too, by name."""

from collections.abc import Callable
from functools import partial

import torch

from benchmarks.kernels.job import Job, Subject
from benchmarks.kernels.mixer_jobs import attention, convolution, delta, layer, rotary
from benchmarks.kernels.pointwise_jobs import activation, cross_entropy, gated_norm, l2_norm, norm

JOBS: dict[str, Callable[[Subject], Job]] = {
    "add + norm in float32": partial(norm, stream=torch.float32),
    "add + norm": norm,
    "norm": partial(norm, summed=False),
    "activation": activation,
    "layer": layer,
    "convolution": convolution,
    "L2 norm": l2_norm,
    "gated norm": gated_norm,
    "attention": attention,
    "rotary": rotary,
    "delta rule": delta,
    "cross entropy": cross_entropy,
}
