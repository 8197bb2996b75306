"""How often the states of Rule 110 are read in training: rows are drawn anew, but there are few states."""

import math

from lmsleep.tasks import Rule110

PAPER, MINI = Rule110(steps=32), Rule110(steps=4, width=12, n_states=2)


def times_read(task: Rule110, tokens: float) -> float:
    """How often training of so many tokens reads each state, in the mean."""
    return tokens / task.sequence_length * task.n_states / 2**task.width


def share_read(task: Rule110, tokens: float) -> float:
    """The share of the states of test rows that training of so many tokens has read."""
    return -math.expm1(-times_read(task, tokens))


def bits_a_weight(task: Rule110, ones: float, loss: float, weights: int) -> float:
    """What a table of all states would have to hold in each weight to answer with this loss, in nats a label, of which
    a share `ones` is 1."""
    unknown = -(ones * math.log2(ones) + (1 - ones) * math.log2(1 - ones))
    return 2**task.width * (unknown - loss / math.log(2)) / weights
