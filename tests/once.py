"""Imported by processes that start many runs: what Lightning and jsonargparse find out anew for each of them is kept,
which makes most commands twice as quick to start."""

import sys
from collections.abc import Callable
from functools import cache
from typing import Any

from lightning.fabric.utilities import registry
from lightning.pytorch.cli import LightningCLI

LEARNED: dict[tuple[Any, ...], dict[str, Any]] = {}


def learn_once(setup: Callable[..., None]) -> Callable[..., None]:
    """`setup_parser` of a LightningCLI, which makes the same parser for equal commands."""

    def setup_parser(cli: Any, *options: Any) -> None:
        key = (type(cli).add_arguments_to_parser, cli.parser_class, *cli.subcommands(), str(options))
        if key not in LEARNED:
            before = dict(vars(cli))
            setup(cli, *options)
            LEARNED[key] = {name: value for name, value in vars(cli).items() if name not in before}
        vars(cli).update(LEARNED[key])

    return setup_parser


def find_once(find: Callable[..., Any]) -> Callable[..., Any]:
    """The function of jsonargparse that looks through all options of a parser for a name: thousands of times a run."""

    def find_action_and_subcommand(parser: Any, dest: str, exclude: Any = None) -> Any:
        found, key = vars(parser).setdefault("_found", {}), (len(parser._actions), dest, exclude)
        if key not in found:
            found[key] = find(parser, dest, exclude)
        return found[key]

    return find_action_and_subcommand


registry.entry_points = cache(registry.entry_points)  # those of all packages
LightningCLI.setup_parser = learn_once(LightningCLI.setup_parser)
# A private function of jsonargparse: without it tests are slower, and no more.
FIND = getattr(sys.modules.get("jsonargparse._subcommands"), "find_action_and_subcommand", None)
for module in [module for name, module in sys.modules.items() if name.startswith("jsonargparse.")]:
    if FIND is not None and vars(module).get(FIND.__name__) is FIND:
        setattr(module, FIND.__name__, find_once(FIND))
