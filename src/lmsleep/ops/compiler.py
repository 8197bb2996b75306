"""`disable` and `assume_constant_result` of `torch.compiler`, which load the compiler: that takes as long as torch itself,
and most programs never compile. As torch marks functions of its own."""

from collections.abc import Callable
from typing import Any, TypeVar

from torch._compile import _disable_dynamo as disable

__all__ = ["assume_constant_result", "disable"]

Function = TypeVar("Function", bound=Callable[..., Any])


def assume_constant_result(function: Function) -> Function:
    """The function, whose result compiled code takes for a constant."""
    function._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
    return function
