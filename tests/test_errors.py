"""Which errors become a sentence, and which keep their traceback."""

import os
import re
import warnings
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser

from lmsleep.errors import naming_flags, of_constructors, one_sentence


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("n must be 1 or more, got 0"), "n must be 1 or more, got 0"),
        (
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
            "a file that is read must be text in UTF-8, got the byte 0xff at position 0",
        ),
        (FileNotFoundError("no file x"), "no file x"),
        (FloatingPointError("loss is not finite"), "loss is not finite"),
    ],
)
def test_what_a_user_can_put_right_is_a_sentence(error, sentence):
    with pytest.raises(SystemExit, match=f"^error: {sentence}$"), one_sentence():
        raise error


def test_ctrl_c_ends_without_a_traceback_as_a_shell_expects():
    with pytest.raises(SystemExit) as ended, one_sentence():
        raise KeyboardInterrupt
    assert ended.value.code == 130


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SystemExit, match=f"^error: there is no file or folder '{tmp_path}/x'$"), one_sentence():
        (tmp_path / "x").read_text()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="takes no folders, but says that they are missing")
def test_a_folder_that_cannot_be_made_is_not_called_missing():
    for make in (lambda: Path("/proc/x").mkdir(parents=True), lambda: os.makedirs("/proc/x/y")):
        with pytest.raises(SystemExit, match=r"^error: the folder '/proc/x' cannot be made$"), one_sentence():
            make()


def test_a_path_of_the_wrong_kind_is_named(tmp_path):
    (tmp_path / "x").touch()
    for use, reason in (
        (lambda: (tmp_path / "x").mkdir(), "x' cannot be used: file exists"),
        (lambda: (tmp_path / "x" / "y").read_text(), "x/y' cannot be used: not a directory"),
        (lambda: tmp_path.read_text(), "' cannot be used: is a directory"),
    ):
        with pytest.raises(SystemExit, match=f"^error: '{tmp_path}.*{reason}$"), one_sentence():
            use()


def test_a_forbidden_path_is_named():
    with pytest.raises(SystemExit, match=r"^error: 'x' cannot be used: permission denied$"), one_sentence():
        raise PermissionError(13, "Permission denied", "x")


def test_a_full_disk_is_a_sentence():
    with pytest.raises(SystemExit, match=r"^error: no space left on device$"), one_sentence():
        raise OSError(28, "No space left on device")


def test_a_file_that_is_no_yaml_is_a_sentence():
    with pytest.raises(SystemExit, match=r"^error: while parsing [^\n]* at line 1[^\n]*$"), one_sentence():
        yaml.safe_load("a: [")


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("x"), OSError("x"), AssertionError("x")])
def test_everything_else_keeps_its_traceback(error):
    with pytest.raises(type(error), match="x"), one_sentence():
        raise error


def test_a_developer_sees_tracebacks_where_they_are_asked_for(monkeypatch):
    monkeypatch.setenv("LMSLEEP_TRACEBACK", "1")
    with pytest.raises(ValueError, match="x"), one_sentence():
        raise ValueError("x")


def test_a_caller_can_name_further_errors():
    with pytest.raises(SystemExit, match=r"^error: x$"), one_sentence(RuntimeError):
        raise RuntimeError("x")


def test_an_exit_code_stays_what_it_is():
    with pytest.raises(SystemExit, match="143"), one_sentence():
        raise SystemExit(143)


def test_a_warning_of_a_command_is_one_line():
    written = warnings.formatwarning
    with one_sentence():
        assert warnings.formatwarning("a wren", UserWarning, "file.py", 3) == "warning: a wren\n"
    assert warnings.formatwarning is written


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("steps must be 2 or more, got 1", "--steps must be 2 or more, got 1"),
        ("devices of the trainer must be 1, got 2", "--trainer.devices must be 1, got 2"),
        ("accelerate='graph' needs a CUDA device, got cpu", "--accelerate='graph' needs a CUDA device, got cpu"),
        ("rows of steps must be few", "rows of steps must be few"),
        ("a.jsonl, line 1: must be JSON", "a.jsonl, line 1: must be JSON"),
        ("--steps must be 2 or more, got 1", "--steps must be 2 or more, got 1"),
        ("other must be 2, got 1", "other must be 2, got 1"),
    ],
)
def test_an_error_that_begins_with_a_setting_names_its_option(said, sentence):
    def flag(name, rest):
        assert said.endswith(rest)
        return None if name == "other" else f"--{name}"

    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"), naming_flags(flag):
        raise ValueError(said)


def test_what_is_null_true_or_false_is_called_so():
    with pytest.raises(SystemExit) as ended, one_sentence():
        raise ValueError("a must be True, or None, got False; b must be 'None', got 'True'")
    assert str(ended.value) == "error: a must be true, or null, got false; b must be 'None', got 'True'"


class Reader:
    """Is made of a path that holds nothing, and says so itself."""

    def __init__(self, path: str):
        try:
            open(path)  # noqa: SIM115
        except OSError as error:
            raise ValueError(f"path must be a file, got {path!r}") from error


def test_what_a_constructor_says_is_said_and_not_what_it_was_caused_by(tmp_path):
    parser = ArgumentParser()
    parser.add_argument("--reader", type=Reader)
    given = parser.parse_args([f"--reader={__name__}.Reader", "--reader.path=nowhere"])
    with pytest.raises(ValueError, match=r"^path must be a file, got 'nowhere'$"), of_constructors():
        parser.instantiate(given)


class Doubled:
    """Computes with what it is given, unlooked at."""

    def __init__(self, number=1):
        self.number = 2 * number + 1


def test_a_null_that_a_constructor_computes_with_is_said_with_its_module():
    parser = ArgumentParser()
    parser.add_argument("--doubled", type=Doubled | None)
    given = parser.parse_args([f"--doubled={__name__}.Doubled", "--doubled.number=null"])
    rule = rf"^{__name__} cannot take what it is given: unsupported operand .*'NoneType'$"
    with pytest.raises(ValueError, match=rule), of_constructors():
        parser.instantiate(given)
