"""The pages name files, tests and commands that exist, and their links lead somewhere."""

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch

from lmsleep import HybridLM
from lmsleep.cli import COMMANDS, RUNS, TRAINER

ROOT = Path(__file__).parents[1]
FIDELITY, GUIDE, PROMISES = (ROOT / f"docs/{name}.md" for name in ("fidelity", "guide", "promises"))
PAGES = [
    ROOT / "README.md",
    ROOT / "results/README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
RESULTS = sorted((ROOT / "results").glob("*/README.md"))
MEASURED = {f"measured at {scales}" for scales in ("mini", "gpu", "mini and gpu")}
STATUS = {"implemented", *MEASURED, "open", "not reachable here"}


def page_id(path):
    return str(path.relative_to(ROOT))


@cache
def functions_of(path):
    """Names of the functions of a file."""
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


@cache
def anchors(path):
    """Anchors of the headings of a page, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def fidelity_rows():
    """The cells of every row of the tables of sections."""
    lines = FIDELITY.read_text().splitlines()
    cells = [re.split(r"(?<!\\)\|", line.strip("|")) for line in lines if line.startswith("| ")]
    rows = [[cell.strip() for cell in row] for row in cells]
    return [row for row in rows if len(row) == 5 and row[0] != "where"]


def test_every_row_has_a_status_and_one_that_is_built_has_a_file_and_a_test():
    rows = fidelity_rows()
    assert len(rows) > 80
    for row in rows:
        where, paper, ours, held, status = row
        assert where and paper and ours and status.split(";")[0] in STATUS, row
        if status == "implemented":
            assert re.search(r"\]\(\.\./(src|dvc|configs|params)", held) and '"test_' in held, row


def test_a_section_of_the_claims_is_one_table_and_a_cell_is_short():
    sections = FIDELITY.read_text().partition("\n## The table\n")[2].split("\n### ")[1:]
    assert [section.count("\n| where | ") for section in sections] == [1] * len(sections)
    rows = [line for section in sections for line in section.splitlines() if line.startswith("| ")]
    assert len(rows) == len(fidelity_rows()) + len(sections), "a row has five cells"
    shown = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", cell) for row in fidelity_rows() for cell in row]
    assert not [cell for cell in shown if len(cell) > 220]


def test_no_statement_of_the_paper_has_two_rows():
    stated = Counter((where, paper) for where, paper, *_ in fidelity_rows())
    assert not [statement for statement, rows in stated.items() if rows > 1]


def test_every_test_that_is_named_exists():
    pattern = r"`?(tests/[\w/]+\.py)(?:::| \")(\w+)[`\"]"  # as code, or as a link whose title is the name of the test
    named = [match for page in PAGES for match in re.findall(pattern, page.read_text())]
    assert len(named) > 80
    missing = [f"{path}::{name}" for path, name in named if name not in functions_of(ROOT / path)]
    assert not missing


def test_every_promise_has_a_test_and_some_a_command():
    lines = [line for line in PROMISES.read_text().splitlines() if line.startswith("| ") and "**" not in line]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\) \|", line.removeprefix("| "))[:-1]] for line in lines[1:]]
    assert len(rows) > 50 and sum(bool(command) for *_, command in rows) > 20
    for promise, test, command in rows:
        assert promise and re.fullmatch(r"`tests/[\w/]+\.py::test_\w+`", test), test  # the test above looks for it
        assert not command or re.match(r"`.*(lmsleep|make) ", command), command


@pytest.mark.parametrize("page", PAGES + RESULTS, ids=page_id)
def test_no_page_says_ten_words_twice(page):
    """Outside of code, tables and pictures: a page that was merged, or an aside that was moved and left behind."""
    prose = re.sub(r"^```[\s\S]*?^```|^[|!<].*$", "", page.read_text(), flags=re.M)
    words = [re.findall(r"[^\W\d_]{2,}", paragraph) for paragraph in prose.split("\n\n")]
    runs = Counter(" ".join(said[i : i + 10]) for said in words for i in range(len(said) - 9))
    assert not [run for run, times in runs.items() if times > 1]


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_file_that_is_named_exists(page):
    folders = ("configs", "docs", "examples", "notebooks", "src", "tests")
    named = re.findall(rf"(?<![\w/.<])((?:{'|'.join(folders)})/[\w/.-]+\.(?:py|yaml|md|csv|ipynb))", page.read_text())
    missing = [path for path in named if not (ROOT / path).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_link_leads_somewhere(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)(?: \"\w+\")?\)", page.read_text()):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_command_exists(page):
    code = "\n".join(re.findall(r"^```(?:bash|sh)?\n(.*?)^```", page.read_text(), flags=re.M | re.S))
    code += "\n" + "\n".join(re.findall(r"`([^`\n]+)`", page.read_text()))
    for command, sub in re.findall(r"(?<![\w./-])lmsleep (\w+)(?: (\w+))?", code):
        name = f"bench {sub}" if command == "bench" else command
        assert name in [*TRAINER, *RUNS, *COMMANDS], f"lmsleep {name}"
    for module in re.findall(r"python -m (lmsleep[\w.]*)", code):
        path = ROOT / "src" / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def test_the_guide_s_task_is_trained_as_printed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    (block,) = (b for b in re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), flags=re.M | re.S) if "Copy(" in b)
    names: dict = {}
    exec(block.replace("max_steps=1000", "max_steps=2"), names)
    (sleeper,) = (c for c in names["trainer"].callbacks if isinstance(c, names["SleepCallback"]))
    assert names["trainer"].global_step == 2 and sleeper.sleeps_per_sequence == 3
    saved = HybridLM.from_pretrained("copy")
    assert saved.trained["n_passes"] == 2
    for name, weight in names["module"].model.named_parameters():
        assert torch.equal(weight, saved.get_parameter(name)), name


def test_rules_have_the_same_arguments_wherever_one_is_written():
    places = [GUIDE, *(ROOT / "examples").glob("*.py"), *(ROOT / "notebooks").glob("*.ipynb")]
    rules = [rule for place in places for rule in re.findall(r"def forward\(self, (.*?)\)(?: ->|:)", place.read_text())]
    names = [re.findall(r"(\w+)(?::[^,]+)?(?:, |$)", rule) for rule in rules]
    assert len(names) == 3 and all(of_one == ["x", "state", "cache", "ctx"] for of_one in names), names


def test_a_wrong_name_is_noticed():
    assert "test_a_wrong_name_is_noticed" in functions_of(Path(__file__)) and "test_nothing" not in functions_of(
        Path(__file__)
    )
    assert "claims-boundary" in anchors(FIDELITY) and "nowhere" not in anchors(FIDELITY)
