"""The short convolutions against their loops over time and against `torch.nn.functional.conv1d`."""

import pytest
import torch
import torch.nn.functional as F

from lmsleep.ops import conv_tail, dynamic_conv, short_conv
from lmsleep.ops.short_conv.naive import dynamic_conv_naive, short_conv_naive

LENGTHS = [1, 2, 3, 4, 24, 75, 300]


def normal(*shape, seed=0):
    g = torch.Generator().manual_seed(seed + len(shape))
    return torch.randn(*shape, generator=g, dtype=torch.float64, requires_grad=True)


def results(op, tensors, activation):
    y = op(*tensors, activation)
    return [y, *torch.autograd.grad((y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum(), tensors)]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("activation", ["silu", None])
def test_torch_equals_the_loop_in_values_and_gradients(length, width, activation):
    x, weight, bias, left = normal(2, length, 5), normal(5, width), normal(5), normal(2, width - 1, 5, seed=1)
    got, want = (results(op, [x, weight, bias, left], activation) for op in (short_conv, short_conv_naive))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    kernels = normal(2, length, 5, width)
    got, want = (results(op, [x, kernels, left], activation) for op in (dynamic_conv, dynamic_conv_naive))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["naive", "torch"])
def test_equals_conv1d(backend):
    x, weight, bias, left = normal(2, 24, 6), normal(6, 4), normal(6), normal(2, 3, 6, seed=1)
    padded = torch.cat([left, x], dim=1).mT
    want = F.silu(F.conv1d(padded, weight[:, None], bias, groups=6)).mT
    torch.testing.assert_close(short_conv(x, weight, bias, left, backend=backend), want)
    same_for_all = weight.expand(2, 24, 6, 4)
    want = F.conv1d(padded, weight[:, None], groups=6).mT
    torch.testing.assert_close(dynamic_conv(x, same_for_all, left, backend=backend), want)


def test_definitions_pass_gradcheck():
    x, weight, bias, left = normal(1, 5, 2), normal(2, 3), normal(2), normal(1, 2, 2, seed=1)
    assert torch.autograd.gradcheck(lambda *t: short_conv_naive(*t, "silu"), [x, weight, bias, left])
    assert torch.autograd.gradcheck(lambda *t: dynamic_conv_naive(*t, "silu"), [x, normal(1, 5, 2, 3), left])


@pytest.mark.parametrize("backend", ["naive", "torch"])
@pytest.mark.parametrize("length", [1, 2, 9])
def test_without_left_the_inputs_before_are_zero(length, backend):
    x, weight, kernels = normal(2, length, 4), normal(4, 4), normal(2, length, 4, 4)
    zero = torch.zeros(2, 3, 4, dtype=torch.float64)
    for op, taps in ((short_conv, weight), (dynamic_conv, kernels)):
        (y, z) = (op(x, taps, left=left, activation="silu", backend=backend) for left in (None, zero))
        torch.testing.assert_close(y, z)
        (got, want) = (torch.autograd.grad(out.square().sum(), [x, taps]) for out in (y, z))
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("cut", [1, 2, 5, 20])
def test_two_windows_equal_one_when_left_is_handed_over(cut):
    x, weight, kernels = normal(2, 24, 4), normal(4, 4), normal(2, 24, 4, 4)
    left = F.pad(x[:, :cut], (0, 0, 3, 0))[:, -3:]
    parts = [short_conv(x[:, :cut], weight), short_conv(x[:, cut:], weight, left=left)]
    torch.testing.assert_close(torch.cat(parts, dim=1), short_conv(x, weight))
    parts = [dynamic_conv(x[:, :cut], kernels[:, :cut]), dynamic_conv(x[:, cut:], kernels[:, cut:], left)]
    torch.testing.assert_close(torch.cat(parts, dim=1), dynamic_conv(x, kernels))


@pytest.mark.parametrize("length", [1, 2, 3, 4, 24])
@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("with_left", [True, False])
def test_the_tail_is_the_last_inputs_and_holds_no_others(length, width, with_left):
    x, left = normal(2, length, 3), normal(2, width - 1, 3, seed=1) if with_left else None
    tail = conv_tail(x, left, width)
    before = torch.zeros(2, width - 1, 3, dtype=x.dtype) if left is None else left
    assert torch.equal(tail, torch.cat([before, x], dim=1)[:, length:])
    assert tail.untyped_storage().nbytes() == tail.nbytes


def test_the_dtype_of_x_is_kept():
    x, weight = normal(1, 6, 4).bfloat16(), normal(4, 4).float()
    assert short_conv(x, weight).dtype == torch.bfloat16
    assert dynamic_conv(x, normal(1, 6, 4, 4).float()).dtype == torch.bfloat16


def test_bad_input_is_named():
    x, weight = normal(2, 6, 4), normal(4, 4)
    with pytest.raises(ValueError, match=r"x must be \(B, L, D\)"):
        short_conv(x[0], weight)
    with pytest.raises(ValueError, match=r"the kernel must have shape \(4, 4\) to fit x \(2, 6, 4\), got"):
        short_conv(x, normal(3, 4))
    with pytest.raises(ValueError, match=r"the kernel must have shape \(2, 6, 4, 4\) to fit x"):
        dynamic_conv(x, weight)
    with pytest.raises(ValueError, match=r"bias must have shape \(4,\) to fit x \(2, 6, 4\), got \(1,\)"):
        short_conv(x, weight, normal(1))
    with pytest.raises(ValueError, match=r"left must have shape \(2, 3, 4\) to fit x \(2, 6, 4\), got \(2, 2, 4\)"):
        short_conv(x, weight, left=normal(2, 2, 4))
    with pytest.raises(ValueError, match="activation must be 'silu' or None, got 'gelu'"):
        short_conv(x, weight, activation="gelu")


def test_transforms_of_torch_func_go_through_it():
    """Gradients of a row and Jacobians, against those of backward."""
    x, weight, bias, left = normal(3, 7, 5), normal(5, 4), normal(5), normal(3, 3, 5, seed=1)

    def total(x, weight, bias, left):
        return (short_conv(x[None], weight, bias, left[None]) ** 2).sum()

    rows = torch.func.vmap(torch.func.grad(total, argnums=(0, 1, 2, 3)), in_dims=(0, None, None, 0))
    for number, got in enumerate(zip(*rows(x, weight, bias, left), strict=True)):
        wanted = torch.autograd.grad(total(x[number], weight, bias, left[number]), (x, weight, bias, left))
        for a, b in zip(got, (wanted[0][number], wanted[1], wanted[2], wanted[3][number]), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    tangent = torch.func.jvp(lambda x: total(x, weight, bias, left[0]), (x[0],), (torch.ones_like(x[0]),))[1]
    torch.testing.assert_close(tangent, rows(x, weight, bias, left)[0][0].sum(), rtol=1e-12, atol=1e-12)
