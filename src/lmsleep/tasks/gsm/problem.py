"""Problems as text and tokens: sentences, distractors, and the fit to a length and to windows."""

import hashlib
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from lmsleep.checks import check_types, require
from lmsleep.tasks.gsm.definition import Definition, draw_definition
from lmsleep.tasks.gsm.draws import Draws
from lmsleep.tasks.gsm.encoder import PROMPT_END, Encoder
from lmsleep.tasks.gsm.graph import Core, draw_core, draw_question
from lmsleep.tasks.gsm.world import WORLDS, Parameter, World

Int = TypeVar("Int", int, np.ndarray)  # one row, or many at once

MAX_ATTEMPTS = 20_000  # cores drawn for one problem before it counts as impossible
MAX_WRITTEN = 1_000  # of these, cores written as text


@dataclass(frozen=True)
class ProblemConfig:
    """What problems are drawn. The defaults are those of paper scale.

    Args:
        ops: smallest and largest number of operations.
        templates: names of worlds, drawn with equal probability; a name may come several times.
        layers: numbers of layers, drawn with equal probability: 2 (places, items) or 3 (and an average for each item).
        width: smallest and largest number of places, and of items.
        max_value: largest value that any parameter may have.
        length: smallest and largest number of tokens, end of sequence included.
        instruction: begin with a paragraph that says what a total is and how to answer.
        window_sizes: for each of these L, the answer of every problem falls into one window that is not the first.

    Raises:
        ValueError: if an argument is out of range.
    """

    ops: tuple[int, int] = (1, 8)
    templates: tuple[str, ...] = ("zoo",)
    layers: tuple[int, ...] = (2, 3)
    width: tuple[int, int] = (1, 5)
    max_value: int = 1000
    length: tuple[int, int] = (2000, 3300)
    instruction: bool = True
    window_sizes: tuple[int, ...] = (2000, 512)

    def __post_init__(self) -> None:
        check_types(self)
        for name, least, most in (("ops", 1, 32), ("width", 1, 10), ("length", 8, 1 << 20)):
            pair = getattr(self, name)
            sound = len(pair) == 2 and least <= pair[0] <= pair[1] <= most
            require(sound, f"{name} must be two numbers in order between {least} and {most}", pair)
        if not self.templates or not set(self.templates) <= set(WORLDS):
            got = ", ".join(self.templates) or "none"
            raise ValueError(f"templates must be some of {', '.join(WORLDS)}, got {got}")
        require(self.layers and set(self.layers) <= {2, 3}, "layers must be some of 2 and 3", self.layers)
        require(9 <= self.max_value <= 9999, "max_value must be between 9 and 9999", self.max_value)
        small = all(1 <= size < self.length[1] for size in self.window_sizes)
        require(small, f"window_sizes must lie below the largest length {self.length[1]}", self.window_sizes)

    @property
    def slices(self) -> tuple[int, ...]:
        """The numbers of operations."""
        return tuple(range(self.ops[0], self.ops[1] + 1))


class Problem(NamedTuple):
    """A problem under an encoder: `ids` ends with the answer and the end of sequence; the answer begins at `start`."""

    ids: list[int]
    start: int
    answer: int
    op: int
    fingerprint: int


def sentence(world: World, parameter: Parameter, definition: Definition) -> str:
    """One sentence without its full stop."""
    names = [world.phrase(name) for name in definition.names]
    if definition.join == "difference":
        rest = f"the difference between {names[0]} and {names[1]}"
    elif definition.join == "sum":
        rest = f"the sum of {', '.join(names[:-1])}{',' if len(names) > 2 else ''} and {names[-1]}"
    else:
        rest = "".join(names)
    head = "" if definition.constant is None else str(definition.constant)
    right = " ".join(part for part in (head, definition.operator, rest) if part)
    phrase = world.phrase(parameter)
    subject = "The" + phrase[3:] if phrase.startswith("the ") else phrase
    return f"{subject} equals {right}"


def fingerprint(world: World, core: Core) -> int:
    """A 64-bit hash of the question and the set of core sentences."""
    lines = sorted(sentence(world, *pair) for pair in core.definitions.items())
    text = "\n".join([*lines, world.question(core.query)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def belongs_to_split(mark: int, split: str) -> bool:
    """Whether a problem belongs to a split: a tenth of all to `test`, a tenth to `val`, the rest to `train`, so that no
    problem is ever in two splits."""
    return {0: "test", 1: "val"}.get(mark % 10, "train") == split


def draw_distractors(draws: Draws, world: World, core: Core, layers: int) -> Iterator[str]:
    """Sentences on other places and items that depend on core parameters, while no core sentence depends on them. Right
    sides have no constants: 46 % of them are one name, the others a sum or difference of two."""
    options = list(core.values)
    values = dict(core.values)
    totals: list[Parameter] = []  # of places that get no further sentence, so that no sentence defines itself
    kinds = ("count", "average")[: layers - 1]
    for place in draws.shuffled(world.distractor_places):
        items = draws.sample(world.distractor_items, draws.between(2, len(world.distractor_items)))
        for own in [Parameter(kind, place, item) for item in items for kind in kinds]:
            names = draws.sample(options, min(draws.between(1, 2), len(options)))
            if len(names) == 1 and totals and draws.coin(0.1):
                names.append(draws.choice(totals))
            definition, values[own] = draw_definition(draws, names, values, with_constant=False)
            yield sentence(world, own, definition)
        totals.append(Parameter("total_count", place))
        values[totals[-1]] = sum(values[Parameter("count", place, item)] for item in items)


def draw_problem(
    draws: Draws, config: ProblemConfig, encoder: Encoder, *, op: int, split: str, seen: Container[int] = ()
) -> Problem:
    """The first problem of the stream that belongs to the split, fits length and windows, and whose fingerprint is not
    in `seen`.

    Template, number of layers and kind of question are drawn once, so that those that are hard to fit are not rarer.
    One operation is asked with the most layers. Raises ValueError if none was found in `MAX_ATTEMPTS` draws or among
    `MAX_WRITTEN` texts.
    """
    template = draws.choice(config.templates)
    layers = max(config.layers) if op == 1 else draws.choice(config.layers)
    world, kind = WORLDS[template], draw_question(draws, layers, op)
    cores, lengths, fitting = 0, [], 0
    for _ in range(MAX_ATTEMPTS):
        if len(lengths) == MAX_WRITTEN:
            break
        core = draw_core(draws, world, op=op, layers=layers, kind=kind, width=config.width, max_value=config.max_value)
        if core is None:
            continue
        cores += 1
        mark = fingerprint(world, core)
        if not belongs_to_split(mark, split):
            continue
        prompt, length = _write(draws, config, encoder, world, core, layers)
        lengths.append(length)
        # `length` is an estimate, exact for most tokenizers: a text that is far off is not encoded.
        if not 0.9 * config.length[0] <= length <= 1.1 * config.length[1]:
            continue
        ids, start = encoder.encode(prompt, core.answer)
        lengths[-1] = len(ids)
        if config.length[0] <= len(ids) <= config.length[1] and fits_windows(start, len(ids), config.window_sizes):
            fitting += 1
            # Checked last, so that skipping a problem does not change the rest of the stream.
            if mark not in seen:
                return Problem(ids, start, core.answer, op, mark)
    what = f"op {op}, {layers} layers, template {template}, question {kind}"
    raise ValueError(_impossible(config, encoder, what, cores, lengths, fitting))


def _write(
    draws: Draws, config: ProblemConfig, encoder: Encoder, world: World, core: Core, layers: int
) -> tuple[str, int]:
    """The prompt, with distractors up to a random length in the range, and about how many tokens the row will have."""
    head = f"{world.instruction} " if config.instruction else ""
    head += f"Question: {world.question(core.query)}\nProblem: "
    lines = [sentence(world, *pair) for pair in core.definitions.items()]
    length = len(encoder.encode(f"{head}{'. '.join(lines)}.{PROMPT_END}", core.answer)[0])
    target = draws.between(*config.length)
    for line in draw_distractors(draws, world, core, layers):
        more = encoder.length(f"{line}.")
        if length + more > target:
            break
        lines.append(line)
        length += more
    return f"{head}{'. '.join(draws.shuffled(lines))}.{PROMPT_END}", length


def loss_windows(start: Int, length: Int, window_size: int) -> tuple[Int, Int]:
    """First and last window with loss of a row of `length` tokens whose answer begins at `start`: targets are one
    position ahead, and the end of sequence is never read."""
    return (start - 1) // window_size, (length - 2) // window_size


def fits_windows(start: int, length: int, window_sizes: tuple[int, ...]) -> bool:
    """Whether all loss of a row falls into one window that is not the first, at each of the sizes."""
    return all(first == last > 0 for first, last in (loss_windows(start, length, size) for size in window_sizes))


def _impossible(
    config: ProblemConfig, encoder: Encoder, what: str, cores: int, lengths: list[int], fitting: int
) -> str:
    if not cores:
        return f"ops {config.ops}: no problem of {what} exists with width {config.width}, max_value {config.max_value}"
    if fitting or not lengths:
        return f"rows: no new problem of {what} is found any more; ask for fewer rows or a larger width"
    low, high = config.length
    return (
        f"length {low}, {high}: no problem of {what} fits it and window_sizes {config.window_sizes} under the "
        f"tokenizer ({encoder.name}); the {len(lengths)} drawn had {min(lengths)} to {max(lengths)} tokens"
    )
