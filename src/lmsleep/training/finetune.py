"""Fine-tune a pretrained model on your own texts: train, test, and save a folder that holds all that asking takes.

lmsleep finetune --model models/ouro_1_4b --data train.jsonl --out tuned --sleep.n_passes=4

DATA has a JSON object a line, with `context`, `question` and `answer` (docs/guide.md). It is `lmsleep fit` and `lmsleep
test` with a preset; every other argument is one of theirs (`lmsleep fit --help`) and takes the place of the preset's.
"""

import shutil
import warnings
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

import torch

from lmsleep.errors import one_sentence
from lmsleep.hub import checkpoint_folder
from lmsleep.model.folder import check_free
from lmsleep.pretrained.export import export
from lmsleep.pretrained.loading import FILES
from lmsleep.training.fit import run_trainer

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
PRESET = {
    "data.task": "lmsleep.tasks.TextQA",
    "data.task.init_args.window_size": 512,
    "data.batch_size": 8,
    "model.optimizer.muon_lr": 1e-3,
    "model.optimizer.adamw_lr": 5e-5,
    "model.optimizer.warmup_steps": 10,
    "model.checkpointing": "true",
    "sleep.n_passes": 4,
    "trainer.max_steps": 500,
    "trainer.val_check_interval": 100,
    "trainer.check_val_every_n_epoch": "null",
    "trainer.log_every_n_steps": 10,
    "trainer.enable_model_summary": "false",
}


def main(args: Sequence[str] | None = None) -> None:
    """The command."""
    parser = ArgumentParser("lmsleep finetune", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.allow_abbrev = False  # --model.checkpointing is not --model
    parser.add_argument(
        "--model", required=True, help="folder, or name on the Hugging Face hub, of weights and tokenizer"
    )
    parser.add_argument(
        "--data", required=True, help="the lines to train on, a tenth each kept for validation and test"
    )
    parser.add_argument("--out", type=Path, default=Path("tuned"), help="folder for model, tokenizer and last.ckpt")
    asked, others = parser.parse_known_args(args)
    with one_sentence():
        check_free(asked.out)
        folder = checkpoint_folder(asked.model, (*FILES, *TOKENIZER), "model")
        if asked.out.resolve() == folder.resolve():
            raise ValueError(f"out must be another folder than that of the model, got {str(asked.out)!r}")
    given = {
        "data.task.init_args.train": asked.data,
        "data.task.init_args.tokenizer": folder,
        "model.init_from": folder,
    }
    given |= {"trainer.default_root_dir": asked.out, "checkpoint.dirpath": asked.out}
    if torch.cuda.is_available():
        given["trainer.precision"] = "bf16-mixed"
    words = [*(f"--{name}={value}" for name, value in {**PRESET, **given}.items()), *others]
    checkpoint = asked.out / "last.ckpt"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*LightningCLI's args")
        run_trainer(["fit", *words])
        run_trainer(["test", *words, f"--ckpt_path={checkpoint}"])
    with one_sentence():
        export(checkpoint, asked.out)
    for name in TOKENIZER:
        if (folder / name).is_file():
            shutil.copy(folder / name, asked.out)
    print(f"{asked.out}: model, tokenizer and last.ckpt")
