"""Language models that sleep: a replication of arXiv 2605.26099.

The names below are loaded when first used, so that `import lmsleep` stays quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmsleep.memory import AttentionCache, FastWeights
    from lmsleep.model import HybridConfig, HybridLM
    from lmsleep.runtime import Session
    from lmsleep.sleep import read_windows
    from lmsleep.training import SleepCallback, SleepModule

    __version__: str  # of the installed package, which has it from the newest tag

_HOMES = {
    "memory": ("AttentionCache", "FastWeights"),
    "model": ("HybridConfig", "HybridLM"),
    "runtime": ("Session",),
    "sleep": ("read_windows",),
    "training": ("SleepCallback", "SleepModule"),
}

__all__ = ["AttentionCache", "FastWeights", "HybridConfig", "HybridLM"]
__all__ += ["Session", "SleepCallback", "SleepModule", "read_windows"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version  # as long to import as all the rest here

        try:
            return version("lmsleep")
        except PackageNotFoundError:  # run from its sources
            return "0+unknown"
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"lmsleep.{home}"), name)
    raise AttributeError(f"module 'lmsleep' has no attribute {name!r}")
