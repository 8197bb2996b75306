"""Agreement between ranks: which windows sleep, when to stop, and which error to raise."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from lmsleep.memory import IGNORE
from lmsleep.sleep import Windows
from lmsleep.training.lightning_internals import handle_sigterm, stop_at_sigterm


def gather_loss_windows(targets: Tensor, size: int) -> tuple[bool, ...]:
    """Which windows carry loss in a row of any rank, from each rank's targets (B, T). Ranks of a sharded model gather
    weights together, and so must make the same passes over the same windows."""
    carry_loss = torch.tensor(Windows.of(targets, size).carry_loss, dtype=torch.uint8, device=targets.device)
    torch.distributed.all_reduce(carry_loss, torch.distributed.ReduceOp.MAX)
    return tuple(carry_loss.bool().tolist())


def loss_weight(targets: Tensor, trainer: L.Trainer) -> Tensor:
    """The weight of this rank's loss, with which the mean gradient over ranks is that of the mean loss over all targets
    of the batch."""
    count = (targets != IGNORE).sum().float()
    total = count.clone()
    torch.distributed.all_reduce(total)  # the strategy's own `reduce` would wait for the device
    return count * trainer.world_size / total


def stop_together(trainer: L.Trainer) -> None:
    """Makes all ranks stop training after the same batch, with a checkpoint, when one of them gets SIGTERM; see
    `handle_sigterm`. Outside of training a rank stops alone."""
    heard: list[int] = []
    said: Callable[[], bool] | None = None

    def hear(signum: int, _: Any) -> None:
        heard.append(signum)
        stop_at_sigterm(trainer, trainer.state.fn != "fit")

    def agree() -> None:
        # The result of the batch before, which has arrived by now, so that the host need not wait.
        nonlocal said
        before, said = said, _any_rank(len(heard), trainer.strategy.root_device)
        if before is not None and before():
            raise SIGTERMException

    handle_sigterm(trainer, hear, agree)


def any_rank(flags: Tensor) -> Tensor:
    """Which flags (n,) are set on a rank, without waiting for the device."""
    counts = flags.int()
    torch.distributed.all_reduce(counts, torch.distributed.ReduceOp.MAX)
    return counts.bool()


def _any_rank(here: int, device: torch.device) -> Callable[[], bool]:
    """Starts a maximum over the ranks; the function returned waits for it and tells whether it is not zero."""
    asked = any_rank(torch.full((), bool(here), device=device))  # and not `torch.tensor`, which would wait
    if not asked.is_cuda:
        return lambda: bool(asked)
    arrived, done = torch.empty((), dtype=asked.dtype, pin_memory=True), torch.cuda.Event()
    arrived.copy_(asked, non_blocking=True)
    done.record()

    def tell() -> bool:
        done.synchronize()
        return bool(arrived)

    return tell


@contextmanager
def raise_on_all_ranks(trainer: L.Trainer) -> Iterator[None]:
    """Raises an error of rank 0 within the block, which alone writes, on all ranks; the block must end in a barrier."""
    error = None
    try:
        yield
    except (ValueError, OSError) as found:
        error = found
        trainer.strategy.barrier()
    if (error := trainer.strategy.broadcast(error)) is not None:
        raise error
