"""How the options and configurations of a run are read."""

import argparse
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace, set_dumper
from lightning.pytorch.cli import LightningArgumentParser

from lmsleep.checks import naming_file, sentence
from lmsleep.errors import OneSentenceParser

SECTIONS = ("trainer", "model", "data", "sleep", "checkpoint")  # of a configuration
LIGHTNING = ("optimizer", "lr_scheduler", "trainer")  # groups of options of Lightning's own


class TextDumper(yaml.SafeDumper):
    """Quotes text such as 1e-3, a folder for one, which is a number to those who read configurations."""


NUMBER = re.compile(r"[-+]?\d[\d_]*(\.[\d_]*)?e[-+]?\d+$", re.I)
TextDumper.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, [*"-+0123456789"])
dump = partial(yaml.dump, Dumper=TextDumper, default_flow_style=False, allow_unicode=True, sort_keys=False)
set_dumper("yaml", dump)


def option_of(config: Namespace, name: str, got: str) -> str | None:
    """The option of a run's setting by its name or the end of that; None if there is none. Of several it is the one
    whose value an error says that it `got`."""
    run = config.get(str(config.get("subcommand")), config)
    if name.startswith(tuple(f"{section}." for section in SECTIONS)):
        return f"--{name}"
    named = {key: value for key, value in run.items(branches=True) if f".{key}".endswith(f".{name}")}
    if len(named) > 1:
        named = {key: value for key, value in named.items() if f"got {value!r}" in got}
    return f"--{next(iter(named))}" if len(named) == 1 else None


class RunParser(OneSentenceParser, LightningArgumentParser):
    """Lightning's parser with one-sentence errors, and a help that leaves Lightning's own options to the end."""

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        groups = self._action_groups
        self._action_groups = sorted(groups, key=lambda g: any(a.dest.startswith(LIGHTNING) for a in g._group_actions))
        return super().format_help(formatter)

    def parse_path(self, path: str | os.PathLike, *args: Any, **options: Any) -> Namespace:
        try:
            return super().parse_path(path, *args, **options)
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: {sentence(error)}") from None
        except RecursionError:
            raise ValueError(f"{path} must not refer to itself, nor be nested hundreds of levels deep") from None

    def parse_string(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, content: str, path: str | os.PathLike = "", **options: Any
    ) -> Namespace:
        """Reads a configuration; a section with nothing below it is absent. Raises SystemExit where another one has no
        mapping, nor the name of a file with one: it would replace the section of an earlier configuration."""
        with naming_file(path or "--config"):
            values = yaml.safe_load(content)
        sections = {name: values[name] for name in SECTIONS if name in values} if isinstance(values, dict) else {}
        for name, value in sections.items():
            if not isinstance(value, dict | None) and not Path(str(value)).is_file():
                self.error(f"{name} in {path or '--config'} must have settings below it, got {value!r}")
        if None in sections.values():
            content = dump(values | {name: value or {} for name, value in sections.items()})
        return super().parse_string(content, path, **options)
