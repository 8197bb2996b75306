"""The corpus against the files it is made of, and what is asked of it against searching the text by hand."""

import hashlib
import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest
import torch

from lmsleep.cli import run
from lmsleep.figures.corpus import group_by_names, identifiers, write_corpus, write_questions
from lmsleep.figures.data import main
from lmsleep.tasks import IGNORE, TextLM
from lmsleep.tasks.spec import build_task
from lmsleep.tensors import read_tensors

L, N = 64, 4
T = L * N
NAMES = ("first", "second_one", "größe", "a1", "weighted", "x")


def source(seed, lines):
    """Lines like `größe = f1(x, 3)`, with names of their own in every file."""
    rng, names = random.Random(seed), [*NAMES, f"own{seed}", f"mine{seed}"]
    return "".join(f"{rng.choice(names)} = {rng.choice(names)}({rng.choice(names)}, {i})\n" for i in range(lines))


@pytest.fixture(scope="module")
def stdlib(tmp_path_factory):
    """A standard library of 60 files, and what does not belong to it."""
    folder = tmp_path_factory.mktemp("lib")
    files = {f"part{i % 3}/file{i}.py": source(i, 30 + i).encode() for i in range(60)}
    others = ("site-packages/a.py", "x/__pycache__/b.py", "config-3.11-x/c.py", "_sysconfigdata_x.py", "notes.txt")
    files |= dict.fromkeys(others, b"left = out\n")
    for name, text in {**files, "latin.py": "ä = 1\n".encode("latin-1"), "empty.py": b""}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text)
    return folder, {name: text for name, text in files.items() if name not in others}


@pytest.fixture(scope="module")
def made(stdlib, tmp_path_factory):
    """The folder that the stage makes, and its task."""
    folder = tmp_path_factory.mktemp("data")
    write_corpus(folder / "corpus", 0, stdlib[0])
    splits = ", ".join(f"{split}: '{folder}/corpus/{split}/**/*.py'" for split in ("train", "val", "test"))
    task = (
        f"{{class_path: lmsleep.tasks.TextLM, init_args: {{{splits}, window_size: {L}, n_windows: {N}, join: false}}}}"
    )
    (folder / "task.yaml").write_text(f"data: {{task: {task}}}")
    main(folder / "task.yaml", folder)
    init_args = {split: f"{folder}/corpus/{split}/**/*.py" for split in ("train", "val", "test")}
    init_args |= {"window_size": L, "n_windows": N, "join": False}
    return folder, build_task({"class_path": "lmsleep.tasks.TextLM", "init_args": init_args}, from_anywhere=True)


def written(folder):
    return {
        split: {p.relative_to(folder / split).as_posix(): p.read_bytes() for p in (folder / split).rglob("*.py")}
        for split in ("train", "val", "test")
    }


def test_every_file_of_python_is_whole_in_one_split(stdlib, made):
    splits = written(made[0] / "corpus")
    together = [item for files in splits.values() for item in files.items()]
    assert sorted(together) == sorted(stdlib[1].items())
    sizes = [len(text) for text in stdlib[1].values()]
    for split, share in (("test", 0.05), ("val", 0.025)):
        assert abs(sum(map(len, splits[split].values())) - share * sum(sizes)) < max(sizes)


def test_a_record_says_which_text_it_is(stdlib, made):
    said = json.loads((made[0] / "corpus.json").read_text())
    text = b"".join(f"{name}\0{len(text)}\0".encode() + text for name, text in sorted(stdlib[1].items()))
    assert said["sha256"] == hashlib.sha256(text).hexdigest() and re.fullmatch(r"3\.\d+\.\d+\S*", said["python"])
    for split, files in written(made[0] / "corpus").items():
        assert (said[f"{split}_files"], said[f"{split}_bytes"]) == (len(files), sum(map(len, files.values())))


def test_the_split_follows_from_the_seed(stdlib, made, tmp_path):
    for seed in (0, 1):
        write_corpus(tmp_path / str(seed), seed, stdlib[0])
    first = written(made[0] / "corpus")
    assert written(tmp_path / "0") == first != written(tmp_path / "1")


def test_files_of_another_split_in_the_folder_are_refused(stdlib, tmp_path):
    """Else a file would be trained on and tested on; the same split is written again."""
    for _ in range(2):
        write_corpus(tmp_path / "corpus", 0, stdlib[0])
    before = written(tmp_path / "corpus"), (tmp_path / "corpus.json").read_bytes()
    with pytest.raises(ValueError, match=r"^\S+/corpus must be a folder without other files, got '\S+/corpus/\w+/"):
        write_corpus(tmp_path / "corpus", 1, stdlib[0])
    assert (written(tmp_path / "corpus"), (tmp_path / "corpus.json").read_bytes()) == before


def test_a_folder_without_sources_is_refused(tmp_path):
    with pytest.raises(ValueError, match=f"^stdlib must be a folder with the sources .* got '{tmp_path}'$"):
        write_corpus(tmp_path / "corpus", 0, tmp_path)


def test_names_are_the_words_of_code_that_are_no_keywords():
    text = "\fdef größe(x):\n    return 'no name' + x  # nor here\n" + source(3, 20)
    words = [m for m in re.finditer(r"[^\W\d]\w*", text) if m[0] not in ("def", "return", "no", "name", "nor", "here")]
    wanted = [(len(text[: m.start()].encode()), len(text[: m.end()].encode()), m[0]) for m in words]
    assert identifiers(text) == wanted
    assert identifiers(text + "broken = (\n") == [*wanted, (len(text.encode()), len(text.encode()) + 6, "broken")]


@pytest.mark.parametrize("seed", range(5))
def test_groups_by_name_are_those_of_a_search_through_the_row(seed):
    rng, found, place = random.Random(seed), [], 0
    while place < 600:
        name = rng.choice(["aa", "bb", "cccccccc", "dd", "eeeeeeeeeeeeeeeeeeeee", "ffff", "g", "h"])
        place += rng.randrange(1, 9)
        found.append((place, place + len(name), name))
        place += len(name)
    window, length, distances = 16, 96, set()
    for start in (0, 100, 333):
        groups = group_by_names(found, start, length, window, {"aa", "bb"})
        wanted = {name: [-1] * length for name in groups}
        for first, end, name in found:
            positions = [i - start - 1 for i in range(first, end)]  # where each byte is said
            if not all(0 <= i < length for i in positions):
                continue
            ends = [e for b, e, other in found if other == name and start <= b < first]
            if not ends:
                wanted["by_new"] = [0 if i in positions else x for i, x in enumerate(wanted["by_new"])]
                continue
            distance = positions[0] // window - (max(ends) - 1 - start) // window
            for kind in ("by_repeat", *(["by_rare"] if name not in ("aa", "bb") else [])):
                wanted[kind] = [distance if i in positions else x for i, x in enumerate(wanted[kind])]
        assert {name: group.tolist() for name, group in groups.items()} == wanted
        distances |= set(wanted["by_repeat"])
    assert max(distances) > 1


def test_rows_are_those_of_the_test_split(made):
    folder, task = made
    rows, _ = read_tensors(folder / "rows.safetensors", "cpu")
    found = Counter(tuple(row) for row in torch.cat([rows["tokens"], rows["targets"]], 1).tolist())
    wanted = Counter()
    for step in range(task.held_out_steps("test", 1, 0)):
        batch = task.rows(split="test", seed=0, step=step, batch_size=1)
        wanted[(*batch.tokens[0].tolist(), *batch.targets[0].tolist())] += 1
    assert found == wanted and len(wanted) > 3
    assert rows["by_window"].tolist() == [[i // L for i in range(T)]] * len(rows["tokens"])
    assert not (rows["answers"] != 0).any()


def test_rare_names_are_those_of_no_training_file(made):
    folder, task = made
    rows, _ = read_tensors(folder / "rows.safetensors", "cpu")
    trained = b" ".join(written(folder / "corpus")["train"].values()).decode()
    said = Counter()
    for targets, repeat, rare in zip(rows["targets"], rows["by_repeat"], rows["by_rare"], strict=True):
        assert torch.equal(rare[rare >= 0], repeat[rare >= 0])
        for group, is_rare in ((rare, True), (torch.where(rare < 0, repeat, -1), False)):
            # Names never touch, so that a group is words with something between.
            named = torch.where(group >= 0, targets, task.encode(" ")[0]).tolist()
            for word in task.decode(named).split():
                assert (re.search(rf"\b{word}\b", trained) is None) == is_rare
                said[is_rare] += 1
    assert min(said[True], said[False]) > 10


def test_a_needle_lies_as_far_back_as_is_said_and_its_letters_alone_are_asked(made):
    folder, task = made
    rows, _ = read_tensors(folder / "needle.safetensors", "cpu")
    assert set(rows["slice"].tolist()) == {0, 1, 2, 3}
    newline = task.encode("\n")
    for tokens, targets, distance in zip(
        rows["tokens"].tolist(), rows["targets"].tolist(), rows["slice"].tolist(), strict=True
    ):
        assert all(t == IGNORE for t in targets[:-6]) and tokens[-5:] == targets[-6:-1]
        value, asked = task.decode(targets[-6:]), task.decode(tokens[-18:-5])
        assert re.fullmatch("[a-z]{6}", value) and re.fullmatch(r"\n[a-z]{8} = '", asked)
        line = task.encode(f"{asked[1:]}{value}'\n")
        places = [i for i in range(T) if tokens[i : i + len(line)] == line]
        assert len(places) == 1 and tokens[places[0] - 1 : places[0]] == newline
        assert places[0] // L == (places[0] + len(line) - 1) // L == N - 1 - distance
    assert len({task.decode(row[-6:]) for row in rows["targets"].tolist()}) > 1


@pytest.mark.parametrize("options", [{"join": True}, {"window_size": 32, "n_windows": 4, "tokenizer": "other"}])
def test_a_task_that_cannot_be_asked_is_refused(made, options, tmp_path):
    with pytest.raises(
        ValueError, match=r"^task must be a TextLM with tokenizer 'bytes' and join false beside a corpus"
    ):
        write_questions(TextLM(**{"train": "x", "join": False} | options), made[0] / "corpus", tmp_path)


def test_the_stage_takes_the_sources_of_this_python(tmp_path, monkeypatch, stdlib, made):
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(stdlib[0]) if name == "stdlib" else None)
    out = tmp_path / "data"
    config = Path(tmp_path / "task.yaml")
    config.write_text((made[0] / "task.yaml").read_text().replace(str(made[0]), str(out)))
    run(main, ["--config", str(config), "--out", str(out), "--corpus", "0"])
    for name in ("corpus.json", "rows.safetensors", "needle.safetensors"):
        assert (out / name).read_bytes() == (made[0] / name).read_bytes()
