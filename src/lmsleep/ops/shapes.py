"""Whether the inputs of an op fit one another, and the tiles that hold them."""

from collections.abc import Mapping, Sequence

from torch import Tensor


def check_shapes(like: str, tensor: Tensor, expected: Mapping[str, tuple[Tensor, Sequence[int]]]) -> None:
    """Raises ValueError unless all tensors have their expected shapes, those that fit `tensor`, which is called
    `like`."""
    for name, (x, shape) in expected.items():
        if x.shape != shape:
            fit = f"{tuple(shape)} to fit {like} {tuple(tensor.shape)}"
            raise ValueError(f"{name} must have shape {fit}, got {tuple(x.shape)}")


def padded(size: int) -> int:
    """The tile that holds `size` channels: a power of two, of which tensor cores need 16."""
    return max(16, 1 << (size - 1).bit_length())
