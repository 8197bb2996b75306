"""transformers' Trainer and peft on a saved model, and what would be lost or ignored without a word."""

import copy
import shutil

import pytest
import torch
from torch.nn.functional import cross_entropy, pad
from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainingArguments
from transformers.integrations.peft import MIN_PEFT_VERSION

import lmsleep.hf
from lmsleep import Session, read_windows

TOKENS = torch.randint(257, (2, 20), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model(folder):
    return AutoModelForCausalLM.from_pretrained(folder)


def trained_by_hf(model, out, accumulate, steps=2, resume=None):
    """The model after steps of 8 rows of transformers' Trainer, in as many micro-batches."""
    pytest.importorskip("accelerate")
    rows = [torch.randint(257, (20,), generator=torch.Generator().manual_seed(i)) for i in range(16)]
    options = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "save_steps": 2, "optim": "sgd"}
    options |= {"learning_rate": 0.1, "max_grad_norm": 0, "lr_scheduler_type": "constant", "max_steps": steps}
    sizes = {"per_device_train_batch_size": 8 // accumulate, "gradient_accumulation_steps": accumulate}
    trainer = Trainer(
        model,
        TrainingArguments(str(out), **options, **sizes),
        train_dataset=[{"input_ids": row, "labels": row} for row in rows],
    )
    trainer.train(resume_from_checkpoint=resume and str(resume))
    return model


def test_a_trainer_that_accumulates_gradients_makes_the_same_steps(folder, tmp_path):
    whole, parts = (
        trained_by_hf(AutoModelForCausalLM.from_pretrained(folder), tmp_path / str(n), n).state_dict() for n in (1, 4)
    )
    before = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    for name, weight in whole.items():
        torch.testing.assert_close(parts[name], weight, rtol=0, atol=1e-6)
        assert not torch.equal(weight, before[name]), name


@pytest.mark.parametrize("tie", [False, True])
def test_a_trainer_goes_on_from_its_checkpoint(build, tmp_path, tie):
    build("AG", vocab_size=257, dtype=torch.float32, tie_embeddings=tie).save_pretrained(
        tmp_path / "model", trained={"n_passes": 2}
    )
    models = [AutoModelForCausalLM.from_pretrained(tmp_path / "model") for _ in range(2)]
    whole = trained_by_hf(models[0], tmp_path / "run", 1, steps=4).state_dict()
    again = trained_by_hf(models[1], tmp_path / "run", 1, steps=4, resume=tmp_path / "run/checkpoint-2").state_dict()
    assert all(map(torch.equal, whole.values(), again.values()))
    models[1].load_state_dict(models[0].model.state_dict())  # strictly
    with pytest.raises(RuntimeError, match="Unexpected key"):
        models[1].load_state_dict({**whole, "model.extra": whole["model.norm.weight"]})


def test_label_smoothing_shifts_the_labels(model, tmp_path):
    pytest.importorskip("accelerate")
    options = TrainingArguments(str(tmp_path), report_to=[], use_cpu=True, label_smoothing_factor=0.1)
    got = Trainer(model, options).compute_loss(model, {"input_ids": TOKENS, "labels": TOKENS})
    logits = read_windows(model.model, TOKENS, n_passes=3, eviction="sliding").logits
    wanted = cross_entropy(logits[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten(), label_smoothing=0.1)
    torch.testing.assert_close(got, wanted)


def padded(row, n, side):
    """The arguments of a row of tokens with labels, beside n places of padding."""
    width = (n, 0) if side == "left" else (0, n)
    mask = pad(torch.ones_like(row), width)
    return {"input_ids": pad(row, width), "attention_mask": mask, "labels": pad(row, width, value=-100)}


@pytest.mark.parametrize("side", ["left", "right"])
def test_loss_and_gradients_of_a_padded_row_are_those_of_the_row_alone(model, side):
    """Padding on the left, which is read behind the row, must not predict its first token, having seen it."""
    row = TOKENS[:1, :9]
    inputs = padded(row, 4, side)
    alone, out = model(row, labels=row), model(**inputs)
    torch.testing.assert_close(out.loss, alone.loss)
    torch.testing.assert_close(model(**inputs, use_cache=True).loss, alone.loss)
    names, weights = zip(*model.named_parameters(), strict=True)
    found, wanted = (torch.autograd.grad(loss, weights) for loss in (out.loss, alone.loss))
    for name, one, other in zip(names, found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("use_cache", [True, False])
def test_logits_of_padding_say_nothing(model, use_cache):
    """From them a loss of one's own, such as that of label smoothing, predicts the token behind."""
    inputs = padded(TOKENS[:1, :9], 4, "left")
    logits = model(inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=use_cache).logits
    assert logits.isfinite().all() and not logits[:, :4].any() and logits[:, 4:].any()


def adapted(model, *targets):
    """The model with adapters away from zero."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    options = {"r": 4, "init_lora_weights": False, "task_type": "CAUSAL_LM"}
    return peft.get_peft_model(model, peft.LoraConfig(target_modules=list(targets), **options))


@pytest.mark.parametrize("saved_by", ["peft", "transformers"])
def test_the_folder_of_an_adapter_is_read_with_its_model(folder, model, tmp_path, saved_by):
    plain = model(TOKENS).logits
    if saved_by == "peft":
        tuned = adapted(model, "q_proj", "o_proj")
        tuned.save_pretrained(tmp_path)
    else:
        # transformers 5.24 asks for a peft that comes after it
        peft, tuned = pytest.importorskip("peft", minversion=MIN_PEFT_VERSION), model
        tuned.add_adapter(peft.LoraConfig(target_modules=["q_proj"], r=4, init_lora_weights=False))
        tuned.save_pretrained(tmp_path)
    wanted, again = tuned(TOKENS).logits, AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(again(TOKENS).logits, wanted)
    assert again.config.n_passes == 3 and (wanted - plain).abs().max() > 0.1


def test_an_adapter_of_the_embedding_reads_as_its_merged_weights(model):
    plain = model(TOKENS).logits
    tuned = adapted(model, "embedding")
    found, said = tuned(TOKENS).logits, tuned.generate(TOKENS, max_new_tokens=8, do_sample=False)
    merged = tuned.merge_and_unload()
    torch.testing.assert_close(found, merged(TOKENS).logits, rtol=1e-4, atol=1e-4)
    assert said.equal(merged.generate(TOKENS, max_new_tokens=8, do_sample=False))
    assert (found - plain).abs().max() > 0.1


def test_settings_beside_a_config_win_over_it(folder):
    config = AutoConfig.from_pretrained(folder)
    for options, wanted in (({}, (3, "sliding")), ({"n_passes": 1, "eviction": "hard"}, (1, "hard"))):
        model = AutoModelForCausalLM.from_pretrained(folder, config=config, **options)
        cache = model.new_cache().session
        assert (cache.n_passes, cache.eviction) == wanted
    assert (config.n_passes, config.eviction) == (3, "sliding")
    config.n_passes = 2
    assert AutoModelForCausalLM.from_pretrained(folder, config=config).config.n_passes == 2


def test_a_config_that_is_saved_alone_says_how_a_session_sleeps(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "other")
    config = AutoConfig.from_pretrained(folder)
    config.n_passes, config.eviction = 2, "hard"
    config.save_pretrained(tmp_path / "other")
    session = Session.from_pretrained(tmp_path / "other")
    assert (session.n_passes, session.eviction) == (2, "hard")
    again = AutoConfig.from_pretrained(tmp_path / "other")
    assert (again.n_passes, again.eviction, again.model) == (2, "hard", config.model)


def test_how_it_generates_is_saved(model, tmp_path):
    model.generation_config.update(max_new_tokens=7, temperature=0.5, do_sample=True)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).generation_config
    assert (again.max_new_tokens, again.temperature, again.do_sample, again.eos_token_id) == (7, 0.5, True, [256])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"output_hidden_states": True}, "output_hidden_states must be left out, got True"),
        ({"output_attentions": True}, "output_attentions must be left out, got True"),
        ({"inputs_embeds": TOKENS}, "inputs_embeds must be left out, got "),
        ({"position_ids": torch.arange(20).expand(2, -1) % 7}, "position_ids must grow: rows that are packed into one"),
        ({"labels": TOKENS, "logits_to_keep": 1}, "logits_to_keep must be left out beside labels, got 1"),
        ({"labels": TOKENS.T}, r"labels must have the shape of input_ids \(2, 20\), got \(20, 2\)"),
    ],
)
def test_what_would_be_ignored_is_refused(model, inputs, message):
    with pytest.raises(ValueError, match=message):
        model(TOKENS, **inputs)


def test_positions_of_padded_rows_and_a_tuple_are_obeyed(model):
    mask = torch.ones_like(TOKENS)
    mask[0, :5] = 0
    positions = (mask.cumsum(1) - 1).masked_fill(mask == 0, 1)  # as `generate` counts them
    wanted = model(TOKENS, attention_mask=mask, labels=TOKENS)
    found = model(TOKENS, attention_mask=mask, labels=TOKENS, position_ids=positions, return_dict=False)
    assert isinstance(found, tuple) and found[0].equal(wanted.loss) and found[1].equal(wanted.logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subfolder": "inner"}, "subfolder must be None, got 'inner'"),
        ({"state_dict": {"a": TOKENS}}, "state_dict must be None, got {'a': tensor"),
        ({"output_loading_info": True}, "output_loading_info must be None, got True"),
        ({"config": {"n_passes": 2}}, "config must be a SleepConfig or None, got {'n_passes': 2}"),
        ({"variant": "fp16"}, "variant must be None, got 'fp16'"),
    ],
)
def test_what_cannot_be_loaded_is_refused(folder, options, message):
    with pytest.raises(ValueError, match=message):
        lmsleep.hf.SleepForCausalLM.from_pretrained(folder, **options)


def test_a_config_of_another_model_is_refused(folder):
    config = copy.deepcopy(AutoConfig.from_pretrained(folder))
    config.model["window_size"] = 12
    with pytest.raises(ValueError, match=r"model of config must be that of .*'window_size': 6.*'window_size': 12"):
        AutoModelForCausalLM.from_pretrained(folder, config=config)
