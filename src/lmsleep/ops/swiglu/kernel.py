"""Triton kernels of the activation of a gated feed-forward layer. Importing this module imports triton."""

# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportOperatorIssue=false

import triton
import triton.language as tl


@triton.jit
def _tile(n, F: tl.constexpr, R: tl.constexpr, COLS: tl.constexpr):
    """A program's rows (R, 1) and columns (1, COLS), and which elements are there."""
    row = (tl.program_id(0) * R + tl.arange(0, R)).to(tl.int64)[:, None]
    col = (tl.program_id(1) * COLS + tl.arange(0, COLS))[None, :]
    return row, col, (row < n) & (col < F)


@triton.jit
def _sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit
def swiglu_forward(gate, up, y, n, gate_row, up_row, F: tl.constexpr, R: tl.constexpr, COLS: tl.constexpr):
    """y (n, F), from rows of gate and up that start so far from each other."""
    row, col, inside = _tile(n, F, R, COLS)
    g = tl.load(gate + row * gate_row + col, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + row * up_row + col, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + row * F + col, g * _sigmoid(g) * u, mask=inside)


@triton.jit
def swiglu_backward(gate, up, dy, grads, n, gate_row, up_row, F: tl.constexpr, R: tl.constexpr, COLS: tl.constexpr):
    """grads (n, 2 F): that of gate, and that of up beside it."""
    row, col, inside = _tile(n, F, R, COLS)
    g = tl.load(gate + row * gate_row + col, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + row * up_row + col, mask=inside, other=0.0).to(tl.float32)
    d = tl.load(dy + row * F + col, mask=inside, other=0.0).to(tl.float32)
    s = _sigmoid(g)
    tl.store(grads + row * (2 * F) + col, d * u * s * (1 + g * (1 - s)), mask=inside)
    tl.store(grads + row * (2 * F) + F + col, d * g * s, mask=inside)
