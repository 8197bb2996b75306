"""Documents as rows: against rows cut by hand, the loss of transformers, and passes written out."""

import json
import re
import warnings
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import gsm_bpe
import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from lmsleep import read_windows
from lmsleep.hub import open_tokenizer
from lmsleep.pretrained import load_pretrained
from lmsleep.tasks import IGNORE, Documents, TextLM, TextQA, check_task
from lmsleep.tasks.line_index import holds_documents

L, SPLITS = 16, ("train", "val", "test")
TEXTS = [f"{'Once upon a time ' * (i % 9)}there was a wrén {i}\n\n" for i in range(40)]


@pytest.fixture
def folder(tmp_path):
    """Documents of 20 to 160 bytes, some in a folder below, and a hidden file that is none of them."""
    (tmp_path / "docs/more").mkdir(parents=True)
    for i, text in enumerate(TEXTS):
        (tmp_path / f"docs/{'more/' * (i % 2)}{i:02d}.md").write_text(text)
    (tmp_path / "docs/.hidden").write_bytes(b"\xff")
    return tmp_path / "docs"


def rows(task, split="train", batch_size=8):
    """Of each row of an epoch: all its tokens, the last target included, and its slice."""
    found = []
    for step in range(-(-len(task._splits[split].rows) // batch_size)):
        batch = task.rows(split=split, seed=0, step=step, batch_size=batch_size)
        assert batch.mask is None or torch.equal(batch.mask, batch.targets != IGNORE)
        for tokens, targets, level in zip(batch.tokens, batch.targets, batch.slice.tolist(), strict=True):
            said = targets[targets != IGNORE].tolist()
            assert said[:-1] == tokens[1 : len(said)].tolist() and (targets[len(said) :] == IGNORE).all()
            found.append(((int(tokens[0]), *said), level))
    return found


def cut(ids, length):
    """The rows of a document, written out."""
    return [tuple(ids[i : i + length + 1]) for i in range(0, len(ids) - 1, length)]


def test_every_token_but_the_first_of_a_document_is_a_target_once(folder, tmp_path):
    tokenizer = gsm_bpe.train_bpe(tmp_path)
    for task in (Documents(str(folder), window_size=L, n_windows=3), Documents(str(folder), tokenizer=tokenizer)):
        task = replace(task, window_size=L, n_windows=3)
        check_task(task)
        found = [row for split in SPLITS for row in rows(task, split, batch_size=1)]
        wanted = Counter(row for text in TEXTS for row in cut(task.encode(text), 3 * L))
        assert Counter(row for row, _ in found) == wanted
        assert all(level == -(-(len(row) - 1) // L) - 1 for row, level in found)
        assert task.sequence_length == max(map(len, wanted)) - 1


def test_a_tokenizer_that_would_cut_or_fill_texts_does_not(folder, tmp_path):
    """Some of the hub are saved with a greatest length."""
    path = gsm_bpe.train_bpe(tmp_path)
    task = Documents(str(folder), tokenizer=path, window_size=L)
    wanted = rows(task)
    tokenizer = Tokenizer.from_file(path)
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=64)
    tokenizer.save(path)
    assert rows(replace(task)) == wanted and max(len(row) for row, _ in wanted) > 30


def test_whole_documents_are_held_out(folder):
    """Each has its number at its end; the shares are of documents, whatever their length."""
    task = Documents(str(folder), window_size=L, n_windows=12)
    texts = {split: "".join(task.decode(row) for row, _ in rows(task, split, 1)) for split in SPLITS}
    numbers = {split: {int(n) for n in re.findall(r"wrén (\d+)\n", text)} for split, text in texts.items()}
    assert [len(numbers[split]) for split in SPLITS] == [32, 4, 4] and len(set().union(*numbers.values())) == 40
    other = replace(task, split_seed=1)
    assert {row for row, _ in rows(other, "val", 1)} != {row for row, _ in rows(task, "val", 1)}


def test_a_single_document_has_rows_held_out_and_says_so(tmp_path):
    (tmp_path / "book.txt").write_text("".join(TEXTS))
    task = Documents(str(tmp_path / "book.txt"), window_size=L, n_windows=2)
    with pytest.warns(
        UserWarning, match=r"^too few different documents to hold one out, 1 in .*book.txt: rows are held out"
    ):
        found = [row for split in SPLITS for row, _ in rows(task, split, 1)]
    assert Counter(found) == Counter(cut(task.encode("".join(TEXTS)), 2 * L))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".* too, which is trained on$")
        given = replace(task, val=task.train, test=task.train)
        assert len(rows(given, "train", 1)) == len(rows(given, "val", 1)) == len(found)


def test_copies_of_a_document_are_held_out_together(folder):
    """Whatever their names: no text is both trained on and tested, and none is left out."""
    for i in range(0, 40, 3):
        (folder / f"copy{i}.md").write_text(TEXTS[i])
    (folder / "empty.md").write_text("")
    (folder / "empty2.md").write_text("")
    task = Documents(str(folder), window_size=L, n_windows=12)
    with pytest.warns(
        UserWarning, match=r"^14 of 54 documents in .*docs are copies of others, and are held out with them"
    ):
        assert task.slices
    for seed in range(5):
        texts = {split: Counter(row for row, _ in rows(replace(task, split_seed=seed), split, 1)) for split in SPLITS}
        assert sum(map(len, texts.values())) == 40 == len(set().union(*texts.values()))
        assert sum(texts.values(), Counter()) == Counter(tuple(task.encode(x)) for x in TEXTS + TEXTS[::3])
        assert [sum(texts[split].values()) for split in SPLITS] == [44, 5, 5]
    with warnings.catch_warnings():  # nothing is held out from among copies
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "2 of 56 documents are left out|.* too, which is trained on$")
        assert replace(task, val=task.train, test=task.train).slices


def test_many_copies_of_a_document_neither_fill_a_split_nor_empty_it(folder):
    """They are trained on, and what is held out stays a tenth each of all documents."""
    for i in range(60):
        (folder / f"copy{i}.md").write_text(TEXTS[7])
    task = Documents(str(folder), window_size=L, n_windows=12)
    with pytest.warns(UserWarning, match=r"^60 of 100 documents in .*docs are copies of others"):
        assert task.slices
    for seed in range(9):
        counts = [len(rows(replace(task, split_seed=seed), split, 1)) for split in SPLITS]
        assert counts == [80, 10, 10]


def test_a_copy_from_another_system_is_the_same_document(folder):
    """One with a byte order mark, and with other line ends, is held out with the document that it is of."""
    for i, text in enumerate(TEXTS):
        (folder / f"copy{i}.md").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n" if i % 2 else "\r").encode())
    task = Documents(str(folder), window_size=L, n_windows=12)
    with pytest.warns(UserWarning, match=r"^40 of 80 documents in .*docs are copies of others"):
        found = [Counter(row for row, _ in rows(task, split, 1)) for split in SPLITS]
    assert sum(found, Counter()) == Counter(tuple(task.encode(text)) for text in TEXTS + TEXTS)
    assert sum(map(len, found)) == 40


def test_documents_for_test_that_are_trained_on_too_are_warned_of(folder, tmp_path):
    (tmp_path / "test").mkdir()
    for name, text in {"a": TEXTS[3], "b": "Another wren.", "c": TEXTS[4], "empty": ""}.items():
        (tmp_path / "test" / name).write_text(text)
    (folder / "empty").write_text("")
    task = Documents(str(folder), test=str(tmp_path / "test"), window_size=L)
    rule = r"^2 of 3 documents in .*/test, for test, are in .*/docs too, which is trained on$"
    with pytest.warns(UserWarning, match=rule):
        assert task.slices


@pytest.mark.parametrize("name", ["same", "copy"])
def test_the_file_that_is_trained_on_is_warned_of_as_one_to_test_on(written, tmp_path, name):
    """Of every task on texts, by what the rows say; of one text in rows, by its files."""
    lines = [{"context": text, "question": "Which?", "answer": i} for i, text in enumerate(TEXTS)]
    for kind, train, unit in (
        (TextQA, written([*lines, lines[0]]), "40 of 40 rows"),
        (partial(Documents, text="{context}"), written([*lines, lines[0]], "documents.jsonl"), "40 of 40 documents"),
        (TextLM, written(TEXTS, "book.txt"), "1 of 1 file"),
    ):
        other = str(tmp_path / f"link{Path(train).suffix}")
        Path(other).unlink(missing_ok=True)
        Path(other).symlink_to(train)
        val = train if name == "same" else other
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert kind(train, val=val, window_size=32).slices
        are = "is" if unit.startswith("1 ") else "are"
        said = [str(warning.message) for warning in caught]
        assert f"{unit} in {val}, for val, {are} in {train} too, which is trained on" in said


def test_documents_are_counted(folder):
    task = Documents(str(folder), window_size=L, n_windows=3)
    sizes = [[len(row) - 1 for row, _ in rows(task, split, 1)] for split in SPLITS]
    told = re.fullmatch(
        r"Documents: (\d+) rows .*; documents: 32 \(([\d,]+) tokens\), 4 \((\d+) .*\) and 4 \(.*\)", str(task)
    )
    assert told and [len(sizes[0]), sum(sizes[0]), sum(sizes[1])] == [int(n.replace(",", "")) for n in told.groups()]


def test_what_takes_a_while_to_read_is_named(folder, caplog, monkeypatch):
    caplog.set_level("INFO")
    assert Documents(str(folder), window_size=L).slices and not caplog.messages
    monkeypatch.setattr("lmsleep.tasks.line_index.LONG", 1000)
    assert Documents(str(folder), window_size=L).slices and caplog.messages == [f"reading {folder}: 0 MB"]


def test_tokens_are_those_of_the_tokenizer(tmp_path):
    for path in (gsm_bpe.train_bpe(tmp_path), gsm_bpe.train_llama(tmp_path, True, True), "bytes"):
        task = Documents("none", tokenizer=path)
        for text in (*TEXTS, "", "<eos>", "☃ ünder\r\n"):
            assert task.encode(text) == open_tokenizer(path).encode(text, add_special_tokens=False).ids


def test_a_folder_a_pattern_lines_and_a_dataset_give_the_same_rows(folder, tmp_path):
    import datasets

    order = sorted(folder.rglob("*.md"))
    lines = [{"id": path.stem, "body": path.read_text()} for path in order]
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    datasets.Dataset.from_list(lines).to_parquet(tmp_path / "rows.parquet")
    task = Documents(str(folder), window_size=L)
    wanted = rows(task)
    assert rows(replace(task, train=f"{folder}/**/*.md")) == wanted
    for name in ("lines.jsonl", "rows.parquet"):
        assert rows(replace(task, train=str(tmp_path / name), text="{body}")) == wanted
    titled = replace(task, train=str(tmp_path / "lines.jsonl"), text="# {id}\n{body}", window_size=200)
    assert titled.decode(rows(titled)[0][0]).startswith("# ")


def test_the_loss_is_that_of_transformers(folder, tmp_path):
    """At one pass over one window: of documents alone, and together with padding."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    theirs = LlamaForCausalLM(LlamaConfig(vocab_size=257, **sizes)).eval()
    theirs.save_pretrained(tmp_path / "llama")
    model = load_pretrained(tmp_path / "llama", window_size=256)
    task = Documents(str(folder), window_size=256)
    batch = task.rows(split="train", seed=0, step=0, batch_size=8)
    losses, counts = [], []
    with torch.no_grad():
        for row, (ids, _) in enumerate(rows(task)[:8]):
            ids = torch.tensor([ids])
            losses.append(theirs(input_ids=ids, labels=ids).loss)
            counts.append(ids.shape[1] - 1)
            one = read_windows(model, ids[:, :-1], ids[:, 1:])
            torch.testing.assert_close(one.loss, losses[row], rtol=0, atol=1e-5)
        whole = read_windows(model, batch.tokens, batch.targets, mask=batch.mask).loss
    counts = torch.tensor(counts)
    torch.testing.assert_close(whole, (torch.stack(losses) * counts).sum() / counts.sum(), rtol=0, atol=1e-5)


def test_a_window_is_slept_on_once_its_loss_is_taken(folder, build):
    """A batch of documents of different lengths, against each by itself, pass by pass."""
    task = Documents(str(folder), window_size=L)
    model = build("AG", vocab_size=task.vocab_size, window_size=L)
    batch = task.rows(split="val", seed=0, step=0, batch_size=8)
    reading = read_windows(model, batch.tokens, batch.targets, 3, mask=batch.mask, after_loss=True)
    total, count = 0.0, 0
    for ids, _ in rows(task, "val"):
        S, ids = model.init_fast_weights(1), torch.tensor([ids])
        for start in range(0, ids.shape[1] - 1, L):
            h, S = model.blocks(model.embed(ids[:, start : start + L][:, : ids.shape[1] - 1 - start]), S)
            said = ids[:, start + 1 : start + L + 1]
            total += F.cross_entropy(model.logits(h)[0], said[0], reduction="sum")
            count += said.shape[1]
            for _ in range(2):
                h, S = model.blocks(h, S)
    torch.testing.assert_close(reading.loss, total / count)
    assert reading.windows.n_sleeps == 3 and len({tuple(row) for row in batch.mask.tolist()}) > 2


def test_documents_with_nothing_to_predict_are_counted_and_named(folder, written):
    (folder / "00.md").write_text("")
    (folder / "02.md").write_text("a")
    with pytest.warns(UserWarning, match=r"^2 of 40 documents are left out, the first at .*/00\.md: in less than two "):
        found = rows(Documents(str(folder), window_size=L))
    assert min(len(row) for row, _ in found) > 1
    lines = [{"text": "a wren"}, {"text": ""}, *({"text": text} for text in TEXTS)]
    with pytest.warns(UserWarning, match=r"^1 of 42 documents is left out, the first at byte 19 of .*\.jsonl: "):
        assert rows(Documents(written(lines), window_size=L, text="{text}"))


def test_documents_that_never_fill_a_window_are_warned_of(folder):
    with pytest.warns(UserWarning, match=r"^no document is longer than a window of 200 tokens, the longest has 158 "):
        assert Documents(str(folder), window_size=200).slices == (0,)


@pytest.mark.parametrize(
    ("content", "options", "sentence"),
    [
        ({}, {}, "train must have files in it, got the folder '{}', where there are none to read"),
        (
            {"a.md": b"ab", "b.pyc": b"ab\xff"},
            {},
            r"{}/b\.pyc: must be text in UTF-8, got the byte 0xff at position 2; in place of the folder, "
            r"'{}/\*\*/\*\.md' leaves it out",
        ),
        ({"a.md": b"a"}, {}, "train must have documents of two tokens or more, found none in '{}'"),
        (
            {"a.md": b"short"},
            {},
            "train must have 3 or more rows, of which val and test take one each unless they are given, got 1 in '{}'; "
            "a document has more of them with a smaller window_size or n_windows",
        ),
        ({"a.md": b"short"}, {"text": "body"}, "text must have a field of a line in braces, as {text}, got 'body'"),
        ({"a.md": b"short"}, {"n_windows": 0}, "n_windows must be 1 or more, got 0"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_sentence(tmp_path, content, options, sentence):
    (tmp_path / "in").mkdir()
    for name, text in content.items():
        (tmp_path / "in" / name).write_bytes(text)
    where = str(tmp_path / "in")
    with warnings.catch_warnings(), pytest.raises(ValueError, match=f"^{sentence.replace('{}', where)}$"):
        warnings.simplefilter("ignore")
        _ = Documents(where, **options).slices


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ({"id": 1}, "must have the field 'text', got id"),
        ({"text": None}, "text must be text, a finite number, true or false, got null"),
        ("text\n", "must be JSON, got expecting value at character 0"),
        ('"text"\n', "must be a JSON object, one a line, got a string"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(written, line, sentence):
    path = written([{"text": "a wren"}, "\n", line])
    with pytest.raises(ValueError, match=f"^{path}, line 3: {sentence}$"):
        _ = Documents(path, text="{text}").slices


@pytest.mark.parametrize("kind", [Documents, TextLM])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.json", "rows", "rows/*"])
def test_rows_are_not_read_as_if_they_were_text(folder, tmp_path, kind, name):
    (tmp_path / "rows").mkdir()
    for path in ("rows.jsonl", "rows.csv", "rows.json", "rows/of.jsonl", "rows/z.md"):
        (tmp_path / path).write_text('{"body": "The wren."}\n' * 20)
    if kind is TextLM and name in ("rows", "rows.csv"):
        pytest.skip("a dataset, whose column `text` is read")
    book = str(folder / "00.md")
    first = tmp_path / ("rows/of.jsonl" if "." not in name else name)
    rule = rf"got rows in '{first}'; --text '\{{body\}}', .*, makes documents of rows, those of train, .* alike$"
    for options in ({"train": str(tmp_path / name)}, {"train": book, "val": str(tmp_path / name)}):
        with pytest.raises(ValueError, match=f"^{[*options][-1]} must be text, {rule}"):
            _ = kind(**options, window_size=L).slices


def test_texts_are_not_read_as_if_their_lines_were_rows(folder, tmp_path, written):
    """As the package datasets would: a row of each line."""
    (folder / "more.txt").write_text("The wren.")
    task = Documents(written([{"text": text} for text in TEXTS]), val=str(folder), window_size=L, text="{text}")
    with pytest.raises(ValueError, match=f"^val must have rows, of which text makes documents, got '{folder}'$"):
        _ = task.slices


def test_what_holds_documents_is_known_by_extensions(tmp_path):
    files = {"text": ["a.md", "b/package.json"], "lines": ["a.md", "b/c.jsonl"], "json": ["a.json"], "none": []}
    for folder, names in files.items():
        (tmp_path / folder / "b").mkdir(parents=True)
        for name in names:
            (tmp_path / folder / name).write_text("{}")
    (tmp_path / "README").write_text("")
    for name in ("text", "none", "README", "text/a.md", "text/*", "gone.txt", "gone/*.md"):
        assert holds_documents(str(tmp_path / name)), name
    for name in ("lines", "json", "lines/**", "json/a.json", "gone.jsonl", "gone.parquet", "gone/*.jsonl"):
        assert not holds_documents(str(tmp_path / name)), name
    assert not any(map(holds_documents, ("owner/name", "owner/name:split")))
    assert not Path("owner").exists()


def test_a_file_that_links_lead_to_as_well_is_one_document(folder):
    task = Documents(str(folder), window_size=L, n_windows=12)
    wanted = [rows(task, split) for split in SPLITS]
    (folder / "more/loop").symlink_to(folder)
    (folder / "more/zz.md").symlink_to(folder / "00.md")
    (folder / "more/nothing.md").symlink_to(folder / "nothing.md")
    assert [rows(replace(task), split) for split in SPLITS] == wanted


def test_one_of_a_kind_is_told_in_the_singular(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text("The wren is blue. " * (i + 2))
    (tmp_path / "copy.txt").write_text("The wren is blue. " * 2)
    (tmp_path / "short.txt").write_text("a")
    task = Documents(str(tmp_path), window_size=64)
    with pytest.warns(UserWarning) as warned:
        told = str(task)
    said = [str(warning.message) for warning in warned]
    assert any(one.startswith("1 of 5 documents is left out, the first at ") for one in said)
    copied = f"1 of 4 documents in {tmp_path} is a copy of another, and is held out with it or not at all"
    assert copied in said and told.endswith("; documents: 2 (70 tokens), 1 (71 tokens) and 1 (53 tokens)")
