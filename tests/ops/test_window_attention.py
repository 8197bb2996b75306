"""Attention inside a window: the definition against transformers' Llama, the twin against it, what a mask means."""

import sys

import pytest
import torch

from lmsleep.model.attention import Rotary
from lmsleep.ops import window_attention
from lmsleep.ops.backend import resolve
from lmsleep.ops.window_attention.naive import window_attention_naive
from lmsleep.ops.window_attention.sdpa import attend


def draw(B, n, H, G, K, *, masked=False):
    """q, k, v and the output's gradient in float64, rotary and mask."""
    g = torch.Generator().manual_seed(n)

    def normal(width):
        return torch.randn(B, n, width, generator=g, dtype=torch.float64, requires_grad=True)

    mask = torch.rand(B, n, generator=g) > 0.4 if masked else None
    rotary = Rotary(K, 10_000.0, table_size=n)(0, n, torch.zeros(0, dtype=torch.float64))
    return [normal(H * K), normal(G * K), normal(G * K)], normal(H * K).detach(), rotary, mask


def results(op, inputs, upstream, *rest):
    o = op(*inputs, *rest)
    return [o, *torch.autograd.grad(o, inputs, upstream)]


@pytest.mark.parametrize("n", [1, 4, 24, 33])
@pytest.mark.parametrize(("H", "G", "K"), [(2, 2, 16), (4, 2, 6), (3, 1, 8)])
@pytest.mark.parametrize("masked", [False, True])
def test_torch_equals_the_definition_in_values_and_gradients(n, H, G, K, masked):
    inputs, upstream, *rest = draw(3, n, H, G, K, masked=masked)
    got, want = (results(op, inputs, upstream, *rest) for op in (window_attention, window_attention_naive))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["naive", "torch"])
def test_equals_llama_of_transformers(backend):
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    config = llama.LlamaConfig(
        hidden_size=24, num_attention_heads=4, num_key_value_heads=2, head_dim=6, attn_implementation="eager"
    )
    theirs = llama.LlamaAttention(config, layer_idx=0).double()
    x = torch.randn(2, 9, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rotary = Rotary(6, 10_000.0, table_size=9)(0, 9, x)
    later = torch.full((9, 9), float("-inf"), dtype=x.dtype).triu(1)[None, None]
    want, _ = theirs(x, tuple(torch.cat([part, part], dim=-1)[None] for part in rotary), later)
    o = window_attention(theirs.q_proj(x), theirs.k_proj(x), theirs.v_proj(x), rotary, backend=backend)
    torch.testing.assert_close(theirs.o_proj(o), want)


@pytest.mark.parametrize("backend", ["naive", "torch"])
def test_a_masked_token_is_seen_by_nobody_but_itself(backend):
    (q, k, v), _, rotary, _ = draw(1, 5, 2, 2, 8)
    mask = torch.tensor([[False, True, False, True, True]])
    before = window_attention(q, k, v, rotary, mask, backend=backend)
    other = torch.where(mask[..., None], k, -k), torch.where(mask[..., None], v, 7.0)
    after = window_attention(q, *other, rotary, mask, backend=backend)
    torch.testing.assert_close(after[mask], before[mask], rtol=0, atol=0)
    torch.testing.assert_close(after[0, 0], torch.full_like(after[0, 0], 7.0))  # it is the first: it sees nothing else
    assert not torch.equal(after[0, 2], before[0, 2])


def test_the_definition_passes_gradcheck():
    inputs, _, *rest = draw(2, 4, 2, 1, 4, masked=True)
    assert torch.autograd.gradcheck(lambda *qkv: window_attention_naive(*qkv, *rest), inputs)


@pytest.mark.parametrize("backend", ["naive", "torch"])
def test_the_dtype_of_q_is_kept(backend):
    inputs, _, rotary, _ = draw(1, 4, 2, 2, 4)
    assert window_attention(*(x.bfloat16() for x in inputs), rotary, backend=backend).dtype == torch.bfloat16


def test_bad_input_is_named():
    (q, k, v), _, rotary, _ = draw(2, 4, 3, 3, 8)
    with pytest.raises(ValueError, match=r"whole heads of K=8 channels.*got 24 and 20 channels"):
        window_attention(q, k[..., :20], v, rotary)
    with pytest.raises(ValueError, match=r"a multiple of those of k, got 24 and 16 channels"):
        window_attention(q, k[..., :16], v[..., :16], rotary)
    with pytest.raises(ValueError, match=r"v must have shape \(2, 4, 24\) to fit q \(2, 4, 24\), got \(2, 3, 24\)"):
        window_attention(q, k, v[:, :3], rotary)
    with pytest.raises(ValueError, match=r"sin must have shape \(4, 4\)"):
        window_attention(q, k, v, (rotary[0], rotary[1][:3]))
    with pytest.raises(ValueError, match=r"mask must have shape \(2, 4\)"):
        window_attention(q, k, v, rotary, torch.ones(2, 5, dtype=torch.bool))


@pytest.mark.parametrize(
    ("n", "K", "dtype", "beyond"),
    [
        (64, 128, torch.bfloat16, False),
        (65, 16, torch.bfloat16, True),
        (4, 130, torch.float16, True),
        (64, 64, torch.float32, False),
        (4, 66, torch.float32, True),
    ],
)
def test_what_is_beyond(monkeypatch, n, K, dtype, beyond):
    asked = []
    twin = resolve("window_attention", torch.device("cpu"), dtype)
    # The module is looked up by name: `lmsleep.ops.window_attention` is the function that the package exports.
    module = sys.modules["lmsleep.ops.window_attention"]
    monkeypatch.setattr(module, "resolve", lambda *_, beyond, **sizes: asked.append(beyond) or twin)
    inputs, _, rotary, _ = draw(1, n, 1, 1, K)
    window_attention(*(x.to(dtype) for x in inputs), rotary)
    assert asked == [beyond]


def test_heads_may_be_counted_by_symbols_to_the_compiler():
    """Those that share keys, and those that do not."""
    torch._dynamo.reset()
    compiled = torch.compile(attend, backend="eager", dynamic=True, fullgraph=True)
    for H, G in ((4, 2), (3, 3)):
        q, k, v = (torch.randn(2, heads, 5, 4) for heads in (H, G, G))
        assert torch.equal(compiled(q, k, v, None), attend(q, k, v, None))
