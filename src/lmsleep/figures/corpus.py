"""Python's standard library as a text corpus that every machine has, and the test rows of its unseen files. Tokens are
bytes, so that there is no vocabulary to choose, and losses are nats a byte."""

import hashlib
import io
import keyword
import platform
import re
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lmsleep.atomic import save_json
from lmsleep.checks import require
from lmsleep.tasks import IGNORE, Task, TextLM
from lmsleep.tensors import save_tensors

SHARES = {"test": 0.05, "val": 0.025}  # of the bytes; the rest is train
NOT_PYTHONS = re.compile(r"(^|/)(site-packages|dist-packages|__pycache__|config-[^/]*)/|(^|/)_sysconfigdata[^/]*$")
WORD = re.compile(r"[^\W\d]\w*")
NEEDLES = 128  # for each distance
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def write_corpus(out: Path, seed: int, stdlib: Path | None = None) -> None:
    """Copies the source files of the standard library (default: of this Python) to <out>/train, val and test, split at
    random by `seed`, and describes them in <out>.json.

    Without installed packages, files generated when this Python was built, and files that are not UTF-8. Raises
    ValueError if there are no sources, or there is another file in <out>: it may be one that is now of another split.
    """
    stdlib = stdlib or Path(sysconfig.get_path("stdlib"))
    names = sorted(path.relative_to(stdlib).as_posix() for path in stdlib.rglob("*.py"))
    texts = {name: (stdlib / name).read_bytes() for name in names if not NOT_PYTHONS.search(name)}
    texts = {name: text for name, text in texts.items() if _has_text(text)}
    require(texts, "stdlib must be a folder with the sources of Python's standard library", str(stdlib))
    order = [list(texts)[i] for i in np.random.default_rng(seed).permutation(len(texts))]
    sizes = np.array([len(texts[name]) for name in order])
    before = (np.cumsum(sizes) - sizes) / sizes.sum()  # the share of all bytes that come before each file
    ends = np.cumsum(list(SHARES.values()))
    splits = [[*SHARES, "train"][np.searchsorted(ends, share, side="right")] for share in before]
    places = {name: out / split / name for name, split in zip(order, splits, strict=True)}
    others = sorted({path for path in out.rglob("*") if path.is_file()} - {*places.values()})
    require(not others, f"{out} must be a folder without other files", str(next(iter(others), "")))
    for name, path in places.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(texts[name])
    digest = hashlib.sha256()
    for name, text in texts.items():
        digest.update(f"{name}\0{len(text)}\0".encode() + text)
    source: dict[str, str | int] = {"python": platform.python_version(), "sha256": digest.hexdigest(), "seed": seed}
    for split in ("train", *SHARES):
        files = [texts[name] for name, of in zip(order, splits, strict=True) if of == split]
        source |= {f"{split}_files": len(files), f"{split}_bytes": sum(map(len, files))}
    save_json(out.with_suffix(".json"), source)


def _has_text(text: bytes) -> bool:
    try:
        return bool(text.decode())
    except UnicodeDecodeError:
        return False


def write_questions(task: Task, folder: Path, out: Path) -> None:
    """Writes the test rows of a run: rows.safetensors, from the test files in <folder>, and needle.safetensors, some of
    these with a needle.

    `by_window`, `by_repeat`, `by_rare` and `by_new` (R, T) group targets whose losses are reported separately, -1 for
    none: all, by their window; bytes of names that occurred before in the row, by the windows since then; those of
    these names that are in no training file; bytes of names that are new in the row. Raises ValueError if the task does
    not have bytes as tokens, or rows that cross files.
    """
    if not isinstance(task, TextLM) or task.tokenizer != "bytes" or task.join:
        raise ValueError(f"task must be a TextLM with tokenizer 'bytes' and join false beside a corpus, got {task!r}")
    known = {word for file in texts(folder / "train") for word in WORD.findall(file)}
    rows, groups = [], []
    for text in texts(folder / "test"):
        ids = np.array(task.encode(text))
        names = identifiers(text)
        for start in range(0, len(ids) - task.sequence_length, task.sequence_length):
            rows.append(ids[start : start + task.sequence_length + 1])
            groups.append(group_by_names(names, start, task.sequence_length, task.window_size, known))
    both = torch.tensor(np.stack(rows))
    sorted_by = {name: torch.stack([group[name] for group in groups]) for name in groups[0]}
    window = (torch.arange(task.sequence_length) // task.window_size).to(torch.int8)
    sorted_by["by_window"] = window.expand_as(both[:, 1:]).contiguous()
    levels = torch.full((len(both),), task.n_windows - 1)
    _save(out / "rows.safetensors", task, both, both[:, 1:].clone(), levels, **sorted_by)
    _save(out / "needle.safetensors", task, *insert_needles(task, both, np.random.default_rng(0)))


def texts(folder: Path) -> Iterator[str]:
    """The texts of the Python files below a folder, in the order of their names."""
    for path in sorted(folder.rglob("*.py")):
        yield path.read_bytes().decode()


def _save(path: Path, task: TextLM, both: Tensor, targets: Tensor, levels: Tensor, **more: Tensor) -> None:
    tensors = {"tokens": both[:, :-1].clone(), "targets": targets, "answers": task.answers(targets), "slice": levels}
    save_tensors(path, tensors | more, "lmsleep.rows", {})


def identifiers(text: str) -> list[tuple[int, int, str]]:
    """Start and end in bytes, and text, of every identifier, as far as `tokenize` can read the file."""
    names = []
    starts = np.cumsum([0, *(len(line.encode()) for line in io.StringIO(text, newline="\n"))])
    lines = io.StringIO(text, newline="\n")
    try:
        for token in tokenize.generate_tokens(lines.readline):
            if token.type == tokenize.NAME and not keyword.iskeyword(token.string):
                row, column = token.start
                first = int(starts[row - 1]) + len(token.line[:column].encode())
                names.append((first, first + len(token.string.encode()), token.string))
    except (tokenize.TokenError, SyntaxError):
        pass  # some test files of Python are not valid Python
    return names


def group_by_names(
    names: Iterable[tuple[int, int, str]], start: int, length: int, window: int, known: set[str]
) -> dict[str, Tensor]:
    """The groups of `write_questions` by names, each (length,) int8, for the row that starts at byte `start`. The
    distance of a name is the window of its first target minus that in which it was last read: from 1 on, attention does
    not see it."""
    groups = {name: np.full(length, -1, np.int8) for name in ("by_repeat", "by_rare", "by_new")}
    read: dict[str, int] = {}  # the window in which the last byte of each name was read
    for first, end, name in names:
        place = slice(first - start - 1, end - start - 1)  # of the targets
        if first < start or place.stop > length:
            continue
        if place.start >= 0:
            if name in read:
                groups["by_repeat"][place] = distance = place.start // window - read[name]
                if name not in known:
                    groups["by_rare"][place] = distance
            else:
                groups["by_new"][place] = 0
        read[name] = place.stop // window
    return {name: torch.from_numpy(group) for name, group in groups.items()}


def insert_needles(task: TextLM, both: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (R, T + 1) with a line `name = 'value'` inserted in a window and repeated at the end, where the letters of
    the value are the only targets (R, T); and the number of windows between the two, (R,). Name and value are random
    letters, so that the loss without memory is log 26 nats a letter."""
    T, L, n = task.sequence_length, task.window_size, task.n_windows
    distances = sorted({d for d in (0, 1, 2, 4, n - 1) if d < n})
    newline = task.encode("\n")[0]
    with_needle = []
    for row in rng.permutation(len(both)):
        name, value = ("".join(rng.choice(list(LETTERS), size)) for size in (8, 6))
        needle, question = (task.encode(text) for text in (f"{name} = '{value}'\n", f"\n{name} = '{value}"))
        tokens = both[row].tolist()
        of_row = []
        for distance in distances:
            first = (n - 1 - distance) * L
            # The line must end in its window, and before the question.
            stop = min(first + L, T + 1 - len(question)) - len(needle)
            places = [i + 1 for i in range(first, stop) if tokens[i] == newline]
            if places:
                place = int(rng.choice(places))
                text = [*tokens[:place], *needle, *tokens[place:]][: T + 1 - len(question)] + question
                of_row.append((text, distance))
        if len(of_row) == len(distances):
            with_needle += of_row
        if len(with_needle) == NEEDLES * len(distances):
            break
    if not with_needle:
        raise ValueError("test files must have lines short enough for a needle in every window, got none")
    rows, levels = (torch.tensor(part) for part in zip(*with_needle, strict=True))
    targets = rows[:, 1:].clone()
    targets[:, :-6] = IGNORE
    return rows, targets, levels
