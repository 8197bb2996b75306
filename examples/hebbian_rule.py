"""A fast-weight rule of one's own in one file: Hebbian writing with one learned decay per head.

    S_t = a S_(t-1) + k_t v_t^T,   o_t = S_t^T q_t        with a in (0, 1), one for each head

Once this file is imported, the letter H of a pattern stands for it. Run as a script, it is `lmsleep` with that letter:

    python examples/hebbian_rule.py fit --config configs/experiment/rule110.yaml --model.model.pattern=AH

Its option comes from the configuration: --model.model.rule_options="{H: {decay_logits: [1, 4]}}"
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lmsleep.cli import main
from lmsleep.model import HybridConfig, PassContext, register_mixer


class Hebbian(nn.Module):
    """q, k, v = W x, q and k L2-normalised; S by the rule above; y = W_o o. No convolution, so no `cache`.

    Args:
        config: sizes.
        decay_logits: logits of the decays of the first and of the last head at the start of training.
    """

    def __init__(self, config: HybridConfig, *, decay_logits: tuple[float, float] = (2.0, 6.0)) -> None:
        super().__init__()
        H, K, V = self.state_shape = config.fast_shape
        self.q_proj = nn.Linear(config.d_model, H * K, bias=False)
        self.k_proj = nn.Linear(config.d_model, H * K, bias=False)
        self.v_proj = nn.Linear(config.d_model, H * V, bias=False)
        self.decay_logit = nn.Parameter(torch.linspace(*decay_logits, H))
        self.o_proj = nn.Linear(H * V, config.d_model, bias=False)

    def forward(self, x: Tensor, state: Tensor, cache: None, ctx: PassContext) -> tuple[Tensor, Tensor, None]:
        """x (B, n, D), state (B, H, K, V) -> y (B, n, D), the new state, no cache. All n tokens in one go:

        o_t = a^t S_0^T q_t + sum over s <= t of a^(t-s) (q_t k_s) v_s, with t counting unmasked tokens.
        """
        q, k, v = (
            rearrange(proj(x), "b n (h k) -> b h n k", h=self.state_shape[0])
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        counts = torch.ones(x.shape[:2], device=x.device) if ctx.mask is None else ctx.mask.float()
        k = k * counts[:, None, :, None].to(k.dtype)  # a masked token writes nothing
        t = counts.cumsum(dim=1)[:, None].to(state.dtype)  # (B, 1, n); a masked token does not decay either
        log_a = F.logsigmoid(self.decay_logit).to(state.dtype)[:, None]  # (H, 1)
        apart = (t[..., :, None] - t[..., None, :]).tril()
        scores = ((q @ k.mT) * (log_a[..., None] * apart).exp()).tril()
        kept = (log_a * t).exp()[..., None]  # (B, H, n, 1)
        o = scores @ v + kept * (q @ state)
        last = kept[:, :, -1:]
        state = last * state + ((log_a * (t[..., -1:] - t)).exp()[..., None] * k).mT @ v
        return self.o_proj(rearrange(o, "b h n v -> b n (h v)")), state, None

    def flops_per_token(self, window_size: int) -> int:
        """Write and read: two K x V products a head, and the scores of the window."""
        H, K, V = self.state_shape
        return 4 * H * K * V + 2 * H * (K + V) * window_size


register_mixer("H", "Hebbian", Hebbian)

if __name__ == "__main__":
    main()
