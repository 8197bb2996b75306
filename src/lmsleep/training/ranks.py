"""Several devices: sharded models (FSDP2), and what ranks agree on: windows that sleep, when to stop, errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import FSDPStrategy, Strategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from lmsleep.checks import require
from lmsleep.model import HybridLM
from lmsleep.tasks import Task
from lmsleep.training.graphs import HostCopy
from lmsleep.training.lightning_internals import handle_sigterm, stop_at_sigterm
from lmsleep.windows import IGNORE, Windows


def check_strategy(strategy: Strategy) -> None:
    """Raises ValueError for FSDP1, which flattens the matrices that Muon orthogonalises."""
    if isinstance(strategy, FSDPStrategy):
        allowed = "trainer.strategy must not be fsdp, which flattens the matrices that Muon orthogonalises"
        sharded = "ModelParallelStrategy with data_parallel_size = devices, tensor_parallel_size = 1"
        raise ValueError(f"{allowed}; use ddp, or {sharded}, which cuts their rows")


def shard(module: L.LightningModule, model: HybridLM, mesh: DeviceMesh) -> None:
    """Shards every block, so that one at a time is gathered, and with `module` the embedding, head and last norm, which
    its steps gather. `mesh` has the dimensions data_parallel and tensor_parallel; raises ValueError if the latter is
    above 1."""
    tensors = mesh["tensor_parallel"].size()
    require(tensors == 1, "tensor_parallel_size must be 1 (and data_parallel_size the number of devices)", tensors)
    for block in model.blocks.layers:
        fully_shard(block, mesh=mesh["data_parallel"])
    fully_shard(module, mesh=mesh["data_parallel"])
    for step in ("training_step", "validation_step", "test_step", "predict_step"):
        register_fsdp_forward_method(module, step)


def loss_windows_of(targets: Tensor, size: int, sharded: bool) -> tuple[bool, ...]:
    """Which windows carry loss in a row of this rank, from its targets (B, T); of a `sharded` model in a row of any
    rank, as these gather weights together, and so must make the same passes over the same windows. A rank whose rows
    have no targets scores its last window, for the gradients of zero that the others wait for."""
    own = Windows.of(targets, size).carry_loss
    if sharded:
        return tuple(any_rank(torch.tensor(own, device=targets.device)).tolist())
    return own if any(own) else (*own[:-1], True)


def share_of_loss(loss: Tensor, targets: Tensor, trainer: L.Trainer) -> Tensor:
    """This rank's share of the loss, zero where its rows have no targets: its mean over ranks is the mean over all
    targets of the batch, and so is that of the gradients. NaN where no rank has targets."""
    if trainer.world_size == 1:
        return loss
    count = (targets != IGNORE).sum().float()
    total = sum_over_ranks(count, trainer)
    none = (count == 0) & (total > 0)  # then `loss` is 0 / 0
    return torch.where(none, 0.0, loss * (count * trainer.world_size / total))


def require_targets(there: bool, task: Task) -> None:
    """Raises ValueError for a batch that has no targets on any rank."""
    require(there, f"every batch of {type(task).__name__} must have targets", "one without")


def sum_over_ranks(x: Tensor, trainer: L.Trainer) -> Tensor:
    """The sum of a tensor of each rank, without gradient."""
    total = x.detach().clone()
    if trainer.world_size > 1:
        torch.distributed.all_reduce(total)  # the strategy's own `reduce` would wait for the device
    return total


def stop_together(trainer: L.Trainer) -> None:
    """Makes all ranks stop training after the same batch, with a checkpoint, when one of them gets SIGTERM; see
    `handle_sigterm`. Outside of training a rank stops alone."""
    if trainer.world_size == 1:
        return
    heard: list[int] = []
    result: HostCopy | None = None

    def hear(signum: int, _: Any) -> None:
        heard.append(signum)
        stop_at_sigterm(trainer, trainer.state.fn != "fit")

    def agree() -> None:
        nonlocal result
        flag = torch.full((), bool(heard), device=trainer.strategy.root_device)  # `torch.tensor` would wait for it
        # The result of the batch before, which has arrived by now, so that the host need not wait.
        before, result = result, HostCopy(any_rank(flag))
        if before is not None and before.value:
            raise SIGTERMException

    handle_sigterm(trainer, hear, agree)


def any_rank(flags: Tensor) -> Tensor:
    """Which flags, of any shape, are set on a rank, without waiting for the device."""
    counts = flags.int()
    torch.distributed.all_reduce(counts, torch.distributed.ReduceOp.MAX)
    return counts.bool()


@contextmanager
def raise_on_all_ranks(trainer: L.Trainer) -> Iterator[None]:
    """Raises an error of rank 0 within the block, which alone writes, on all ranks; the block must end in a barrier."""
    error = None
    try:
        yield
    except (ValueError, OSError) as raised:
        error = raised
        trainer.strategy.barrier()
    if (error := trainer.strategy.broadcast(error)) is not None:
        raise error
