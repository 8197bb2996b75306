"""Triton kernels of the gated delta rule over one window. Importing this module imports triton.

The equations are those of `closed_form._window`, on chunks of C tokens with the state in registers in between: a whole
window is one launch forward and one backward. One program serves one (b, h) and BV columns of the state.

Names as in `chunk_kernel`. Tokens beyond the window load as zeros and change nothing. A loop over one chunk is none
to the compiler, which then needs far fewer registers.
"""

# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportOperatorIssue=false

import triton
import triton.language as tl

from lmsleep.ops.gated_delta.chunk_kernel import chunk_inverse, decays, dot, keep, operand, rows


# fmt: off
@triton.jit
def window_forward(
    q, k, v, g, b, s0, o, s1, starts, inverses, scale, H, L, K, V,
    q_b, q_h, q_l, k_b, k_h, k_l, v_b, v_h, v_l, g_b, g_h, g_l, b_b, b_h, b_l,
    C: tl.constexpr, LEVELS: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    """o (B, L, H, V), s1 (B, H, K, V); for the backward also T and the states where chunks but the first start."""
    i, j = tl.program_id(0).to(tl.int64), tl.program_id(1)
    batch, head = i // H, i % H
    q, k, v = q + batch * q_b + head * q_h, k + batch * k_b + head * k_h, v + batch * v_b + head * v_h
    g, b, o = g + batch * g_b + head * g_h, b + batch * b_b + head * b_h, o + batch * L * H * V + head * V
    cols_k, cols_v, within = tl.arange(0, BK), j * BV + tl.arange(0, BV), tl.arange(0, C)
    S = rows(s0 + i * K * V, V, cols_k, cols_v, K, V)
    for n in range(CHUNKS):
        row = n * C + within
        if n > 0:
            keep(starts + (i * (CHUNKS - 1) + n - 1) * K * V, V, cols_k, cols_v, K, V, S)
        keys = operand(rows(k, k_l, row, cols_k, L, K), PRECISION)
        queries = operand(rows(q, q_l, row, cols_k, L, K), PRECISION)
        beta = tl.load(b + row * b_l, mask=row < L, other=0.0).to(tl.float32)[:, None]
        G, total, D = decays(tl.load(g + row * g_l, mask=row < L, other=0.0).to(tl.float32), C)
        e, c = tl.exp(G)[:, None], tl.exp(total - G)[:, None]
        T = chunk_inverse(keys, beta, D, C, LEVELS, PRECISION)
        if j == 0:
            keep(inverses + (i * CHUNKS + n) * C * C, C, within, within, C, C, T)
        before = operand(S, PRECISION)
        U = rows(v, v_l, row, cols_v, L, V) - e * dot(keys, before, PRECISION)
        W = operand(dot(operand(T, PRECISION), operand(beta * U, PRECISION), PRECISION), PRECISION)
        P = operand(D * dot(queries, tl.trans(keys), PRECISION), PRECISION)
        out = e * dot(queries, before, PRECISION) + dot(P, W, PRECISION)
        keep(o, H * V, row, cols_v, L, V, scale * out)
        S = tl.exp(total) * S + dot(tl.trans(operand(c * keys, PRECISION)), W, PRECISION)
    keep(s1 + i * K * V, V, cols_k, cols_v, K, V, S)


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
    S, after = operand(S, PRECISION), operand(dS, PRECISION)
    U = values - e * dot(keys, S, PRECISION)
    W = operand(dot(T, operand(beta * U, PRECISION), PRECISION), PRECISION)
    P = D * dot(queries, tl.trans(keys), PRECISION)
    dW = dot(tl.trans(operand(P, PRECISION)), dO, PRECISION) + c * dot(keys, after, PRECISION)
    Z = dot(tl.trans(T), operand(dW, PRECISION), PRECISION)  # gradient of beta U
    dv = beta * Z
    dP = tl.where(causal, dot(dO, tl.trans(W), PRECISION), 0.0)
    dA = tl.where(strict, -dot(operand(Z, PRECISION), tl.trans(W), PRECISION), 0.0)
    of_D = dA * D * dot(keys, tl.trans(keys), PRECISION)
    X = beta * of_D + dP * P
    dbeta = tl.sum(Z * U, 1) + tl.sum(of_D, 1)
    dG = tl.sum(X, 1) - tl.sum(X, 0)
    dQK, dKK = operand(dP * D, PRECISION), dA * D * beta

    part = e * dot(dO, tl.trans(S), PRECISION)
    dG += tl.sum(part * queries, 1)
    dq = part + dot(dQK, keys, PRECISION)
    Z = operand(-e * beta * Z, PRECISION)
    part = dot(Z, tl.trans(S), PRECISION)
    dG += tl.sum(part * keys, 1)
    dk = part + dot(operand(dKK + tl.trans(dKK), PRECISION), keys, PRECISION)
    dk += dot(tl.trans(dQK), queries, PRECISION)
    part = c * dot(W, tl.trans(after), PRECISION)
    of_kept = tl.sum(part * keys, 1)
    dg = tl.cumsum(dG - of_kept, 0, reverse=True) + dtotal + tl.sum(of_kept, 0)
    dS = decay * dS + dot(tl.trans(operand(e * queries, PRECISION)), dO, PRECISION)
    dS += dot(tl.trans(keys), Z, PRECISION)
    return dq, dk + part, dv, dg, dbeta, dS


@triton.jit
def window_backward(
    q, k, v, g, b, s0, starts, inverses, do, ds1, dq, dk, dv, dg, db, ds0, scale, B, H, L, K, V,
    q_b, q_h, q_l, k_b, k_h, k_l, v_b, v_h, v_l, g_b, g_h, g_l, b_b, b_h, b_l, o_b, o_h, o_l,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    """Gradients: dq, dk (n, B, L, H, K) and dg, db (n, B, L, H), one share for each of the n column blocks of the
    state; dv (B, L, H, V); ds0 (B, H, K, V)."""
    i, j = tl.program_id(0).to(tl.int64), tl.program_id(1)
    batch, head = i // H, i % H
    q, k, v = q + batch * q_b + head * q_h, k + batch * k_b + head * k_h, v + batch * v_b + head * v_h
    g, b, do = g + batch * g_b + head * g_h, b + batch * b_b + head * b_h, do + batch * o_b + head * o_h
    share = (j * B + batch) * L * H + head
    dq, dk, dg, db, dv = dq + share * K, dk + share * K, dg + share, db + share, dv + batch * L * H * V + head * V
    cols_k, cols_v, within = tl.arange(0, BK), j * BV + tl.arange(0, BV), tl.arange(0, C)
    dS = rows(ds1 + i * K * V, V, cols_k, cols_v, K, V)
    for back in range(CHUNKS):
        n = CHUNKS - 1 - back
        row = n * C + within
        start = s0 + i * K * V
        if n > 0:
            start = starts + (i * (CHUNKS - 1) + n - 1) * K * V
        S = rows(start, V, cols_k, cols_v, K, V)
        G, total, D = decays(tl.load(g + row * g_l, mask=row < L, other=0.0).to(tl.float32), C)
        keys = operand(rows(k, k_l, row, cols_k, L, K), PRECISION)
        queries = operand(rows(q, q_l, row, cols_k, L, K), PRECISION)
        beta = tl.load(b + row * b_l, mask=row < L, other=0.0).to(tl.float32)[:, None]
        T = operand(rows(inverses + (i * CHUNKS + n) * C * C, C, within, within, C, C), PRECISION)
        values = rows(v, v_l, row, cols_v, L, V)
        dO = operand(scale * rows(do, o_l, row, cols_v, L, V), PRECISION)
        dqs, dks, dvs, dgs, dbs, dS = _chunk_gradients(
            queries, keys, values, beta, T, G, total, D, S, dO, dS, C, PRECISION
        )
        keep(dq, H * K, row, cols_k, L, K, dqs)
        keep(dk, H * K, row, cols_k, L, K, dks)
        keep(dv, H * V, row, cols_v, L, V, dvs)
        tl.store(dg + row * H, dgs, mask=row < L)
        tl.store(db + row * H, dbs, mask=row < L)
    keep(ds0 + i * K * V, V, cols_k, cols_v, K, V, dS)
