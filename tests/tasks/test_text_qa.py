"""Texts of a user: rows against strings cut by hand, and a sentence for each line that cannot be used."""

import json
import pickle
import random
import shutil
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import gsm_bpe
import pytest
import torch

from lmsleep import Session, read_windows
from lmsleep.cli import main as lmsleep
from lmsleep.tasks import IGNORE, TextLM, TextQA
from lmsleep.tasks.spec import build_task, task_spec

CONFIG = Path(__file__).parents[2] / "configs/experiment/text_qa.yaml"
L = 40
COLOURS = ("red", "blue", "green", "yellow")


def line(number, sentences):
    colours = random.Random(number).choices(COLOURS, k=sentences)
    context = " ".join(f"Bird {i} is {colour}." for i, colour in enumerate(colours))
    asked = number % sentences
    return {"context": context, "question": f"Bird {asked}?", "answer": colours[asked]}


@pytest.fixture
def lines():
    """300 lines, contexts of one to four windows of 40 bytes."""
    return [line(i, 1 + i % 8) for i in range(300)]


def shown(task, batch):
    """The texts of each row: of its windows, joined where the mask is False to nothing, and what is said."""
    found = []
    for tokens, targets, mask in zip(batch.tokens, batch.targets, batch.mask, strict=True):
        cut = [(tokens[i : i + L], mask[i : i + L]) for i in range(0, len(tokens), L)]
        read = [task.decode(part[there].tolist()) for part, there in cut]
        found.append((read, task.decode(targets[targets != IGNORE].tolist())))
    return found


def test_rows_are_the_windows_of_the_context_and_one_with_question_and_answer(written, lines):
    task = TextQA(written(lines), window_size=L)
    seen = Counter()
    for split in ("val", "test", "train"):
        for step in range(task.held_out_steps(split, 8, 0)):
            batch = task.rows(split=split, seed=0, step=step, batch_size=8)
            last = int(batch.slice.max())
            for slept, (read, said) in zip(batch.slice.tolist(), shown(task, batch), strict=True):
                empty, windows, tail = read[: last - slept], read[last - slept : last], "".join(read[last:])
                context = "".join(windows)
                assert not any(empty) and all(len(w.encode()) == L for w in windows[:-1]) and windows[-1]
                seen[context, tail, said] += 1
    wanted = [(x["context"], f"\nQuestion: {x['question']}\nAnswer: {x['answer']}", f" {x['answer']}") for x in lines]
    assert seen.keys() <= set(wanted) and sum(seen.values()) == 30 + 30 + 240
    assert all(seen[row] <= wanted.count(row) for row in seen)
    assert task.slices == (1, 2, 3, 4) and task.sequence_length == 4 * L + max(len(tail) for _, tail, _ in wanted)


def test_every_target_is_the_token_behind_it_and_the_end(written, lines):
    task = TextQA(written(lines), window_size=L)
    batch = task.rows(split="train", seed=0, step=0, batch_size=16)
    assert (task.answers(batch.targets) == torch.where(batch.targets == IGNORE, -1, 0)).all()
    for tokens, targets, mask in zip(batch.tokens, batch.targets, batch.mask, strict=True):
        places = (targets != IGNORE).nonzero()[:, 0].tolist()
        assert places == list(range(places[0], places[-1] + 1))
        assert targets[places[:-1]].tolist() == tokens[places[1:]].tolist()
        assert targets[places[-1]] == task.eos_id and mask[places].all() and not mask[places[-1] + 1 :].any()


def test_padding_leaves_no_trace(written, lines, build):
    """A row of a batch against the same texts read alone, window by window."""
    task = TextQA(written(lines[:40]), window_size=L)
    model = build(vocab_size=task.vocab_size, window_size=L)
    batch = task.rows(split="train", seed=0, step=0, batch_size=32)
    hidden = read_windows(model, batch.tokens, batch.targets, 3, mask=batch.mask).hidden
    last = int(batch.slice.max()) * L
    for row in (int(batch.slice.argmin()), int(batch.slice.argmax())):
        S = model.init_fast_weights(1)
        tokens, mask = batch.tokens[row], batch.mask[row]
        for start in range(0, last, L):
            window = tokens[start : start + L][mask[start : start + L]][None]
            h = model.embed(window)
            for _ in range(3 if window.numel() else 0):
                h, S = model.blocks(h, S)
        alone, _ = model.blocks(model.embed(tokens[last:][mask[last:]][None]), S)
        torch.testing.assert_close(hidden[row, last:][mask[last:]], alone[0])


def test_a_session_that_is_asked_says_what_the_trained_model_says(written, lines, build):
    """Logits from the last token of the question on, and the answer taken greedily from there."""
    task = TextQA(written(lines[:40]), window_size=L)
    model = build(vocab_size=task.vocab_size, window_size=L)
    example = lines[7]
    context, asked, said = map(task.encode, task.texts(json.dumps(example)))
    tokens = [*context, *[0] * (-len(context) % L), *asked, *said]
    mask = torch.tensor([[i < len(context) or i >= len(tokens) - len(asked + said) for i in range(len(tokens))]])
    wanted = read_windows(model, torch.tensor([tokens]), n_passes=3, mask=mask).logits[0, -len(said) - 1]
    session = Session(model, n_passes=3)
    session.feed(context)
    session.sleep()
    with session.fork() as branch:
        torch.testing.assert_close(branch.feed(asked, last_only=True)[0], wanted)
    drawn = session.generate(asked, 3, temperature=0, stop=task.eos_id)
    assert int(drawn[0, 0]) == int(wanted.argmax()) and isinstance(task.decode(drawn[0].tolist()), str)


def test_an_epoch_shows_every_row_once_in_full_batches_and_the_next_in_another_order(written, lines):
    task = TextQA(written(lines), window_size=L)
    epochs = [
        [task.rows(split="train", seed=3, step=step, batch_size=32).tokens for step in range(first, first + 7)]
        for first in (0, 7)
    ]
    rows = [Counter(tuple(row[row != task.eos_id].tolist()) for batch in epoch for row in batch) for epoch in epochs]
    assert all(len(batch) == 32 for epoch in epochs for batch in epoch)
    assert all(count.total() == 224 for count in rows) and rows[0] != rows[1]
    assert not all(map(torch.equal, *epochs))


def test_rows_follow_from_seed_split_and_step_alone(written, lines):
    path = written(lines)
    task, again = TextQA(path, window_size=L), TextQA(path, window_size=L)
    one = task.rows(split="train", seed=1, step=5, batch_size=8)
    again.rows(split="train", seed=0, step=0, batch_size=4)
    assert all(map(torch.equal, one, again.rows(split="train", seed=1, step=5, batch_size=8)))
    assert all(
        map(torch.equal, one, pickle.loads(pickle.dumps(task)).rows(split="train", seed=1, step=5, batch_size=8))
    )
    assert build_task(task_spec(task)) == task


def test_files_of_their_own_are_used_whole(written, lines):
    task = TextQA(written(lines[:20]), val=written(lines[20:25], "val.jsonl"), window_size=L, held_out=0.2)
    assert [task.held_out_steps(split, 1, 0) for split in ("train", "val", "test")] == [16, 5, 4]
    written(lines[:7], "part-1.jsonl"), written(lines[7:20], "part-2.jsonl")
    parts = TextQA(task.train.replace("train", "part-*"), window_size=L, held_out=0.2)
    rows = [t.rows(split="train", seed=0, step=3, batch_size=4) for t in (task, replace(task, val=None), parts)]
    assert torch.equal(rows[1].tokens, rows[2].tokens) and not torch.equal(rows[0].tokens, rows[1].tokens)


def test_lines_from_another_system_are_the_same_lines(written, lines, tmp_path):
    task = TextQA(written(lines), window_size=L)
    content = Path(task.train).read_bytes().replace(b"\n", b"\r\n")
    (tmp_path / "other.jsonl").write_bytes(b"\xef\xbb\xbf" + content)
    other = replace(task, train=str(tmp_path / "other.jsonl"))
    batches = (one.rows(split="train", seed=0, step=3, batch_size=8) for one in (task, other))
    assert all(map(torch.equal, *batches))


def test_equal_rows_are_held_out_together(written, lines):
    """Whatever else their lines say; one of which there are many is trained on."""
    copies = [line | {"id": i} for i, line in enumerate(lines[:30] * 3 + lines[40:41] * 210)]
    path = written([*lines, *copies])
    task = TextQA(path, window_size=L)
    with pytest.warns(
        UserWarning, match=rf"^\d+ of 600 rows in {path} are copies of others, and are held out with them"
    ):
        assert task.slices
    for seed in range(3):
        drawn = replace(task, split_seed=seed)
        found = []
        for split in ("train", "val", "test"):
            batches = [
                drawn.rows(split=split, seed=0, step=i, batch_size=1) for i in range(drawn.held_out_steps(split, 1, 0))
            ]
            found.append(Counter(("".join(read), said) for batch in batches for read, said in shown(drawn, batch)))
        assert [count.total() for count in found] == [480, 60, 60]
        assert sum(map(len, found)) == len(set().union(*found))
    with pytest.warns(
        UserWarning, match=r"^too few different rows to hold one out, 2 in .*: rows are held out, copies or"
    ):
        assert TextQA(written(lines[:2] * 20), window_size=L).slices


def test_the_baseline_is_the_commonest_answer_of_the_test_rows_of_a_slice(written, lines):
    asked = [dict(line(0, 1 + i % 4), answer=answer) for i, answer in enumerate("aaabbcaaddaabbcaab")]
    task = TextQA(written(lines), test=written(asked, "test.jsonl"), window_size=L)
    rows, found = shown(task, task.rows(split="test", seed=0, step=0, batch_size=18)), task.baselines()["commonest"]
    said = {"all": [answer for _, answer in rows]}
    for read, answer in rows:
        said.setdefault(str(sum(map(bool, read[:-1]))), []).append(answer)
    assert found == {name: max(map(of.count, of)) / len(of) for name, of in said.items()}
    assert found["all"] == 9 / 18 and set(found) == {"all", "1", "2"}


def test_fields_have_any_name_and_the_question_may_come_first(written):
    path = written([{"document": "{question} " * 5, "q": "Why?", "n": 7}] * 3)
    task = TextQA(path, window_size=L, context="{q}\n{document}", question="\nAnswer:", answer=" {n}")
    (read, said), *_ = shown(task, task.rows(split="val", seed=0, step=0, batch_size=1))
    assert ("".join(read[:-1]), read[-1], said) == ("Why?\n" + "{question} " * 5, "\nAnswer: 7", " 7")


def test_a_field_that_lies_deeper_has_dots(written):
    row = {"context": "a", "question": "b", "answers": {"text": ["c", "d"], "start": [1, 2]}}
    task = TextQA(written([row] * 3), window_size=L, answer=" {answers.text.1}")
    assert task.texts(json.dumps(row))[2] == " d"
    for path, got in (("answers.texts.0", "text, start"), ("answers.text.2", "0, 1"), ("question.a", "none")):
        with pytest.raises(ValueError, match=f"^must have the field '{path}', got {got}$"):
            replace(task, answer=f"{{{path}}}").texts(json.dumps(row))


def test_what_there_is_to_learn_from_is_told(written, lines):
    path = written(lines)
    held = " and ".join(f"30 of the same, held out, for {split}" for split in ("val", "test"))
    assert str(TextQA(path, window_size=L)) == f"TextQA: 240 rows of {path} to train on, {held}"


def test_messages_are_read_asked_and_said(written):
    said = [("system", "Be short."), ("user", "A wren is brown."), ("assistant", "Good."), ("user", "Wren?")]
    messages = [{"role": role, "content": content} for role, content in [*said, ("assistant", "Brown.")]]
    task = TextQA(written([{"messages": messages}] * 3), window_size=64, message="<{role}>{content}\n")
    context, asked, answer = task.texts(json.dumps({"messages": messages}))
    assert context == "<system>Be short.\n<user>A wren is brown.\n<assistant>Good.\n"
    assert (asked, answer) == ("<user>Wren?\n<assistant>", "Brown.")
    assert task.question_template == "<user>{question}\n<assistant>"


def test_what_stands_around_a_question_has_its_one_field_whatever_its_name(written, lines):
    task = TextQA(written([line | {"q": "Why?"} for line in lines[:20]]), window_size=L)
    named = {"Q: {q}?": "Q: {question}?", "Answer:": "Answer:", "{q} {question}": "{question}"}
    assert task.question_template == "\nQuestion: {question}\nAnswer:"
    assert {said: replace(task, question=said).question_template for said in named} == named


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ("{'context': 1}\n", "must be JSON, got expecting property name enclosed in double quotes at character 1"),
        ("[" * 200_000 + "\n", "must be JSON, got maximum recursion depth exceeded .*at character 0"),
        ("[1]\n", "must be a JSON object, one a line, got a list"),
        (
            {"id": 1, "q": "a"},
            r"must have the field 'context', got id, q; templates name other fields, as --context '\{id\}', or --text "
            r"'\{id\}' without questions",
        ),
        ({"context": "a", "question": "b"}, "must have the field 'answer', got context, question"),
        (
            {"context": ["a"], "question": "b", "answer": "c"},
            "context must be text, a finite number, true or false, got a list",
        ),
        *(
            (f'{{"context": "a", "question": "b", "answer": {odd}}}\n', f"answer must be text, a .*, got {got}")
            for odd, got in {"1e999": "inf", "-Infinity": "-inf", "NaN": "nan", "null": "null"}.items()
        ),
        (
            '{"context": "a", "question": "b", "answer": "c", "answer": "d"}\n',
            "'answer' must be a key of an object once, got it twice",
        ),
        ({"context": "\ud800", "question": "b", "answer": "c"}, "'utf-8' codec can't encode .*"),
        ({"context": "", "question": "b", "answer": "c"}, "context must have a token, got none"),
        ({"context": "a", "question": "b", "answer": " "}, "answer must have text, got none"),
        (
            {"context": "a", "question": "b", "answer": "c" * 40},
            r"question and answer must fit into a window of 40 tokens, got 20 and 41",
        ),
        ({"messages": [{"role": "user", "content": "a"}]}, "messages must be a list of three or more: .*"),
        ({"messages": [{"role": "user"}] * 3}, "must have the field 'content', got role"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(written, lines, bad, sentence):
    path = written([*lines[:2], "\n", bad, lines[3]])
    with pytest.raises(ValueError, match=f"^{path}, line 4: {sentence}$"):
        _ = TextQA(path, window_size=L).slices


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"window_size": 0}, "window_size must be 1 or more, got 0"),
        ({"held_out": 0.5}, "held_out must be above 0 and below 0.5, got 0.5"),
        (
            {"val": "none.jsonl"},
            "val must be a file, a folder or a pattern of files, but there is none at 'none.jsonl'",
        ),
        ({"eos_token": "</s>"}, "eos_token must be in the vocabulary of tokenizer bytes, got '</s>'"),
        ({"tokenizer": "no folder"}, "tokenizer must be a folder or a name on the Hugging Face hub .*"),
        ({"tokenizer": ""}, "tokenizer must be a folder .*, and there is no folder ''"),
        ({"context": "{"}, r"context must have a field of a line in braces, as \{context\}, got '\{'"),
        ({"context": "{con text}"}, "context must have a field of a line in braces, .*"),
        ({"answer": "yes"}, r"answer must have a field of a line in braces, as \{answer\}, got 'yes'"),
        ({"message": "{role}: "}, r"message must have a field of a line in braces, as \{content\}, got '\{role\}: '"),
    ],
)
def test_a_bad_setting_is_one_sentence(written, lines, options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        _ = TextQA(written(lines), **options).slices


def test_too_few_rows_are_one_sentence(written, lines):
    with pytest.raises(
        ValueError, match=r"^batch_size must be at most the 240 rows of train \(of 300; held out: 60\), got 241$"
    ):
        TextQA(written(lines), window_size=L).rows(split="train", seed=0, step=0, batch_size=241)
    one, two = written(lines[:1], "one"), written(lines[:2], "two")
    for few, given, least, held in (
        (one, {}, 3, ", of which val and test take one each unless they are given"),
        (two, {}, 3, ", of which val and test take one each unless they are given"),
        (one, {"val": two}, 2, ", of which test takes one unless it is given"),
    ):
        count = 1 + (few == two)
        with pytest.raises(ValueError, match=f"^train must have {least} or more rows{held}, got {count} in '{few}'$"):
            _ = TextQA(few, window_size=L, **given).slices
    assert len(TextQA(one, two, two, window_size=L).rows(split="train", seed=0, step=0, batch_size=1).tokens) == 1
    with pytest.raises(ValueError, match=f"^val must have 1 or more rows, got 0 in '{one}'$"):
        _ = TextLM(written(lines, "book.txt"), one, window_size=L, n_windows=9).slices
    almost_half = TextQA(written(lines), window_size=L, held_out=0.4999)
    assert almost_half.epoch_steps(1) > 0
    with pytest.raises(ValueError, match=r"^train must have lines with text, found none"):
        _ = TextQA(written(["\n"]), window_size=L).slices


@pytest.mark.parametrize("messages", [False, True])
def test_numbers_and_truth_values_are_read_as_json_writes_them(written, messages):
    for value, text in ((True, "true"), (False, "false"), (1.5, "1.5"), (7, "7"), (10**400, "1" + "0" * 400)):
        line = {"context": "a", "question": "b", "answer": value}
        said = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}, {"role": "x", "content": value}]
        task = TextQA(written([line]), answer="{answer}")
        assert task.texts(json.dumps({"messages": said} if messages else line))[2] == text


def test_contexts_that_never_fill_a_window_are_warned_of(written, lines):
    with pytest.warns(UserWarning, match="^no context fills a window of 400 tokens, the longest has 1"):
        _ = TextQA(written(lines), window_size=400).slices
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".* are copies of others")
        _ = TextQA(written(lines), window_size=L).slices


def test_a_tokenizer_of_a_folder_names_its_end(written, lines, tmp_path):
    bpe = gsm_bpe.train_bpe(tmp_path)
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(bpe, folder / "tokenizer.json")
    path = written(lines)
    with pytest.raises(ValueError, match=f"^eos_token must be given, since no tokenizer_config.json of {folder} names"):
        _ = TextQA(path, tokenizer=str(folder)).eos_id
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": gsm_bpe.EOS}}))
    tasks = TextQA(path, tokenizer=str(folder)), TextQA(path, tokenizer=bpe, eos_token=gsm_bpe.EOS)
    assert tasks[0].vocab_size == 900
    one, other = (task.rows(split="val", seed=0, step=0, batch_size=30) for task in tasks)
    assert all(map(torch.equal, one, other)) and one.tokens.shape[1] % 128 <= tasks[0].sequence_length


def fit(folder, *args):
    lmsleep(
        [
            "fit",
            f"--config={CONFIG}",
            *args,
            f"--checkpoint.dirpath={folder}",
            f"--trainer.default_root_dir={folder}",
            "--data.task.init_args.window_size=40",
            "--model.model.d_model=16",
            "--trainer.max_steps=4",
            "--trainer.val_check_interval=2",
            "--trainer.enable_progress_bar=false",
            "--trainer.logger=false",
        ]
    )


def test_a_model_is_trained_on_a_file_from_the_command_line(written, lines, tmp_path):
    fit(
        tmp_path,
        f"--data.task.init_args.train={written(lines)}",
        "--data.task.init_args.context={context}",
        "--sleep.n_passes=4",
    )
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 4 and saved["sleep"] == {
        "n_passes": 4,
        "eviction": "hard",
        "after_loss": False,
        "wake_passes": 1,
        "on_overflow": None,
    }
    assert saved["task"]["init_args"]["train"] == str(tmp_path / "train.jsonl")


def test_a_bad_line_ends_the_command_with_one_sentence(written, lines, tmp_path):
    path = written([lines[0], {"context": "a"}])
    with pytest.raises(SystemExit, match=f"^error: {path}, line 2: must have the field 'question', got context$"):
        fit(tmp_path, f"--data.task.init_args.train={path}")
