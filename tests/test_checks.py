"""Values and files that are refused in one sentence."""

import ast
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

import lmsleep
from lmsleep.checks import (
    check_integer,
    counted,
    first_line,
    json_kind,
    naming_file,
    parse_object,
    program,
    read_object,
    typed,
)


def test_an_object_is_read_and_anything_else_is_refused_in_one_sentence(tmp_path):
    path = tmp_path / "config.json"
    with pytest.raises(ValueError, match=r"must hold config\.json, found none"):
        read_object(path)
    with pytest.raises(ValueError, match=r"^the current folder must hold none\.json, found none$"):
        read_object(Path("none.json"))
    path.write_text('{"a": [1, 2]}')
    assert read_object(path) == {"a": [1, 2]}
    path.write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON: "):
        read_object(path)
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"config\.json must be a JSON object, got a list"):
        read_object(path)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError("no network\nlong explanation"), "no network"),
        (ValueError("\n two "), "two"),
        (EOFError(), "EOFError"),
        (RuntimeError("\x1b[1mbold\x1b[0m"), "bold"),
    ],
)
def test_an_error_in_a_line(error, line):
    assert first_line(error) == line


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (lambda: b"\x89PNG".decode(), "x.y: must be text in UTF-8, got the byte 0x89 at position 0"),
        (lambda: yaml.safe_load("a: b: c"), "x.y: mapping values are not allowed here at line 1, column 5: a: b: c ^"),
    ],
)
def test_a_file_of_another_kind_is_named_in_words_of_ours(read, said):
    with pytest.raises(ValueError) as raised, naming_file("x.y"):
        read()
    assert str(raised.value) == said


def test_an_error_while_reading_names_its_file_too(tmp_path):
    """That of opening does; one of reading has no file of its own."""
    with pytest.raises(OSError, match=r"^\[Errno 5\] Input/output error: 'x\.y'$"), naming_file("x.y"):
        raise OSError(5, "Input/output error")
    with pytest.raises(FileNotFoundError, match=r"other'$"), naming_file("x.y"):
        (tmp_path / "other").open()


@pytest.mark.parametrize(
    ("started", "folders", "told"),
    [
        (["/bin/lmsleep", "fit"], None, "lmsleep"),
        (["/bin/lmsleep", "fit"], "my examples", "PYTHONPATH='my examples' lmsleep"),
        (["examples/rule.py", "fit"], None, "python examples/rule.py"),
        (["/a/lmsleep/__main__.py", "finetune"], None, "python -m lmsleep"),
        (["/a/lmsleep/figures/train.py", "--out"], None, "lmsleep"),
        (["mine.py", "notes.txt"], None, "lmsleep"),
    ],
)
def test_a_command_that_is_told_begins_as_the_one_that_was_given(monkeypatch, started, folders, told):
    monkeypatch.setattr(sys, "argv", started)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.delenv("LMSLEEP_PLUGINS", raising=False)
    if folders:
        monkeypatch.setenv("PYTHONPATH", folders)
    assert program() == told


def test_a_command_that_is_told_finds_the_modules_of_the_one_that_was_given(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/bin/lmsleep", "fit"])
    monkeypatch.setenv("PYTHONPATH", "examples")
    monkeypatch.setenv("LMSLEEP_PLUGINS", "my_rule")
    assert program() == "PYTHONPATH=examples LMSLEEP_PLUGINS=my_rule lmsleep"


def test_json_nested_too_deep_is_refused():
    with pytest.raises(ValueError, match=r"^x is not valid JSON: maximum recursion depth exceeded"):
        parse_object("[" * 100_000, "x")


@dataclass(frozen=True)
class Inner:
    count: int
    share: float = 0.5

    def __post_init__(self):
        if self.count < 0:
            raise ValueError("count must be 0 or more")


@dataclass(frozen=True)
class Outer:
    inner: Inner
    pair: tuple[int, int] | None = None
    many: tuple[str, ...] = ()
    kind: Literal["a", "b"] = "a"
    flag: bool = False
    free: Any = None


def test_plain_values_become_what_they_are_written_as():
    values = {"inner": {"count": 3, "share": 1}, "pair": [1, 2], "many": ["x"], "kind": "b", "flag": True, "free": [1]}
    got = typed(Outer, values, "x")
    assert got == Outer(Inner(3, 1.0), (1, 2), ("x",), "b", True, [1])
    assert type(got.inner.share) is float
    assert typed(Outer, {"inner": {"count": 3}, "pair": None}, "x") == Outer(Inner(3))
    assert typed(dict[str, int], {"a": 1}, "x") == {"a": 1}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"inner": {"count": "3"}}, "count in inner in x must be an integer, got '3'"),
        ({"inner": {"count": 3.0}}, "count in inner in x must be an integer, got 3.0"),
        ({"inner": {"count": True}}, "count in inner in x must be an integer, got True"),
        ({"inner": {"count": None}}, "count in inner in x must be an integer, got None"),
        ({"inner": {"count": -1}}, "count must be 0 or more"),
        ({"inner": {"count": 1, "share": math.nan}}, "share in inner in x must be a finite number, got nan"),
        ({"inner": {"count": 1, "share": 10**400}}, "share in inner in x must be a finite number, got 1000.*000"),
        ({"inner": {"count": 1, "share": True}}, "share in inner in x must be a finite number, got True"),
        ({"inner": {}}, "inner in x must hold the fields of .*Inner: .* missing .*'count'"),
        ({"inner": [1]}, r"inner in x must be .*Inner, got \[1\]"),
        ({"pair": [1]}, r"pair in x must be tuple\[int, int\], got \[1\]"),
        ({"pair": [1, "2"]}, r"item 1 of pair in x must be an integer, got '2'"),
        ({"many": "xy"}, r"many in x must be tuple\[str, ...\], got 'xy'"),
        ({"kind": "c"}, "kind in x must be one of a, b, got 'c'"),
        ({"kind": ["a"]}, r"kind in x must be one of a, b, got \['a'\]"),
        ({"flag": 1}, "flag in x must be true or false, got 1"),
        ({"more": 1}, "x must hold the fields of .*Outer: .*unexpected keyword argument 'more'"),
        ({1: 2}, "x must hold the fields of .*Outer: .*unexpected keyword argument '1'"),
    ],
)
def test_a_value_of_another_type_is_one_sentence(change, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        typed(Outer, {"inner": {"count": 3}} | change, "x")


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "1 or more, got 0"), (9, "at most 8, got 9"), (2.0, "an integer, got 2.0"), (True, "an integer, got True")],
)
def test_an_integer_out_of_range_is_one_sentence(value, said):
    check_integer("n", 8, 1, 8)
    with pytest.raises(ValueError, match=f"^n must be {said}$"):
        check_integer("n", value, 1, 8)


def test_no_text_is_read_or_written_in_the_encoding_of_the_locale():
    calls = [
        (path.name, node)
        for path in Path(lmsleep.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", getattr(node.func, "id", "")) in ("read_text", "write_text", "open")
        and ast.unparse(node.func) != "os.open"  # bytes
    ]
    assert len(calls) > 10
    for name, call in calls:
        text = ast.unparse(call)
        assert "encoding=" in text or "b'" in text or "Image" in text, f"{name}: {text}"


def test_one_is_counted_in_the_singular():
    assert [counted(n, "rows") for n in (0, 1, 2, 2000)] == ["0 rows", "1 row", "2 rows", "2,000 rows"]


def test_values_of_json_have_its_names():
    assert [json_kind(value) for value in (None, True, 1, 1.5, "a", [], {})] == [
        "null",
        "true or false",
        "a number",
        "a number",
        "a string",
        "a list",
        "an object",
    ]
