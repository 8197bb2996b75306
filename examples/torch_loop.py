"""A training loop of one's own in PyTorch, without Lightning: text in bytes, of which every token is learned.

python examples/torch_loop.py 'src/lmsleep/tasks/*.py' loop
lmsleep chat --model loop --question '{question}' --ask 'def rows(self' --max_new_tokens 80
"""

import sys
from glob import glob
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LambdaLR

from lmsleep import HybridConfig, HybridLM, read_windows
from lmsleep.hub import open_tokenizer, tokenizer_files
from lmsleep.training import OptimizerConfig

L, N, WINDOWS, BATCH = 32, 4, 3, 16
RECIPE = OptimizerConfig(muon_lr=5e-3, adamw_lr=3e-3, warmup_steps=10)


def loss_of(model: HybridLM, rows: Tensor) -> Tensor:
    """The loss, in nats a token, of rows of text (B, T + 1). A target is what must be said *at* its position: the token
    that comes next. By Algorithm 1 no window would sleep, as all have loss: with `after_loss` each sleeps behind it."""
    loss = read_windows(model, rows[:, :-1], rows[:, 1:], n_passes=N, after_loss=True).loss
    assert loss is not None, "there are targets"
    return loss


def train(text: str, steps: int = 200) -> HybridLM:
    """A model trained on places of a text drawn by chance."""
    torch.manual_seed(0)
    tokenizer = open_tokenizer("bytes")
    stream, V = torch.tensor(tokenizer.encode(text, add_special_tokens=False).ids), tokenizer.get_vocab_size()
    model = HybridConfig(vocab_size=V, d_model=48, pattern="AG", window_size=L, n_heads=2).build()
    model.blocks.checkpointing = True  # passes are computed again in the backward: less memory, equal gradients
    optimizer = RECIPE.build(model.blocks, model)  # Muon for matrices of the blocks, AdamW for the rest
    schedule = LambdaLR(optimizer, RECIPE.schedule(steps))
    for step in range(steps):
        starts = torch.randint(len(stream) - WINDOWS * L, (BATCH, 1))
        loss = loss_of(model, stream[starts + torch.arange(WINDOWS * L + 1)])
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(model.parameters(), RECIPE.grad_clip or torch.inf)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step + 1} of {steps}, loss {loss.item():.3f}")
    return model


if __name__ == "__main__":
    pattern, folder = sys.argv[1:]
    model = train("\n".join(Path(name).read_text() for name in sorted(glob(pattern))))
    # What `Session.from_pretrained` and `lmsleep chat` read: N, the eviction, the tokenizer.
    model.save_pretrained(folder, trained={"n_passes": N, "eviction": "hard"}, files=tokenizer_files("bytes"))
