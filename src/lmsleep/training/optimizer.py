"""Muon and AdamW in one optimizer, and its schedule (paper section 6; Muon: Jordan et al. 2024)."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.adamw import adamw
from torch.optim.lr_scheduler import LambdaLR

from lmsleep.checks import check_types, require
from lmsleep.training.settings import check_trainer
from lmsleep.training.sharded import full_tensor, lerp, local_shard

MAX_RATE = 1e4  # a larger learning rate is a mistake


@dataclass(frozen=True)
class OptimizerConfig:
    """Muon for the weights of linear layers in blocks, AdamW for all else: embeddings, head, norms, biases, decays and
    convolutions.

    Args:
        muon_lr: learning rate of Muon (paper: 2e-3 from scratch, 1e-3 pretrained).
        adamw_lr: learning rate of AdamW (paper: 5e-5).
        weight_decay: decoupled, for both.
        momentum: of Muon, Nesterov.
        betas, eps: of AdamW.
        warmup_steps: of the linear warm-up.
        decay_fraction: final share of the steps, over which the rate decays linearly to `final_ratio` of its value.
        grad_clip: largest gradient norm; None: no clipping.

    Raises:
        ValueError: if a value is out of range.
    """

    muon_lr: float = 2e-3
    adamw_lr: float = 5e-5
    weight_decay: float = 1e-4
    momentum: float = 0.95
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    warmup_steps: int = 100
    decay_fraction: float = 0.2
    final_ratio: float = 1e-3
    grad_clip: float | None = 1.0

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("muon_lr", "adamw_lr", "weight_decay", "warmup_steps"):
            value = getattr(self, name)
            require(0 <= value < math.inf, f"{name} must be finite and 0 or more", value)
            require(value <= MAX_RATE or not name.endswith("_lr"), f"{name} must be at most {MAX_RATE:g}", value)
        for name in ("decay_fraction", "final_ratio", "momentum"):
            require(0 <= getattr(self, name) <= 1, f"{name} must be between 0 and 1", getattr(self, name))
        sound = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        require(sound, "betas must be two numbers of at least 0 and below 1", self.betas)
        require(0 < self.eps < math.inf, "eps must be finite and more than 0", self.eps)
        clips = self.grad_clip is None or 0 < self.grad_clip < math.inf
        require(clips, "grad_clip must be finite and more than 0, or None", self.grad_clip)

    def build(self, blocks: nn.Module, model: nn.Module) -> "MuonAdamW":
        """The optimizer of `model`, with Muon on the weights of `nn.Linear` and its subclasses in `blocks`: the type of
        the module decides, since weights of a convolution may be a matrix too."""
        hidden = {id(m.weight) for m in blocks.modules() if isinstance(m, nn.Linear)}
        trained = [p for p in model.parameters() if p.requires_grad]
        muon = {"muon": True, "lr": self.muon_lr, "momentum": self.momentum, "weight_decay": self.weight_decay}
        other = {"muon": False, "lr": self.adamw_lr, "betas": self.betas, "eps": self.eps}
        groups = [
            muon | {"params": [p for p in trained if id(p) in hidden]},
            other | {"params": [p for p in trained if id(p) not in hidden], "weight_decay": self.weight_decay},
        ]
        return MuonAdamW(group for group in groups if group["params"])

    def schedule(self, total_steps: int) -> Callable[[int], float]:
        """Warm-up, constant, linear decay: step -> factor of the learning rate."""
        decay_steps = max(1, round(self.decay_fraction * total_steps))

        def factor(step: int) -> float:
            warm = min(1.0, (step + 1) / (self.warmup_steps + 1))
            left = min(1.0, max(0, total_steps - step) / decay_steps) if self.decay_fraction else 1.0
            return warm * (self.final_ratio + (1 - self.final_ratio) * left)

        return factor


class ScheduledRates(LambdaLR):
    """The learning rates by `OptimizerConfig.schedule`, those of a run that goes on too: in its checkpoint are those of
    the schedule until then, which may have been shorter."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        rates = [rate * factor(self.last_epoch) for rate, factor in zip(self.base_lrs, self.lr_lambdas, strict=True)]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self._last_lr = rates


def total_steps(trainer: L.Trainer) -> int:
    """Optimizer steps of a run, for the schedule, from the trainer's settings alone: a data loader started before a
    checkpoint is restored would begin with the first batch. Raises ValueError if the settings give no number."""
    steps, epochs, batches = trainer.max_steps, trainer.max_epochs, trainer.limit_train_batches
    accumulate = trainer.accumulate_grad_batches
    every = getattr(trainer, "val_check_interval", 0)  # Lightning has none for {}
    check_trainer({"accumulate_grad_batches": accumulate, "val_check_interval": every})
    counts = [steps] if steps >= 0 else []
    if epochs is not None and epochs >= 0 and isinstance(batches, int):
        counts.append(epochs * -(-batches // accumulate))
    if not counts:
        raise ValueError("max_steps of the trainer must be set: the training stream has no end")
    return min(counts)


class MuonAdamW(torch.optim.Optimizer):
    """Muon on groups with `muon=True`, AdamW on the others. One object: one step count, schedule and checkpoint."""

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        super().__init__(list(groups), {})
        self._keep_update: float | Tensor = 1.0

    def skip_if(self, spoiled: Tensor) -> None:
        """Skips all updates from now on if `spoiled`, a 0-dimensional bool on the device of the parameters, is true,
        without waiting for its value."""
        self._keep_update = 1 - spoiled.float()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update; returns what the closure returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                (self._muon if group["muon"] else self._adamw)(group, params)
        return loss

    def _muon(self, group: dict[str, Any], params: list[Tensor]) -> None:
        momenta = [self._state(p, "momentum") for p in params]
        grads = self._masked([p.grad for p in params if p.grad is not None])
        lr, inflow = group["lr"] * self._keep_update, 1 - group["momentum"]
        torch._foreach_mul_(momenta, 1 - inflow * self._keep_update)
        torch._foreach_add_(momenta, grads, alpha=inflow)
        updates = lerp(grads, momenta, group["momentum"])  # Nesterov
        torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        batches: dict[tuple[int, ...], list[int]] = {}
        for i, p in enumerate(params):
            batches.setdefault(_batch_key(p), []).append(i)
        for same in batches.values():
            rows, cols = params[same[0]].shape
            turned = [params[i].shape != (rows, cols) for i in same]
            upright = torch.stack(_transpose((full_tensor(updates[i]) for i in same), turned))
            steps = lr * _update_scale(rows, cols) * orthogonalise(upright)
            if others := [step for step, turn in zip(steps, turned, strict=True) if turn]:
                torch._foreach_mul_(others, _update_scale(cols, rows) / _update_scale(rows, cols))
            parts = [local_shard(step, params[i]) for step, i in zip(_transpose(steps, turned), same, strict=True)]
            torch._foreach_sub_([params[i] for i in same], parts)

    def _masked(self, grads: list[Tensor]) -> list[Tensor]:
        """The gradients, or zeros if the update is skipped."""
        if not isinstance(self._keep_update, Tensor):
            return grads
        flat = torch.where(self._keep_update > 0, torch.cat([g.flatten() for g in grads]), 0.0)
        return [x.view_as(g) for x, g in zip(flat.split([g.numel() for g in grads]), grads, strict=True)]

    def _adamw(self, group: dict[str, Any], params: list[Tensor]) -> None:
        # The fused kernel reads its step count from the device, and skips the update if `found_inf` is 1.
        fused = (params[0].is_cuda or isinstance(self._keep_update, Tensor)) and not isinstance(params[0], DTensor)
        for p in params:
            if "step" not in self.state[p]:
                self.state[p]["step"] = torch.zeros((), dtype=torch.float32)
            if fused:
                self.state[p]["step"] = self.state[p]["step"].to(p.device)
        first, second = ([self._state(p, name) for p in params] for name in ("exp_avg", "exp_avg_sq"))
        adamw(
            params,
            [p.grad for p in params if p.grad is not None],
            first,
            second,
            [],
            [self.state[p]["step"] for p in params],
            foreach=not fused,
            fused=fused,
            found_inf=1 - self._keep_update if isinstance(self._keep_update, Tensor) else None,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _state(self, p: Tensor, name: str) -> Tensor:
        if name not in self.state[p]:
            self.state[p][name] = torch.zeros_like(p)
        return self.state[p][name]


def _batch_key(p: Tensor) -> tuple[int, ...]:
    """The key of matrices that are orthogonalised together: on a GPU tall ones with transposed wide ones, for fewer
    launches; on a CPU that would gain nothing, and change the last bits."""
    return tuple(sorted(p.shape)) if p.is_cuda else tuple(p.shape)


def _transpose(matrices: Iterable[Tensor], turned: list[bool]) -> list[Tensor]:
    return [x.mT if turn else x for x, turn in zip(matrices, turned, strict=True)]


def _update_scale(rows: int, cols: int) -> float:
    """The scale of an orthogonal update, with which outputs change alike for all shapes."""
    return math.sqrt(max(1.0, rows / cols))


def orthogonalise(updates: Tensor) -> Tensor:
    """Newton-Schulz: (n, rows, cols) -> matrices of the same row and column space with singular values near 1.

    Five times the quintic x -> a x + b x^3 + c x^5 with Jordan's coefficients, on the smaller side; bfloat16 on CUDA.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = updates.shape[-2] > updates.shape[-1]
    X = updates.to(torch.bfloat16 if updates.is_cuda else updates.dtype)
    X = X.mT if tall else X
    X = X / (X.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        A = X @ X.mT
        X = torch.baddbmm(X, torch.baddbmm(A, A, A, beta=b, alpha=c), X, beta=a)
    return (X.mT if tall else X).to(updates.dtype)
