"""Triton kernels of the recurrence in a gated delta layer over one window. Importing this module imports triton.

One program serves one (b, h): it keeps the whole state of a head, walks over chunks of C tokens, and so can close with
the norm over V. The backward makes everything but the inverses T anew. States are read where they are needed and not
kept in registers in between; between chunks they pass through memory, where the backward wants them anyway.
"""

# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportOperatorIssue=false

import triton
import triton.language as tl

from lmsleep.ops.delta_layer.parts_kernel import convolved, gates, inputs, sigmoid, silu, unit
from lmsleep.ops.gated_delta.chunk_kernel import chunk_inverse, decays, dot, keep, operand, rows


# fmt: off
@triton.jit
def _states(first, last, between, i, m, K: tl.constexpr, V: tl.constexpr, CHUNKS: tl.constexpr):
    """Where head i's state before and after chunk m is kept, of (B, H, CHUNKS - 1, K, V) for those in between."""
    before, after = first + i * K * V, last + i * K * V
    if m > 0:
        before = between + (i * (CHUNKS - 1) + m - 1) * K * V
    if m < CHUNKS - 1:
        after = between + (i * (CHUNKS - 1) + m) * K * V
    return before, after


@triton.jit
def layer_forward(
    projected, taps, a_log, dt_bias, weight, s0, left, mask, y, s1, tail, starts, inverses,
    n, beta_scale, eps,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, W: tl.constexpr, P: tl.constexpr,
    PER_TOKEN: tl.constexpr, HAS_LEFT: tl.constexpr, HAS_MASK: tl.constexpr,
    C: tl.constexpr, LEVELS: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, BW: tl.constexpr,
    PRECISION: tl.constexpr, CHUNKS: tl.constexpr,
):
    """y (B, n, H V), s1 (B, H, K, V), tail (B, W - 1, columns convolved): the inputs that the next window's convolution
    sees; for the backward also T and the states where chunks but the first start."""
    i = tl.program_id(0).to(tl.int64)
    batch, head = i // H, i % H
    HK: tl.constexpr = H * K
    HV: tl.constexpr = H * V
    LEFT: tl.constexpr = HV if PER_TOKEN else 2 * HK + HV
    FIRST: tl.constexpr = 2 * HK if PER_TOKEN else 0  # column of `projected` where `left` starts
    cols_k, cols_v, within = tl.arange(0, BK), tl.arange(0, BV), tl.arange(0, C)
    x, mask, y = projected + batch * n * P, mask + batch * n, y + batch * n * HV + head * V
    left, tail = left + batch * (W - 1) * LEFT - FIRST, tail + batch * (W - 1) * LEFT - FIRST
    of_q, of_k, of_v = head * K, HK + head * K, 2 * HK + head * V
    if PER_TOKEN:
        taps += (batch * n * HV + head * V) * W - of_v  # as if its columns were those of `projected`
    gain = tl.load(weight + cols_v, mask=cols_v < V, other=0.0).to(tl.float32)[None, :]
    for m in range(CHUNKS):
        row = m * C + within
        before, after = _states(s0, s1, starts, i, m, K, V, CHUNKS)
        a = x + 2 * HK + 2 * HV + head
        log_decay, beta, _, _, _ = gates(
            a, a + H, a_log + head, dt_bias + head, mask, row, n, beta_scale, P, HAS_MASK)
        beta = beta[:, None]
        G, total, D = decays(log_decay, C)
        e = tl.exp(G)[:, None]
        k = silu(convolved(
            x + of_k, left + of_k, mask, taps + of_k, row, cols_k, n, K, P, LEFT, W, not PER_TOKEN, False,
            HAS_LEFT, HAS_MASK))
        k *= unit(k)
        keys = operand(k, PRECISION)
        T = operand(chunk_inverse(keys, beta, D, C, LEVELS, PRECISION), PRECISION)
        keep(inverses + (i * CHUNKS + m) * C * C, C, within, within, C, C, T)
        values = silu(convolved(
            x + of_v, left + of_v, mask, taps + of_v, row, cols_v, n, V, P, LEFT, W, True, PER_TOKEN,
            HAS_LEFT, HAS_MASK))
        S = operand(rows(before, V, cols_k, cols_v, K, V), PRECISION)
        keys = operand(k, PRECISION)  # again, for as an operand it fills more registers than as float32
        U = operand(beta * (values - e * dot(keys, S, PRECISION)), PRECISION)
        writes = operand(dot(T, U, PRECISION), PRECISION)
        q = silu(convolved(
            x + of_q, left + of_q, mask, taps + of_q, row, cols_k, n, K, P, LEFT, W, not PER_TOKEN, False,
            HAS_LEFT, HAS_MASK))
        queries = operand(q * unit(q), PRECISION)
        scores = operand(D * dot(queries, tl.trans(keys), PRECISION), PRECISION)
        o = K**-0.5 * (e * dot(queries, S, PRECISION) + dot(scores, writes, PRECISION))
        gate = rows(x + 2 * HK + HV + head * V, P, row, cols_v, n, V)
        rms = tl.rsqrt(tl.sum(o * o, 1) / V + eps)[:, None]
        keep(y, HV, row, cols_v, n, V, o * rms * gain * silu(gate))
        S = rows(before, V, cols_k, cols_v, K, V)  # once more, for it would fill the registers all along
        kept = operand(tl.exp(total - G)[:, None] * k, PRECISION)
        S = tl.exp(total) * S + dot(tl.trans(kept), writes, PRECISION)
        keep(after, V, cols_k, cols_v, K, V, S)
        if CHUNKS > 1:
            tl.debug_barrier()  # the next chunk reads it in other threads
    last = tl.arange(0, BW)
    row = n - (W - 1) + last
    if not PER_TOKEN:
        for part in tl.static_range(2):
            of = part * HK + head * K
            seen = inputs(x + of, left + of, mask, row, cols_k, n, K, P, LEFT, W, HAS_LEFT, HAS_MASK)
            keep(tail + of, LEFT, last, cols_k, W - 1, K, seen)
    seen = inputs(x + of_v, left + of_v, mask, row, cols_v, n, V, P, LEFT, W, HAS_LEFT, HAS_MASK)
    keep(tail + of_v, LEFT, last, cols_v, W - 1, V, seen)


@triton.jit
def layer_backward(
    projected, taps, a_log, dt_bias, weight, s0, left, mask, starts, inverses, dy, ds1,
    dprojected, dmixed, ds0, shares,
    n, beta_scale, eps,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, W: tl.constexpr, P: tl.constexpr,
    PER_TOKEN: tl.constexpr, HAS_LEFT: tl.constexpr, HAS_MASK: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr, CHUNKS: tl.constexpr,
):
    """dprojected's columns of gate, a and b; dmixed (B, n, 2 H K + H V), the gradients of q and k at unit length and of
    v; ds0; and `shares` (B, CHUNKS, H, V + 2), what chunks add to the gradients of weight, a_log and dt_bias."""
    i = tl.program_id(0).to(tl.int64)
    batch, head = i // H, i % H
    HK: tl.constexpr = H * K
    HV: tl.constexpr = H * V
    LEFT: tl.constexpr = HV if PER_TOKEN else 2 * HK + HV
    FIRST: tl.constexpr = 2 * HK if PER_TOKEN else 0
    cols_k, cols_v, within = tl.arange(0, BK), tl.arange(0, BV), tl.arange(0, C)
    x, dx, mask = projected + batch * n * P, dprojected + batch * n * P, mask + batch * n
    left, dy = left + batch * (W - 1) * LEFT - FIRST, dy + batch * n * HV + head * V
    dmixed += batch * n * (2 * HK + HV)
    of_q, of_k, of_v, of_gate = head * K, HK + head * K, 2 * HK + head * V, 2 * HK + HV + head * V
    if PER_TOKEN:
        taps += (batch * n * HV + head * V) * W - of_v  # as if its columns were those of `projected`
    gain = tl.load(weight + cols_v, mask=cols_v < V, other=0.0).to(tl.float32)[None, :]
    causal, strict = within[:, None] >= within[None, :], within[:, None] > within[None, :]
    for back in range(CHUNKS):
        m = CHUNKS - 1 - back
        row = m * C + within
        share = shares + ((batch * CHUNKS + m) * H + head) * (V + 2)
        before, _ = _states(s0, s0, starts, i, m, K, V, CHUNKS)
        after = (ds1 if m == CHUNKS - 1 else ds0) + i * K * V
        a = x + 2 * HK + 2 * HV + head
        log_decay, beta, logit, strength, counts = gates(
            a, a + H, a_log + head, dt_bias + head, mask, row, n, beta_scale, P, HAS_MASK)
        beta = beta[:, None]
        G, total, D = decays(log_decay, C)
        e, c = tl.exp(G)[:, None], tl.exp(total - G)[:, None]
        k = silu(convolved(
            x + of_k, left + of_k, mask, taps + of_k, row, cols_k, n, K, P, LEFT, W, not PER_TOKEN, False,
            HAS_LEFT, HAS_MASK))
        k *= unit(k)
        keys = operand(k, PRECISION)
        values = silu(convolved(
            x + of_v, left + of_v, mask, taps + of_v, row, cols_v, n, V, P, LEFT, W, True, PER_TOKEN,
            HAS_LEFT, HAS_MASK))
        S = operand(rows(before, V, cols_k, cols_v, K, V), PRECISION)
        U = values - e * dot(keys, S, PRECISION)
        T = operand(rows(inverses + (i * CHUNKS + m) * C * C, C, within, within, C, C), PRECISION)
        writes = operand(dot(T, operand(beta * U, PRECISION), PRECISION), PRECISION)
        q = silu(convolved(
            x + of_q, left + of_q, mask, taps + of_q, row, cols_k, n, K, P, LEFT, W, not PER_TOKEN, False,
            HAS_LEFT, HAS_MASK))
        q *= unit(q)
        queries = operand(q, PRECISION)
        scores = D * dot(queries, tl.trans(keys), PRECISION)
        o = K**-0.5 * (e * dot(queries, S, PRECISION) + dot(operand(scores, PRECISION), writes, PRECISION))

        rms = tl.rsqrt(tl.sum(o * o, 1) / V + eps)[:, None]
        o *= rms
        gate, dout = rows(x + of_gate, P, row, cols_v, n, V), rows(dy, HV, row, cols_v, n, V)
        opened = sigmoid(gate)
        keep(dx + of_gate, P, row, cols_v, n, V, dout * o * gain * opened * (1 + gate * (1 - opened)))
        dout *= gate * opened
        tl.store(share + cols_v, tl.sum(dout * o, 0), mask=cols_v < V)
        dout *= gain
        dO = operand(K**-0.5 * rms * (dout - o * (tl.sum(dout * o, 1) / V)[:, None]), PRECISION)

        keys, queries = operand(k, PRECISION), operand(q, PRECISION)  # again: operands fill more registers than float32
        dS = operand(rows(after, V, cols_k, cols_v, K, V), PRECISION)
        dW = dot(tl.trans(operand(scores, PRECISION)), dO, PRECISION) + c * dot(keys, dS, PRECISION)
        Z = dot(tl.trans(T), operand(dW, PRECISION), PRECISION)  # gradient of beta U
        keep(dmixed + of_v, 2 * HK + HV, row, cols_v, n, V, beta * Z)
        dscores = operand(tl.where(causal, dot(dO, tl.trans(writes), PRECISION), 0.0) * D, PRECISION)
        dA = tl.where(strict, -dot(operand(Z, PRECISION), tl.trans(writes), PRECISION), 0.0) * D
        dA = operand(beta * dA, PRECISION)  # rounded once: what it adds to dG of t and takes from s must cancel

        # Each D_ts = exp(G_t - G_s) stands beside a q_t or k_t, from where G_t rises, and a k_s, from where G_s falls.
        rising = dot(dA, keys, PRECISION)
        dstrength = tl.sum(beta * Z * U, 1) + tl.sum(keys * rising, 1)  # times beta
        Z = operand(-e * beta * Z, PRECISION)
        S = operand(rows(before, V, cols_k, cols_v, K, V), PRECISION)
        rising += dot(Z, tl.trans(S), PRECISION)
        dq = e * dot(dO, tl.trans(S), PRECISION) + dot(dscores, keys, PRECISION)
        keep(dmixed + of_q, 2 * HK + HV, row, cols_k, n, K, dq)
        falling = c * dot(writes, tl.trans(dS), PRECISION)
        dtotal = tl.sum(tl.sum(falling * keys, 1), 0)
        falling += dot(tl.trans(dA), keys, PRECISION)
        falling += dot(tl.trans(dscores), queries, PRECISION)
        keep(dmixed + of_k, 2 * HK + HV, row, cols_k, n, K, rising + falling)
        dG = tl.sum(queries * dq + keys * (rising - falling), 1)

        dS = tl.exp(total) * rows(after, V, cols_k, cols_v, K, V)
        dtotal += tl.sum(tl.sum(dS * rows(before, V, cols_k, cols_v, K, V), 1), 0)
        dS += dot(tl.trans(operand(e * queries, PRECISION)), dO, PRECISION)
        dS += dot(tl.trans(keys), Z, PRECISION)
        if CHUNKS > 1:
            tl.debug_barrier()  # other threads may still read what is overwritten here
        keep(ds0 + i * K * V, V, cols_k, cols_v, K, V, dS)
        if CHUNKS > 1:
            tl.debug_barrier()

        dg = (tl.cumsum(dG, 0, reverse=True) + dtotal) * counts
        da = -dg * tl.exp(tl.load(a_log + head).to(tl.float32)) * sigmoid(logit)
        tl.store(share + V, tl.sum(dg * log_decay, 0))
        tl.store(share + V + 1, tl.sum(da, 0))
        da_of = dx + 2 * HK + 2 * HV + head
        tl.store(da_of + row * P, da, mask=row < n)
        tl.store(da_of + H + row * P, dstrength * (1 - strength), mask=row < n)
