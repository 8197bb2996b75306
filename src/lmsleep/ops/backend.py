"""Which implementation an op uses.

Every op registers a table of backends, best first. The first one that can run on the tensors' device and dtype is
taken, once per (op, device type, dtype), and said once in the log. A kernel package is imported only where CUDA is at
hand, and counts as installed only if that import works: one built without its kernels is found but cannot be imported.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pkgutil import resolve_name
from typing import Any, NamedTuple

import torch

from lmsleep.ops.compiler import assume_constant_result
from lmsleep.ops.packages import INSTALL

logger = logging.getLogger(__name__)

Implementation = Callable[..., Any]


@dataclass(frozen=True)
class Backend:
    """One way to compute an op.

    Attributes:
        name: the word users choose it by.
        load: imports the implementation and returns it; called at most once, and only on a machine that could run it.
        install: the command that installs what `load` imports; empty for backends that need only torch.
        cuda_only: runs on CUDA tensors alone.
        dtypes: input dtypes it takes; empty means any floating dtype.
        automatic: whether it may be taken without being asked for.
        short: made for windows of up to WINDOW tokens; above, other kernels go before it.
        eager: in compiled code it is not taken unless asked for, because the compiler does better with torch.
        limit: sizes that it takes, in words; the op says whether its inputs are `beyond`.
    """

    name: str
    load: Callable[[], Implementation]
    install: str = ""
    cuda_only: bool = False
    dtypes: tuple[torch.dtype, ...] = ()
    automatic: bool = True
    short: bool = False
    eager: bool = False
    limit: str = ""


class Choice(NamedTuple):
    """The backend an op uses and, for each of the others, why not."""

    backend: str
    others: dict[str, str]


WINDOW = 128  # tokens; a longer window counts as long
KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_TABLES: dict[str, dict[str, Backend]] = {}
_FORCED: dict[str, str] = {}
_LOADED: dict[tuple[str, str], Implementation] = {}
_BROKEN: dict[tuple[str, str], str] = {}
_CHOSEN: dict[tuple[str, str, torch.dtype, str | None, bool, bool, bool], str] = {}
_SAID: set[str] = set()


def kernel(name: str, implementation: str, **limits: Any) -> Backend:
    """A backend of CUDA kernels, called as the module in `INSTALL` that it is made of, whose `implementation`,
    `package.module:function`, is imported when first needed; `limits` are further fields of `Backend`."""
    load = partial(resolve_name, implementation)
    return Backend(name, load, INSTALL[name], cuda_only=True, dtypes=KERNEL_DTYPES, **limits)


def register(op: str, *backends: Backend) -> None:
    """Declares the backends of an op, best first. At least one automatic backend must need nothing but torch."""
    _TABLES[op] = {backend.name: backend for backend in backends}


@contextmanager
def offered(op: str, backend: Backend) -> Iterator[None]:
    """Within the block an op has one more backend, behind its own."""
    _TABLES[op][backend.name] = backend
    try:
        yield
    finally:
        del _TABLES[op][backend.name]
        _LOADED.pop((op, backend.name), None)
        _BROKEN.pop((op, backend.name), None)
        for key in [key for key, name in _CHOSEN.items() if (key[0], name) == (op, backend.name)]:
            del _CHOSEN[key]


def resolve(
    op: str,
    device: torch.device,
    dtype: torch.dtype,
    forced: str | None = None,
    long: bool = False,
    beyond: bool = False,
    **sizes: int,
) -> Implementation:
    """The implementation of `op` for tensors of this device and dtype.

    Args:
        op: a registered op. device, dtype: of the tensors.
        forced: a backend's name; goes before `use_backend`, which goes before the automatic choice.
        long: whether there are more than WINDOW tokens.
        beyond, sizes: whether the inputs are beyond the `limit` of backends; the sizes that it is about, by symbol.

    Raises:
        ValueError: for an unknown backend, or a forced one that cannot run here; says what to do.
    """
    compiled = torch.compiler.is_compiling()
    long, beyond = True if long else False, True if beyond else False  # noqa: SIM210  guards, if sizes are symbols
    forced = _FORCED.get(op) if forced is None else forced
    name = _chosen(op, device.type, dtype, forced, long, beyond, compiled)
    if (op, name) not in _LOADED:
        got = ", ".join(f"{symbol}={size}" for symbol, size in sizes.items())
        raise ValueError(name.replace("cannot run: it takes", f"cannot run for {got}: it takes"))
    return _LOADED[op, name]


def is_forced(*ops: str) -> bool:
    """Whether `use_backend` holds for one of these ops."""
    return any(op in _FORCED for op in ops)


@contextmanager
def use_backend(**names: str) -> Iterator[None]:
    """Forces backends by op within a block: `with use_backend(ssd="naive"): ...`. Holds for all threads.

    Raises:
        ValueError: for an unknown op or backend.
    """
    for op, name in names.items():
        _backend(op, name)
    before = dict(_FORCED)
    _FORCED.update(names)
    try:
        yield
    finally:
        _FORCED.clear()
        _FORCED.update(before)


def describe(
    device: str | None = None, dtype: torch.dtype = torch.float32, long: bool = False, beyond: bool = False
) -> dict[str, Choice]:
    """For every op, the backend it uses and why not each other one. `device` is "cpu" or "cuda", which is the default
    where CUDA is at hand; `dtype`, `long` and `beyond` as of `resolve`."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return {op: _choose(op, device, dtype, long, beyond) for op in sorted(_TABLES)}


@assume_constant_result
def _chosen(
    op: str, device: str, dtype: torch.dtype, forced: str | None, long: bool, beyond: bool, compiled: bool
) -> str:
    """The name of a loaded backend, or what is said of a forced one that cannot run: a constant to `torch.compile`,
    which runs this while it traces, and would take what it raised for an error of its own."""
    key = (op, device, dtype, forced, long, beyond, compiled)
    if key not in _CHOSEN:
        if compiled:  # tracing sees `_LOADED` as it first was: whatever another op will want is loaded before
            for other in _TABLES:
                _choose(other, device, dtype, long, beyond)
        if forced is None:
            choice = _choose(op, device, dtype, long, beyond, compiled)
            name, why = choice.backend, _why_not_better(_in_order(op, long), choice)
        else:
            name, why = forced, "forced"
            try:
                if obstacle := _obstacle(op, _backend(op, name), device, dtype, beyond):
                    return f"{op}: backend {name!r} cannot run: {obstacle}"
            except ValueError as error:
                return str(error)
        _CHOSEN[key] = name
        if (said := f"{op}: {name} ({why})" if why else f"{op}: {name}") not in _SAID:
            _SAID.add(said)
            logger.info(said)
    return _CHOSEN[key]


def _choose(op: str, device: str, dtype: torch.dtype, long: bool, beyond: bool, compiled: bool = False) -> Choice:
    chosen, others = None, {}
    for backend in _in_order(op, long):
        if obstacle := _obstacle(op, backend, device, dtype, beyond):
            others[backend.name] = obstacle
        elif not backend.automatic:
            others[backend.name] = "used only when asked for"
        elif backend.eager and compiled:
            others[backend.name] = "left to the compiler"
        elif chosen is None:
            chosen = backend.name
        else:
            others[backend.name] = f"could run, {chosen} is preferred"
    assert chosen is not None, f"{op} has no backend that needs nothing but torch"
    return Choice(chosen, others)


def _in_order(op: str, long: bool) -> list[Backend]:
    """The backends, best first: for long windows, kernels made for short ones stand behind the other kernels."""
    table = list(_TABLES[op].values())
    return sorted(table, key=lambda b: (not b.cuda_only, b.short)) if long else table


def _obstacle(op: str, backend: Backend, device: str, dtype: torch.dtype, beyond: bool) -> str | None:
    """Why a backend cannot run; what to do about it."""
    elsewhere = "use " + ", ".join(repr(b.name) for b in _TABLES[op].values() if not b.cuda_only and b is not backend)
    if backend.cuda_only and not torch.cuda.is_available():
        return f"no CUDA device; {elsewhere} here"
    if backend.cuda_only and device != "cuda":
        return f"the tensors are on {device}; move them to CUDA or {elsewhere}"
    if backend.dtypes and dtype not in backend.dtypes:
        other, *taken = (str(d).removeprefix("torch.") for d in (dtype, *backend.dtypes))
        return f"it does not take {other}; convert to one of {', '.join(taken)}, or {elsewhere}"
    if backend.limit and beyond:
        return f"it takes {backend.limit}; {elsewhere}"
    if error := _import_error(op, backend):
        return f"its import failed ({error}); {elsewhere}, or install it with: {backend.install}"
    return None


def _import_error(op: str, backend: Backend) -> str | None:
    """Loads the backend, once. What its import raised."""
    key = (op, backend.name)
    if key not in _LOADED and key not in _BROKEN:
        try:
            _LOADED[key] = backend.load()
        except Exception as error:  # a broken binary package raises whatever its loader raises
            _BROKEN[key] = f"{type(error).__name__}: {error}"
    return _BROKEN.get(key)


def _backend(op: str, name: str) -> Backend:
    if op not in _TABLES:
        raise ValueError(f"op must be one of {', '.join(sorted(_TABLES))}, got {op!r}")
    if name not in list(_TABLES[op]):  # whatever it is
        raise ValueError(f"{op}: backend must be one of {', '.join(_TABLES[op])}, got {name!r}")
    return _TABLES[op][name]


def _why_not_better(table: list[Backend], choice: Choice) -> str:
    """The reasons of the backends that stand before the chosen one, each once."""
    reasons: dict[str, list[str]] = {}
    for backend in table:
        if backend.name == choice.backend:
            break
        reasons.setdefault(choice.others[backend.name].split(";")[0], []).append(backend.name)
    return "; ".join(r if r == "no CUDA device" else f"{', '.join(names)}: {r}" for r, names in reasons.items())
