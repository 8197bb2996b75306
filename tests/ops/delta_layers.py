"""What the tests of the delta layer's implementations share: inputs, and outputs with all gradients by name."""

import torch

from lmsleep.ops import delta_layer, jet_layer


def draw(B, H, n, K, V, *, width=4, jet=False, left=True, mask=False):
    """Inputs by name and gradients of the outputs, in float64."""
    g = torch.Generator().manual_seed(n)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    columns = H * V if jet else 2 * H * K + H * V
    inputs = {
        "projected": normal(B, n, 2 * H * (K + V + 1)),
        "taps": 0.5 * (normal(B, n, columns, width) if jet else normal(columns, width)),
        "A_log": normal(H),
        "dt_bias": normal(H) - 2,
        "weight": 1 + 0.3 * normal(V),
        "state": normal(B, H, K, V),
        "left": normal(B, width - 1, columns) if left else None,
        "mask": torch.rand(B, n, generator=g) > 0.3 if mask else None,
    }
    return inputs, [normal(B, n, H * V), normal(B, H, K, V), normal(B, width - 1, columns)]


def low(inputs, upstream, dtype, device="cpu"):
    """The same as a model in mixed precision has them: activations in `dtype`, the rest in float32."""
    narrow = {"projected", "left"} | ({"taps"} if inputs["taps"].ndim == 4 else set())
    inputs = {
        name: x if x is None else x.to(device) if x.dtype == torch.bool else x.to(device, wide(name in narrow, dtype))
        for name, x in inputs.items()
    }
    return inputs, [x.to(device, wide(i != 1, dtype)) for i, x in enumerate(upstream)]


def wide(narrow, dtype):
    return dtype if narrow else torch.promote_types(dtype, torch.float32)


def exact(inputs, upstream):
    """The same values in float64 on the CPU."""
    inputs = {k: x if x is None else x.cpu() if x.dtype == torch.bool else x.cpu().double() for k, x in inputs.items()}
    return inputs, [x.cpu().double() for x in upstream]


def outputs_and_gradients(inputs, upstream, backend, outputs=(0, 1, 2)):
    """By name and in float64: y, the final state, the tail, and the gradients through some of them."""
    leaves = {k: x.detach().requires_grad_() for k, x in inputs.items() if x is not None and k != "mask"}
    arguments = inputs | leaves
    taps = arguments.pop("taps")
    layer = jet_layer if taps.ndim == 4 else delta_layer
    found = layer(arguments.pop("projected"), taps, **arguments, beta_scale=1.7, eps=1e-5, backend=backend)
    grads = torch.autograd.grad(
        [found[i] for i in outputs], list(leaves.values()), [upstream[i] for i in outputs], allow_unused=True
    )
    named = dict(zip(("y", "final", "tail"), found, strict=True))
    named |= {"d" + k: torch.zeros_like(x) if g is None else g for (k, x), g in zip(leaves.items(), grads, strict=True)}
    return {name: x.detach().cpu().double() for name, x in named.items()}


def error_ratios(got, want):
    """Root mean square of the error over that of the value; infinite where it is no number, which `max` may lose."""
    pairs = {name: (got[name], want[name]) for name in want if want[name].numel()}
    return {
        name: ((a - b).square().mean() / b.square().mean().clamp(min=1e-30)).sqrt().nan_to_num(torch.inf).item()
        for name, (a, b) in pairs.items()
    }
