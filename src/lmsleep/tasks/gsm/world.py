"""The worlds of problems: names, phrases, questions, instruction, and names reserved for distractors."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import yaml


class Parameter(NamedTuple):
    """One quantity of a problem.

    Instance parameters have a sentence each: `count` (of an item in a place) and `average` (per item of a place, the
    third layer). Abstract ones have none, and no item: `total_count` (all items of a place) and `total_product` (over
    the items of a place, count times average).
    """

    kind: str
    place: str
    item: str = ""


@dataclass(frozen=True)
class World:
    """A world of worlds.yaml.

    Args:
        places, items: names that the question may need.
        distractor_places, distractor_items: names that it never needs.
        phrases: how each kind of `Parameter` is named, with {item} and {place}.
        instruction: what a reader is told first.
        how_many: how a count is asked for, with {item} and {place}, or with its {phrase}.
        what_is: how every other kind is asked for, with its {phrase}.
    """

    places: tuple[str, ...]
    items: tuple[str, ...]
    distractor_places: tuple[str, ...]
    distractor_items: tuple[str, ...]
    phrases: Mapping[str, str]
    instruction: str
    how_many: str
    what_is: str

    @classmethod
    def read(cls, *, about: Mapping[str, str] = MappingProxyType({}), **words: Any) -> "World":
        """An entry of worlds.yaml, whose instruction is a template over `about` and its phrases {total}, {below}."""
        totals = (words["phrases"][kind] for kind in ("total_count", "total_product"))
        total, below = (phrase.removeprefix("the ").removesuffix(" in {place}") for phrase in totals)
        words |= {key: tuple(value) for key, value in words.items() if isinstance(value, list)}
        return cls(**words | {"instruction": words["instruction"].format(total=total, below=below, **about)})

    def phrase(self, parameter: Parameter) -> str:
        """The name of a parameter within a sentence."""
        return self.phrases[parameter.kind].format(item=parameter.item, place=parameter.place)

    def question(self, parameter: Parameter) -> str:
        """The question for a parameter's value."""
        form = self.how_many if parameter.kind == "count" else self.what_is
        return form.format(phrase=self.phrase(parameter), item=parameter.item, place=parameter.place)

    def texts(self) -> tuple[str, ...]:
        """All texts of the world, apart from numbers and the words that join phrases."""
        names = self.places + self.items + self.distractor_places + self.distractor_items
        nameless = [Parameter(kind, place="") for kind in self.phrases]
        forms = [*map(self.phrase, nameless), *map(self.question, nameless)]
        # A sentence begins with a capital letter where its phrase begins with an article.
        return (*names, *forms, *(form[:1].upper() + form[1:] for form in forms), self.instruction)


_WORDS = yaml.safe_load(Path(__file__).with_name("worlds.yaml").read_text(encoding="utf-8"))
WORLDS = MappingProxyType({name: World.read(**words) for name, words in _WORDS.items()})
