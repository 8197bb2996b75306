"""What a training run needs, from shapes alone: memory of one device, tokens and operations of a step."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lmsleep.bench.activations import ActivationMeter, Kept
from lmsleep.memory import Eviction
from lmsleep.model import HybridConfig
from lmsleep.sleep import Windows
from lmsleep.tasks import Task
from lmsleep.training import OptimizerConfig


@dataclass(frozen=True)
class Run:
    """What decides the cost of a run.

    Args:
        task, config, optimizer, n_passes, eviction: as in `lmsleep fit`; config with vocab_size and window_size set.
        batch_size: rows of a batch over all devices; `accumulate` batches are a step.
        steps: optimizer steps.
        precision: Lightning's name of it.
        checkpointing: a pass is recomputed in the backward.
        devices: how many share a batch. sharded: they also share weights, gradients and optimizer.
    """

    task: Task
    config: HybridConfig
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    n_passes: int = 1
    eviction: Eviction = "hard"
    batch_size: int = 64
    accumulate: int = 1
    steps: int = 1000
    precision: str = "32-true"
    checkpointing: bool = False
    devices: int = 1
    sharded: bool = False


@dataclass(frozen=True)
class Plan:
    """Bytes are those of one device; tokens and operations those of a step over all devices."""

    parameters: int
    muon_parameters: int
    weights: int
    gradients: int
    optimizer: int
    update: int
    fast_weights: int
    activations: int
    tokens: int
    token_passes: int
    flops: int
    steps: int
    devices: int

    @property
    def memory(self) -> int:
        """The larger of the two moments: the end of the forward, and the update, when activations are gone."""
        held = self.weights + self.gradients + self.optimizer
        return held + max(self.activations + self.fast_weights, self.update)

    def hours(self, flops_per_second: float, utilisation: float) -> float:
        """Hours of all steps on devices of this peak rate, of which training reaches a part."""
        return self.flops * self.steps / (flops_per_second * utilisation * self.devices) / 3600


@dataclass(frozen=True)
class Visit:
    """One window of the schedule: its length, its passes over the looped blocks, and whether it carries loss."""

    n: int
    passes: int
    first: bool
    carries_loss: bool


def make_plan(run: Run) -> Plan:
    """The plan of a run. Works on shapes alone, so it needs neither the memory nor the weights."""
    model = run.config.build("meta")
    groups = run.optimizer.build(model.blocks, model).param_groups
    sizes = {group["muon"]: [p.numel() for p in group["params"]] for group in groups}
    muon, adamw = sum(sizes.get(True, [])), sum(sizes.get(False, []))
    width, share = (2 if run.precision == "bf16-true" else 4), run.devices if run.sharded else 1
    visits = schedule(run)
    rows = -(-run.batch_size // run.devices)
    step_rows = run.batch_size * run.accumulate
    return Plan(
        parameters=muon + adamw,
        muon_parameters=muon,
        weights=(muon + adamw) * width // share,
        gradients=(muon + adamw) * width // share,
        optimizer=(muon + 2 * adamw) * width // share,
        update=_update_bytes(groups, width, share),
        fast_weights=rows * model.init_fast_weights(1).nbytes,
        activations=_activation_bytes(run, visits, rows),
        tokens=step_rows * sum(visit.n for visit in visits),
        token_passes=step_rows * sum(visit.n * visit.passes for visit in visits),
        flops=step_rows * sum(_flops(run, visit) for visit in visits),
        steps=run.steps,
        devices=run.devices,
    )


def schedule(run: Run) -> list[Visit]:
    """The windows of a training row, as in the first batch."""
    batch = run.task.rows(split="train", seed=0, step=0, batch_size=min(run.batch_size, 8))
    assert run.config.window_size is not None
    visits = []
    windows = Windows.of(batch.targets, run.config.window_size)
    for span, carries_loss, sleeps in windows:
        n = min(span.stop, windows.length) - span.start
        visits.append(Visit(n, run.n_passes if sleeps else 1, not visits, carries_loss))
    return visits


def _update_bytes(groups: Iterable[dict[str, Any]], width: int, share: int) -> int:
    """What Muon's update holds for a moment: an update per matrix, and for the largest group of matrices of one shape
    the stack, its normalised copy and the three products of a Newton-Schulz iteration."""
    matrices = [p for group in groups if group["muon"] for p in group["params"]]
    stacks: dict[tuple[int, ...], int] = {}
    for p in matrices:
        stacks[tuple(p.shape)] = stacks.get(tuple(p.shape), 0) + p.numel()
    return sum(p.numel() for p in matrices) * width // share + 5 * max(stacks.values(), default=0) * width


def _flops(run: Run, visit: Visit) -> int:
    """Operations for one row: forward and backward, and with checkpointing the blocks' forward once more."""
    model = run.config.build("meta")
    first, last = run.config.looped
    costs = [layer.flops_per_token(visit.n) for layer in model.blocks.layers]
    # After a sleep the coda reads the refined window once more.
    codas = 2 if visit.passes > 1 else 1
    blocks = sum(costs[:first]) + visit.passes * sum(costs[first:last]) + codas * sum(costs[last:])
    output = 2 * model.head.weight.numel() if visit.carries_loss else 0
    return visit.n * ((4 if run.checkpointing else 3) * blocks + 3 * output)


def _activation_bytes(run: Run, visits: Sequence[Visit], rows: int) -> int:
    """What is kept at the end of the forward; with checkpointing the borders of every pass and one pass recomputed."""
    meter = ActivationMeter(run.config, run.eviction, run.precision)
    first, last = run.config.looped
    pattern, width = run.config.pattern, meter.dtype.itemsize
    model = run.config.build("meta")
    state_bytes = model.init_fast_weights(1).nbytes
    blocks: dict[tuple[int, bool], dict[str, Kept]] = {}
    per_row, fixed, largest = 0, 0, 0
    for visit in visits:
        key = (visit.n, visit.first or run.eviction == "hard")
        kept = blocks[key] if key in blocks else blocks.setdefault(key, meter.blocks(*key))
        codas = 2 if visit.passes > 1 else 1
        for letters, times in ((pattern[:last], 1), (pattern[first:last], visit.passes - 1), (pattern[last:], codas)):
            size = sum(kept[letter].per_row for letter in letters)
            borders = visit.n * run.config.d_model * width + state_bytes
            per_row += times * (borders if run.checkpointing else size) if letters else 0
            largest = max(largest, size) if times else largest
        fixed = max(fixed, sum(kept[letter].fixed for letter in pattern))
        if visit.carries_loss:
            output = meter.output(visit.n)
            per_row, fixed = per_row + output.per_row, fixed + output.fixed
    return rows * (per_row + (largest if run.checkpointing else 0)) + fixed
