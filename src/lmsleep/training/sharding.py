"""Fully sharded data parallelism: each rank keeps a part of every parameter, gradient and optimizer state."""

import lightning as L
from lightning.pytorch.strategies import FSDPStrategy, Strategy
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from lmsleep.hub import require
from lmsleep.model import HybridLM

STEPS = ("training_step", "validation_step", "test_step", "predict_step")


def check_strategy(strategy: Strategy) -> None:
    """Raises ValueError for the strategy that flattens matrices, which Muon cannot orthogonalise."""
    if isinstance(strategy, FSDPStrategy):
        raise ValueError(
            "trainer.strategy must not be fsdp, which flattens the matrices that Muon orthogonalises; use ddp, or "
            "ModelParallelStrategy with data_parallel_size = devices, tensor_parallel_size = 1, which cuts their rows"
        )


def shard(module: L.LightningModule, model: HybridLM, mesh: DeviceMesh) -> None:
    """Shards every block on its own, so that one at a time is whole, and the rest with the module.

    Args:
        module: its steps gather what belongs to no block: embedding, head and last norm.
        mesh: with the dimensions data_parallel and tensor_parallel.

    Raises:
        ValueError: if tensor_parallel is above 1.
    """
    tensors = mesh["tensor_parallel"].size()
    require(tensors == 1, "tensor_parallel_size must be 1 (and data_parallel_size the number of devices)", tensors)
    for block in model.blocks.layers:
        fully_shard(block, mesh=mesh["data_parallel"])
    fully_shard(module, mesh=mesh["data_parallel"])
    for step in STEPS:
        register_fsdp_forward_method(module, step)
