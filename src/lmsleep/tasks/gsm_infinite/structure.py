"""What exists in a problem: places, the items each of them has, and the parameters that follow."""

from dataclasses import dataclass

from lmsleep.tasks.gsm_infinite.draws import Draws
from lmsleep.tasks.gsm_infinite.worlds import Parameter, World

MAX_EDGES = 20


@dataclass(frozen=True)
class Structure:
    """Which items each place has; with three layers every item of a place also has an average."""

    items: dict[str, list[str]]
    layers: int

    def instances(self) -> list[Parameter]:
        """The instance parameters, place by place."""
        kinds = ("count", "average")[: self.layers - 1]
        return [Parameter(k, place, item) for place, items in self.items.items() for item in items for k in kinds]

    def parts(self) -> dict[Parameter, list[Parameter]]:
        """The abstract parameters and the instance parameters each of them is made of."""
        parts = {}
        for place, items in self.items.items():
            counts = [Parameter("count", place, item) for item in items]
            parts[Parameter("total_count", place)] = counts
            if self.layers == 3:
                averages = [Parameter("average", place, item) for item in items]
                parts[Parameter("total_product", place)] = counts + averages
        return parts


def draw_structure(draws: Draws, world: World, layers: int, width: tuple[int, int]) -> Structure:
    """A bipartite graph: `width[0]` to `width[1]` places, as many items, and an item or more for each place.

    The number of edges is the smaller of two draws up to `MAX_EDGES`, so that totals over one or two items, which
    small numbers of operations need, are common.
    """
    places = draws.sample(world.places, max(draws.between(*width), draws.between(*width)))
    items = draws.sample(world.items, max(draws.between(*width), draws.between(*width)))
    edges = min(draws.between(len(places), MAX_EDGES), draws.between(len(places), MAX_EDGES))
    found = {place: [draws.choice(items)] for place in places}
    free = [(place, item) for place in places for item in items if item not in found[place]]
    for place, item in draws.sample(free, min(edges - len(places), len(free))):
        found[place].append(item)
    return Structure(found, layers)


def in_range(kind: str, value: int, max_value: int) -> bool:
    """A count is 1 or more; an average or a total may be 0."""
    return (kind != "count" or value > 0) and 0 <= value <= max_value


def total(parameter: Parameter, parts: list[Parameter], values: dict[Parameter, int]) -> int:
    """The value of an abstract parameter; `parts` as in `Structure.parts`."""
    if parameter.kind == "total_count":
        return sum(values[part] for part in parts)
    half = len(parts) // 2
    return sum(values[count] * values[average] for count, average in zip(parts[:half], parts[half:], strict=True))
