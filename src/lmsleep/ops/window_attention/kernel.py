"""Triton kernels of attention inside a window. Importing this module imports triton.

A unit is one head of k and v in one row of the batch, with the heads of q that share it. A program holds all tokens of
as many units as fit into a tile of T rows, one unit after the other, and lets every row see those of its own unit: a
softmax needs no second look, and the backward nothing but the inputs. Heads are kept as their two halves of C channels,
which is how rotary positions turn them.
"""

# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportOperatorIssue=false

import triton
import triton.language as tl


@triton.jit
def _dot(a, b):
    """a @ b in float32 on tensor cores; of float32 in three tf32 products, which have its accuracy."""
    return tl.dot(a, b, input_precision="tf32x3")


@triton.jit
def _place(row, n, units, G: tl.constexpr, T: tl.constexpr):
    """For rows of a tile: row of the batch, group, token, and whether they are there at all."""
    unit = tl.program_id(0) * (T // n) + row // n
    there = (row < T // n * n) & (unit < units)
    return (unit // G).to(tl.int64), unit % G, row % n, there


@triton.jit
def _angles(cos, sin, token, col, HALF: tl.constexpr):
    """cos and sin (rows, C) of tokens."""
    at, mask = token[:, None] * HALF + col[None, :], (col < HALF)[None, :]
    c, s = tl.load(cos + at, mask=mask, other=0.0), tl.load(sin + at, mask=mask, other=0.0)
    return c.to(tl.float32), s.to(tl.float32)


@triton.jit
def _rows(x, start, there, col, width: tl.constexpr):
    """Rows that start at these places, zeros where there is nothing."""
    return tl.load(x + start[:, None] + col[None, :], mask=there[:, None] & (col < width)[None, :], other=0.0)


@triton.jit
def _keep(x, start, there, col, width: tl.constexpr, value):
    """Stores what is inside."""
    tl.store(x + start[:, None] + col[None, :], value, mask=there[:, None] & (col < width)[None, :])


@triton.jit
def _turned(x, start, there, col, HALF: tl.constexpr, c, s):
    """Both halves of rotated rows, in x's dtype again: tiles in half precision hold half the registers."""
    a = _rows(x, start, there, col, HALF).to(tl.float32)
    b = _rows(x, start + HALF, there, col, HALF).to(tl.float32)
    return (a * c - b * s).to(x.dtype.element_ty), (b * c + a * s).to(x.dtype.element_ty)


@triton.jit
def _keep_turned_back(x, start, there, col, HALF: tl.constexpr, c, s, a, b):
    """Stores the gradient of rows, given that of both halves of the rotated ones."""
    _keep(x, start, there, col, HALF, a * c + b * s)
    _keep(x, start + HALF, there, col, HALF, b * c - a * s)


@triton.jit
def _weights(scores, row, n, scale, seen):
    """Softmax of scores (T, T) over what a row sees: itself, and those before it in its unit that anybody sees."""
    t, s = row[:, None], row[None, :]
    visible = (t // n == s // n) & (s <= t) & seen[None, :] | (t == s)
    # exp2 is what the hardware has: the scale takes log2(e) in.
    scores = tl.where(visible, scores * (scale * 1.4426950408889634), float("-inf"))
    weights = tl.exp2(scores - tl.max(scores, 1)[:, None])
    return weights * (1 / tl.sum(weights, 1))[:, None]


# fmt: off
@triton.jit
def attend_forward(
    q, k, v, cos, sin, mask, o, scale, units, n, q_b, q_l, k_b, k_l, v_b, v_l,
    G: tl.constexpr, R: tl.constexpr, HALF: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, T: tl.constexpr,
    MASKED: tl.constexpr,
):
    """o (B, n, H K)."""
    K: tl.constexpr = 2 * HALF
    row, col, col_v = tl.arange(0, T), tl.arange(0, C), tl.arange(0, BK)
    batch, group, token, there = _place(row, n, units, G, T)
    c, s = _angles(cos, sin, token, col, HALF)
    k1, k2 = _turned(k, batch * k_b + token * k_l + group * K, there, col, HALF, c, s)
    values = _rows(v, batch * v_b + token * v_l + group * K, there, col_v, K)
    seen = there
    if MASKED:
        seen = tl.load(mask + batch * n + token, mask=there, other=0) != 0
    for r in range(R):
        head = (group * R + r) * K
        q1, q2 = _turned(q, batch * q_b + token * q_l + head, there, col, HALF, c, s)
        weights = _weights(_dot(q1, tl.trans(k1)) + _dot(q2, tl.trans(k2)), row, n, scale, seen)
        out = _dot(weights.to(values.dtype), values)
        _keep(o, (batch * n + token) * (G * R * K) + head, there, col_v, K, out)


@triton.jit
def attend_backward(
    q, k, v, cos, sin, mask, do, grads, scale, units, n, q_b, q_l, k_b, k_l, v_b, v_l, o_b, o_l,
    G: tl.constexpr, R: tl.constexpr, HALF: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, T: tl.constexpr,
    MASKED: tl.constexpr,
):
    """grads (B, n, (H + 2 G) K): those of q, of k and of v, one after the other."""
    K: tl.constexpr = 2 * HALF
    row, col, col_v = tl.arange(0, T), tl.arange(0, C), tl.arange(0, BK)
    batch, group, token, there = _place(row, n, units, G, T)
    c, s = _angles(cos, sin, token, col, HALF)
    k1, k2 = _turned(k, batch * k_b + token * k_l + group * K, there, col, HALF, c, s)
    values = _rows(v, batch * v_b + token * v_l + group * K, there, col_v, K)
    seen = there
    if MASKED:
        seen = tl.load(mask + batch * n + token, mask=there, other=0) != 0
    start = (batch * n + token) * ((R + 2) * G * K)
    dk1, dk2, dv = tl.zeros((T, C), tl.float32), tl.zeros((T, C), tl.float32), tl.zeros((T, BK), tl.float32)
    for r in range(R):
        head = (group * R + r) * K
        q1, q2 = _turned(q, batch * q_b + token * q_l + head, there, col, HALF, c, s)
        dO = _rows(do, batch * o_b + token * o_l + head, there, col_v, K)
        weights = _weights(_dot(q1, tl.trans(k1)) + _dot(q2, tl.trans(k2)), row, n, scale, seen)
        dv += _dot(tl.trans(weights.to(dO.dtype)), dO)
        dweights = _dot(dO, tl.trans(values))
        dscores = (scale * weights * (dweights - tl.sum(weights * dweights, 1)[:, None])).to(dO.dtype)
        _keep_turned_back(grads, start + head, there, col, HALF, c, s, _dot(dscores, k1), _dot(dscores, k2))
        dk1 += _dot(tl.trans(dscores), q1)
        dk2 += _dot(tl.trans(dscores), q2)
    _keep_turned_back(grads, start + (R * G + group) * K, there, col, HALF, c, s, dk1, dk2)
    _keep(grads, start + ((R + 1) * G + group) * K, there, col_v, K, dv)
