"""Models that are measured, with random weights: speed does not depend on the values."""

from dataclasses import replace

import torch

from lmsleep.model import HybridConfig, HybridLM

# The paper's throughput figure: Ouro 1.4B with six Jet layers without MLP (section 6.5), a window of choice.
OURO = HybridConfig(
    vocab_size=49_152,
    d_model=2048,
    pattern="AAAAj" * 6,
    window_size=1024,
    n_heads=16,
    head_dim=128,
    fast_heads=8,
    fast_key_dim=128,
    fast_value_dim=256,
    mlp_dim=5632,
    rope_theta=1e6,
    sandwich_norm=True,
    norm_between_passes=True,
)
MINI = HybridConfig(vocab_size=256, d_model=64, pattern="AGAG", window_size=24, n_heads=4)
SHAPES = {"mini": MINI, "ouro": OURO}


def full_attention_twin(config: HybridConfig, window_size: int) -> HybridConfig:
    """The same number of blocks and, to less than a percent, of parameters, all of them attention over `window_size`
    tokens: a transformer with a key-value cache."""
    pattern = "".join("A" if letter.isupper() else "a" for letter in config.pattern)
    twin = replace(config, pattern=pattern, window_size=window_size, loop=None)
    n_mlps = sum(letter.isupper() for letter in pattern)
    spare = config.num_params() - twin.num_params()
    return replace(twin, mlp_dim=twin.mlp_hidden + round(spare / (3 * config.d_model * n_mlps)))


def random_model(config: HybridConfig, device: str, seed: int = 0) -> HybridLM:
    """A model in evaluation, bfloat16 on CUDA and float32 elsewhere."""
    torch.manual_seed(seed)
    dtype = torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
    with torch.device(device):
        return HybridLM(replace(config, zero_init=False)).to(dtype).eval()
