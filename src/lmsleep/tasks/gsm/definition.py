"""Definitions of parameters: drawn for given dependencies, with the value that they give."""

from typing import NamedTuple

from lmsleep.tasks.gsm.draws import Draws
from lmsleep.tasks.gsm.world import Parameter

MAX_NAMES = 4  # other parameters in one sentence
MAX_CONSTANT = 4

Values = dict[Parameter, int]


class Definition(NamedTuple):
    """The right side of a sentence: `constant operator join(names)`, any part of which may be missing."""

    names: tuple[Parameter, ...] = ()
    constant: int | None = None
    operator: str = ""  # "plus" or "times", between constant and the rest
    join: str = ""  # "sum" or "difference", of two names or more


def in_range(kind: str, value: int, max_value: int) -> bool:
    """A count is 1 or more; an average or a total may be 0."""
    return (kind != "count" or value > 0) and 0 <= value <= max_value


def draw_definition(
    draws: Draws, names: list[Parameter], values: Values, with_constant: bool
) -> tuple[Definition, int]:
    """A random definition with the given dependencies, and its value."""
    if not names:
        constant = draws.between(1 + draws.coin(), MAX_CONSTANT)  # 1 is half as common as in "1 plus"
        return Definition(constant=constant), constant
    join, value = "", values[names[0]]
    if len(names) == 2 and draws.coin():
        names = sorted(names, key=values.__getitem__, reverse=True)
        join, value = "difference", values[names[0]] - values[names[1]]
    elif len(names) > 1:
        join, value = "sum", sum(values[name] for name in names)
    if not with_constant:
        return Definition(tuple(names), join=join), value
    if draws.coin():
        constant = draws.between(1, MAX_CONSTANT)
        return Definition(tuple(names), constant, "plus", join), constant + value
    constant = draws.between(2, MAX_CONSTANT)
    return Definition(tuple(names), constant, "times", join), constant * value


def draw_unneeded(
    draws: Draws, kind: str, options: list[Parameter], values: Values, max_value: int
) -> tuple[Definition, int]:
    """A definition that the question does not need, and its value: one to four dependencies, in half of the draws with
    a constant among them; a constant alone if three draws gave no value in range."""
    for _ in range(3):
        dependencies, with_constant = 1, draws.coin()
        while dependencies < MAX_NAMES and draws.coin():
            dependencies += 1
        names = draws.sample(options, min(dependencies - with_constant, len(options)))
        definition, value = draw_definition(draws, names, values, with_constant)
        if in_range(kind, value, max_value):
            return definition, value
    return draw_definition(draws, [], values, True)
