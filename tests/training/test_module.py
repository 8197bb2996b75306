"""Training: the module knows no N, every N sees the same batches, and a resumed run is the run itself."""

import os

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from tests.programs import start

from lmsleep import HybridConfig, SleepCallback, SleepModule, read_windows
from lmsleep.metrics import row_scores
from lmsleep.tasks import IGNORE, Depo, Rule110
from lmsleep.training import MuonAdamW, OptimizerConfig

from .conftest import TASK, Recorder, fitted, weights


def same(a, b):
    return len(a) == len(b) and all(map(torch.equal, a, b))


def test_without_the_callback_it_is_the_plain_hybrid(run):
    module = run(None).module
    batch = TASK.rows(split="train", seed=0, step=0, batch_size=8)
    plain = read_windows(module.model, batch.tokens, batch.targets)
    assert torch.equal(module(batch).scored_logits, plain.scored_logits)
    module.trainer = run(None).trainer
    assert torch.equal(module(batch).scored_logits, plain.scored_logits)
    assert torch.equal(module(batch).loss, plain.loss)


def test_one_pass_trains_like_no_callback_bit_for_bit(run):
    recorders = [Recorder(), Recorder()]
    plain, one = (fitted(run(n, [r], max_steps=4)) for n, r in zip((None, 1), recorders, strict=True))
    assert same(weights(plain.module), weights(one.module))
    assert recorders[0].losses == recorders[1].losses
    assert one.sleep.n_sleeps == 4 * 2


WATCHED = """
import lightning as L
from lmsleep import SleepModule
from lmsleep.data import RowsDataModule
from lmsleep.tasks import Rule110
task = Rule110(2, 6, 2)
trainer = L.Trainer(max_steps=1, limit_val_batches=0, logger=False, enable_checkpointing=False)
trainer.fit(SleepModule(task), RowsDataModule(task, 2))
"""


def test_lightning_warns_of_no_hook_of_ours(tmp_path):
    """In a process of its own, as pytest resets the filters of warnings."""
    (tmp_path / "watched.py").write_text(WATCHED)
    env, said = os.environ | {"PYTHONPATH": str(tmp_path)}, tmp_path / "said"
    process = start("watched", folder=tmp_path, env=env, output=str(said))
    process.join(60)
    assert process.exitcode == 0 and "max_steps=1" in said.read_text() and "overridden" not in said.read_text()


def test_taking_the_callback_away_leaves_the_plain_hybrid(run):
    module = fitted(run(3)).module
    batch = TASK.rows(split="val", seed=0, step=0, batch_size=8)
    module.trainer = run(None).trainer
    plain = read_windows(module.model, batch.tokens, batch.targets)
    assert torch.equal(module(batch).scored_logits, plain.scored_logits)
    module.trainer.callbacks.append(SleepCallback(3))
    slept = read_windows(module.model, batch.tokens, batch.targets, n_passes=3)
    assert torch.equal(module(batch).scored_logits, slept.scored_logits)
    assert not torch.equal(slept.scored_logits, plain.scored_logits)


def test_every_n_sees_the_same_batches(run):
    recorders = [Recorder(), Recorder()]
    for n_passes, recorder in zip((1, 4), recorders, strict=True):
        fitted(run(n_passes, [recorder], max_steps=4))
    assert same(recorders[0].tokens, recorders[1].tokens)
    assert recorders[0].losses != recorders[1].losses
    wanted = [TASK.rows(split="train", seed=0, step=i, batch_size=8).tokens for i in range(4)]
    assert same(recorders[0].tokens, wanted)


def flat(state):
    """Every tensor and number of an optimizer's or scheduler's state, in order."""
    if isinstance(state, dict):
        return [x for key in sorted(state, key=str) for x in flat(state[key])]
    if isinstance(state, list | tuple):
        return [x for item in state for x in flat(item)]
    return [state if isinstance(state, torch.Tensor) else torch.tensor(float(state))] if state is not None else []


@pytest.mark.parametrize(
    ("data_options", "trainer_options"),
    [({}, {}), ({"num_workers": 2}, {}), ({}, {"accumulate_grad_batches": 2})],
    ids=["plain", "workers", "accumulate"],
)
def test_a_resumed_run_is_the_run_itself(run, tmp_path, data_options, trainer_options):
    """Five steps in one go, and the same run taken up from its checkpoint after the third: nothing differs."""

    def five_steps(folder, **options):
        recorder = Recorder()
        saver = ModelCheckpoint(tmp_path / folder, "{step}", every_n_train_steps=3, save_top_k=-1)
        cell = run(
            2,
            [recorder, saver],
            max_steps=5,
            val_check_interval=2 * trainer_options.get("accumulate_grad_batches", 1),
            enable_checkpointing=True,
            data_options=data_options,
            **trainer_options,
        )
        cell.trainer.fit(cell.module, cell.data, **options)
        return cell, recorder

    whole, seen = five_steps("whole")
    resumed, seen_again = five_steps("resumed", ckpt_path=tmp_path / "whole" / "step=3.ckpt")
    assert whole.trainer.global_step == resumed.trainer.global_step == 5
    assert same(weights(whole.module), weights(resumed.module))
    assert same(*(flat(cell.trainer.optimizers[0].state_dict()) for cell in (whole, resumed)))
    assert same(*(flat(cell.trainer.lr_scheduler_configs[0].scheduler.state_dict()) for cell in (whole, resumed)))
    done = 3 * trainer_options.get("accumulate_grad_batches", 1)
    assert same(seen_again.tokens, seen.tokens[done:])
    assert seen_again.losses == seen.losses[done:]
    assert [step for step, _ in seen.validations] == [2, 4] and seen_again.validations == seen.validations[1:]


def test_validation_scores_are_those_counted_by_hand(run):
    cell = run(3, max_steps=1)
    cell.trainer.validate(cell.module, cell.data, verbose=False)
    right, whole, nll = [], [], []
    for step in range(3):
        batch = TASK.rows(split="val", seed=0, step=step, batch_size=8)
        out = read_windows(cell.module.model.eval(), batch.tokens, batch.targets, n_passes=3)
        hits = out.scored_logits.argmax(-1) == batch.targets[:, -2:]
        right += hits.flatten().tolist()
        whole += hits.all(1).tolist()
        nll.append(out.loss.item())
    metrics = cell.trainer.callback_metrics
    assert metrics["val/token"] == pytest.approx(sum(right) / 48) and metrics["val/exact"] == sum(whole) / 24
    assert metrics["val/loss"] == pytest.approx(sum(nll) / 3, rel=1e-5)
    assert metrics["val/exact-2"] == metrics["val/exact"] and metrics["val/count-2"] == 24


def test_validation_of_depo_reports_both_losses_for_every_hop(run):
    """Over `:` and answers, and over answers alone: taken position by position from the logits, hop by hop."""
    task = Depo(
        max_nodes=6, max_hops=3, test_hops=(1, 3), n_queries=2, graph_length=24, question_length=12, window_size=12
    )
    cell = run(2, task=task, max_steps=1, data_options={"eval_rows": 32})
    cell.trainer.validate(cell.module, cell.data, verbose=False)
    metrics = cell.trainer.callback_metrics
    for hops, first in ((1, 0), (3, 1)):
        colons, answers = [], []
        for step in (first, first + 2):
            batch = task.rows(split="val", seed=0, step=step, batch_size=8)
            nll = -read_windows(cell.module.model.eval(), batch.tokens, n_passes=2).logits.log_softmax(-1)
            for row, targets in zip(nll, batch.targets.tolist(), strict=True):
                for question in (24, 30):  # k hop after a : c, in six tokens
                    colons.append(row[question + 3, targets[question + 3]].item())
                    answers.append(row[question + 4, targets[question + 4]].item())
        assert metrics[f"val/answer_loss-{hops}"] == pytest.approx(sum(answers) / 32, rel=1e-4)
        assert metrics[f"val/loss-{hops}"] == pytest.approx(sum(colons + answers) / 64, rel=1e-4)
        assert metrics[f"val/count-{hops}"] == 32


def test_predictions_come_with_their_targets(run):
    cell = run(1)
    results = cell.trainer.predict(cell.module, cell.data)
    assert len(results) == 3
    for step, result in enumerate(results):
        batch = TASK.rows(split="test", seed=0, step=step, batch_size=8)
        assert torch.equal(result["targets"], batch.targets[:, -2:])
        out = read_windows(cell.module.model, batch.tokens, batch.targets)
        assert torch.equal(result["predictions"], out.scored_logits.argmax(-1))


@pytest.mark.parametrize("kind", ["fit", "validate", "test", "predict"])
def test_a_batch_without_targets_is_one_sentence(run, kind):
    class Some(Rule110):
        def rows(self, *, step, **how):
            batch = super().rows(step=step, **how)
            return batch._replace(targets=torch.full_like(batch.targets, IGNORE)) if step else batch

    go = run(task=Some(steps=2, width=6, n_states=2))
    with pytest.raises(ValueError, match=r"^every batch of Some must have targets, got 'one without'$"):
        getattr(go.trainer, kind)(go.module, go.data)


def test_training_follows_a_validation(run):
    """What the validation left in caches, made without gradients, must not reach the training step."""
    before = run().module
    cell = fitted(run(2, max_steps=2, num_sanity_val_steps=2, val_check_interval=1))
    assert not same(weights(cell.module), weights(before))


def test_the_task_s_sizes_reach_the_model_and_contradictions_are_named(run):
    assert run().module.model.config.window_size == 6 and run().module.model.config.vocab_size == 3
    sentence = r"^window_size of the model must be the task's 6 \(or 14 and more: a whole row\) or left out, got 5$"
    with pytest.raises(ValueError, match=sentence):
        SleepModule(TASK, HybridConfig(window_size=5))


def test_a_window_as_long_as_the_row_is_one_pass_of_full_attention_over_it():
    """Without fast weights, the answers are told by what attention sees of the whole row."""
    module = SleepModule(TASK, HybridConfig(d_model=16, pattern="AA", n_heads=2, window_size=14, zero_init=False))
    batch = TASK.rows(split="train", seed=0, step=0, batch_size=4)
    logits, _ = module.model(batch.tokens)
    wanted = torch.nn.functional.cross_entropy(logits[:, 12:].flatten(0, 1), batch.targets[:, 12:].flatten())
    torch.testing.assert_close(module(batch).loss, wanted)
    other = batch._replace(tokens=torch.cat([1 - batch.tokens[:, :6], batch.tokens[:, 6:]], dim=1))
    assert module(other).loss != module(batch).loss


def test_an_endless_run_is_refused(run):
    with pytest.raises(ValueError, match=r"^max_steps of the trainer must be set: the training stream has no end$"):
        fitted(run(max_steps=-1))


class Steep(SleepModule):
    """Has gradients far above every limit."""

    def training_step(self, batch, batch_idx):
        return 1e6 * super().training_step(batch, batch_idx)


# Without a word, the limit is that of the code which the recipe follows (docs/fidelity.md).
@pytest.mark.parametrize(("options", "limit"), [({"grad_clip": 1e-3}, 1e-3), ({}, 1.0)])
def test_the_gradient_is_clipped_to_the_optimizer_s_limit(run, options, limit):
    norms = []

    class Norm(L.Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
            if grads:
                norms.append(torch.stack([g.norm() for g in grads]).norm().item())

    cell = run(1, [Norm()], max_steps=2, module_class=Steep)
    cell.module.optimizer_config = OptimizerConfig(**options)
    fitted(cell)
    assert norms == pytest.approx([limit] * len(norms), rel=1e-3) and norms


def test_one_optimizer_means_one_step_count(run):
    cell = fitted(run(1, max_steps=3))
    assert cell.trainer.global_step == 3
    assert len(cell.trainer.optimizers) == 1 and isinstance(cell.trainer.optimizers[0], MuonAdamW)


def test_the_checkpoint_holds_the_configuration(run, tmp_path):
    cell = fitted(run(1, max_steps=1))
    cell.trainer.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    model = HybridConfig(**checkpoint["model_config"]).build()
    model.load_state_dict({k.removeprefix("model."): v for k, v in checkpoint["state_dict"].items() if "model." in k})
    assert same(list(model.parameters()), list(cell.module.model.parameters()))


class KeepGradients(L.Callback):
    """The gradients of the first step and the scores of the last validation, in a file of rank 0."""

    def __init__(self, path):
        self.path, self.grads = path, None

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if self.grads is None:
            self.grads = [p.grad.clone() for p in pl_module.parameters()]

    def on_validation_end(self, trainer, pl_module):
        if trainer.is_global_zero and self.grads is not None:
            torch.save([self.grads, {k: v for k, v in trainer.callback_metrics.items() if "val/" in k}], self.path)


def test_two_processes_give_the_gradients_and_scores_of_one(run, tmp_path):
    """Three batches of validation for two processes: none may be counted twice."""
    results = []
    for name, options in (("one", {}), ("two", {"strategy": "ddp_fork", "devices": 2})):
        fitted(run(2, [KeepGradients(tmp_path / name)], max_steps=1, val_check_interval=1, **options))
        results.append(torch.load(tmp_path / name))
    (grads, scores), (shared, shared_scores) = results
    for one, two in zip(grads, shared, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-7)
    assert scores["val/count"] == shared_scores["val/count"] == 24
    for name, value in scores.items():
        assert float(shared_scores[name]) == pytest.approx(float(value), rel=1e-5)


def test_learns_to_remember(run):
    """t = 0 needs nothing but storing a bit in S: it is learned in a few steps, and lost when S is cut."""
    task = Rule110(steps=0, width=6, n_states=2)
    cell = fitted(run(2, task=task, max_steps=40, data_options={"batch_size": 32}))
    cell.trainer.validate(cell.module, cell.data, verbose=False)
    assert cell.trainer.callback_metrics["val/exact"] > 0.95
    batch = task.rows(split="test", seed=0, step=0, batch_size=512)

    def cut(blocks, h, S):
        return h, S.with_layers({0: torch.zeros_like(S[0])})

    out = read_windows(cell.module.model, batch.tokens, batch.targets, on_overflow=cut)
    assert (out.scored_logits[:, 0] == out.scored_logits[0, 0]).all()
    hits = (out.scored_logits.argmax(-1) == out.scored_targets).double().mean()
    assert hits < 0.6


def test_metrics_are_made_for_the_first_step_and_those_that_are_logged(run, monkeypatch):
    made, module = [], "lmsleep.training.module.row_scores"
    monkeypatch.setattr(module, lambda *scored: made.append(run.trainer.global_step) or row_scores(*scored))
    run = run(log_every_n_steps=3)
    run.trainer.fit(run.module, run.data)
    assert made == [0, 2, 5]


def test_no_metric_of_a_step_is_waited_for(run, monkeypatch):
    def wait(_):
        raise AssertionError("read off the device in a step that logs nothing")

    run = run(log_every_n_steps=100)
    monkeypatch.setattr("lightning.pytorch.trainer.connectors.logger_connector.result.convert_tensors_to_scalars", wait)
    run.trainer.fit(run.module, run.data)
    assert run.trainer.global_step == 6 and run.trainer.callback_metrics["train/loss"] > 0
