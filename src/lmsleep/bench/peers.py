"""Other people's implementations of our ops, called as their packages call them."""

from torch import Tensor


def gated_delta_transformers(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The torch function of transformers' Qwen3-Next layer, with its own chunk size of 64 tokens.

    Raises:
        ValueError: if transformers is not installed.
    """
    try:
        from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule
    except ImportError as error:
        raise ValueError("the variant 'transformers' needs transformers: pip install transformers") from error
    q, k, v, log_decay, beta = (x.transpose(1, 2) for x in (q, k, v, log_decay, beta))
    o, state_after = torch_chunk_gated_delta_rule(
        q, k, v, log_decay, beta, initial_state=state, output_final_state=True
    )
    assert state_after is not None
    return o.transpose(1, 2), state_after
