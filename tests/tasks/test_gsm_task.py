import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lmsleep.tasks import IGNORE, Batch, GSMInfinite, Task
from lmsleep.tasks.gsm import MINI, Dataset, DatasetConfig, TokenizerFile, make_dataset, solve
from lmsleep.tasks.gsm.encoder import Encoder, WordVocabulary

WIDE = replace(MINI, length=(100, 200), window_sizes=(16,))  # answers in several windows of 16
CONFIG = DatasetConfig(WIDE, train=400, val=0, test=120)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("gsm") / "wide"
    make_dataset(folder, CONFIG)
    return str(folder)


def encoder(task: GSMInfinite) -> Encoder:
    return WordVocabulary(task.problem.templates, task.problem.max_value)


def check(batch: Batch, words: Encoder) -> None:
    """Each row against the solver; loss on answer and end of sequence alone, at the position before each."""
    assert batch.mask is not None
    for tokens, targets, op, mask in zip(batch.tokens, batch.targets, batch.slice, batch.mask, strict=True):
        n = int(mask.sum())
        assert mask[:n].all() and (tokens[n:] == words.pad_id).all() and words.eos_id not in tokens[:n]
        positions = (targets != IGNORE).nonzero()[:, 0].tolist()
        assert positions == [n - 2, n - 1]
        assert targets[n - 1] == words.eos_id and targets[n - 2] == tokens[n - 1]
        assert words.decode(tokens[: n - 1].tolist()).endswith("Answer:")
        solution = solve(words.decode(tokens[: n - 1].tolist()))
        assert (solution.answer, solution.op) == (int(words.decode([int(targets[n - 2])])), op)


def windows(batch: Batch, size: int) -> set[tuple[int, ...]]:
    return {tuple(sorted({int(i) // size for i in (row != IGNORE).nonzero()})) for row in batch.targets}


def test_drawn_rows():
    task = GSMInfinite()
    assert isinstance(task, Task) and task.slices == (1, 2, 3, 4) and task.window_size == 32
    batch = task.rows(split="train", seed=0, step=3, batch_size=64)
    check(batch, encoder(task))
    assert batch.tokens.shape == (64, task.sequence_length) == (64, 159)
    assert batch.tokens.max() < task.vocab_size
    assert Counter(batch.slice.tolist()) == dict.fromkeys((1, 2, 3, 4), 16)
    assert windows(batch, 32) == {(4,)}
    assert (task.answers(batch.targets) == torch.where(batch.targets == IGNORE, -1, 0)).all()


def test_drawn_training_rows_are_balanced_over_steps():
    task = GSMInfinite()
    ops = [op for step in range(4) for op in task.rows(split="train", seed=0, step=step, batch_size=3).slice.tolist()]
    assert Counter(ops) == dict.fromkeys((1, 2, 3, 4), 3)


@pytest.mark.parametrize("split", ["val", "test"])
def test_held_out_steps_take_the_slices_in_turn(path: str, split: str):
    drawn = [set(GSMInfinite().rows(split=split, seed=0, step=i, batch_size=4).slice.tolist()) for i in range(6)]
    assert drawn == [{1}, {2}, {3}, {4}, {1}, {2}]
    if split == "test":
        task = GSMInfinite(path, window_size=16)
        stored = [set(task.rows(split=split, seed=0, step=i, batch_size=4).slice.tolist()) for i in range(6)]
        assert stored == drawn


@pytest.mark.parametrize("stored", [False, True])
def test_batches_follow_from_seed_split_and_step_alone(path: str, stored: bool):
    def rows(step: int, seed: int = 0, split: str = "train") -> torch.Tensor:
        task = GSMInfinite(path, window_size=16) if stored else GSMInfinite()
        return task.rows(split=split, seed=seed, step=step, batch_size=8).tokens

    late = rows(70)
    early = [rows(step) for step in range(3)]
    assert torch.equal(rows(70), late) and torch.equal(rows(1), early[1])
    assert not any(a.shape == late.shape and torch.equal(a, late) for a in early)
    assert rows(70, seed=1).shape != late.shape or not torch.equal(rows(70, seed=1), late)


def test_drawn_splits_share_no_row():
    task = GSMInfinite()

    def rows(split: str) -> set[tuple[int, ...]]:
        batches = [task.rows(split=split, seed=0, step=step, batch_size=64).tokens for step in range(4)]
        return {tuple(row) for row in torch.cat(batches).tolist()}

    test = rows("test")
    assert not rows("train") & test and not rows("val") & test


def test_an_epoch_shows_each_row_once_in_batches_of_one_bucket(path: str):
    task = GSMInfinite(path, window_size=16)
    steps = task.epoch_steps(8)
    assert steps is not None
    epochs = [
        [task.rows(split="train", seed=0, step=e * steps + i, batch_size=8) for i in range(steps)] for e in (0, 1)
    ]
    shown = []
    for batches in epochs:
        for batch in batches:
            check(batch, encoder(task))
            assert len(batch.tokens) == 8 and len(windows(batch, 16)) == 1
            (last,) = windows(batch, 16)
            assert batch.tokens.shape[1] == min((last[-1] + 1) * 16, task.sequence_length)
        shown.append(Counter(tuple(r[r != 0].tolist()) for batch in batches for r in batch.tokens))
        assert set(shown[-1].values()) == {1} and 320 < len(shown[-1]) <= 400
    assert len({b.tokens.shape[1] for b in epochs[0]}) > 3
    assert list(shown[0]) != list(shown[1])
    assert shown[0].keys() != shown[1].keys()  # other rows are left out
    assert GSMInfinite().epoch_steps(8) is None  # drawn problems are endless


@pytest.mark.parametrize("batch_size", [1, 7, 16, 500])
def test_held_out_rows_come_exactly_once(path: str, batch_size: int):
    task = GSMInfinite(path, window_size=16)
    steps = task.held_out_steps("test", batch_size, 0)
    shown: Counter = Counter()
    for step in range(steps):
        batch = task.rows(split="test", seed=0, step=step, batch_size=batch_size)
        check(batch, encoder(task))
        assert 1 <= len(batch.tokens) <= batch_size and len(windows(batch, 16)) == 1
        assert set(batch.slice.tolist()) == {task.slices[step % 4]}
        shown.update(tuple(row[row != 0].tolist()) for row in batch.tokens)
    rows = Dataset(path).split("test")
    assert shown == Counter(tuple(rows.tokens(i).tolist()[:-1]) for i in range(120))
    again = task.rows(split="test", seed=9, step=steps, batch_size=batch_size)
    assert torch.equal(again.tokens, task.rows(split="test", seed=0, step=0, batch_size=batch_size).tokens)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_row_of_a_stored_dataset_has_its_place_in_the_file(path: str, split: str):
    task, rows = GSMInfinite(path, window_size=16), Dataset(path).split(split)
    numbers = []
    for step in range(9):
        place = {"split": split, "seed": 3, "step": step, "batch_size": 8}
        batch, chosen = task.rows(**place), task.row_numbers(**place)
        assert chosen is not None and len(chosen) == len(batch.tokens)
        for row, number in zip(batch.tokens.tolist(), chosen, strict=True):
            assert [token for token in row if token] == rows.tokens(number).tolist()[:-1]
        numbers += chosen
    assert len(set(numbers)) == len(numbers) and numbers != sorted(numbers)
    assert GSMInfinite().row_numbers(split=split, seed=3, step=0, batch_size=8) is None  # drawn problems have no file


def test_answer_cut_by_a_window_boundary_is_a_bucket_of_its_own(path: str):
    """The dataset was made for windows of 16; under 11 some answers straddle a boundary."""
    task = GSMInfinite(path, window_size=11)
    pairs = Counter()
    for step in range(task.held_out_steps("test", 4, 0)):
        batch = task.rows(split="test", seed=0, step=step, batch_size=4)
        (pair,) = windows(batch, 11)
        pairs[len(pair)] += 1
    assert pairs[1] and pairs[2]


def test_window_above_every_length_is_one_bucket(path: str):
    batch = GSMInfinite(path, window_size=4096).rows(split="train", seed=0, step=0, batch_size=300)
    assert windows(batch, 4096) == {(0,)} and batch.tokens.shape == (300, 199)


@pytest.mark.parametrize("stored", [False, True])
def test_in_a_text_every_target_is_the_next_token_and_the_last_two_are_the_answer(path: str, stored: bool):
    text = GSMInfinite(path, 4096, loss="text") if stored else GSMInfinite(loss="text")
    batch = text.rows(split="train", seed=0, step=0, batch_size=20)
    answers = replace(text, loss="answer").rows(split="train", seed=0, step=0, batch_size=20)
    assert batch.mask is not None and answers.mask is not None and torch.equal(batch.mask, answers.mask)
    assert torch.equal(batch.tokens, answers.tokens)
    for tokens, targets, mask in zip(batch.tokens.tolist(), batch.targets.tolist(), batch.mask.tolist(), strict=True):
        n = sum(mask)
        assert targets[:n] == [*tokens[1:n], encoder(text).eos_id] and set(targets[n:]) <= {IGNORE}
    assert torch.equal(text.answers(batch.targets) == 0, answers.targets != IGNORE)
    assert torch.equal(batch.targets[answers.targets != IGNORE], answers.targets[answers.targets != IGNORE])


def test_task_survives_pickling(path: str):
    for task in (GSMInfinite(), GSMInfinite(path, window_size=16)):
        task.rows(split="test", seed=0, step=0, batch_size=2)
        copy = pickle.loads(pickle.dumps(task))
        pair = [t.rows(split="test", seed=0, step=1, batch_size=2).tokens for t in (task, copy)]
        assert torch.equal(*pair)


def test_folder_made_anew_is_opened_anew(tmp_path: Path):
    folder = tmp_path / "gsm"
    lengths = []
    for seed in (0, 1):
        make_dataset(folder, replace(CONFIG, seed=seed, train=4, test=4))
        lengths.append(GSMInfinite(str(folder), 16).rows(split="test", seed=0, step=0, batch_size=1).tokens)
        for file in folder.iterdir():
            file.unlink()
    assert lengths[0].shape != lengths[1].shape or not torch.equal(*lengths)


def test_bad_input(path: str, tmp_path: Path):
    from gsm_bpe import train_bpe

    task = GSMInfinite(path, window_size=16)
    with pytest.raises(ValueError, match="window_size must be 1 or more, got 0"):
        GSMInfinite(window_size=0)
    with pytest.raises(ValueError, match=r"^windows of the answers .* under length 115, 130 .* 40, got \(2, 3\)$"):
        GSMInfinite(window_size=40, problem=replace(MINI, length=(115, 130)))
    with pytest.raises(ValueError, match=r"^windows of the answers must be one, and not window 0, .* got \(0, 0\)$"):
        GSMInfinite(window_size=256)
    with pytest.raises(ValueError, match="holds no dataset"):
        GSMInfinite(str(tmp_path))
    with pytest.raises(ValueError, match="tokenizer needs path"):
        GSMInfinite(tokenizer="tokenizer.json")
    with pytest.raises(ValueError, match="loss must be one of answer, text, got 'all'"):
        GSMInfinite(loss="all")  # pyright: ignore[reportArgumentType]
    bpe = train_bpe(tmp_path)
    with pytest.raises(ValueError, match=r"loss must be 'answer' with a tokenizer, .*, got 'text'"):
        GSMInfinite(path, tokenizer=bpe, loss="text")
    with pytest.raises(ValueError, match="another vocabulary"):
        GSMInfinite(path, tokenizer=bpe)
    assert TokenizerFile(bpe).vocab_size != task.vocab_size
    with pytest.raises(ValueError, match=r"^batch_size must be at most the \d+ rows of the largest bucket .* got 401$"):
        task.rows(split="train", seed=0, step=0, batch_size=401)
    with pytest.raises(ValueError, match=r"^batch_size must be at most the \d+ rows of the largest bucket .* got 401$"):
        task.epoch_steps(401)
    with pytest.raises(ValueError, match="no row of 'val'"):
        task.rows(split="val", seed=0, step=0, batch_size=4)
    for bad in ({"seed": -1}, {"step": -1}, {"batch_size": 0}, {"split": "dev"}):
        for one in (task, GSMInfinite()):
            with pytest.raises(ValueError, match=f"^{next(iter(bad))} must be"):
                one.rows(**({"split": "test", "seed": 0, "step": 0, "batch_size": 4} | bad))
