"""Every CUDA kernel with a state against the torch twin, through 2 windows of 3 passes: outputs, final state and all
gradients.

The harness itself is tested on the CPU, where the definitions stand in for the kernels.
"""

import statistics

import pytest
import torch
import torch.nn.functional as F

from lmsleep.ops import backend as backends
from lmsleep.ops import delta_layer, gated_delta, short_conv, ssd

# Attention has no state: test_window_attention_kernel.py.
STATEFUL = ("ssd", "gated_delta", "delta_layer", "short_conv")
KERNELS = [(op, b.name) for op in STATEFUL for b in backends._TABLES[op].values() if b.cuda_only]
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
# Ratios of the root mean square of the error to that of the value, as flash-linear-attention tests its kernels.
TOLERANCE = {"y": 0.005, "S": 0.005} | dict.fromkeys(("dt", "A", "log_decay", "beta", "A_log", "dt_bias"), 0.02)
GRADIENT_TOLERANCE = 0.008


def draw(op, length, device, dtype, seed):
    """For each of two windows the op's inputs by name, and the initial state. Decays and states are float32."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape, dtype=dtype):
        return torch.randn(*shape, generator=g).to(device, dtype).requires_grad_()

    def uniform(low, high, *shape):
        values = low + (high - low) * torch.rand(*shape, generator=g)
        return values.to(device, max(dtype, torch.float32, key=lambda d: d.itemsize)).requires_grad_()

    B, H, K, V = 2, 4, 32, 64
    wide = uniform(0, 1, 1).dtype
    if op == "ssd":
        A, D = uniform(-4, -1, H), normal(H, dtype=wide)
        make = {
            "h": lambda: normal(B, length, H, V), "dt": lambda: uniform(0.001, 0.2, B, length, H),
            "B": lambda: normal(B, length, 2, K), "C": lambda: normal(B, length, 2, K), "A": lambda: A, "D": lambda: D,
        }  # fmt: skip
        return [{name: f() for name, f in make.items()} for _ in range(2)], normal(B, H, V, K, dtype=wide)
    if op == "gated_delta":
        make = {
            "h": lambda: normal(B, H, length, V), "q": lambda: normal(B, H, length, K),
            "k": lambda: normal(B, H, length, K), "log_decay": lambda: uniform(-0.3, 0, B, H, length),
            "beta": lambda: uniform(0, 1, B, H, length),
        }  # fmt: skip
        return [{name: f() for name, f in make.items()} for _ in range(2)], normal(B, H, K, V, dtype=wide)
    if op == "delta_layer":
        shared = {"taps": normal(H * (2 * K + V), 4, dtype=wide), "weight": normal(V, dtype=wide)}
        shared |= {"A_log": normal(H, dtype=wide), "dt_bias": uniform(-4, -1, H)}
        make = {
            "h": lambda: normal(B, length, H * V), "qk": lambda: normal(B, length, 2 * H * K),
            "gates": lambda: normal(B, length, H * (V + 2)),
        }  # fmt: skip
        return [{name: f() for name, f in make.items()} | shared for _ in range(2)], normal(B, H, K, V, dtype=wide)
    weight, bias = normal(V, 4, dtype=wide), normal(V, dtype=wide)
    windows = [{"h": normal(B, length, V), "weight": weight, "bias": bias} for _ in range(2)]
    return windows, normal(B, 3, V)


def step(op, h, S, w, backend):
    """One pass: h and the state before it -> y and the state after it. A convolution's state is its left context."""
    if op == "ssd":
        return ssd(h, w["dt"], w["A"], w["B"], w["C"], w["D"], S, backend=backend)
    if op == "gated_delta":
        q, k = F.normalize(w["q"], dim=-1), F.normalize(w["k"], dim=-1)
        return gated_delta(q, k, h, w["log_decay"], w["beta"], S, backend=backend)
    if op == "delta_layer":
        projected, parameters = torch.cat([w["qk"], h, w["gates"]], -1), (w["A_log"], w["dt_bias"], w["weight"])
        return delta_layer(projected, w["taps"], *parameters, S, backend=backend)[:2]
    return short_conv(h, w["weight"], w["bias"], S, backend=backend), h[:, -3:]


def two_windows_three_passes(op, backend, windows, state):
    """Outputs, final state and gradients by name, with random upstream gradients into outputs and final state."""
    S, outputs = state, []
    for w in windows:
        h = w["h"]
        for _ in range(3):
            y, S = step(op, h, S, w, backend)
            h = w["h"] + F.rms_norm(y, y.shape[-1:], eps=1e-6)
        outputs.append(h)
    found = {"y": torch.stack(outputs), "S": S}
    g = torch.Generator().manual_seed(1)
    loss = sum((t * torch.randn(t.shape, generator=g).to(t)).sum() for t in found.values())
    leaves = {f"{name} of window {i}": t for i, w in enumerate(windows) for name, t in w.items()} | {"S_0": state}
    grads = torch.autograd.grad(loss, list(leaves.values()))
    return found | dict(zip(leaves, grads, strict=True))


def assert_parity(op, backend, length, device, dtype, factor=1.0):
    # A few tokens with a small norm multiply what bfloat16 rounds off: over draws of 4 tokens the twin's own error lies
    # between 0.006 and 0.1, so there the median of several draws is compared.
    draws = 5 if dtype == torch.bfloat16 else 1
    errors = [errors_of(op, backend, length, device, dtype, seed) for seed in range(draws)]
    for name in errors[0]:
        error, usual = (statistics.median(of_draw[name][i] for of_draw in errors) for i in (0, 1))
        allowed = max(factor * TOLERANCE.get(name.split(" of ")[0], GRADIENT_TOLERANCE), 1.25 * usual)
        assert error <= allowed, f"{name}: error ratio {error:.5f} above {allowed}"


def errors_of(op, backend, length, device, dtype, seed):
    """By name the error of a backend, and that of the twin in bfloat16: what rounding between the passes costs it too
    is not the kernel's."""
    windows, state = draw(op, length, device, dtype, seed)
    exact = [{name: t.detach().double().requires_grad_() for name, t in w.items()} for w in windows]
    for name in ("A", "D", "weight", "bias", "taps", "A_log", "dt_bias"):  # one parameter serves both windows
        if name in exact[0]:
            exact[1][name] = exact[0][name]
    want = two_windows_three_passes(op, "torch", exact, state.detach().double().requires_grad_())
    got = two_windows_three_passes(op, backend, windows, state)
    twin = two_windows_three_passes(op, "torch", windows, state) if dtype == torch.bfloat16 else want
    return {name: [ratio(found[name].detach(), want[name].detach()).item() for found in (got, twin)] for name in got}


def ratio(value, want):
    """The root mean square of the error over that of the value."""
    return (value.double() - want).square().mean().sqrt() / want.square().mean().sqrt()


@pytest.mark.parametrize("op", STATEFUL)
@pytest.mark.parametrize("length", [4, 12])
def test_definitions_pass_as_kernels_must(op, length):
    assert_parity(op, "naive", length, "cpu", torch.float32, factor=1e-3)


def test_the_harness_notices_a_wrong_gradient_of_the_state(monkeypatch):
    def weakened(*inputs):
        *inputs, state = inputs
        return backends._LOADED["ssd", "torch"](*inputs, 0.9 * state + 0.1 * state.detach())

    monkeypatch.setitem(backends._LOADED, ("ssd", "naive"), weakened)
    with pytest.raises(AssertionError, match="error ratio"):
        assert_parity("ssd", "naive", 24, "cpu", torch.float32)


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize(("op", "backend"), KERNELS)
@pytest.mark.parametrize("length", [4, 24, 64, 75, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_equal_the_torch_twin(op, backend, length, dtype):
    # In bfloat16 every one of the 6 passes rounds h anew, and independent errors add up as their squares.
    factor = 6**0.5 if dtype == torch.bfloat16 else 1.0
    try:
        assert_parity(op, backend, length, "cuda", dtype, factor)
    except ValueError as refusal:
        if "cannot run" not in str(refusal):
            raise
        pytest.skip(str(refusal))  # not installed here, or not made for windows of this length


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 24), (3, 1), (3, 24)])
def test_the_convolution_kernel_takes_a_slice_of_a_projection(batch, length):
    pytest.importorskip("causal_conv1d")
    g = torch.Generator().manual_seed(0)
    x = torch.randn(batch, length, 83, generator=g).cuda()[..., 3:67]
    weight, left = torch.randn(64, 4, generator=g).cuda(), torch.randn(batch, 3, 64, generator=g).cuda()
    got, want = (short_conv(x, weight, left=left, backend=name) for name in ("causal_conv1d", "torch"))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@on_gpu
def test_kernels_say_what_they_do_not_take():
    pytest.importorskip("mamba_ssm")
    pytest.importorskip("causal_conv1d")
    x = torch.ones(1, 4, 4, 4, device="cuda")
    with pytest.raises(
        ValueError, match="ssd: backend 'mamba_ssm' cannot run: it does not take float64; convert to one of"
    ):
        ssd(x.double(), x[..., 0], x[0, 0, 0], x, x, backend="mamba_ssm")
    wide = torch.ones(1, 4, 4, 512, device="cuda")
    with pytest.raises(ValueError, match="it takes N of at most 256; use 'torch'"):
        ssd(x, x[..., 0], x[0, 0, 0], wide, wide, backend="mamba_ssm")
    with pytest.raises(ValueError, match="it takes 2 to 4 taps, and channels in multiples of 8; use 'torch'"):
        short_conv(x[0], torch.ones(4, 4, device="cuda"), backend="causal_conv1d")
