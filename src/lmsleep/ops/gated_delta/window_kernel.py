"""Triton kernels of the gated delta rule over one window. Importing this module imports triton.

The equations are those of `closed_form._window`, on chunks of C tokens with the state in registers in between: a whole
window is one launch forward and one backward. One program serves one (b, h) and BV columns of the state.

Names: G cumulative log decay, e = exp(G), c = exp(G_C - G), D_ts = exp(G_t - G_s), T = (I + A)^-1, W the writes. Every
product sums in float32; tokens beyond the window load as zeros and change nothing. SINGLE says that one chunk holds the
window: without a loop the compiler needs far fewer registers.
"""

# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportOperatorIssue=false

import triton
import triton.language as tl


@triton.jit
def _rows(x, stride, row, col, n_rows, n_cols):
    """Rows and columns of a matrix as float32, zero outside of it."""
    mask = (row[:, None] < n_rows) & (col[None, :] < n_cols)
    return tl.load(x + row[:, None] * stride + col[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _keep(x, stride, row, col, n_rows, n_cols, value):
    """Stores what lies inside the matrix."""
    mask = (row[:, None] < n_rows) & (col[None, :] < n_cols)
    tl.store(x + row[:, None] * stride + col[None, :], value, mask=mask)


@triton.jit
def _operand(x, PRECISION: tl.constexpr):
    """x as products take it. Cast once: a tile in bfloat16 holds half the registers."""
    return x.to(tl.bfloat16) if PRECISION == "bf16" else x


@triton.jit
def _dot(a, b, PRECISION: tl.constexpr):
    """a @ b in float32 on tensor cores: of bfloat16 operands, or by "tf32" or "tf32x3" (float32's accuracy)."""
    return tl.dot(a, b) if PRECISION == "bf16" else tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def _inverse(A, C: tl.constexpr, LEVELS: tl.constexpr, PRECISION: tl.constexpr):
    """(I + A)^-1 for strictly lower A (C, C), C = 2^LEVELS.

    Diagonal blocks of doubling size: [[P, 0], [R, Q]]^-1 = [[P', 0], [-Q' R P', Q']]. All intermediate results are
    parts of the inverse itself, so nothing grows and cancels as in the series of powers of A when keys repeat.
    """
    # Errors of the inverse reach everything, and its products are small: it never runs in bfloat16.
    FINE: tl.constexpr = "tf32" if PRECISION == "bf16" else PRECISION
    row, col = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    X = tl.where(row == col, 1.0, 0.0) - tl.where(row >> 1 == col >> 1, A, 0.0)
    for level in tl.static_range(1, LEVELS):
        R = tl.where((row >> (level + 1) == col >> (level + 1)) & (row >> level != col >> level), A, 0.0)
        X -= _dot(_dot(X, R, FINE), X, FINE)
    return X


@triton.jit
def _decays(g, stride, row, L, C: tl.constexpr):
    """G (C,), its last value, and D (C, C), zero above the diagonal."""
    log_decay = tl.load(g + row * stride, mask=row < L, other=0.0).to(tl.float32)
    G = tl.cumsum(log_decay, 0)
    t, s = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    # The mask comes before exp: above the diagonal the difference is positive and may overflow.
    D = tl.exp(tl.where(t >= s, G[:, None] - G[None, :], float("-inf")))
    return G, tl.sum(log_decay, 0), D


# fmt: off
@triton.jit
def window_forward(
    q, k, v, g, b, s0, o, s1, starts, inverses, scale, H, L, K, V,
    q_b, q_h, q_l, k_b, k_h, k_l, v_b, v_h, v_l, g_b, g_h, g_l, b_b, b_h, b_l,
    C: tl.constexpr, LEVELS: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
    SINGLE: tl.constexpr,
):
    """o (B, L, H, V), s1 (B, H, K, V); for the backward also T and the states where chunks but the first start."""
    i, j = tl.program_id(0).to(tl.int64), tl.program_id(1)
    batch, head, chunks = i // H, i % H, 1 if SINGLE else tl.cdiv(L, C)
    q, k, v = q + batch * q_b + head * q_h, k + batch * k_b + head * k_h, v + batch * v_b + head * v_h
    g, b, o = g + batch * g_b + head * g_h, b + batch * b_b + head * b_h, o + batch * L * H * V + head * V
    cols_k, cols_v, within = tl.arange(0, BK), j * BV + tl.arange(0, BV), tl.arange(0, C)
    S = _rows(s0 + i * K * V, V, cols_k, cols_v, K, V)
    for n in range(chunks):
        row = n * C + within
        if n > 0:
            _keep(starts + (i * (chunks - 1) + n - 1) * K * V, V, cols_k, cols_v, K, V, S)
        keys = _operand(_rows(k, k_l, row, cols_k, L, K), PRECISION)
        queries = _operand(_rows(q, q_l, row, cols_k, L, K), PRECISION)
        beta = tl.load(b + row * b_l, mask=row < L, other=0.0).to(tl.float32)[:, None]
        G, total, D = _decays(g, g_l, row, L, C)
        e, c = tl.exp(G)[:, None], tl.exp(total - G)[:, None]
        A = beta * D * _dot(keys, tl.trans(keys), PRECISION)
        T = _inverse(tl.where(within[:, None] > within[None, :], A, 0.0), C, LEVELS, PRECISION)
        if j == 0:
            _keep(inverses + (i * chunks + n) * C * C, C, within, within, C, C, T)
        before = _operand(S, PRECISION)
        U = _rows(v, v_l, row, cols_v, L, V) - e * _dot(keys, before, PRECISION)
        W = _operand(_dot(_operand(T, PRECISION), _operand(beta * U, PRECISION), PRECISION), PRECISION)
        P = _operand(D * _dot(queries, tl.trans(keys), PRECISION), PRECISION)
        out = e * _dot(queries, before, PRECISION) + _dot(P, W, PRECISION)
        _keep(o, H * V, row, cols_v, L, V, scale * out)
        S = tl.exp(total) * S + _dot(tl.trans(_operand(c * keys, PRECISION)), W, PRECISION)
    _keep(s1 + i * K * V, V, cols_k, cols_v, K, V, S)


@triton.jit
def _chunk_gradients(
    queries, keys, values, beta, T, G, total, D, S, dO, dS, C: tl.constexpr, PRECISION: tl.constexpr
):
    """From the gradients of a chunk's output and of the state after it: dq, dk, dv, dg, dbeta, and that of the state S
    before it. G counts from the start of the chunk, whose decays add up to total."""
    within = tl.arange(0, C)
    causal, strict = within[:, None] >= within[None, :], within[:, None] > within[None, :]
    e, c, decay = tl.exp(G)[:, None], tl.exp(total - G)[:, None], tl.exp(total)
    dtotal = decay * tl.sum(tl.sum(dS * S, 1), 0)
    S, after = _operand(S, PRECISION), _operand(dS, PRECISION)
    U = values - e * _dot(keys, S, PRECISION)
    W = _operand(_dot(T, _operand(beta * U, PRECISION), PRECISION), PRECISION)
    P = D * _dot(queries, tl.trans(keys), PRECISION)
    dW = _dot(tl.trans(_operand(P, PRECISION)), dO, PRECISION) + c * _dot(keys, after, PRECISION)
    Z = _dot(tl.trans(T), _operand(dW, PRECISION), PRECISION)  # gradient of beta U
    dv = beta * Z
    dP = tl.where(causal, _dot(dO, tl.trans(W), PRECISION), 0.0)
    dA = tl.where(strict, -_dot(_operand(Z, PRECISION), tl.trans(W), PRECISION), 0.0)
    of_D = dA * D * _dot(keys, tl.trans(keys), PRECISION)
    X = beta * of_D + dP * P
    dbeta = tl.sum(Z * U, 1) + tl.sum(of_D, 1)
    dG = tl.sum(X, 1) - tl.sum(X, 0)
    dQK, dKK = _operand(dP * D, PRECISION), dA * D * beta

    part = e * _dot(dO, tl.trans(S), PRECISION)
    dG += tl.sum(part * queries, 1)
    dq = part + _dot(dQK, keys, PRECISION)
    Z = _operand(-e * beta * Z, PRECISION)
    part = _dot(Z, tl.trans(S), PRECISION)
    dG += tl.sum(part * keys, 1)
    dk = part + _dot(_operand(dKK + tl.trans(dKK), PRECISION), keys, PRECISION)
    dk += _dot(tl.trans(dQK), queries, PRECISION)
    part = c * _dot(W, tl.trans(after), PRECISION)
    of_kept = tl.sum(part * keys, 1)
    dg = tl.cumsum(dG - of_kept, 0, reverse=True) + dtotal + tl.sum(of_kept, 0)
    dS = decay * dS + _dot(tl.trans(_operand(e * queries, PRECISION)), dO, PRECISION)
    dS += _dot(tl.trans(keys), Z, PRECISION)
    return dq, dk + part, dv, dg, dbeta, dS


@triton.jit
def window_backward(
    q, k, v, g, b, s0, starts, inverses, do, ds1, dq, dk, dv, dg, db, ds0, scale, B, H, L, K, V,
    q_b, q_h, q_l, k_b, k_h, k_l, v_b, v_h, v_l, g_b, g_h, g_l, b_b, b_h, b_l, o_b, o_h, o_l,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
    SINGLE: tl.constexpr,
):
    """Gradients: dq, dk (n, B, L, H, K) and dg, db (n, B, L, H), one share for each of the n column blocks of the
    state; dv (B, L, H, V); ds0 (B, H, K, V)."""
    i, j = tl.program_id(0).to(tl.int64), tl.program_id(1)
    batch, head, chunks = i // H, i % H, 1 if SINGLE else tl.cdiv(L, C)
    q, k, v = q + batch * q_b + head * q_h, k + batch * k_b + head * k_h, v + batch * v_b + head * v_h
    g, b, do = g + batch * g_b + head * g_h, b + batch * b_b + head * b_h, do + batch * o_b + head * o_h
    share = (j * B + batch) * L * H + head
    dq, dk, dg, db, dv = dq + share * K, dk + share * K, dg + share, db + share, dv + batch * L * H * V + head * V
    cols_k, cols_v, within = tl.arange(0, BK), j * BV + tl.arange(0, BV), tl.arange(0, C)
    dS = _rows(ds1 + i * K * V, V, cols_k, cols_v, K, V)
    for back in range(chunks):
        n = chunks - 1 - back
        row = n * C + within
        start = s0 + i * K * V
        if n > 0:
            start = starts + (i * (chunks - 1) + n - 1) * K * V
        S = _rows(start, V, cols_k, cols_v, K, V)
        G, total, D = _decays(g, g_l, row, L, C)
        keys = _operand(_rows(k, k_l, row, cols_k, L, K), PRECISION)
        queries = _operand(_rows(q, q_l, row, cols_k, L, K), PRECISION)
        beta = tl.load(b + row * b_l, mask=row < L, other=0.0).to(tl.float32)[:, None]
        T = _operand(_rows(inverses + (i * chunks + n) * C * C, C, within, within, C, C), PRECISION)
        values = _rows(v, v_l, row, cols_v, L, V)
        dO = _operand(scale * _rows(do, o_l, row, cols_v, L, V), PRECISION)
        dqs, dks, dvs, dgs, dbs, dS = _chunk_gradients(
            queries, keys, values, beta, T, G, total, D, S, dO, dS, C, PRECISION
        )
        _keep(dq, H * K, row, cols_k, L, K, dqs)
        _keep(dk, H * K, row, cols_k, L, K, dks)
        _keep(dv, H * V, row, cols_v, L, V, dvs)
        tl.store(dg + row * H, dgs, mask=row < L)
        tl.store(db + row * H, dbs, mask=row < L)
    _keep(ds0 + i * K * V, V, cols_k, cols_v, K, V, dS)
