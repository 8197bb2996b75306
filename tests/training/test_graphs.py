"""A captured or compiled step against the eager one, and the sentences for what cannot be captured."""

import gc
import weakref
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

from lmsleep import HybridConfig
from lmsleep.data import RowsDataModule
from lmsleep.settle import Settle
from lmsleep.tasks import Rule110
from lmsleep.training import OptimizerConfig, SleepCallback, SleepModule, StopOnNonFinite
from lmsleep.training.graphs import StepGraphs, check_graph_trainer, compile_blocks

TASK = Rule110(steps=2, width=8, n_states=3)
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Observed(L.Callback):
    """Keeps losses, and the gradients of every step."""

    def __init__(self):
        self.losses, self.grads = [], []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.grads.append([p.grad.clone() for p in pl_module.parameters()])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())


def train(
    accelerate,
    steps=4,
    n_passes=3,
    precision="32-true",
    accelerator="cpu",
    grad_clip=None,
    folder=None,
    ckpt_path=None,
    task=TASK,
    after_loss=False,
    wake_passes=1,
    **options,
):
    L.seed_everything(0)
    module = SleepModule(
        task,
        HybridConfig(d_model=32, pattern="AG", n_heads=2, zero_init=False),
        OptimizerConfig(warmup_steps=2, decay_fraction=0.0, grad_clip=grad_clip),
        accelerate=accelerate,
        **options,
    )
    observed, sleeper = Observed(), SleepCallback(n_passes, after_loss=after_loss, wake_passes=wake_passes)
    trainer = L.Trainer(
        max_steps=steps,
        accelerator=accelerator,
        precision=precision,
        callbacks=[sleeper, observed, StopOnNonFinite()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(module, RowsDataModule(task, batch_size=8), ckpt_path=ckpt_path)
    if folder:
        trainer.save_checkpoint(folder / "last.ckpt")
    return observed, sleeper, [p.detach().cpu() for p in module.parameters()]


def test_garbage_is_collected_before_a_capture(captured_on_cpu, monkeypatch):
    """A graph in it would end the capture when Python finds it."""
    capture, alive = torch.cuda.make_graphed_callables, []
    garbage = Observed()
    garbage.itself, seen = garbage, weakref.ref(garbage)

    def watched(*args, **options):
        alive.append(seen() is not None)
        return capture(*args, **options)

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", watched)
    gc.collect()
    gc.disable()
    try:
        del garbage
        train("graph", steps=1)
    finally:
        gc.enable()
    assert alive == [False]


def test_what_torch_compiled_for_other_ops_is_not_taken(tmp_path, monkeypatch):
    """A folder of compiled graphs that two commits shared had a custom op that returned another shape."""
    monkeypatch.setattr(torch.compiler.config, "cache_key_tag", "")
    monkeypatch.setattr("lmsleep.training.graphs.ops.__file__", str(tmp_path / "__init__.py"))
    tags = []
    for source in ("rows = 8", "rows = 16", "rows = 8"):
        (tmp_path / "kernel.py").write_text(source)
        compile_blocks(HybridConfig(vocab_size=3, d_model=8, n_heads=1, pattern="A", window_size=4).build())
        tags.append(torch.compiler.config.cache_key_tag)
    assert tags[0] == tags[2] != tags[1]


@pytest.mark.slow
def test_compiled_blocks_give_the_same_gradients():
    eager, _, _ = train("none", steps=1)
    compiled, _, _ = train("compile", steps=1)
    torch.testing.assert_close(compiled.grads[0], eager.grads[0], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("grad_clip", [None, 0.1])
def test_a_captured_step_is_the_same_training(captured_on_cpu, grad_clip):
    eager, sleeps, weights = train("none", grad_clip=grad_clip)
    graph, same, others = train("graph", grad_clip=grad_clip)
    assert graph.losses == pytest.approx(eager.losses, rel=1e-5)
    torch.testing.assert_close(graph.grads[0], eager.grads[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(others, weights, atol=1e-5, rtol=1e-4)
    assert (same.n_sleeps, same.sleeps_per_sequence) == (sleeps.n_sleeps, sleeps.sleeps_per_sequence) == (12, 3.0)


def test_a_captured_step_loops_awake(captured_on_cpu):
    once, (eager, sleeps, _), (graph, same, _) = (
        train(how, steps=2, n_passes=2, wake_passes=k) for how, k in (("graph", 1), ("none", 3), ("graph", 3))
    )
    assert once[0].losses != graph.losses == pytest.approx(eager.losses, rel=1e-5)
    assert same.n_sleeps == sleeps.n_sleeps and same.passes_per_sequence == sleeps.passes_per_sequence == 3.0 * 4


def test_a_captured_step_sleeps_after_loss(captured_on_cpu):
    """With loss in the last state too: a window that another follows."""

    class Earlier(Rule110):
        def rows(self, **options):
            batch = super().rows(**options)
            batch.targets[:, 17] = batch.tokens[:, 17]
            return batch

    task = Earlier(steps=2, width=8, n_states=3)
    for after_loss, n_sleeps in ((False, 8), (True, 12)):
        (eager, sleeps, _), (graph, same, _) = (
            train(how, task=task, after_loss=after_loss) for how in ("none", "graph")
        )
        assert graph.losses == pytest.approx(eager.losses, rel=1e-5)
        assert same.n_sleeps == sleeps.n_sleeps == n_sleeps


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize(("checkpointing", "wake_passes"), [(False, 1), (True, 1), (False, 3)])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_captured_step_gives_the_same_losses_gradients_and_sleeps(precision, checkpointing, wake_passes):
    options = {"precision": precision, "accelerator": "gpu", "wake_passes": wake_passes}
    eager, sleeps, weights = train("none", **options)
    graph, same, others = train("graph", checkpointing=checkpointing, **options)
    assert graph.losses == pytest.approx(eager.losses, rel=1e-3)
    for got, expected in zip(graph.grads[0], eager.grads[0], strict=True):
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=2e-2 if precision != "32-true" else 1e-4)
    torch.testing.assert_close(others, weights, atol=5e-3, rtol=1e-2)
    assert (same.n_sleeps, same.sleeps_per_sequence) == (sleeps.n_sleeps, sleeps.sleeps_per_sequence) == (12, 3.0)


def spoil(accelerator):
    """A run whose gradient is not finite at step 2 says so, and ends with the weights from before that step."""

    class Spoil(L.Callback):
        weights = ()

        def on_train_start(self, trainer, pl_module):
            self.factor = torch.ones((), device=pl_module.device)
            pl_module.model.embedding.weight.register_hook(lambda grad: grad * self.factor)

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 2:
                self.factor.fill_(float("nan"))
                self.weights = [p.detach().cpu().clone() for p in pl_module.parameters()]

    L.seed_everything(0)
    module = SleepModule(TASK, HybridConfig(d_model=32, pattern="AG", n_heads=2), accelerate="graph")
    trainer = L.Trainer(
        max_steps=8,
        accelerator=accelerator,
        callbacks=[SleepCallback(2), spoiler := Spoil(), StopOnNonFinite()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    with pytest.raises(FloatingPointError, match="gradient is not finite at step 2"):
        trainer.fit(module, RowsDataModule(TASK, batch_size=8))
    for now, before in zip(module.parameters(), spoiler.weights, strict=True):
        torch.testing.assert_close(now.detach().cpu(), before, atol=0, rtol=0)


def test_a_spoiled_step_changes_no_weight(captured_on_cpu):
    spoil("cpu")


@pytest.mark.gpu
@on_gpu
def test_no_weight_changes_from_a_spoiled_step_on():
    spoil("gpu")


def test_a_graph_needs_cuda():
    with pytest.raises(ValueError, match="accelerate='graph' needs a CUDA device, got cpu; use 'compile' or 'none'"):
        train("graph")
    with pytest.raises(ValueError, match="accelerate must be one of none, compile, graph, compile\\+graph, got 'fast'"):
        train("fast")


def test_a_graph_needs_batches_with_loss_in_the_same_windows():
    graphs = StepGraphs(SimpleNamespace(window_size=4, parameters=list))
    targets = torch.full((2, 10), -100)
    targets[:, 8:] = 1
    graphs.observe(targets)
    graphs.observe(targets)
    assert (graphs.windows.carry_loss, graphs.windows.n_sleeps) == ((False, False, True), 2)
    targets[1, 5] = 1
    with pytest.raises(ValueError, match=r"same windows, got \[1, 2\] after \[2\]; use 'compile' or 'none'"):
        graphs.observe(targets)


@pytest.mark.parametrize(
    ("batches", "strategy", "message"),
    [
        (2, DDPStrategy(), "trainer.accumulate_grad_batches must be 1 with accelerate='graph', got 2"),
        (1, ModelParallelStrategy(), "trainer.strategy must be ddp or a single device .*, got a sharded model"),
    ],
)
def test_a_graph_s_gradients_are_not_added_up_and_its_weights_not_sharded(batches, strategy, message):
    with pytest.raises(ValueError, match=message):
        check_graph_trainer(SimpleNamespace(accumulate_grad_batches=batches, strategy=strategy, callbacks=[]))
    check_graph_trainer(SimpleNamespace(accumulate_grad_batches=1, strategy=DDPStrategy(), callbacks=[]))


def test_a_graph_is_not_captured_of_a_sleep_of_ones_own():
    callbacks = [SleepCallback(on_overflow=Settle(0.1, 4))]
    with pytest.raises(
        ValueError, match=r"^sleep\.on_overflow must be left out with accelerate='graph', got 'lmsleep\."
    ):
        check_graph_trainer(SimpleNamespace(accumulate_grad_batches=1, strategy=DDPStrategy(), callbacks=callbacks))


def test_a_run_goes_on_with_graphs_or_without(captured_on_cpu, tmp_path):
    _, _, whole = train("none", steps=4)
    train("graph", steps=2, folder=tmp_path)
    for accelerate in ("none", "graph"):
        observed, _, weights = train(accelerate, steps=4, ckpt_path=tmp_path / "last.ckpt")
        assert len(observed.losses) == 2
        torch.testing.assert_close(weights, whole, atol=1e-5, rtol=1e-4)
