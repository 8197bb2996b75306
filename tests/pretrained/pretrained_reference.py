"""The two models written out from their published definitions, one row, one token at a time, in float64, on the tensors
of a checkpoint. Nothing of lmsleep is used.

A fast-weight layer's state is (H, K, V); `S` maps a layer to it.
"""

import math

import torch
import torch.nn.functional as F


def rms_norm(x, weight, eps):
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def rotary(x, theta):
    """x (T, H, K): pairs (i, i + K/2) turned by t * theta^(-2i/K)."""
    T, _, K = x.shape
    half = K // 2
    out = x.clone()
    for t in range(T):
        for i in range(half):
            angle = t * theta ** (-2 * i / K)
            a, b = x[t, :, i], x[t, :, i + half]
            out[t, :, i] = a * math.cos(angle) - b * math.sin(angle)
            out[t, :, i + half] = b * math.cos(angle) + a * math.sin(angle)
    return out


def linear(w, name, x):
    y = x @ w[f"{name}.weight"].T
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def attention(w, prefix, x, heads, kv_heads, theta, reach=None):
    T = len(x)
    q, k, v = (linear(w, f"{prefix}.{n}_proj", x) for n in "qkv")
    q, k, v = q.view(T, heads, -1), k.view(T, kv_heads, -1), v.view(T, kv_heads, -1)
    q, k = rotary(q, theta), rotary(k, theta)
    y = torch.zeros_like(q)
    for t in range(T):
        first = 0 if reach is None else max(0, t - reach + 1)
        for h in range(heads):
            g = h // (heads // kv_heads)
            scores = k[first : t + 1, g] @ q[t, h] / math.sqrt(q.shape[-1])
            y[t, h] = scores.softmax(0) @ v[first : t + 1, g]
    return linear(w, f"{prefix}.o_proj", y.flatten(1))


def jet(w, prefix, x, S, eps):
    """The gated delta rule with a kernel per token on v; the convolution starts from zeros."""
    H, K, V = S.shape
    p = {name.removeprefix(f"{prefix}."): value for name, value in w.items() if name.startswith(f"{prefix}.")}
    values, outputs = linear(p, "v_proj", x), []
    for t, u in enumerate(x):
        hidden = F.silu(linear(p, "dynamic_conv1d.kernel_generator.w1", u))
        kernel = linear(p, "dynamic_conv1d.kernel_generator.w2", hidden).view(H * V, -1)
        width = kernel.shape[1]
        mixed = sum(kernel[:, width - 1 - ago] * values[t - ago] for ago in range(min(t, width - 1) + 1))
        v = F.silu(mixed).view(H, V)
        q, k = (F.silu(linear(p, f"{n}_proj", u)).view(H, K) for n in "qk")
        q, k = (z / torch.sqrt(z.square().sum(-1, keepdim=True) + 1e-6) for z in (q, k))
        beta = torch.sigmoid(linear(p, "b_proj", u))
        decay = torch.exp(-p["A_log"].exp() * F.softplus(linear(p, "a_proj", u) + p["dt_bias"]))
        S = S.clone()
        for h in range(H):
            S[h] = decay[h] * S[h]
            S[h] = S[h] + beta[h] * torch.outer(k[h], v[h] - S[h].T @ k[h])
        o = torch.einsum("hkv,hk->hv", S, q) / math.sqrt(K)
        gate = F.silu(linear(p, "g_proj", u)).view(H, V)
        outputs.append(linear(p, "o_proj", (rms_norm(o, p["o_norm.weight"], eps) * gate).flatten()))
    return torch.stack(outputs), S


def mlp(w, prefix, x):
    return linear(
        w, f"{prefix}.down_proj", F.silu(linear(w, f"{prefix}.gate_proj", x)) * linear(w, f"{prefix}.up_proj", x)
    )


def jet_nemotron_layer(w, config, layer, h, S):
    """One layer over a window h (T, D); S is read and the new S returned."""
    prefix, kind = f"model.layers.{layer}", config["layer_types"][layer]
    x = rms_norm(h, w[f"{prefix}.input_layernorm.weight"], config["rms_norm_eps"])
    if kind == "jet":
        eps = float(config["efficient_attention_config"]["jet"]["norm_eps"])
        y, state = jet(w, f"{prefix}.self_attn", x, S[layer], eps)
        S = S | {layer: state}
    else:
        reach = config["efficient_attention_config"]["swa"]["window_size"] if kind == "swa" else None
        heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        y = attention(w, f"{prefix}.self_attn", x, heads, kv_heads, config["rope_theta"], reach)
    h = h + y
    x = rms_norm(h, w[f"{prefix}.post_attention_layernorm.weight"], config["rms_norm_eps"])
    return h + mlp(w, f"{prefix}.mlp", x), S


def ouro_layer(w, config, layer, h):
    prefix, eps = f"model.layers.{layer}", config["rms_norm_eps"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    x = rms_norm(h, w[f"{prefix}.input_layernorm.weight"], eps)
    y = attention(w, f"{prefix}.self_attn", x, heads, kv_heads, config["rope_theta"])
    h = h + rms_norm(y, w[f"{prefix}.input_layernorm_2.weight"], eps)
    x = rms_norm(h, w[f"{prefix}.post_attention_layernorm.weight"], eps)
    return h + rms_norm(mlp(w, f"{prefix}.mlp", x), w[f"{prefix}.post_attention_layernorm_2.weight"], eps)


def jet_nemotron(w, config, windows, n_passes, loop, rewind=True):
    """Algorithm 1 with hard eviction over windows of one row; all but the last sleep. Logits of the last window, S.

    Without `rewind` the coda reads the window twice, after the first pass and after the last."""
    jet_config = config["efficient_attention_config"]["jet"]
    H, K = jet_config["num_heads"], jet_config["head_dim"]
    V = round(K * jet_config["expand_v"])
    S = {i: torch.zeros(H, K, V, dtype=torch.float64) for i, k in enumerate(config["layer_types"]) if k == "jet"}
    depth = len(config["layer_types"])
    for number, tokens in enumerate(windows):
        h = w["model.embed_tokens.weight"][tokens]
        repeats = n_passes if number < len(windows) - 1 else 1
        for layer in [*range(loop[0]), *list(range(*loop)) * repeats]:
            h, S = jet_nemotron_layer(w, config, layer, h, S)
            if not rewind and repeats > 1 and layer == loop[1] - 1 and "wake" not in S:
                wake = h
                for coda in range(loop[1], depth):
                    wake, S = jet_nemotron_layer(w, config, coda, wake, S)
                S = S | {"wake": True}
        for layer in range(loop[1], depth):
            h, S = jet_nemotron_layer(w, config, layer, h, S)
        S.pop("wake", None)
    h = rms_norm(h, w["model.norm.weight"], config["rms_norm_eps"])
    return h @ w["model.embed_tokens.weight"].T, S


def ouro_loops(w, config, tokens, n_loops):
    """Ouro itself: the logits of its n-th loop over one window."""
    h = w["model.embed_tokens.weight"][tokens]
    for _ in range(n_loops):
        for layer in range(config["num_hidden_layers"]):
            h = ouro_layer(w, config, layer, h)
        h = rms_norm(h, w["model.norm.weight"], config["rms_norm_eps"])
    return h @ w["lm_head.weight"].T


def ouro(w, config, windows, n_passes, inserted=None, fast_shape=None):
    """As `jet_nemotron`. `inserted`: layer -> weights of the Jet layer after it and of its norm, `norm.weight`."""
    inserted = inserted or {}
    S = {layer: torch.zeros(fast_shape, dtype=torch.float64) for layer in inserted}
    for number, tokens in enumerate(windows):
        h = w["model.embed_tokens.weight"][tokens]
        for _ in range(n_passes if number < len(windows) - 1 else 1):
            for layer in range(config["num_hidden_layers"]):
                h = ouro_layer(w, config, layer, h)
                if layer in inserted:
                    x = rms_norm(h, inserted[layer]["norm.weight"], config["rms_norm_eps"])
                    y, S[layer] = jet(inserted[layer], "mixer", x, S[layer], 1e-5)
                    h = h + y
            h = rms_norm(h, w["model.norm.weight"], config["rms_norm_eps"])
    return h @ w["lm_head.weight"].T, S
