"""Runs of a few steps on a Rule 110 of two six-cell states."""

from types import SimpleNamespace

import lightning as L
import pytest
import torch

from lmsleep import HybridConfig, SleepCallback, SleepModule
from lmsleep.data import RowsDataModule
from lmsleep.tasks import Rule110
from lmsleep.training import OptimizerConfig

TASK = Rule110(steps=2, width=6, n_states=2)


@pytest.fixture
def run(tmp_path):
    """run(n_passes=2, ...): module, data and trainer, not started; n_passes=None leaves the callback out."""

    def run(n_passes=2, callbacks=(), task=TASK, module_class=SleepModule, data_options=None, **trainer_options):
        torch.manual_seed(0)
        module = module_class(
            task,
            HybridConfig(d_model=16, pattern="AG", n_heads=2),
            OptimizerConfig(muon_lr=2e-2, adamw_lr=1e-2, warmup_steps=2),
        )
        options = {
            "max_steps": 6,
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "val_check_interval": 100,
            "check_val_every_n_epoch": None,
            "default_root_dir": tmp_path,
        } | trainer_options
        sleep = [] if n_passes is None else [SleepCallback(n_passes)]
        data = RowsDataModule(task, **({"batch_size": 8, "eval_rows": 24} | (data_options or {})))
        trainer = L.Trainer(callbacks=[*sleep, *callbacks], **options)
        return SimpleNamespace(module=module, data=data, trainer=trainer, sleep=sleep[0] if sleep else None)

    return run


@pytest.fixture
def captured_on_cpu(monkeypatch):
    """Runs a step anew where CUDA would replay it, from the tensors that a graph would read: all but the capture."""

    def make_graphed_callables(module, example, **_):
        for _ in range(3):
            module(*example)

        def replay(*tensors):
            for mine, new in zip(example, tensors, strict=True):
                mine.copy_(new)
            return module(*example)

        return replay

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", make_graphed_callables)
    monkeypatch.setattr("lmsleep.training.module.check_accelerate", lambda *_: None)


class Recorder(L.Callback):
    """Keeps every batch, loss and validation result."""

    def __init__(self):
        self.tokens, self.losses, self.validations = [], [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.tokens.append(batch.tokens.clone())
        self.losses.append(outputs["loss"].item())

    def on_validation_end(self, trainer, pl_module):
        values = {k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        self.validations.append((trainer.global_step, values))


def fitted(run):
    """The run after `fit`."""
    run.trainer.fit(run.module, run.data)
    return run


def weights(module):
    return [p.detach().clone() for p in module.parameters()]
