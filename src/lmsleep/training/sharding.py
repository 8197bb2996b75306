"""Fully sharded data parallelism (FSDP2)."""

import lightning as L
from lightning.pytorch.strategies import FSDPStrategy, Strategy
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from lmsleep.checks import require
from lmsleep.model import HybridLM

STEPS = ("training_step", "validation_step", "test_step", "predict_step")


def check_strategy(strategy: Strategy) -> None:
    """Raises ValueError for FSDP1, which flattens the matrices that Muon orthogonalises."""
    if isinstance(strategy, FSDPStrategy):
        sizes = "data_parallel_size = devices, tensor_parallel_size = 1"
        said = "trainer.strategy must not be fsdp, which flattens the matrices that Muon orthogonalises; use ddp, or "
        raise ValueError(f"{said}ModelParallelStrategy with {sizes}, which cuts their rows")


def shard(module: L.LightningModule, model: HybridLM, mesh: DeviceMesh) -> None:
    """Shards every block, so that one at a time is gathered, and with `module` the embedding, head and last norm, which
    its steps gather. `mesh` has the dimensions data_parallel and tensor_parallel; raises ValueError if the latter is
    above 1."""
    tensors = mesh["tensor_parallel"].size()
    require(tensors == 1, "tensor_parallel_size must be 1 (and data_parallel_size the number of devices)", tensors)
    for block in model.blocks.layers:
        fully_shard(block, mesh=mesh["data_parallel"])
    fully_shard(module, mesh=mesh["data_parallel"])
    for step in STEPS:
        register_fsdp_forward_method(module, step)
