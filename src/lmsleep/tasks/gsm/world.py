"""The worlds that problems are told in: names, phrases, questions, instruction and the names kept for distractors."""

from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple


class Parameter(NamedTuple):
    """One quantity of a problem.

    Instance parameters get a sentence each: `count` (how many of an item a place has) and `average` (of the third
    layer, per item of a place). Abstract ones get none and have no item: `total_count` (all items of a place) and
    `total_product` (over the items of a place, count times average).
    """

    kind: str
    place: str
    item: str = ""


@dataclass(frozen=True)
class World:
    """What a template says.

    No name contains " in ", " and " or a comma, so that a sentence can be read in one way only.

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
    phrases: MappingProxyType[str, str]
    instruction: str
    how_many: str = "How many {item} does {place} have?"
    what_is: str = "What is {phrase}?"

    def phrase(self, parameter: Parameter) -> str:
        """A parameter's name within a sentence."""
        return self.phrases[parameter.kind].format(item=parameter.item, place=parameter.place)

    def question(self, parameter: Parameter) -> str:
        """The question for a parameter's value."""
        form = self.how_many if parameter.kind == "count" else self.what_is
        return form.format(phrase=self.phrase(parameter), item=parameter.item, place=parameter.place)

    def texts(self) -> tuple[str, ...]:
        """Everything the world can say, apart from numbers and the words that join phrases."""
        names = self.places + self.items + self.distractor_places + self.distractor_items
        nameless = [Parameter(kind, place="") for kind in self.phrases]
        forms = [*map(self.phrase, nameless), *map(self.question, nameless)]
        # A sentence begins with a capital letter where its phrase begins with an article.
        return (*names, *forms, *(form[:1].upper() + form[1:] for form in forms), self.instruction)


def _split(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(","))


def _instruction(thing: str, place: str, total: str, below: str) -> str:
    return (
        f"Read the problem and answer the question in front of it. Every sentence of the problem fixes one quantity, "
        f"in terms of numbers or of other quantities, and the sentences come in no particular order. Some of the "
        f"sentences are not needed for the answer. A quantity called total has no sentence of its own: the {total} of "
        f"a {place} is the sum over all kinds of {thing} that are mentioned anywhere in the problem for this {place}. "
        f"A kind of {thing} that is never mentioned for a {place} does not exist there, and counts as zero. The "
        f"{below} of a {place} is the sum over the same kinds, where each kind adds its number times its average. A "
        f"kind whose average is never mentioned adds nothing to it. The same kind of {thing} in two different places "
        f"is two different quantities, and two places never share anything. The difference between two quantities is "
        f"the first one minus the second one. Where a number stands in front of a sum or of a difference, the sum or "
        f"the difference is worked out first. All quantities are whole numbers. Work out what is asked without writing "
        f"down any steps, and give nothing but the final answer as one whole number."
    )


ZOO = World(
    places=_split(
        "Beverly Forest, Cedar Valley, Oakridge Riverside, Pine Ridge, Maple Creek, South Zoo, Jefferson Circus, "
        "Mayer Aquarium, Bundle Ranch, Hamilton Farm"
    ),
    items=_split("bear, wolf, deer, fox, racoon, eagle, parrot, owl, blue jay, crow"),
    distractor_places=_split(
        "Harbor Museum, Museum of Glass, Copper Gallery, Old Mint Museum, Hall of Clocks, Olympus Crater, Tharsis "
        "Plateau, Red Dune Station, Gale Basin, Syrtis Camp, Avalon Meadow, Atlantis Reef, Garden of Hesperus, Valley "
        "of Giants, Lost City of Ys, Sleeping Tower"
    ),
    distractor_items=_split(
        "dragon, unicorn, phoenix, griffin, mammoth, dodo, robot dog, clockwork swan, giant squid, winged horse, sea "
        "serpent, stone lion"
    ),
    phrases=MappingProxyType(
        {
            "count": "the number of adult {item} in {place}",
            "average": "the average number of newborn children per adult {item} in {place}",
            "total_count": "the total number of adult animals in {place}",
            "total_product": "the total number of newborn animal children in {place}",
        }
    ),
    instruction=_instruction(
        "adult animal", "place", "total number of adult animals", "total number of newborn animal children"
    ),
    how_many="How many adult {item} does {place} have?",
)

SCHOOL = World(
    places=_split(
        "Brightford, Lake Marlow, Ashbury, Port Selby, Stonehaven, Northwick, Evergreen Falls, Clearwater Bay, "
        "Dunmore, Goldfield"
    ),
    items=_split(
        "elementary school, private middle school, public high school, music academy, technical college, law school, "
        "nursing school, cooking school, art school, regional medical school"
    ),
    distractor_places=_split(
        "Tide Harbor, Fort Aurora, Silver Junction, Upper Wexley, Saint Corbin, Mill Crossing, Rosewood Heights, Cape "
        "Verity, Iron Gate, Windmere, Sandy Hollow, Quarry Town, Bell Island, Elm Terrace, Fairlight, Moss Landing"
    ),
    distractor_items=_split(
        "flight school, circus school, language institute, chess academy, sailing school, ballet studio, police "
        "academy, farming school, film school, night school, fire academy, drama workshop"
    ),
    phrases=MappingProxyType(
        {
            "count": "the number of {item} in {place}",
            "average": "the average number of teachers per {item} in {place}",
            "total_count": "the total number of schools in {place}",
            "total_product": "the total number of teachers from all schools in {place}",
        }
    ),
    instruction=_instruction("school", "city", "total number of schools", "total number of teachers from all schools"),
)

FILM = World(
    places=_split(
        "Northlight Film Festival, Festival of Santa Brisa, Golden Lantern Festival, Festival du Vieux Port, Cinema "
        "Week of Lindholm, Silver Heron Festival, Riverside Film Days, Festival of Monte Alba, Winter Screen Festival, "
        "Blue Harbor Film Festival"
    ),
    items=_split(
        "quiet desert western, cheerful island comedy, solemn winter drama, restless city thriller, gentle village "
        "romance, stormy sea adventure, puzzling midnight mystery, roaring stadium musical, dusty frontier "
        "documentary, dreamy forest fantasy"
    ),
    distractor_places=_split(
        "Festival of Falling Stars, Lunar Cinema Gala, Festival of the Old Canal, Copper Reel Festival, Midnight Sun "
        "Screenings, Festival of Three Bridges, Open Roof Festival, Paper Moon Festival, Festival of Port Iris, Grand "
        "Arcade Film Fair, Festival of High Meadow, Marble Hall Screenings, Echo Lake Festival, Festival of Small "
        "Countries, Lighthouse Film Nights, Festival of Silent Pictures"
    ),
    distractor_items=_split(
        "wandering robot satire, frozen planet epic, haunted library horror, flying carpet cartoon, hidden treasure "
        "caper, talking animal fable, ancient empire saga, secret agent parody, lonely lighthouse poem, racing balloon "
        "farce, buried temple serial, broken radio experiment"
    ),
    phrases=MappingProxyType(
        {
            "count": "the number of {item} in {place}",
            "average": "the average number of nominations per {item} in {place}",
            "total_count": "the total number of movies in {place}",
            "total_product": "the total number of movie nominations in {place}",
        }
    ),
    instruction=_instruction("movie", "festival", "total number of movies", "total number of movie nominations"),
)

# The zoo in as few words as possible, for models and windows of mini scale.
TERSE = World(
    places=_split("forest, valley, creek, ridge, farm, park, lake, hill, bay, field"),
    items=_split("bear, wolf, deer, fox, owl, crow, hare, lynx, seal, goat"),
    distractor_places=_split("moon, mars, castle, tower, island, museum, temple, cave"),
    distractor_items=_split("dragon, unicorn, phoenix, griffin, robot, ghost, giant, mammoth"),
    phrases=MappingProxyType(
        {
            "count": "{item} in {place}",
            "average": "young per {item} in {place}",
            "total_count": "animals in {place}",
            "total_product": "young in {place}",
        }
    ),
    instruction="Add up what is mentioned.",
    how_many="{phrase}?",
    what_is="{phrase}?",
)

WORLDS = MappingProxyType({"zoo": ZOO, "school": SCHOOL, "film": FILM, "terse": TERSE})
