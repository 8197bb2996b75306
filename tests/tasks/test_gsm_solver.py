"""The solver is the oracle of the other tests of GSM-Infinite, so it is held to problems solved by hand."""

import pytest

from lmsleep.tasks.gsm import solve


def problem(question: str, *sentences: str, answer: str = "") -> str:
    return f"Some instruction. Question: {question}\nProblem: {'. '.join(sentences)}.\nAnswer: {answer}"


def test_newborn_total_by_hand():
    # An average of 2 is one operation, 3 plus it two, the total of one kind two more; (3 + 2) * 2 = 10.
    text = problem(
        "What is the total number of newborn animal children in South Zoo?",
        "The number of adult deer in South Zoo equals 3 plus "
        "the average number of newborn children per adult deer in South Zoo",
        "The average number of newborn children per adult deer in South Zoo equals 2",
        "The number of adult wolf in Pine Ridge equals the number of adult deer in South Zoo",
        answer="10",
    )
    solution = solve(text)
    assert (solution.answer, solution.op, solution.stated) == (10, 5, 10)


@pytest.mark.parametrize(
    ("right", "answer", "op"),
    [
        ("3", 3, 1),
        ("owl in hill", 4, 2),
        ("2 plus owl in hill", 6, 3),
        ("3 times owl in hill", 12, 3),
        ("the sum of owl in hill and crow in hill", 13, 4),
        ("the difference between crow in hill and owl in hill", 5, 4),
        ("the difference between owl in hill and crow in hill", -5, 4),
        ("4 times the difference between crow in hill and owl in hill", 20, 5),
        ("2 plus the sum of owl in hill, crow in hill, and animals in hill", 28, 8),
    ],
)
def test_right_sides_by_hand(right: str, answer: int, op: int):
    # The total over the two kinds of the hill (13) adds two operations to the two constants below it.
    text = problem("bear in lake?", f"bear in lake equals {right}", "owl in hill equals 4", "crow in hill equals 9")
    solution = solve(text)
    assert (solution.answer, solution.op, solution.stated) == (answer, op, None)


@pytest.mark.parametrize(
    ("question", "sentences", "answer", "op"),
    [
        (
            "What is the total number of teachers from all schools in Lake Marlow?",
            [
                "The number of law school in Lake Marlow equals 2",
                "The average number of teachers per law school in Lake Marlow equals 4",
                "The number of art school in Lake Marlow equals the number of law school in Lake Marlow",
                "The average number of teachers per art school in Lake Marlow equals 3",
            ],
            14,
            8,
        ),
        (
            "What is the total number of movies in Festival of Monte Alba?",
            ["The number of quiet desert western in Festival of Monte Alba equals 3"],
            3,
            2,
        ),
        ("How many law school does Lake Marlow have?", ["The number of law school in Lake Marlow equals 2"], 2, 1),
    ],
)
def test_other_templates_by_hand(question: str, sentences: list[str], answer: int, op: int):
    solution = solve(problem(question, *sentences))
    assert (solution.answer, solution.op) == (answer, op)


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        (["bear in lake equals owl in hill"], "not defined"),
        (["bear in lake equals owl in hill", "owl in hill equals animals in lake"], "defined by itself"),
        (["bear in lake equals 1", "bear in lake equals 2"], "second"),
        (["bear in lake is 3"], "no quantity"),
    ],
)
def test_texts_that_determine_nothing(sentences: list[str], message: str):
    with pytest.raises(ValueError, match=message):
        solve(problem("bear in lake?", *sentences))


def test_text_without_a_question():
    with pytest.raises(ValueError, match="question, problem and answer"):
        solve("bear in lake equals 3.")
