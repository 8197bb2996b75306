"""mamba-ssm's kernels, run on the CPU by Triton's interpreter, against the torch twin.

Needs mamba-ssm, and TRITON_INTERPRET=1 and MAMBA_DETERMINISTIC=1 in the environment before its kernels are imported:
    TRITON_INTERPRET=1 MAMBA_DETERMINISTIC=1 pytest -m interpreter tests/ops/test_mamba_interpreter.py
"""

import contextlib
import os
from types import SimpleNamespace

import pytest
import torch

from lmsleep.ops import ssd

pytestmark = [
    pytest.mark.interpreter,
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") != "1" or os.environ.get("MAMBA_DETERMINISTIC") != "1",
        reason="needs TRITON_INTERPRET=1 MAMBA_DETERMINISTIC=1",
    ),
]


@pytest.fixture
def kernel(monkeypatch):
    """The kernels ask CUDA for the device to launch on and for its number of multiprocessors."""
    pytest.importorskip("mamba_ssm.ops.triton.ssd_combined")
    from lmsleep.ops.ssd.mamba import ssd_mamba

    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(multi_processor_count=1))
    return ssd_mamba


def inputs(length):
    torch.manual_seed(0)
    batch, heads, groups, P, N = 2, 2, 1, 16, 16
    x, B, C = torch.randn(batch, length, heads, P), *torch.randn(2, batch, length, groups, N)
    dt, A = torch.rand(batch, length, heads), -1 - torch.rand(heads)
    tensors = [x, dt, A, B, C, torch.randn(heads), torch.randn(batch, heads, P, N)]
    return [t.requires_grad_() for t in tensors]


def through_two_windows(op, tensors, cut):
    """Outputs, final state and all gradients of two windows, the second from the state of the first."""
    x, dt, A, B, C, D, state = tensors
    y, S = op(x[:, :cut], dt[:, :cut], A, B[:, :cut], C[:, :cut], D, state)
    z, S = op(x[:, cut:], dt[:, cut:], A, B[:, cut:], C[:, cut:], D, S)
    y = torch.cat([y, z], dim=1)
    g = torch.Generator().manual_seed(1)
    loss = sum((t * torch.randn(t.shape, generator=g)).sum() for t in (y, S))
    return [y, S, *torch.autograd.grad(loss, tensors)]


@pytest.mark.parametrize(("length", "cut"), [(28, 24), (40, 4)])
def test_kernels_equal_the_torch_twin_from_state_to_state(kernel, length, cut):
    tensors = inputs(length)
    got = through_two_windows(kernel, tensors, cut)
    want = through_two_windows(ssd, tensors, cut)
    for a, b in zip(got, want, strict=True):
        assert (a - b).norm() <= 1e-4 * b.norm()


def test_a_token_with_zero_dt_leaves_no_trace(kernel):
    x, dt, A, B, C, D, state = inputs(20)
    kept = torch.arange(20) >= 5
    _, with_padding = kernel(x, torch.where(kept[:, None], dt, 0.0), A, B, C, D, state)
    _, without = kernel(x[:, kept], dt[:, kept], A, B[:, kept], C[:, kept], D, state)
    torch.testing.assert_close(with_padding, without, rtol=1e-5, atol=1e-5)
