"""The mix of problems against shares measured on the published generator (Infini-AI-Lab/gsm_infinite, forward mode, its
shipped settings, two and three layers equally often), to the sampling error of 1,250 problems."""

import math
import re
from collections import Counter, defaultdict

import numpy as np
import pytest

from lmsleep.tasks.base import stream
from lmsleep.tasks.gsm import ProblemConfig, WordVocabulary, solve
from lmsleep.tasks.gsm.draws import Draws
from lmsleep.tasks.gsm.problem import draw_problem
from lmsleep.tasks.gsm.world import WORLDS

CONFIG = ProblemConfig(templates=("zoo", "school", "film"), length=(1600, 2300), window_sizes=())
N_PER_OP = {op: 250 if op in (2, 8) else 125 for op in CONFIG.slices}  # of the two the shares are looked at alone
NEWBORN = ("newborn animal children", "teachers from all schools", "movie nominations")
DISTRACTOR_PLACES = tuple(place for name in CONFIG.templates for place in WORLDS[name].distractor_places)


@pytest.fixture(scope="module")
def texts() -> dict[int, list[str]]:
    """Problems as text, by operations."""
    words = WordVocabulary(CONFIG.templates)
    drawn: dict[int, list[str]] = {}
    for op in CONFIG.slices:
        rows = [Draws(stream(0, "train", 8 * i + op)) for i in range(N_PER_OP[op])]
        drawn[op] = [words.decode(draw_problem(draws, CONFIG, words, op=op, split="train").ids) for draws in rows]
    return drawn


@pytest.fixture(scope="module")
def sentences(texts: dict[int, list[str]]) -> dict[int, list[list[tuple[str, ...]]]]:
    """Left and right side of every sentence, by operations and problem."""
    bodies = {op: [re.split("Problem: |. Answer:", text)[1] for text in some] for op, some in texts.items()}
    return {op: [[tuple(s.split(" equals ")) for s in b.split(". ")] for b in some] for op, some in bodies.items()}


def asked(text: str) -> str:
    question = re.split(r"Question: |\?", text)[1]
    if question.startswith("How many"):
        return "count"
    if "average" in question:
        return "average"
    return "newborn total" if any(phrase in question for phrase in NEWBORN) else "total"


def shares(texts: list[str]) -> dict[str, float]:
    return {kind: n / len(texts) for kind, n in Counter(map(asked, texts)).items()}


def near(share: float, expected: float, n: int) -> bool:
    """Within four standard errors, and half a percent for the rounding of `expected`."""
    return abs(share - expected) <= 4 * math.sqrt(expected * (1 - expected) / n) + 0.005


def test_an_answer_is_the_solvers_and_no_quantity_is_defined_twice(
    texts: dict[int, list[str]], sentences: dict[int, list[list[tuple[str, ...]]]]
):
    for op, some in texts.items():
        for text in some[::5]:
            solution = solve(text)
            assert (solution.answer, solution.op) == (solution.stated, op)
        assert all(len({left for left, _ in problem}) == len(problem) for problem in sentences[op])


def test_distractors_say_names_alone(sentences: dict[int, list[list[tuple[str, ...]]]]):
    rights = [
        right
        for problems in sentences.values()
        for problem in problems
        for left, right in problem
        if left.endswith(DISTRACTOR_PLACES)
    ]
    n = sum(N_PER_OP.values())
    assert len(rights) > 20 * n and not any(re.search(r"\d", right) for right in rights)
    forms = Counter(re.match("the (sum|difference)|", right)[0] for right in rights)  # pyright: ignore
    # Sentences of one problem choose among the same names, so a problem counts as one draw.
    for form, expected in (("", 0.46), ("the sum", 0.27), ("the difference", 0.27)):
        assert near(forms[form] / len(rights), expected, n), forms
    assert not any(right.startswith("the sum of") and ", and " in right for right in rights)


def test_one_operation_asks_for_an_average_and_two_often_for_a_total(texts: dict[int, list[str]]):
    assert shares(texts[1]) == {"average": 1.0}
    two = shares(texts[2])
    assert near(two["total"], 0.53, N_PER_OP[2]) and near(two["average"], 0.39, N_PER_OP[2])
    assert "newborn total" not in two


def test_newborn_totals_are_rare(texts: dict[int, list[str]]):
    found = {op: shares(texts[op]).get("newborn total", 0.0) for op in range(1, 9)}
    assert not any(found[op] for op in (1, 2, 3)) and found[8] > 0
    mean = np.mean([found[op] for op in range(4, 9)])
    assert 0 < mean <= 0.06 + 2 * math.sqrt(0.06 * 0.94 / (sum(N_PER_OP[op] for op in range(4, 9)))), found


def test_problems_have_7_to_19_core_sentences(sentences: dict[int, list[list[tuple[str, ...]]]]):
    for op, problems in sentences.items():
        counts = [sum(not left.endswith(DISTRACTOR_PLACES) for left, _ in problem) for problem in problems]
        assert 7 <= np.mean(counts) <= 19, (op, np.mean(counts))


def test_answers_spread_out_as_operations_grow(texts: dict[int, list[str]]):
    answers: dict[int, list[int]] = defaultdict(list)
    for op, some in texts.items():
        answers[op] = [int(text.rsplit(" ", 1)[1]) for text in some]
    assert set(answers[1]) == set(answers[2]) == {1, 2, 3, 4}
    frequencies = np.array(list(Counter(answers[8]).values())) / N_PER_OP[8]
    entropy = -(frequencies * np.log2(frequencies)).sum()
    assert 10 <= np.median(answers[8]) <= 14  # published: 12
    assert 4.4 <= entropy <= 4.9  # published: 4.6 to 4.7 bits; one standard error is 0.08
    medians = [np.median(answers[op]) for op in range(2, 9)]
    assert medians == sorted(medians)
