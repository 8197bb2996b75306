"""Triton kernels of a residual sum with its norm. Importing this module imports triton.

A tile holds whole rows. The backward reads the sum that the forward has written, makes 1 / rms anew, and writes the
gradient twice where the residual stream and what is added to it differ in dtype: nobody has to cast it then.
"""

# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportOperatorIssue=false

import triton
import triton.language as tl


@triton.jit
def _tile(block, n, D: tl.constexpr, BD: tl.constexpr, R: tl.constexpr):
    """Where the rows of a block stand, and which elements are there."""
    row, col = block * R + tl.arange(0, R), tl.arange(0, BD)
    return row.to(tl.int64)[:, None] * D + col[None, :], (row < n)[:, None] & (col < D)[None, :]


@triton.jit
def norm_forward(h, y, weight, s, x, n, eps, D: tl.constexpr, BD: tl.constexpr, R: tl.constexpr, HAS_Y: tl.constexpr):
    """s = h + y, written only with y, and x = norm(s), (n, D) each."""
    at, inside = _tile(tl.program_id(0), n, D, BD, R)
    col = tl.arange(0, BD)
    value = tl.load(h + at, mask=inside, other=0.0).to(tl.float32)
    if HAS_Y:
        value += tl.load(y + at, mask=inside, other=0.0).to(tl.float32)
        value = value.to(s.dtype.element_ty)
        tl.store(s + at, value, mask=inside)
        value = value.to(tl.float32)
    gain = tl.load(weight + col, mask=col < D, other=0.0).to(tl.float32)[None, :]
    scale = tl.rsqrt(tl.sum(value * value, 1) / D + eps)[:, None]
    tl.store(x + at, value * scale * gain, mask=inside)


# fmt: off
@triton.jit
def norm_backward(
    s, weight, ds, dx, dh, dy, shares, n, eps,
    D: tl.constexpr, BD: tl.constexpr, R: tl.constexpr, TURNS: tl.constexpr, HAS_DS: tl.constexpr,
    HAS_DY: tl.constexpr,
):
    """dh (n, D), the same once more as dy, and what each program adds to the gradient of weight: shares (programs, D).
    Programs take a block of R rows each in every turn."""
    col = tl.arange(0, BD)
    gain = tl.load(weight + col, mask=col < D, other=0.0).to(tl.float32)[None, :]
    share = tl.zeros((BD,), tl.float32)
    for turn in range(TURNS):
        at, inside = _tile(turn * tl.num_programs(0) + tl.program_id(0), n, D, BD, R)
        unit = tl.load(s + at, mask=inside, other=0.0).to(tl.float32)
        given = tl.load(dx + at, mask=inside, other=0.0).to(tl.float32)
        scale = tl.rsqrt(tl.sum(unit * unit, 1) / D + eps)[:, None]
        unit *= scale
        share += tl.sum(given * unit, 0)
        given *= gain
        value = scale * (given - unit * (tl.sum(given * unit, 1) / D)[:, None])
        if HAS_DS:
            value += tl.load(ds + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(dh + at, value, mask=inside)
        if HAS_DY:
            tl.store(dy + at, value, mask=inside)
    tl.store(shares + tl.program_id(0) * D + col, share, mask=col < D)
