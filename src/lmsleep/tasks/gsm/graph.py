"""Problems without their words: parameters, values and dependencies.

The graph follows iGSM (arXiv 2407.20311) as GSM-Infinite uses it. A problem asks for one parameter. Its operations are
counted over the parameters needed for that one: an instance parameter counts its direct dependencies, a constant being
one of them, and at least one; a total counts one for each item it adds up; a total of products two (the count and the
average).
"""

from pathlib import Path
from typing import NamedTuple

import yaml

from lmsleep.tasks.gsm.definition import MAX_NAMES, Definition, Values, draw_definition, draw_unneeded, in_range
from lmsleep.tasks.gsm.draws import Draws
from lmsleep.tasks.gsm.world import Parameter, World

MAX_EDGES = 20  # items of all places together
QUESTIONS = yaml.safe_load(Path(__file__).with_name("questions.yaml").read_text(encoding="utf-8"))

Links = dict[Parameter, list[Parameter]]  # parameter -> the parts of a total, or the dependencies of an instance


class Core(NamedTuple):
    """A solved problem without its words; `values` has every defined parameter and every total of these."""

    query: Parameter
    definitions: dict[Parameter, Definition]
    values: Values

    @property
    def answer(self) -> int:
        """The value of the query."""
        return self.values[self.query]


def draw_question(draws: Draws, layers: int, op: int) -> str:
    """The kind of parameter that a problem of `op` operations asks for."""
    return draws.weighted(QUESTIONS[layers][min(op, len(QUESTIONS[layers])) - 1])


def draw_core(
    draws: Draws, world: World, *, op: int, layers: int, kind: str, width: tuple[int, int], max_value: int
) -> Core | None:
    """A problem of exactly `op` operations that asks for a `kind`; None if the draw failed."""
    instances, parts = _draw_parameters(draws, world, layers, width)
    queries = [p for p in (*parts, *instances) if p.kind == kind and 2 * len(parts.get(p, ())) <= op]
    if not queries:
        return None
    needed = _choose_needed(draws, draws.choice(queries), instances, parts, op)
    linked = _link(draws, needed, parts)
    if linked is None:
        return None
    order, names = linked
    constants = _spend_ops(draws, order, names, parts, op)
    if constants is None:
        return None
    definitions: dict[Parameter, Definition] = {}
    values: Values = {}
    for parameter in reversed(order):
        if parameter in parts:
            values[parameter] = _total(parameter, parts[parameter], values)
        else:
            linked_to, with_constant = names[parameter], parameter in constants
            definitions[parameter], values[parameter] = draw_definition(draws, linked_to, values, with_constant)
        if not in_range(parameter.kind, values[parameter], max_value):
            return None
    _define_rest(draws, instances, parts, definitions, values, max_value)
    return Core(order[0], definitions, values)


def _draw_parameters(draws: Draws, world: World, layers: int, width: tuple[int, int]) -> tuple[list[Parameter], Links]:
    """The instance parameters, place by place, and the parts of the abstract ones.

    A bipartite graph of `width[0]` to `width[1]` places, as many items, and at least one item for each place. The
    number of edges is the smaller of two draws up to `MAX_EDGES`, so that totals over one or two items, which few
    operations need, are common. With three layers every item of a place also has an average.
    """
    places = draws.sample(world.places, max(draws.between(*width), draws.between(*width)))
    items = draws.sample(world.items, max(draws.between(*width), draws.between(*width)))
    edges = min(draws.between(len(places), MAX_EDGES), draws.between(len(places), MAX_EDGES))
    stock = {place: [draws.choice(items)] for place in places}
    free = [(place, item) for place in places for item in items if item not in stock[place]]
    for place, item in draws.sample(free, min(edges - len(places), len(free))):
        stock[place].append(item)
    instances: list[Parameter] = []
    parts: Links = {}
    for place, own in stock.items():
        counts, averages = ([Parameter(kind, place, item) for item in own] for kind in ("count", "average"))
        parts[Parameter("total_count", place)] = counts
        if layers == 3:
            parts[Parameter("total_product", place)] = counts + averages
        instances += [p for pair in zip(counts, averages, strict=True) for p in pair[: layers - 1]]
    return instances, parts


def _total(parameter: Parameter, parts: list[Parameter], values: Values) -> int:
    """The value of an abstract parameter."""
    if parameter.kind == "total_count":
        return sum(values[part] for part in parts)
    half = len(parts) // 2
    return sum(values[count] * values[average] for count, average in zip(parts[:half], parts[half:], strict=True))


def _choose_needed(
    draws: Draws, query: Parameter, instances: list[Parameter], parts: Links, op: int
) -> dict[Parameter, None]:
    """The query with its parts, then further totals with theirs, and instance parameters: about half of the operations,
    which leaves the rest for dependencies and constants, as in the published generator."""

    def least_operations(needed: dict[Parameter, None]) -> int:
        return sum(len(parts.get(parameter, (parameter,))) for parameter in needed)

    size = op // 2 + 1 + draws.coin(0.2)
    if query in parts and op > 2:
        size = max(size, 3)  # a total over one item alone could not spend a third operation
    needed = dict.fromkeys((query, *parts.get(query, ())))
    spent = least_operations(needed)
    for goal in draws.shuffled([goal for goal in parts if query not in parts[goal]]):
        more = needed | dict.fromkeys((goal, *parts[goal]))
        if len(more) <= size and (cost := least_operations(more)) <= op:
            needed, spent = more, cost
    rest = [p for p in instances if p not in needed]
    count = min(size - len(needed), op - spent, len(rest))
    return needed | dict.fromkeys(draws.sample(rest, max(count, 0)))


def _link(draws: Draws, needed: dict[Parameter, None], parts: Links) -> tuple[list[Parameter], Links] | None:
    """An order of the needed parameters from the query down, each used by an earlier one, and the dependencies of each
    instance parameter; None if the draw gets stuck."""
    users: dict[Parameter, int] = dict.fromkeys(needed, 0)  # totals that add the parameter up
    for parameter in needed:
        for part in parts.get(parameter, ()):
            users[part] += 1
    waiting = dict(users)  # ... and that are not in the order yet
    names: Links = {}
    order: list[Parameter] = []
    # A parameter that no total adds up is used by the newest instance: chains grow long.
    newest: Parameter | None = None
    while len(order) < len(needed):
        ready = [next(iter(needed))]
        if order:
            ready = [p for p in waiting if not waiting[p] and (users[p] or newest)]
        if not ready:
            return None
        parameter = draws.choice(ready)
        del waiting[parameter]
        order.append(parameter)
        if not users[parameter] and newest:
            names[newest].append(parameter)
        if parameter in parts:
            for part in parts[parameter]:
                waiting[part] -= 1
        else:
            names[parameter] = []
            newest = parameter
    return order, names


def _spend_ops(draws: Draws, order: list[Parameter], names: Links, parts: Links, op: int) -> set[Parameter] | None:
    """Adds dependencies to `names`, and constants, until the problem has `op` operations. Returns the parameters with a
    constant besides their dependencies; None if `op` cannot be met."""
    constants: set[Parameter] = set()
    spent = [len(parts[p]) if p in parts else max(1, len(names[p])) for p in order]
    free = op - sum(spent)
    while free > 0:
        bare = [p for p in order if names.get(p) and p not in constants]
        deeper = [
            (parameter, name)
            for i, parameter in enumerate(order)
            if parameter in names and len(names[parameter]) < MAX_NAMES
            if (others := [p for p in order[i + 1 :] if p not in names[parameter]])
            for name in [draws.choice(others)]
        ]
        if bare and (not deeper or draws.coin(0.75)):
            constants.add(draws.choice(bare))
            free -= 1
        elif deeper:
            parameter, name = draws.choice(deeper)
            free -= bool(names[parameter])  # the first name takes the place of the lone constant: still one operation
            names[parameter].append(name)
        else:
            return None
    return constants if free == 0 else None


def _define_rest(
    draws: Draws,
    instances: list[Parameter],
    parts: Links,
    definitions: dict[Parameter, Definition],
    values: Values,
    max_value: int,
) -> None:
    """Defines the instance parameters that the question does not need, from parameters defined before."""

    def add_totals() -> None:
        for goal, goal_parts in parts.items():
            if goal not in values and all(part in values for part in goal_parts):
                values[goal] = _total(goal, goal_parts, values)

    add_totals()
    independent: list[Parameter] = []  # of everything that the question needs
    for parameter in draws.shuffled([p for p in instances if p not in definitions]):
        alone = draws.coin()
        options = independent if alone else list(values)
        definitions[parameter], values[parameter] = draw_unneeded(draws, parameter.kind, options, values, max_value)
        if alone:
            independent.append(parameter)
        add_totals()
