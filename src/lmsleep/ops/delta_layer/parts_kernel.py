"""What the kernels of a gated delta layer share. Importing this module imports triton.

Columns of `projected` (B, n, P): q (H K), k (H K), v (H V), gate (H V), a (H), b (H). Static taps (W, 2 H K + H V)
belong to q, k and v; with PER_TOKEN only v is convolved, by taps (B, n, H V, W). LEFT counts the columns convolved.
Rows count from the start of the window: row -1 is the last of the left context.
"""

# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportOperatorIssue=false

import triton
import triton.language as tl

from lmsleep.ops.gated_delta.chunk_kernel import INTERPRETED, rows


# fmt: off
@triton.jit
def inputs(
    x, left, mask, row, col, n, N: tl.constexpr, P: tl.constexpr, LEFT: tl.constexpr, W: tl.constexpr,
    HAS_LEFT: tl.constexpr, HAS_MASK: tl.constexpr,
):
    """What a convolution sees at these rows: masked tokens are zeros, rows before the window come from the left."""
    value = rows(x, P, row, col, n, N)
    if HAS_MASK:
        value *= kept(mask, row, n)[:, None]
    if HAS_LEFT:
        value += rows(left, LEFT, row + (W - 1), col, W - 1, N)
    return value


@triton.jit
def kept(mask, row, n):
    """1 for a token that counts, 0 for others, (C,)."""
    return tl.load(mask + row, mask=(row >= 0) & (row < n), other=0).to(tl.float32)


@triton.jit
def _taps(taps, w, row, col, n, N: tl.constexpr, W: tl.constexpr, LEFT: tl.constexpr, PER_TOKEN: tl.constexpr):
    """Tap w of the columns, (1, N) or per token (C, N)."""
    if PER_TOKEN:
        value = rows(taps + w, LEFT * W, row, col * W, n, N * W)
    else:
        value = tl.load(taps + w * LEFT + col, mask=col < N, other=0.0).to(tl.float32)[None, :]
    return value


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)) in four instructions, where tl.sigmoid needs twelve; as accurate for results above 1e-38."""
    if INTERPRETED:
        value = tl.sigmoid(x)
    else:
        value = tl.inline_asm_elementwise(
            """{
            mul.f32 $0, $1, 0fBFB8AA3B;
            ex2.approx.ftz.f32 $0, $0;
            add.f32 $0, $0, 0f3F800000;
            rcp.approx.ftz.f32 $0, $0;
            }""", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    return value


@triton.jit
def silu(x):
    """x / (1 + exp(-x)). Said to be impure, so that the compiler does not make it anew, with all that goes into it, in
    every layout of threads that wants it."""
    if INTERPRETED:
        value = x * tl.sigmoid(x)
    else:
        value = tl.inline_asm_elementwise(
            """{
            .reg .f32 t;
            mul.f32 t, $1, 0fBFB8AA3B;
            ex2.approx.ftz.f32 t, t;
            add.f32 t, t, 0f3F800000;
            rcp.approx.ftz.f32 t, t;
            mul.f32 $0, $1, t;
            }""", "=f,f", [x], dtype=tl.float32, is_pure=False, pack=1)
    return value


@triton.jit
def _softplus(x):
    """log(1 + exp(x)), as accurate for very negative x: the rounding of 1 + u cancels in u / ((1 + u) - 1)."""
    u = tl.exp(-tl.abs(x))
    one = 1 + u
    return tl.maximum(x, 0.0) + tl.where(one == 1, u, tl.log(one) * (u / tl.where(one == 1, 1.0, one - 1)))


@triton.jit
def convolved(
    x, left, mask, taps, row, col, n, N: tl.constexpr, P: tl.constexpr, LEFT: tl.constexpr, W: tl.constexpr,
    CONVOLVE: tl.constexpr, PER_TOKEN: tl.constexpr, HAS_LEFT: tl.constexpr, HAS_MASK: tl.constexpr,
):
    """Columns of the window after the convolution, before its activation."""
    if CONVOLVE:
        value = inputs(x, left, mask, row, col, n, N, P, LEFT, W, HAS_LEFT, HAS_MASK)
        value *= _taps(taps, W - 1, row, col, n, N, W, LEFT, PER_TOKEN)
        for w in tl.static_range(0, W - 1):
            tap = _taps(taps, w, row, col, n, N, W, LEFT, PER_TOKEN)
            value += tap * inputs(x, left, mask, row + (w - W + 1), col, n, N, P, LEFT, W, HAS_LEFT, HAS_MASK)
    else:
        value = rows(x, P, row, col, n, N)
    return value


@triton.jit
def gates(a, b, a_log, dt_bias, mask, row, n, beta_scale, P: tl.constexpr, HAS_MASK: tl.constexpr):
    """log decay, beta (0 where no token counts), the step's logit, the logistic of b, and which tokens count."""
    counts = (row < n).to(tl.float32)
    if HAS_MASK:
        counts = kept(mask, row, n)
    logit = tl.load(a + row * P, mask=row < n, other=0.0).to(tl.float32) + tl.load(dt_bias).to(tl.float32)
    log_decay = -tl.exp(tl.load(a_log).to(tl.float32)) * _softplus(logit) * counts
    strength = sigmoid(tl.load(b + row * P, mask=row < n, other=0.0).to(tl.float32))
    return log_decay, beta_scale * strength * counts, logit, strength, counts


@triton.jit
def unit(x):
    """1 / sqrt(|x|^2 + 1e-6) of each row."""
    return tl.rsqrt(tl.sum(x * x, 1) + 1e-6)[:, None]
