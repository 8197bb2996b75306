"""The Triton kernel that takes gradients of q, k and v in a gated delta layer back to their projections: through unit
length, SiLU and convolution. Importing this module imports triton."""

# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportOperatorIssue=false

import triton
import triton.language as tl

from lmsleep.ops.delta_layer.parts_kernel import sigmoid, unit


# fmt: off
@triton.jit
def _at(x, left, mask, batch, t, col, B, n, N: tl.constexpr, P: tl.constexpr, LEFT: tl.constexpr, W: tl.constexpr,
        HAS_LEFT: tl.constexpr, HAS_MASK: tl.constexpr):
    """The convolution's inputs at position t of several rows of the batch, (R, columns)."""
    inside = (batch < B)[:, None] & (col < N)[None, :]
    at = (batch * n + t)[:, None]
    value = tl.load(x + at * P + col[None, :], mask=inside & (t >= 0), other=0.0).to(tl.float32)
    if HAS_MASK:
        value *= tl.load(mask + batch * n + t, mask=(batch < B) & (t >= 0), other=0).to(tl.float32)[:, None]
    if HAS_LEFT:
        at = (batch * (W - 1) + t + (W - 1))[:, None]
        inside &= (t < 0) & (t >= 1 - W)
        value += tl.load(left + at * LEFT + col[None, :], mask=inside, other=0.0).to(tl.float32)
    return value


@triton.jit
def _tap(taps, w: tl.constexpr, batch, t, col, B, n, N: tl.constexpr, LEFT: tl.constexpr, W: tl.constexpr,
         PER_TOKEN: tl.constexpr):
    """The tap of the input w tokens ago, (R or 1, columns); zero where there is none."""
    if w >= W:
        value = tl.zeros((1, col.shape[0]), tl.float32)
    elif PER_TOKEN:
        at = (batch * n + t)[:, None] * LEFT + col[None, :]
        inside = (batch < B)[:, None] & (col < N)[None, :]
        value = tl.load(taps + at * W + (W - 1 - w), mask=inside, other=0.0).to(tl.float32)
    else:
        value = tl.load(taps + (W - 1 - w) * LEFT + col, mask=col < N, other=0.0).to(tl.float32)[None, :]
    return value


@triton.jit
def _keep_tap(dtaps, w: tl.constexpr, batch, t, col, B, n, N: tl.constexpr, LEFT: tl.constexpr, W: tl.constexpr, value):
    """Stores the gradient of a token's tap."""
    if w < W:
        at = (batch * n + t)[:, None] * LEFT + col[None, :]
        inside = (batch < B)[:, None] & (col < N)[None, :]
        tl.store(dtaps + at * W + (W - 1 - w), value, mask=inside)


@triton.jit
def _tail_at(dtail, batch, i, inside, col, LEFT: tl.constexpr, W: tl.constexpr):
    """The gradient of row i of the tail, zero where there is none."""
    at = (batch * (W - 1) + i)[:, None] * LEFT + col[None, :]
    return tl.load(dtail + at, mask=inside & (i >= 0), other=0.0).to(tl.float32)


@triton.jit
def _of_mixed(d, raw, UNIT: tl.constexpr):
    """The gradient of `raw` from that of silu(raw), or of the unit vector along it."""
    s = sigmoid(raw)
    if UNIT:
        q = raw * s
        scale = unit(q)
        q *= scale
        d = scale * (d - q * tl.sum(d * q, 1)[:, None])
    return d * s * (1 + raw * (1 - s))


@triton.jit
def _mixed_backward(
    x, left, mask, taps, d, dtail, dx, dleft, dtaps, group, B, n: tl.constexpr,
    N: tl.constexpr, P: tl.constexpr, D: tl.constexpr, LEFT: tl.constexpr, W: tl.constexpr, UNIT: tl.constexpr,
    CONVOLVE: tl.constexpr, PER_TOKEN: tl.constexpr, HAS_LEFT: tl.constexpr, HAS_MASK: tl.constexpr,
    HAS_DTAIL: tl.constexpr, R: tl.constexpr, COLS: tl.constexpr,
):
    """One head of q, k or v and R rows of the batch, from the last token to the first."""
    batch, col = group * R + tl.arange(0, R).to(tl.int64), tl.arange(0, COLS)
    inside = (batch < B)[:, None] & (col < N)[None, :]
    x0 = _at(x, left, mask, batch, n - 1, col, B, n, N, P, LEFT, W, HAS_LEFT, HAS_MASK)
    x1 = _at(x, left, mask, batch, n - 2, col, B, n, N, P, LEFT, W, HAS_LEFT, HAS_MASK)
    x2 = _at(x, left, mask, batch, n - 3, col, B, n, N, P, LEFT, W, HAS_LEFT, HAS_MASK)
    zero = tl.zeros((R, COLS), tl.float32)
    to_1, to_2, to_3, sum_0, sum_1, sum_2, sum_3 = zero, zero, zero, zero, zero, zero, zero
    for back in range(n):
        t = n - 1 - back
        given = tl.load(d + (batch * n + t)[:, None] * D + col[None, :], mask=inside, other=0.0).to(tl.float32)
        if CONVOLVE:
            x3 = _at(x, left, mask, batch, t - 3, col, B, n, N, P, LEFT, W, HAS_LEFT, HAS_MASK)
            tap_0 = _tap(taps, 0, batch, t, col, B, n, N, LEFT, W, PER_TOKEN)
            tap_1 = _tap(taps, 1, batch, t, col, B, n, N, LEFT, W, PER_TOKEN)
            tap_2 = _tap(taps, 2, batch, t, col, B, n, N, LEFT, W, PER_TOKEN)
            tap_3 = _tap(taps, 3, batch, t, col, B, n, N, LEFT, W, PER_TOKEN)
            raw = _of_mixed(given, tap_0 * x0 + tap_1 * x1 + tap_2 * x2 + tap_3 * x3, UNIT)
            value = to_1 + tap_0 * raw
            to_1, to_2, to_3 = to_2 + tap_1 * raw, to_3 + tap_2 * raw, tap_3 * raw
            if PER_TOKEN:
                _keep_tap(dtaps, 0, batch, t, col, B, n, N, LEFT, W, raw * x0)
                _keep_tap(dtaps, 1, batch, t, col, B, n, N, LEFT, W, raw * x1)
                _keep_tap(dtaps, 2, batch, t, col, B, n, N, LEFT, W, raw * x2)
                _keep_tap(dtaps, 3, batch, t, col, B, n, N, LEFT, W, raw * x3)
            else:
                sum_0, sum_1, sum_2, sum_3 = sum_0 + raw * x0, sum_1 + raw * x1, sum_2 + raw * x2, sum_3 + raw * x3
            x0, x1, x2 = x1, x2, x3
            if HAS_DTAIL:
                value += _tail_at(dtail, batch, t - n + (W - 1), inside, col, LEFT, W)
            if HAS_MASK:
                value *= tl.load(mask + batch * n + t, mask=batch < B, other=0).to(tl.float32)[:, None]
        else:
            value = _of_mixed(given, _at(x, left, mask, batch, t, col, B, n, N, P, LEFT, W, False, False), UNIT)
        tl.store(dx + (batch * n + t)[:, None] * P + col[None, :], value, mask=inside)
    if CONVOLVE and HAS_LEFT:
        for ago in tl.static_range(1, W):
            value = to_1 if ago == 1 else (to_2 if ago == 2 else to_3)
            if HAS_DTAIL:
                value += _tail_at(dtail, batch, W - 1 - ago - n, inside, col, LEFT, W)
            tl.store(dleft + (batch * (W - 1) + (W - 1 - ago))[:, None] * LEFT + col[None, :], value, mask=inside)
    if CONVOLVE and not PER_TOKEN:
        for w in tl.static_range(0, W):
            value = sum_0 if w == 0 else (sum_1 if w == 1 else (sum_2 if w == 2 else sum_3))
            tl.store(dtaps + (group * W + (W - 1 - w)) * LEFT + col, tl.sum(value, 0), mask=col < N)


@triton.jit
def mixed_backward(
    projected, taps, left, mask, dmixed, dtail, dprojected, dtaps, dleft, B, n: tl.constexpr,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, W: tl.constexpr, P: tl.constexpr,
    PER_TOKEN: tl.constexpr, HAS_LEFT: tl.constexpr, HAS_MASK: tl.constexpr, HAS_DTAIL: tl.constexpr,
    R: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):
    """dprojected's columns of q, k and v and dleft, from dmixed; dtaps of each token, or (groups, W, LEFT): what a
    group of R batch rows adds to that of static taps. A program serves a group and a head of q, k or v, and keeps in
    registers what it still needs of the tokens behind it."""
    group, part, head = tl.program_id(0), tl.program_id(1) // H, tl.program_id(1) % H
    HK: tl.constexpr = H * K
    D: tl.constexpr = 2 * HK + H * V
    LEFT: tl.constexpr = H * V if PER_TOKEN else D
    if part < 2:
        of = part * HK + head * K
        _mixed_backward(
            projected + of, left + of, mask, taps + of, dmixed + of, dtail + of, dprojected + of, dleft + of,
            dtaps + of, group, B, n, K, P, D, LEFT, W, True, not PER_TOKEN, False, HAS_LEFT, HAS_MASK, HAS_DTAIL, R, BK)
    else:
        of = 2 * HK + head * V
        of_left = head * V if PER_TOKEN else of
        of_taps = head * V * W if PER_TOKEN else of
        _mixed_backward(
            projected + of, left + of_left, mask, taps + of_taps, dmixed + of, dtail + of_left, dprojected + of,
            dleft + of_left, dtaps + of_taps, group, B, n, V, P, D, LEFT, W, False, True, PER_TOKEN, HAS_LEFT, HAS_MASK,
            HAS_DTAIL, R, BV)
