"""Solves a problem from its text alone: an independent check of the generator, with which it shares no code."""

import re
from collections import defaultdict
from typing import NamedTuple

Quantity = tuple[str, str, str]  # what ("number", "average", "sum", "product"), place, item ("" for a sum or a product)

_TEXT = re.compile(r"Question: (?P<question>[^?]+)\? Problem: (?P<sentences>.+)\. Answer:(?: (?P<stated>\d+))?$")
_PHRASES = (
    ("product", r"the total number of (?:newborn animal children|teachers from all schools) in (?P<place>.+)"),
    ("product", r"(?:the total number of movie nominations|young) in (?P<place>.+)"),
    ("sum", r"(?:the total number of (?:adult animals|schools|movies)|animals) in (?P<place>.+)"),
    ("average", r"the average number of (?:newborn children|teachers|nominations) per (?P<item>.+) in (?P<place>.+)"),
    ("average", r"young per (?P<item>.+) in (?P<place>.+)"),
    ("number", r"the number of (?P<item>.+) in (?P<place>.+)"),
    ("number", r"How many (?P<item>.+) does (?P<place>.+) have"),
    ("number", r"(?P<item>[a-z]+) in (?P<place>[a-z]+)"),
)
_GRAMMAR = tuple((what, re.compile(pattern)) for what, pattern in _PHRASES)
_RIGHT = re.compile(r"(?:(?P<constant>\d+)(?: (?P<operator>plus|times) |$))?(?P<rest>.*)")


class Rule(NamedTuple):
    """The right side of a sentence."""

    constant: int | None
    operator: str | None
    join: str
    terms: list[Quantity]


class Solution(NamedTuple):
    """The result of `solve`."""

    answer: int
    op: int  # operations needed
    stated: int | None  # the answer that the text itself gives


def parse_phrase(text: str) -> Quantity:
    """The quantity that a phrase names. Raises ValueError if it names none."""
    text = text.removeprefix("What is ").strip()
    if text.startswith("The "):
        text = "t" + text[1:]
    for what, pattern in _GRAMMAR:
        if match := pattern.fullmatch(text):
            return what, match["place"], match.groupdict().get("item") or ""
    raise ValueError(f"no quantity is named by {text!r}")


def parse_right(text: str) -> Rule:
    """Parses the text after " equals "."""
    match = _RIGHT.fullmatch(text)
    assert match is not None
    constant, rest = match["constant"], match["rest"]
    join, terms = "same", [rest] if rest else []
    if rest.startswith("the sum of "):
        join, terms = "sum", re.split(r", and |, | and ", rest.removeprefix("the sum of "))
    elif rest.startswith("the difference between "):
        join, terms = "difference", rest.removeprefix("the difference between ").split(" and ")
    return Rule(None if constant is None else int(constant), match["operator"], join, [parse_phrase(t) for t in terms])


class Equations:
    """The sentences of a problem, resolved on demand."""

    def __init__(self, sentences: list[str]) -> None:
        self.rules: dict[Quantity, Rule] = {}
        self.items: dict[str, set[str]] = defaultdict(set)
        for sentence in sentences:
            left, equals, right = sentence.partition(" equals ")
            quantity, rule = parse_phrase(left), parse_right(right)
            if not equals or not right or quantity in self.rules:
                raise ValueError(f"a sentence is no definition, or the second of one quantity: {sentence!r}")
            self.rules[quantity] = rule
            for _, place, item in (quantity, *rule.terms):
                if item:
                    self.items[place].add(item)
        self.values: dict[Quantity, int] = {}
        self.open: set[Quantity] = set()

    def value(self, quantity: Quantity) -> int:
        """The value of a quantity; it and all that it needs are added to `values`. Raises ValueError if it is not
        defined, or defined by itself."""
        if quantity in self.values:
            return self.values[quantity]
        if quantity in self.open:
            raise ValueError(f"{quantity} is defined by itself")
        self.open.add(quantity)
        what, place, _ = quantity
        if what == "sum":
            result = sum(self.value(("number", place, item)) for item in self.items[place])
        elif what == "product":
            pairs = [(("number", place, item), ("average", place, item)) for item in self.items[place]]
            result = sum(self.value(number) * self.value(average) for number, average in pairs)
        elif quantity in self.rules:
            result = self._apply(self.rules[quantity])
        else:
            raise ValueError(f"{quantity} is not defined")
        self.values[quantity] = result
        return result

    def _apply(self, rule: Rule) -> int:
        terms = [self.value(term) for term in rule.terms]
        if not terms:
            assert rule.constant is not None
            return rule.constant
        result = terms[0] - terms[1] if rule.join == "difference" else sum(terms)
        if rule.constant is None:
            return result
        return rule.constant * result if rule.operator == "times" else rule.constant + result

    def operations(self) -> int:
        """Operations of all in `values`: dependencies, constants included; two for each item of a product."""
        count = 0
        for quantity in self.values:
            what, place, _ = quantity
            if what in ("sum", "product"):
                count += len(self.items[place]) * (2 if what == "product" else 1)
            else:
                rule = self.rules[quantity]
                count += len(rule.terms) + (rule.constant is not None)
        return count


def solve(text: str) -> Solution:
    """Solves the text of a problem, up to "Answer:" or with the answer. Raises ValueError if the text is no problem, or
    does not determine the answer."""
    match = _TEXT.search(" ".join(text.split()))
    if match is None:
        raise ValueError(f"the text is not question, problem and answer: {text[:60]!r} ... {text[-60:]!r}")
    equations = Equations(match["sentences"].split(". "))
    answer = equations.value(parse_phrase(match["question"]))
    stated = match["stated"]
    return Solution(answer, equations.operations(), None if stated is None else int(stated))
