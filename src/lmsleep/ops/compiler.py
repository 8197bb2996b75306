"""`disable` and `assume_constant_result` of `torch.compiler`, as torch marks functions of its own: without loading the
compiler, which takes as long as torch itself, and most programs never compile."""

from collections.abc import Callable
from typing import Any, TypeVar

from torch._compile import _disable_dynamo as disable

__all__ = ["assume_constant_result", "disable"]

Function = TypeVar("Function", bound=Callable[..., Any])


def assume_constant_result(function: Function) -> Function:
    """The function, whose result compiled code takes for a constant."""
    function._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
    return function
