"""transformers on a saved model: what it generates is what a `Session` says."""

import copy
import importlib
import json
import shutil
import sys
import warnings
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    pipeline,
)

import lmsleep.hf
from lmsleep import HybridLM, Session, read_windows
from lmsleep.hf import CACHE

TEXT = "The wren by the mill is blue. "
PROMPTS = [TEXT * 2 + "Which?", "Where?", TEXT + "By what?"]


@pytest.fixture(scope="module")
def loaded(folder):
    """The model, and its tokenizer with padding on the left."""
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder, padding_side="left")


def by_session(folder, prompt, n_new, tokenizer, **options):
    """The new tokens of a greedy `Session`."""
    session = Session.from_pretrained(folder, **options)
    return session.generate(prompt, n_new, temperature=0, stop=tokenizer.eos_token_id)[0].tolist()


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def test_the_auto_classes_read_a_saved_folder(folder, loaded):
    model, tokenizer = loaded
    assert (model.config.n_passes, model.config.eviction, model.config.vocab_size) == (3, "sliding", 257)
    assert not model.training and model.config.hidden_size == 16
    ours = HybridLM.from_pretrained(folder)
    for name, weight in ours.state_dict().items():
        assert torch.equal(model.model.state_dict()[name], weight)
    assert tokenizer.decode(tokenizer("blü <eos>").input_ids) == "blü <eos>"
    assert tokenizer.eos_token_id == 256


@pytest.mark.parametrize("options", [{}, {"n_passes": 1}, {"n_passes": 2, "eviction": "hard"}])
def test_greedy_generate_is_that_of_a_session_token_for_token(folder, loaded, options):
    tokenizer = loaded[1]
    model = AutoModelForCausalLM.from_pretrained(folder, **options)
    got = model.generate(**tokenizer(PROMPTS[0], return_tensors="pt"), max_new_tokens=24, do_sample=False)
    prompt = tokenizer(PROMPTS[0]).input_ids
    assert len(prompt) > 10 * 6 and got[0, len(prompt) :].tolist() == by_session(
        folder, prompt, 24, tokenizer, **options
    )


def test_without_a_cache_it_says_the_same(loaded):
    model, tokenizer = loaded
    inputs = tokenizer(PROMPTS[2], return_tensors="pt")
    cached, whole = (model.generate(**inputs, max_new_tokens=9, do_sample=False, use_cache=c) for c in (True, False))
    assert cached.tolist() == whole.tolist()


def test_rows_of_a_batch_padded_on_the_left_say_what_they_say_alone(folder, loaded):
    model, tokenizer = loaded
    inputs = tokenizer(PROMPTS, return_tensors="pt", padding=True)
    got = model.generate(**inputs, max_new_tokens=14, do_sample=False)[:, inputs.input_ids.shape[1] :].tolist()
    for said, prompt in zip(got, PROMPTS, strict=True):
        alone = by_session(folder, tokenizer(prompt).input_ids, 14, tokenizer)
        assert said[: len(alone)] == alone and set(said[len(alone) :]) <= {tokenizer.pad_token_id}


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_of_padded_rows_are_those_of_the_rows_alone(loaded, use_cache, side):
    model, tokenizer = loaded
    tokenizer = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, pad_token="<eos>", padding_side=side)
    inputs = tokenizer(PROMPTS, return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = model(**inputs, use_cache=use_cache).logits
        for row, prompt in enumerate(PROMPTS):
            tokens = torch.tensor([tokenizer(prompt).input_ids])
            alone = read_windows(model.model, tokens, n_passes=3, eviction="sliding").logits[0]
            torch.testing.assert_close(logits[row][inputs.attention_mask[row] == 1], alone, rtol=1e-4, atol=1e-5)


def test_a_cache_goes_on_with_the_next_turn(folder, loaded):
    model, tokenizer = loaded
    first = tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    cache = model.new_cache()
    said = model.generate(first, max_new_tokens=8, do_sample=False, **{CACHE: cache})
    assert cache.get_seq_length() == said.shape[1] - 1  # the last token has not been read
    both = torch.cat([said, tokenizer(PROMPTS[1], return_tensors="pt").input_ids], dim=1)
    got = model.generate(both, max_new_tokens=8, do_sample=False, **{CACHE: cache})
    assert got[0, both.shape[1] :].tolist() == by_session(folder, both, 8, tokenizer)


def test_beams_carry_their_own_memories(loaded):
    """Two beams, by hand: every step reads the whole sequences again and keeps the two best."""
    model, tokenizer = loaded
    prompt = tokenizer(PROMPTS[2], return_tensors="pt").input_ids
    got = model.generate(prompt, max_new_tokens=7, num_beams=2, do_sample=False, eos_token_id=None, pad_token_id=0)
    beams = [(0.0, prompt[0].tolist())]
    with torch.no_grad():
        for _ in range(7):
            found = []
            for score, tokens in beams:
                logits = read_windows(model.model, torch.tensor([tokens]), n_passes=3, eviction="sliding").logits[0, -1]
                best = logits.log_softmax(-1).topk(2)
                found += [(score + s, [*tokens, t]) for s, t in zip(*map(torch.Tensor.tolist, best), strict=True)]
            beams = sorted(found, reverse=True)[:2]
    assert got[0].tolist() == beams[0][1]


def test_labels_give_the_loss_of_the_next_token_and_gradients(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokens = torch.randint(257, (2, 20), generator=torch.Generator().manual_seed(0))
    out = model(tokens, labels=tokens)
    wanted = read_windows(model.model, tokens, n_passes=3, eviction="sliding").logits
    loss = torch.nn.functional.cross_entropy(wanted[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    torch.testing.assert_close(out.loss, loss)
    out.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_pipeline_answers(folder, loaded):
    tokenizer = loaded[1]
    said = pipeline("text-generation", model=str(folder))(PROMPTS, max_new_tokens=12, do_sample=False)
    for prompt, answer in zip(PROMPTS, said, strict=True):
        tokens = by_session(folder, tokenizer(prompt).input_ids, 12, tokenizer)
        assert answer[0]["generated_text"] == prompt + tokenizer.decode(tokens, skip_special_tokens=True)


def test_what_is_saved_is_a_folder_of_ours(folder, tmp_path):
    AutoModelForCausalLM.from_pretrained(folder, n_passes=5).save_pretrained(tmp_path / "again")
    assert names_in(tmp_path / "again") == names_in(folder) | {"generation_config.json"}
    again = Session.from_pretrained(tmp_path / "again")
    assert (again.n_passes, again.eviction) == (5, "sliding") and again.prompter.stop == (256,)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "again").config.n_passes == 5


@pytest.mark.parametrize("tie", [False, True])
def test_weights_that_are_given_are_saved(build, tmp_path, tie):
    """As a Trainer gives those that it has gathered from several processes."""
    build("AG", tie_embeddings=tie).save_pretrained(tmp_path, trained={"n_passes": 2})
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    wanted = {name: weight + 1 for name, weight in model.state_dict().items()}
    model.save_pretrained(tmp_path / "again", state_dict=wanted)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert all(map(torch.equal, again.state_dict().values(), wanted.values()))
    assert again.model.config == model.model.config
    assert not torch.equal(model.state_dict()["model.norm.weight"], wanted["model.norm.weight"])


def test_a_folder_that_states_no_N_is_awake_with_a_warning(build, tmp_path):
    build("AG", dtype=torch.float32).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"^the configuration does not state n_passes: the model stays awake"):
        assert AutoModelForCausalLM.from_pretrained(tmp_path).config.n_passes == 1
    for n_passes in (1, 2):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            model = AutoModelForCausalLM.from_pretrained(tmp_path, n_passes=n_passes)
        assert model.config.n_passes == n_passes and model.new_cache().session.n_passes == n_passes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_passes": 0}, "n_passes must be 1 or more"),
        ({"eviction": "soft"}, "eviction must be one of hard, sliding, got 'soft'"),
        ({"dtype": "int8"}, "dtype must be a floating-point dtype of torch or None, got torch.int8"),
        ({"dtype": "much"}, "dtype must be a floating-point dtype of torch or None, got 'much'"),
        ({"device_map": {"a": "cpu", "b": "meta"}}, "device_map must name one device, got "),
        ({"quantization_config": {"bits": 4}}, "quantization_config must be None, got {'bits': 4}"),
        ({"load_in_8bit": True}, "load_in_8bit must be None, got True"),
    ],
)
def test_what_it_cannot_do_is_one_sentence(folder, options, message):
    with pytest.raises(ValueError, match=message):
        lmsleep.hf.SleepForCausalLM.from_pretrained(folder, **options)


def test_dtype_and_device_are_those_asked_for(folder):
    assert AutoModelForCausalLM.from_pretrained(folder, dtype="bfloat16").dtype == torch.bfloat16
    assert AutoModelForCausalLM.from_pretrained(folder, dtype="auto", device_map={"": "cpu"}).dtype == torch.float32
    assert AutoConfig.from_pretrained(folder).n_passes == 3


class Hub:
    """A stand-in for the hub's client: repositories are folders of a folder."""

    root: Path

    def create_repo(self, name, private, exist_ok):
        assert exist_ok and private
        (self.root / name).mkdir(parents=True, exist_ok=True)
        return type("Url", (str,), {"repo_id": name})(f"https://hub/{name}")

    def upload_folder(self, repo_id, folder_path, commit_message):
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)


def test_a_pushed_model_comes_back_by_its_name(folder, loaded, tmp_path, monkeypatch):
    Hub.root = tmp_path
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)

    def download(name, revision, allow_patterns):
        assert revision is None
        return str(tmp_path / name)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert loaded[0].push_to_hub("owner/sleeper", private=True) == "https://hub/owner/sleeper"
    assert names_in(tmp_path / "owner/sleeper") == names_in(folder) | {"generation_config.json"}
    session = Session.from_pretrained("owner/sleeper")
    assert session.ask(PROMPTS[1], 9) == Session.from_pretrained(folder).ask(PROMPTS[1], 9)


def test_without_transformers_the_import_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "lmsleep.hf")
    with pytest.raises(ImportError, match=r'^lmsleep\.hf needs transformers: pip install "lmsleep\[hf\]"'):
        importlib.import_module("lmsleep.hf")


LM_EVAL_TASK = """
task: colours
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{context}} {{question}}"
doc_to_choice: ["red", "blue", "green"]
doc_to_target: answer
metric_list: [{metric: acc}]
"""


def test_lm_evaluation_harness_scores_a_local_task(folder, loaded, tmp_path, monkeypatch):
    """The choice that it takes to be the answer is the one whose tokens by hand have the largest probability."""
    harness = pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "colours.yaml").write_text(LM_EVAL_TASK)
    choices = ["red", "blue", "green"]
    rows = [{"context": TEXT, "question": q, "answer": a} for q in PROMPTS for a in choices]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    manager = TaskManager(include_path=str(tmp_path))
    options = {"model_args": f"pretrained={folder},dtype=float32", "device": "cpu", "batch_size": 4}
    results = harness.simple_evaluate("hf", tasks=["colours"], task_manager=manager, log_samples=True, **options)
    model, tokenizer = loaded
    said = []
    for sample in results["samples"]["colours"]:
        asked = f"{sample['doc']['context']} {sample['doc']['question']}"
        scores = []
        for choice in choices:
            tokens = torch.tensor([tokenizer(f"{asked} {choice}").input_ids])
            with torch.no_grad():
                logits = read_windows(model.model, tokens, n_passes=3, eviction="sliding").logits.log_softmax(-1)
            n = len(choice) + 1
            scores.append(float(logits[0, -n - 1 : -1].gather(1, tokens[0, -n:, None]).sum()))
        assert [float(found[0]) for found in sample["filtered_resps"]] == pytest.approx(scores, rel=1e-4)
        said.append(choices[scores.index(max(scores))] == sample["doc"]["answer"])
    assert results["results"]["colours"]["acc,none"] == pytest.approx(sum(said) / len(said))


def test_generate_ends_where_an_answer_does(folder, loaded, tmp_path):
    """At whatever token the folder names as the end: here one that the model says."""
    tokenizer = loaded[1]
    prompt = tokenizer(PROMPTS[0]).input_ids
    said = by_session(folder, prompt, 12, tokenizer)
    shutil.copytree(folder, tmp_path / "other")
    named = tmp_path / "other/tokenizer_config.json"
    end = tokenizer.convert_ids_to_tokens(said[4])
    named.write_text(json.dumps(json.loads(named.read_text()) | {"eos_token": end}))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "other")
    got = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)
    assert got[0, len(prompt) :].tolist() == said[: said.index(said[4]) + 1]


@pytest.mark.parametrize("use_cache", [True, False])
def test_the_last_logits_of_a_row_are_those_of_its_last_token_wherever_it_is_padded(loaded, use_cache):
    """They are what `generate` draws from."""
    model, tokenizer = loaded
    tokens = torch.tensor([tokenizer(PROMPTS[0]).input_ids[:40]] * 2)
    mask = torch.ones(2, 40)
    mask[0, 30:], mask[1, 3:7], mask[1, 25:] = 0, 0, 0  # on the right, and within too
    got = model(tokens, attention_mask=mask, use_cache=use_cache, logits_to_keep=1).logits
    assert got.shape == (2, 1, 257)
    for row in range(2):
        alone = read_windows(model.model, tokens[row, mask[row] == 1][None], n_passes=3, eviction="sliding").logits
        torch.testing.assert_close(got[row, 0], alone[0, -1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["past_key_values", "cache"])
def test_a_copy_of_a_cache_goes_on_apart_from_it(loaded, name):
    """One prompt, several ends: as after each of them alone. Rows are chosen, repeated and forgotten as they are asked
    to be, and what a cache cannot do, it says."""
    model, tokenizer = loaded
    start, *ends = (tokenizer(prompt, return_tensors="pt").input_ids for prompt in PROMPTS)
    cache = model(start, use_cache=True)[CACHE]
    for end in ends:
        branch = copy.deepcopy(cache)
        got = model(end, **{name: branch}).logits
        wanted = model(torch.cat([start, end], dim=1)).logits[:, start.shape[1] :]
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
        assert (cache.get_seq_length(), branch.get_seq_length()) == (start.shape[1], start.shape[1] + end.shape[1])
    both = torch.cat([start, start.flip(1)])
    cache, end = model(both, use_cache=True)[CACHE], ends[0].expand(3, -1)
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([0, 2, 3]))
    wanted = model(torch.cat([both[[0, 1, 1]], end], dim=1)).logits[:, start.shape[1] :]
    torch.testing.assert_close(model(end, **{name: cache}).logits, wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="a cache that sleeps cannot lose 3 tokens"):
        cache.crop(3)
    with pytest.raises(ValueError, match=r"rows must be some of the 3 that were read, got \[3\]"):
        cache.batch_select_indices(torch.tensor([3]))
    cache.reset()
    assert cache.get_seq_length() == 0
    torch.testing.assert_close(model(start, **{name: cache}).logits, model(start).logits, rtol=1e-4, atol=1e-5)


IDS = torch.ones(2, 4, dtype=torch.long)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"inputs_embeds": torch.zeros(1, 4, 16)}, "input_ids must be given, which alone can be read, got None"),
        ({"input_ids": IDS[0]}, r"input_ids must be a tensor \(B, n\), got \(4,\)"),
        ({"input_ids": [[1, 2]]}, r"input_ids must be a tensor \(B, n\), got 'list'"),
        ({"input_ids": IDS, "attention_mask": IDS[0]}, r"attention_mask must have .*, got \(4,\)"),
        ({"input_ids": 300 * IDS}, r"tokens must lie in the vocabulary 0..256, got 300 \(row 0, token 0\)"),
        ({"input_ids": -IDS}, "tokens must lie in the vocabulary 0..256, got -1"),
        ({"input_ids": IDS.float()}, "tokens must be integers, got torch.float32"),
        ({"input_ids": IDS, "attention_mask": IDS[:, :3]}, r"attention_mask must have the shape of input_ids \(2, 4\)"),
        ({"input_ids": IDS, "attention_mask": IDS[:1]}, r"attention_mask must have .*, got \(1, 4\)"),
        ({"input_ids": IDS, "attention_mask": IDS[:, None, None]}, r"attention_mask must have .*, got \(2, 1, 1, 4\)"),
        ({"input_ids": IDS, "past_key_values": DynamicCache()}, "past_key_values must be .*, got 'DynamicCache'"),
        ({"input_ids": IDS, "cache": DynamicCache()}, "cache must be of an earlier call .*, got 'DynamicCache'"),
        ({"input_ids": IDS, "past_key_values": 1, "cache": 2}, "past_key_values and cache must not both be given"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(loaded, use_cache, inputs, message):
    with pytest.raises(ValueError, match=message):
        loaded[0](**inputs, use_cache=use_cache)


def test_what_would_go_wrong_without_a_word_is_refused(loaded):
    model = loaded[0]
    mask = torch.tensor([[1] * 4, [0] * 4])
    for use_cache in (True, False):
        with pytest.raises(ValueError, match=r"attention_mask must leave every row a token, got rows of \[4, 0\]"):
            model.generate(IDS, attention_mask=mask, max_new_tokens=2, use_cache=use_cache)
    with pytest.raises(ValueError, match="the vocabulary must stay of 257 tokens"):
        model.resize_token_embeddings(300)


def test_logits_are_kept_of_the_places_asked_for(loaded):
    model = loaded[0]
    tokens = torch.randint(257, (2, 20), generator=torch.Generator().manual_seed(0))
    whole = model(tokens).logits
    for keep, wanted in ((0, whole), (3, whole[:, -3:]), (torch.tensor([2, 7]), whole[:, [2, 7]])):
        torch.testing.assert_close(model(tokens, logits_to_keep=keep).logits, wanted)
    mask = torch.ones(2, 20).tril(15)
    torch.testing.assert_close(model(tokens, attention_mask=mask, use_cache=True).logits[1, :17], whole[1, :17])
