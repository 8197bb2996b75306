"""The configuration refuses what cannot work, and predicts parameters and operations."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lmsleep import HybridConfig, read_windows
from lmsleep.ops import use_backend


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"pattern": "AXG"}, r"pattern must be made of A \(attention\), .*G \(gated delta\).*, got 'AXG'"),
        ({"pattern": ""}, "pattern must be made of .*, got ''"),
        ({"pattern": "AW"}, "sliding_window must be set for the W blocks of pattern 'AW', got None"),
        ({"window_size": 0}, "window_size must be 1 or more, got 0"),
        ({"vocab_size": 0}, "vocab_size must be 1 or more, got 0"),
        ({"d_model": -4}, "d_model must be 1 or more, got -4"),
        ({"n_heads": 0}, "n_heads must be 1 or more, got 0"),
        ({"conv_size": 0}, "conv_size must be 1 or more, got 0"),
        ({"n_heads": 3}, "n_heads must divide d_model=16 unless head_dim is given, got 3"),
        ({"fast_heads": 3}, "fast_heads must divide d_model=16 unless fast_key_dim is given, got 3"),
        ({"fast_heads": 32}, "fast_heads must divide d_model=16 unless fast_key_dim is given, got 32"),
        ({"head_dim": 5}, "head_dim must be even for rotary positions, got 5"),
        ({"n_kv_heads": 3}, "n_kv_heads must divide n_heads=4, got 3"),
        ({"decay_rates": (2.0, 1.0)}, r"decay_rates must be two rising numbers .*, or None, got \(2.0, 1.0\)"),
        ({"decay_rates": (1.0,)}, r"decay_rates must be two rising numbers .*, or None, got \(1.0,\)"),
        ({"decay_rates": (1.0, 2.0, 3.0)}, r"decay_rates must be two rising .*, got \(1.0, 2.0, 3.0\)"),
        ({"decay_rates": (-1.0, 2.0)}, r"decay_rates must be two rising numbers from 0 up, .*, got \(-1.0, 2.0\)"),
        ({"decay_rates": (0.0, 0.0)}, r"decay_rates must be .*, the second from 1e-9 to 1e9, .*, got \(0.0, 0.0\)"),
        ({"decay_rates": (1e-300, 1e300)}, r"decay_rates must be .*, got \(1e-300, 1e\+300\)"),
        ({"decay_rates": (0.0, 1e-300)}, r"decay_rates must be .*, got \(0.0, 1e-300\)"),
        ({"decay_rates": (float("nan"), 1.0)}, r"decay_rates must be .*, got \(nan, 1.0\)"),
        ({"decay_rates": (0.0, float("inf"))}, r"decay_rates must be two rising numbers .*, got \(0.0, inf\)"),
        ({"fast_key_heads": 3}, "fast_key_heads must divide fast_heads=4, got 3"),
        ({"fast_key_heads": 0}, "fast_key_heads must be 1 or more, got 0"),
        ({"rotary_dim": 3}, "rotary_dim must be even and at most head_dim=4, got 3"),
        ({"rotary_dim": 6}, "rotary_dim must be even and at most head_dim=4, got 6"),
        ({"rope_scaling": (8.0, 1.0, 4.0)}, r"rope_scaling must be \(factor >= 1, .*, or None, got \(8.0, 1.0, 4.0\)"),
        (
            {"rope_scaling": (8.0, 4.0, 4.0, 64.0)},
            r"rope_scaling must be .* low < .*, got \(8.0, 4.0, 4.0, 64.0\)",
        ),
        ({"rope_scaling": (0.5, 1.0, 4.0, 64.0)}, r"rope_scaling must be .*, got \(0.5, 1.0, 4.0, 64.0\)"),
        ({"rope_scaling": (float("inf"), 1.0, 4.0, 64.0)}, r"rope_scaling must be .*, got \(inf, 1.0, 4.0, 64.0\)"),
        *(
            ({name: value}, f"{name} must be more than 0 and finite, got {value}")
            for name in ("rope_theta", "norm_eps", "fast_norm_eps")
            for value in (0, -1, float("nan"), float("inf"))
        ),
        *(
            ({"embedding_std": value}, f"embedding_std must be 0 or more and finite, got {value}")
            for value in (-1, float("nan"), float("inf"))
        ),
        ({"d_model": 16.0}, "d_model must be an integer, got 16.0"),
        ({"d_model": "16"}, "d_model must be an integer, got '16'"),
        ({"n_heads": True}, "n_heads must be an integer, got True"),
        ({"mlp_dim": 2**31}, "mlp_dim must be at most 2147483647, got 2147483648"),
        ({"pattern": "AG" * 2049}, "pattern must have at most 4096 blocks, got 4098"),
        ({"loop": (0,)}, r"loop must be \(first, last \+ 1\) within the 4 blocks, got \(0,\)"),
        ({"loop": (0, 1, 2)}, r"loop must be \(first, last \+ 1\) within the 4 blocks, got \(0, 1, 2\)"),
        ({"loop": (1, 1)}, r"loop must be \(first, last \+ 1\) within the 4 blocks, got \(1, 1\)"),
        ({"loop": (0, 5)}, r"loop must be \(first, last \+ 1\) within the 4 blocks, got \(0, 5\)"),
        (
            {"loop": (0, 2), "norm_between_passes": True},
            r"loop must reach the last block with norm_between_passes, got \(0, 2\)",
        ),
    ],
)
def test_a_value_out_of_range_is_one_sentence(change, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        HybridConfig(**({"d_model": 16, "pattern": "AGAG"} | change))


@pytest.mark.parametrize("missing", ["vocab_size", "window_size"])
def test_a_model_needs_its_sizes(missing):
    sizes = {"vocab_size": 3, "window_size": 4}
    with pytest.raises(ValueError, match=f"^{missing} must be set before the model is built, got None$"):
        HybridConfig(**(sizes | {missing: None})).build()


def test_a_task_sets_the_sizes_and_contradictions_are_named():
    config = HybridConfig(d_model=16).for_task(vocab_size=3, window_size=24)
    assert (config.vocab_size, config.window_size, config.d_model) == (3, 24, 16)
    assert config.for_task(3, 24) == config
    assert config.for_task(2, 24).vocab_size == 3
    with pytest.raises(ValueError, match=r"^window_size of the model must be the task's 12 or left out, got 24$"):
        config.for_task(3, 12)
    assert config.for_task(3, 12, row=24) == config  # full attention: the window holds a whole row
    with pytest.raises(ValueError, match=r"^window_size .* task's 12 \(or 25 and more: a whole row\) or .*, got 24$"):
        config.for_task(3, 12, row=25)
    with pytest.raises(ValueError, match=r"^vocab_size of the model must be .* 4 .*, got 3$"):
        config.for_task(4, 24)


def test_num_params_is_the_sum_of_the_layers():
    """Counted from the definitions: D=48, 4 attention heads that share 2 keys, fast weights 3 x (8, 10), MLP 80."""
    D, V, mlp, conv = 48, 11, 80, 4
    H, K, value = 3, 8, 10
    attention = D * D + 2 * (D * D // 2) + D * D
    gated = 2 * D * H * K + 2 * D * H * value + H * value * D + 2 * D * H  # q, k, v, g, o, and the two gates
    gated += conv * (2 * H * K + H * value) + 2 * H + value  # convolution, A_log and dt_bias, norm
    block = 2 * D + 3 * D * mlp
    config = HybridConfig(
        V, D, "AGg", 6, n_kv_heads=2, fast_heads=H, fast_key_dim=K, fast_value_dim=value, mlp_dim=mlp, conv_size=conv
    )
    total = attention + block + gated + block + gated + D + D + 2 * V * D  # the last D is the final norm
    assert config.num_params() == total
    assert config.num_params() == sum(p.numel() for p in config.build().parameters())
    tied = HybridConfig(**(config.to_dict() | {"tie_embeddings": True}))
    assert tied.num_params() == total - V * D


def counted(config, n_passes, backward=False):
    """Operations per token of reading one full window N times and of its logits, as torch counts them."""
    model = config.build()
    tokens = torch.zeros(1, config.window_size, dtype=torch.long)
    with (
        use_backend(gated_delta="naive"),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        out = read_windows(model, tokens, n_passes=n_passes)
        total = out.logits.sum() + sum(state.sum() for state in out.fast_weights.states)
        if backward:
            total.backward()
    return counter.get_total_flops() / config.window_size


@pytest.mark.parametrize("n_passes", [1, 2, 4])
@pytest.mark.parametrize(
    "options",
    [
        {"pattern": "AGAG"},
        {"pattern": "AJ"},
        {"pattern": "AG", "attention_gate": True, "qk_norm": True, "fast_heads": 4, "fast_key_heads": 2},
        {"pattern": "AGAg", "loop": (1, 3)},
        {"pattern": "GA", "n_heads": 4, "n_kv_heads": 2, "fast_heads": 1, "fast_key_dim": 8, "fast_value_dim": 12},
    ],
)
def test_flops_are_those_that_torch_counts(options, n_passes):
    config = HybridConfig(**({"vocab_size": 11, "d_model": 32, "window_size": 12, "n_heads": 2} | options))
    assert config.flops_per_token(n_passes) == counted(config, n_passes)


def test_training_flops_are_three_times_the_forward():
    config = HybridConfig(vocab_size=11, d_model=32, window_size=12, n_heads=2, pattern="AG")
    assert 3 * config.flops_per_token(1) == pytest.approx(counted(config, 1, backward=True), rel=0.02)


def test_flops_need_a_pass():
    with pytest.raises(ValueError, match=r"^n_passes must be 1 or more"):
        HybridConfig(vocab_size=3, window_size=4).flops_per_token(0)
