"""The table of mixers: a letter of the pattern, a name, and what makes the mixer from a configuration."""

import inspect
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from lmsleep.checks import PLUGINS, checked, first_line, require, typed
from lmsleep.model.attention import Attention
from lmsleep.model.block import Mixer
from lmsleep.model.config import Check, ModelConfig
from lmsleep.model.contract import check_mixer, check_parts
from lmsleep.model.gated_delta import GatedDelta
from lmsleep.model.jet import Jet
from lmsleep.model.mamba2 import Mamba2

MixerFactory = Callable[..., Mixer]  # of a HybridConfig; keyword-only parameters are options of the mixer

MIXERS: dict[str, tuple[str, MixerFactory]] = {
    "A": ("attention", Attention),
    "W": ("sliding attention", lambda config: Attention(config, config.sliding_window)),
    "G": ("gated delta", GatedDelta),
    "M": ("Mamba-2", Mamba2),
    "J": ("Jet", Jet),
}
BUILT_IN = frozenset(MIXERS)
GROUP = "lmsleep.plugins"  # of entry points


def named_plugins() -> list[str]:
    """The modules that the user names in the environment variable LMSLEEP_PLUGINS."""
    return list(filter(None, os.environ.get(PLUGINS, "").replace(" ", "").split(",")))


@cache
def load_plugins() -> None:
    """Imports the modules that installed packages name in the entry point group `lmsleep.plugins`, and the user in the
    environment variable LMSLEEP_PLUGINS, which register mixers and backbones of their own. Called where a name is not
    known yet; a downloaded file adds none. Raises ValueError if there is no such module."""
    for plugin in entry_points(group=GROUP):
        plugin.load()
    for name in named_plugins():
        try:
            import_module(name)
        except ImportError as error:
            allowed = f"{PLUGINS} must name modules that can be imported; PYTHONPATH=FOLDER says where they lie"
            raise ValueError(f"{allowed}, got {name!r}: {error}") from None


@checked
def register_mixer(letter: str, name: str, factory: MixerFactory) -> None:
    """Registers a mixer for `letter` in patterns; a second call with the same letter replaces the first, and warns if
    another module made that. `check_mixer` holds it to the contract.

    Output projections called `o_proj` or `out_proj` start at zero under `zero_init`. Muon trains the weights of
    `nn.Linear` modules and of their subclasses, AdamW all other parameters.

    Args:
        letter: an upper-case letter, A to Z; its lower case is a block without MLP.
        name: of the mixer, for messages.
        factory: makes the mixer from a `HybridConfig`. Its keyword-only parameters are options, which
            `HybridConfig.rule_options` sets: they hold plain values, of the types that `lmsleep.checks.typed` knows.

    Raises:
        ValueError: if the letter is not one upper-case letter, or belongs to a built-in mixer, or nothing can be made.
    """
    require(len(letter) == 1 and "A" <= letter <= "Z", "letter must be one upper-case letter", letter)
    require(letter not in BUILT_IN, f"letter must not be one of the built-in {', '.join(sorted(BUILT_IN))}", letter)
    before = MIXERS.get(letter, (name, factory))[1]
    if _home(before) != _home(factory):
        warnings.warn(f"the letter {letter} of {_home(before)} is now that of {_home(factory)}", stacklevel=2)
    MIXERS[letter] = name, factory


def _home(factory: MixerFactory) -> str:
    """Module and name of a factory; a script that is imported besides is the module of its file."""
    module = factory.__module__
    if module == "__main__":
        module = Path(getattr(sys.modules[module], "__file__", None) or module).stem
    return f"{module}.{getattr(factory, '__qualname__', factory)}"


def make_mixer(config: ModelConfig, letter: str) -> Mixer:
    """The mixer of a letter, with its options. Raises ValueError if it lacks a part of the interface."""
    name, factory = MIXERS[letter]
    mixer = factory(config, **_options(config, letter))
    check_parts(mixer, f"the mixer {letter} ({name})")
    return mixer


def warn_of_mixers(config: ModelConfig) -> None:
    """Warns of each mixer of the pattern, other than the built-in ones, that `check_mixer` refuses: a model with it may
    see what it is to say."""
    for letter in sorted(set(config.pattern.upper()) - BUILT_IN):
        try:
            check_mixer(partial(make_mixer, letter=letter), config)
        except Exception as error:  # whatever it raises on a CPU, where it may not run at all
            rule = f"the mixer {letter} ({MIXERS[letter][0]}) must keep to the contract of lmsleep.model.check_mixer"
            warnings.warn(f"{rule}: {first_line(error)}", stacklevel=2)


def checks_of_mixers(config: ModelConfig) -> Iterator[Check]:
    """What pattern and `rule_options` of a configuration must fulfil."""
    letters = set(config.pattern.upper())
    if not letters <= MIXERS.keys():
        load_plugins()
    known = ", ".join(f"{letter} ({name})" for letter, (name, _) in MIXERS.items())
    rule = f"must be made of {known}, or letters that a plugin ({PLUGINS}=MODULE), an imported file or the script that "
    rule += "is run registers"
    yield "pattern", config.pattern, letters and letters <= MIXERS.keys(), rule
    for letter in config.rule_options or {}:
        yield "rule_options", letter, letter in letters, f"must be by letters of the pattern {config.pattern!r}"
    for letter in sorted(letters):
        _options(config, letter)


def _options(config: ModelConfig, letter: str) -> dict[str, Any]:
    """The options of a mixer in the types of its parameters. Raises ValueError if one is unknown, missing or of another
    type."""
    name, factory = MIXERS[letter]
    given = (config.rule_options or {}).get(letter, {})
    parameters = inspect.signature(factory, eval_str=bool(given)).parameters.values()
    known = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}
    where = f"rule_options of {letter} ({name})"
    for option in given:
        require(option in known, f"{where} must be among {', '.join(known) or 'none, as it has no option'}", option)
    missing = [option for option, p in known.items() if p.default is p.empty and option not in given]
    require(not missing, f"{where} must set {', '.join(missing)}", ", ".join(given) or "nothing")
    kinds = {option: Any if p.annotation is p.empty else p.annotation for option, p in known.items()}
    return {option: typed(kinds[option], value, f"{option} in {where}") for option, value in given.items()}
