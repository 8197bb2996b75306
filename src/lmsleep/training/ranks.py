"""What processes that train together do alike: sleep in the same windows, and end after one batch, with one error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from lmsleep.memory import IGNORE
from lmsleep.sleep import Windows


def loss_windows_of_all(targets: Tensor, size: int) -> tuple[bool, ...]:
    """Which windows carry loss in a row of any rank, of each rank's targets (B, T).

    Ranks of a sharded model gather a block's weights together, and so make the same passes over the same windows; these
    are those of a process that reads all rows.
    """
    carry_loss = torch.tensor(Windows.of(targets, size).carry_loss, dtype=torch.uint8, device=targets.device)
    torch.distributed.all_reduce(carry_loss, torch.distributed.ReduceOp.MAX)
    return tuple(carry_loss.bool().tolist())


def share_of_loss(targets: Tensor, trainer: L.Trainer) -> Tensor:
    """What this rank's loss counts beside the others': with it the mean of their gradients is that of the mean loss
    over all targets of the batch, wherever these are."""
    count = (targets != IGNORE).sum().float()
    total = count.clone()
    torch.distributed.all_reduce(total)  # the strategy's own `reduce` lets the host wait for the device
    return count * trainer.world_size / total


def end_together(trainer: L.Trainer) -> None:
    """Lets all ranks stop training after the same batch, with a checkpoint, where one of them gets SIGTERM, a batch
    later than it would alone; one that does not train stops alone, and its launcher the others. To be called before the
    trainer listens to signals.

    Lightning's own handler starts to gather wherever the signal finds its rank, while the others gather something else.
    """
    signals, loop, heard = trainer._signal_connector, trainer.fit_loop.epoch_loop, []  # pyright: ignore
    said: Callable[[], bool] | None = None

    def hear(signum: int, _: Any) -> None:
        heard.append(signum)
        signals.received_sigterm = trainer.state.fn != "fit"

    def agree() -> None:
        # What all said at the batch before: by now the device has it, and the host goes on preparing steps.
        nonlocal said
        before, said = said, _asked(len(heard), trainer.strategy.root_device)
        if before is not None and before():
            raise SIGTERMException

    signals._sigterm_notifier_fn = hear
    loop._broadcast_sigterm_tensor = agree


def _asked(here: int, device: torch.device) -> Callable[[], bool]:
    """Asks all ranks for their numbers; what comes back tells, when called, whether one of them is not zero."""
    asked = torch.full((), here, device=device)  # and not `torch.tensor`, which would wait for the device
    torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
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
def raised_by_all(trainer: L.Trainer) -> Iterator[None]:
    """What rank 0, which alone writes, cannot do within is raised by all; the others wait for it there at a barrier."""
    error = None
    try:
        yield
    except (ValueError, OSError) as found:
        error = found
        trainer.strategy.barrier()
    if (error := trainer.strategy.broadcast(error)) is not None:
        raise error
