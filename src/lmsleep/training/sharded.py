"""Tensors of which each rank may have a part."""

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def lerp(starts: list[Tensor], ends: list[Tensor], weight: float) -> list[Tensor]:
    """Tensors between those of two lists; torch 2.11 does not know it of lists of sharded ones."""
    if isinstance(starts[0], DTensor):
        return [torch.lerp(start, end, weight) for start, end in zip(starts, ends, strict=True)]
    return list(torch._foreach_lerp(starts, ends, weight))


def full_tensor(x: Tensor) -> Tensor:
    """The full tensor of a sharded one."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def sum_of_norms(tensors: list[Tensor], order: float = 2.0) -> Tensor:
    """The sum of the norms of tensors, sharded or not: finite only if all of them are."""
    return full_tensor(torch.stack(torch._foreach_norm(tensors, order)).sum())


def local_shard(x: Tensor, p: Tensor) -> Tensor:
    """This rank's shard of x, sharded like `p`."""
    if not isinstance(p, DTensor):
        return x
    return distribute_tensor(x.contiguous(), p.device_mesh, p.placements, src_data_rank=None)
