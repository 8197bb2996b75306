"""Imported by the process from which programs are forked: the options of their commands are learned here, once."""

import io
from contextlib import redirect_stdout, suppress

import tests.once  # noqa: F401

from lmsleep.commands.finetune import FinetuneCLI
from lmsleep.commands.fit import SleepCLI, run_trainer

for cli in (SleepCLI, FinetuneCLI):
    with redirect_stdout(io.StringIO()), suppress(SystemExit):
        run_trainer(["fit", "--help"], cli)
