"""Triton launches on the current device: every kernel of ours must make that of its tensors current."""

import importlib
from contextlib import contextmanager

import pytest
import torch

pytest.importorskip("triton")
KERNELS = {
    "gated_delta.fused": ("window_forward", "window_backward"),
    "delta_layer.fused": ("layer_forward", "layer_backward", "mixed_backward"),
    "add_norm.fused": ("norm_forward", "norm_backward"),
    "swiglu.fused": ("swiglu_forward", "swiglu_backward"),
    "window_attention.fused": ("attend_forward", "attend_backward"),
}


class Recorded:
    """A kernel that says where it was launched."""

    def __init__(self, name, launches, current):
        self.name, self.launches, self.current = name, launches, current

    def __getitem__(self, grid):
        return lambda *_, **__: self.launches.append((self.name, list(self.current)))


@pytest.fixture
def launches(monkeypatch):
    """(kernel, devices made current) of every launch; no kernel runs."""
    found, current = [], []

    @contextmanager
    def device_of(x):
        current.append(x.device)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    for module, names in KERNELS.items():
        loaded = importlib.import_module(f"lmsleep.ops.{module}")
        for name in names:
            monkeypatch.setattr(loaded, name, Recorded(name, found, current))
    return found


def test_every_kernel_is_launched_on_the_device_of_its_tensors(launches):
    from lmsleep.ops.add_norm.fused import add_norm_triton
    from lmsleep.ops.delta_layer.fused import delta_layer_triton
    from lmsleep.ops.gated_delta.fused import gated_delta_triton
    from lmsleep.ops.swiglu.fused import swiglu_triton
    from lmsleep.ops.window_attention.fused import window_attention_triton

    def leaf(*shape):
        return torch.zeros(*shape, requires_grad=True)

    head, gate = leaf(1, 1, 4, 16), leaf(1, 1, 4)
    outputs = [gated_delta_triton(head, head, head, gate, gate, leaf(1, 1, 16, 16))[0]]
    parameters = (leaf(48, 4), leaf(1), leaf(1), leaf(16))
    outputs += delta_layer_triton(
        leaf(1, 4, 66), *parameters, leaf(1, 1, 16, 16), None, None, per_token=False, beta_scale=1.0, eps=1e-6
    )[:1]
    token = leaf(1, 4, 16)
    outputs += [window_attention_triton(token, token, token, (torch.ones(4, 8), torch.zeros(4, 8)), None)]
    outputs += [add_norm_triton(token, token, leaf(16), 1e-6, torch.float32)[1], swiglu_triton(token, token)]
    torch.autograd.backward(outputs, [torch.zeros_like(o) for o in outputs])
    assert {name for name, _ in launches} == {name for names in KERNELS.values() for name in names}
    assert all(current == [torch.device("cpu")] for _, current in launches)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_layer_on_the_second_device_equals_one_on_the_first():
    from lmsleep.ops import delta_layer

    torch.manual_seed(0)
    inputs = [torch.randn(2, 24, 2 * 2 * (64 + 64 + 1)), torch.randn(2 * 2 * 64 + 2 * 64, 4), torch.randn(2)]
    inputs += [torch.randn(2), torch.randn(64), torch.randn(2, 2, 64, 64)]
    first, second = (delta_layer(*(x.to(device) for x in inputs), backend="triton") for device in ("cuda:0", "cuda:1"))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.cpu(), b.cpu())
