"""Plain text, against the text itself, byte for byte."""

import re
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch

from lmsleep.cli import main as lmsleep
from lmsleep.tasks import TextLM

CONFIG = Path(__file__).parents[2] / "configs/experiment/text_qa.yaml"
L = 40
TEXT = "".join(
    f"{'Once upon a time ' * (i % 4)}there was {i} ünder {'☃' * (i % 3)}\n" * (i % 2 + 1) for i in range(400)
)


def test_plain_text_is_cut_into_rows_of_whole_windows(written):
    """All rows together are the text, byte for byte, whatever its lines are."""
    task = TextLM(written([TEXT], "book.txt"), window_size=L, n_windows=2)
    ids, T = task.encode(TEXT), 2 * L
    wanted = Counter(tuple(ids[i : i + T + 1]) for i in range(0, len(ids) - T, T))
    found = Counter()
    for split in ("train", "val", "test"):
        for step in range(task.held_out_steps(split, 1, 0)):
            batch = task.rows(split=split, seed=0, step=step, batch_size=1)
            assert batch.mask is None and batch.tokens.shape == (1, task.sequence_length) == (1, T)
            assert torch.equal(batch.tokens[:, 1:], batch.targets[:, :-1])
            found[(*batch.tokens[0].tolist(), int(batch.targets[0, -1]))] += 1
    assert found == wanted and len(TEXT.encode()) == len(ids)


def test_rows_of_files_that_are_not_joined_cross_none(written):
    parts = [TEXT[:700], "short\n", TEXT[700:], "ü" * L]
    for i, part in enumerate(parts):
        written([part], f"part{i}.txt")
    pattern = str(Path(written([""], "empty.txt")).with_name("*.txt"))
    task = TextLM(pattern, window_size=L, n_windows=2, join=False)
    T, wanted, found = 2 * L, Counter(), Counter()
    for ids in map(task.encode, parts):
        wanted += Counter(tuple(ids[i : i + T + 1]) for i in range(0, len(ids) - T, T))
    for split in ("train", "val", "test"):
        for step in range(task.held_out_steps(split, 1, 0)):
            batch = task.rows(split=split, seed=0, step=step, batch_size=1)
            found[(*batch.tokens[0].tolist(), int(batch.targets[0, -1]))] += 1
    assert found == wanted and len(found) > 50


def test_a_file_that_is_a_copy_of_another_is_warned_of(written):
    """Whatever it is called: its rows, cut elsewhere, are trained on where those of the other are held out."""
    for name, text in (("a", TEXT), ("b", TEXT.upper()), ("c", TEXT), ("d", ""), ("e", "")):
        path = Path(written([text], f"{name}.txt"))
    pattern = str(path.with_name("*.txt"))
    task = TextLM(pattern, window_size=L)
    sentence = f"1 of 3 files in {pattern} is a copy of another: rows held out of one are trained on in another"
    with pytest.warns(UserWarning, match=f"^{re.escape(sentence)}$"):
        assert task.slices
    given = TextLM(
        str(path.with_name("[ab].txt")), str(path.with_name("c.txt")), str(path.with_name("b.txt")), window_size=L
    )
    with pytest.warns(
        UserWarning, match=r"^1 of 1 file in .*c\.txt, for val, is in .*\[ab\]\.txt too, which is trained on$"
    ):
        assert given.slices


def test_text_from_another_system_is_the_same_text(written, tmp_path):
    """With a byte order mark and other line ends, as `Path.read_text` takes them for line ends."""
    task = TextLM(written([TEXT], "book.txt"), window_size=L)
    (tmp_path / "other.txt").write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    assert (tmp_path / "other.txt").read_text(encoding="utf-8-sig") == TEXT
    other = TextLM(str(tmp_path / "other.txt"), window_size=L)
    for split in ("train", "test"):
        one, two = (one.rows(split=split, seed=0, step=0, batch_size=8) for one in (task, other))
        assert torch.equal(one.tokens, two.tokens) and torch.equal(one.targets, two.targets)


@pytest.mark.parametrize("after_loss", [False, True])
def test_a_language_model_is_trained_on_a_book(written, tmp_path, after_loss):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        lmsleep(
            [
                "fit",
                f"--config={CONFIG}",
                f"--checkpoint.dirpath={tmp_path}",
                f"--trainer.default_root_dir={tmp_path}",
                "--data.task=lmsleep.tasks.TextLM",
                f"--data.task.init_args.train={written([TEXT], 'book.txt')}",
                "--data.task.init_args.window_size=40",
                "--model.model.d_model=16",
                "--sleep.n_passes=2",
                f"--sleep.after_loss={str(after_loss).lower()}",
                "--trainer.max_steps=4",
                "--trainer.val_check_interval=2",
                "--trainer.enable_progress_bar=false",
                "--trainer.logger=false",
            ]
        )
    assert any("no window of this run sleeps" in str(w.message) for w in caught) != after_loss
