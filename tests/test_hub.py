"""Reading what a folder of a checkpoint holds."""

import pytest

from lmsleep.hub import first_line, read_object


def test_an_object_is_read_and_anything_else_is_refused_in_one_sentence(tmp_path):
    path = tmp_path / "config.json"
    with pytest.raises(ValueError, match=r"must hold config\.json, found none"):
        read_object(path)
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
    [(OSError("no network\nlong explanation"), "no network"), (ValueError("\n two "), "two"), (EOFError(), "EOFError")],
)
def test_an_error_in_a_line(error, line):
    assert first_line(error) == line
