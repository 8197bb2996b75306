"""What the kernels of the gated delta rule share: tiles, products, and a chunk's system. Importing it imports triton.

The equations are those of `closed_form._window`. Names: G cumulative log decay, e = exp(G), c = exp(G_C - G),
D_ts = exp(G_t - G_s), T = (I + A)^-1, W the writes. Every product sums in float32. A token with beta = 0 and
log_decay = 0 changes nothing; tokens beyond the window are such tokens.
"""

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def rows(x, stride, row, col, n_rows, n_cols):
    """Rows and columns of a matrix as float32, zero outside of it."""
    mask = ((row >= 0) & (row < n_rows))[:, None] & (col[None, :] < n_cols)
    return tl.load(x + row[:, None] * stride + col[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def keep(x, stride, row, col, n_rows, n_cols, value):
    """Stores what lies inside the matrix."""
    mask = ((row >= 0) & (row < n_rows))[:, None] & (col[None, :] < n_cols)
    tl.store(x + row[:, None] * stride + col[None, :], value, mask=mask)


@triton.jit
def operand(x, PRECISION: tl.constexpr):
    """x as products take it."""
    if PRECISION == "bf16" and INTERPRETED:
        # The interpreter cannot multiply in bfloat16, and casts to it without rounding.
        bits = x.to(tl.int32, bitcast=True)
        value = ((bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000).to(tl.float32, bitcast=True)
    elif PRECISION == "bf16":
        # Not .to(tl.bfloat16): the compiler would move float32 between threads and cast late, in twice the space.
        value = tl.inline_asm_elementwise(
            "cvt.rn.bf16x2.f32 $0, $2, $1;", "=r,r,r", [x], dtype=tl.bfloat16, is_pure=False, pack=2
        )
    elif PRECISION == "tf32":
        # Products cut the last 13 bits off. Rounded before, an operand is the same inside and outside of a product, and
        # sums whose parts cancel still do.
        value = ((x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
    else:
        value = x
    return value


@triton.jit
def dot(a, b, PRECISION: tl.constexpr):
    """a @ b in float32 on tensor cores: of bfloat16 operands, or by "tf32" or "tf32x3" (float32's accuracy)."""
    if PRECISION == "tf32" and INTERPRETED:  # what the card does: it leaves out the last 13 bits
        a = (a.to(tl.int32, bitcast=True) & -0x2000).to(tl.float32, bitcast=True)
        b = (b.to(tl.int32, bitcast=True) & -0x2000).to(tl.float32, bitcast=True)
    return tl.dot(a, b) if PRECISION == "bf16" else tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def inverse(A, C: tl.constexpr, LEVELS: tl.constexpr, PRECISION: tl.constexpr):
    """(I + A)^-1 for strictly lower A (C, C), C = 2^LEVELS.

    Diagonal blocks of doubling size: [[P, 0], [R, Q]]^-1 = [[P', 0], [-Q' R P', Q']]. All intermediate results are
    parts of the inverse itself, so nothing grows and cancels as in the series of powers of A when keys repeat.
    """
    row, col = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    X = tl.where(row == col, 1.0, 0.0) - tl.where(row >> 1 == col >> 1, A, 0.0)
    for level in tl.static_range(1, LEVELS):
        R = tl.where((row >> (level + 1) == col >> (level + 1)) & (row >> level != col >> level), A, 0.0)
        X -= _fine(_fine(X, R, PRECISION), X, PRECISION)
    return X


@triton.jit
def _fine(a, b, PRECISION: tl.constexpr):
    """A product within the inverse. Its errors reach everything, so it never runs in bfloat16; no entry of the inverse
    is larger than beta, and float16 has the digits of tf32 at half the size."""
    return tl.dot(a.to(tl.float16), b.to(tl.float16)) if PRECISION == "bf16" else dot(a, b, PRECISION)


@triton.jit
def decays(log_decay, C: tl.constexpr):
    """G (C,), its last value, and D (C, C), zero above the diagonal."""
    G = tl.cumsum(log_decay, 0)
    t, s = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    # The mask comes before exp: above the diagonal the difference is positive and may overflow.
    D = tl.exp(tl.where(t >= s, G[:, None] - G[None, :], float("-inf")))
    return G, tl.sum(log_decay, 0), D


@triton.jit
def chunk_inverse(keys, beta, D, C: tl.constexpr, LEVELS: tl.constexpr, PRECISION: tl.constexpr):
    """T of a chunk: what turns beta (V - e K S) into the writes."""
    within = tl.arange(0, C)
    A = beta * D * dot(keys, tl.trans(keys), PRECISION)
    return inverse(tl.where(within[:, None] > within[None, :], A, 0.0), C, LEVELS, PRECISION)
