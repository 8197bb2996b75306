"""The models of `lmsleep demo`, which a CPU trains in about a minute."""

from typing import NamedTuple

from lmsleep.model import HybridConfig, HybridLM
from lmsleep.tasks import Depo, Rule110, Task
from lmsleep.tasks.spec import task_spec


class DemoTask(NamedTuple):
    """A task and the settings of its training."""

    task: Task
    steps: int
    batch_size: int = 64
    adamw_lr: float = 3e-3
    decay_rates: tuple[float, float] = (0.02, 1.0)


DEPO = Depo(max_nodes=6, max_hops=2, test_hops=(1, 2), n_queries=2, graph_length=24, question_length=12, window_size=12)
DEMO_TASKS = {
    "rule110": DemoTask(Rule110(steps=3, width=8, n_states=2), steps=300),
    "depo": DemoTask(DEPO, steps=900, batch_size=32, adamw_lr=1e-2, decay_rates=(0.005, 0.1)),
}


def train_demo(name: str, n_passes: int, seed: int = 0) -> HybridLM:
    """A model trained on one of `DEMO_TASKS`, with the metadata of its training."""
    # Imported here since Lightning is slow to import.
    import lightning as L

    from lmsleep.commands.progress import RunProgressBar
    from lmsleep.commands.quiet import quiet
    from lmsleep.commands.run_errors import exit_codes
    from lmsleep.data import RowsDataModule
    from lmsleep.training import OptimizerConfig, SleepCallback, SleepModule

    mini = DEMO_TASKS[name]
    print(f"Training on {mini.task}, {mini.steps} steps")
    L.seed_everything(seed, verbose=False)
    model = HybridConfig(d_model=48, pattern="AG", n_heads=2, decay_rates=mini.decay_rates)
    optimizer = OptimizerConfig(muon_lr=5e-3, adamw_lr=mini.adamw_lr, warmup_steps=20)
    module = SleepModule(mini.task, model, optimizer)
    with quiet(), exit_codes():
        trainer = L.Trainer(
            max_steps=mini.steps,
            accelerator="cpu",
            callbacks=[SleepCallback(n_passes), RunProgressBar()],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            limit_val_batches=0,
        )
        trainer.fit(module, RowsDataModule(mini.task, batch_size=mini.batch_size, seed=seed))
    module.model.trained = {"n_passes": n_passes, "eviction": "hard", "task": task_spec(mini.task)}
    return module.model.eval()
