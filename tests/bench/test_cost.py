"""The plan of a run against the run itself: parameters, optimizer, fast weights, operations, and peak memory."""

import weakref
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from lmsleep import HybridConfig, SleepModule, read_windows
from lmsleep.bench.cost import Run, make_plan, schedule
from lmsleep.tasks import Rule110

TASK = Rule110(steps=2, width=24, n_states=2)
SIZES = {"vocab_size": TASK.vocab_size, "window_size": TASK.window_size, "d_model": 64, "n_heads": 2}


def run_of(pattern, **options):
    fields = {name: options.pop(name) for name in list(options) if name in HybridConfig.__dataclass_fields__}
    config = HybridConfig(pattern=pattern, zero_init=False, **(SIZES | fields))
    return Run(TASK, config, batch_size=options.pop("batch_size", 8), **options)


def train(run, watch):
    """Forward and backward of a step of the run, watched."""
    model = run.config.build()
    model.blocks.checkpointing = run.checkpointing
    batch = TASK.rows(split="train", seed=0, step=0, batch_size=run.batch_size)
    with watch, torch.autocast("cpu", torch.bfloat16, enabled=run.precision == "bf16-mixed"):
        out = read_windows(model, batch.tokens, batch.targets, run.n_passes, eviction=run.eviction)
        del batch
        out.loss.backward()
    return model, out


class LiveBytes(TorchDispatchMode):
    """The most bytes that tensors made by operations held at one time."""

    def __init__(self):
        super().__init__()
        self.now, self.peak, self.known = 0, 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        inputs = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor) and x.untyped_storage()._cdata not in inputs | self.known:
                self.made(x.untyped_storage())
        return out

    def made(self, storage):
        key, size = storage._cdata, storage.nbytes()
        self.known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.freed, key, size)

    def freed(self, key, size):
        self.known.discard(key)
        self.now -= size


@pytest.mark.parametrize("pattern", ["AG", "Aj", "WM"])
def test_parameters_optimizer_and_fast_weights_are_those_of_the_real_objects(pattern):
    run = run_of(pattern, sliding_window=5, tie_embeddings=True)
    plan = make_plan(run)
    model, out = train(run, torch.enable_grad())
    assert plan.parameters == sum(p.numel() for p in model.parameters())
    assert plan.weights == plan.gradients == sum(p.nbytes for p in model.parameters())
    assert plan.fast_weights == out.fast_weights.nbytes
    optimizer = SleepModule(TASK, run.config).optimizer_config.build(model.blocks, model)
    optimizer.step()
    moments = [t for state in optimizer.state.values() for t in state.values() if t.ndim]
    assert plan.optimizer == sum(t.nbytes for t in moments)
    assert plan.muon_parameters == sum(p.numel() for g in optimizer.param_groups if g["muon"] for p in g["params"])


def test_schedule_and_tokens():
    run = run_of("AG", n_passes=3, batch_size=4, accumulate=2)
    assert [(v.n, v.passes, v.carries_loss) for v in schedule(run)] == [(24, 3, False), (24, 3, False), (2, 1, True)]
    plan = make_plan(run)
    assert plan.tokens == 8 * 50 and plan.token_passes == 8 * (48 * 3 + 2)
    assert make_plan(replace(run, steps=100)).hours(1e12, 0.5) == pytest.approx(100 * plan.flops / 0.5e12 / 3600)


@pytest.mark.parametrize(
    ("pattern", "n_passes", "loop"),
    [("AG", 1, None), ("AGAG", 3, None), ("AGAG", 3, (1, 3)), ("WGJ", 2, None), ("JA", 2, None)],
)
def test_operations_are_those_that_a_flop_counter_sees(pattern, n_passes, loop):
    run = run_of(pattern, n_passes=n_passes, loop=loop, sliding_window=6)
    forward, both = FlopCounterMode(display=False), FlopCounterMode(display=False)
    with torch.no_grad():
        batch = TASK.rows(split="train", seed=0, step=0, batch_size=run.batch_size)
        with forward:
            read_windows(run.config.build(), batch.tokens, batch.targets, n_passes)
    train(run, both)
    planned = make_plan(run).flops
    # The window form of the delta rule has a few products more than the recurrence.
    assert planned / 3 == pytest.approx(forward.get_total_flops(), rel=0.1)
    # Three times the forward: what no loss depends on, as the last features of a window, has no backward.
    assert both.get_total_flops() < 1.1 * planned < 1.6 * both.get_total_flops()
    assert make_plan(replace(run, checkpointing=True)).flops == pytest.approx(planned * 4 / 3, rel=0.02)


@pytest.mark.parametrize(
    ("pattern", "options"),
    [
        ("AG", {}),
        ("AG", {"n_passes": 3}),
        ("AGA", {"n_passes": 3, "loop": (1, 2)}),
        ("Aj", {"n_passes": 2, "sandwich_norm": True, "norm_between_passes": True}),
        ("WMJ", {"sliding_window": 7}),
        ("AG", {"eviction": "sliding"}),
        ("AG", {"precision": "bf16-mixed"}),
        ("AGAG", {"n_passes": 3, "checkpointing": True}),
        ("AJ", {"n_passes": 2, "checkpointing": True, "precision": "bf16-mixed"}),
    ],
)
def test_activations_are_within_a_quarter_of_the_measured_peak(pattern, options):
    run = run_of(pattern, batch_size=32, **options)
    live = LiveBytes()
    train(run, live)
    ratio = make_plan(run).activations / live.peak
    assert 0.75 < ratio < 1.25


def test_devices_share_a_batch_and_sharding_the_rest():
    run = run_of("AG", batch_size=8)
    one, two, sharded = (make_plan(replace(run, **o)) for o in ({}, {"devices": 2}, {"devices": 2, "sharded": True}))
    assert two.activations < 0.6 * one.activations and two.weights == one.weights
    assert sharded.weights == one.weights // 2 and sharded.optimizer == one.optimizer // 2
    assert one.flops == two.flops == sharded.flops
