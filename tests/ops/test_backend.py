"""Which implementation runs, what is said about it, and what is said when it cannot."""

import logging
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from lmsleep.ops import (
    add_norm,
    delta_layer,
    describe,
    dynamic_conv,
    gated_delta,
    short_conv,
    ssd,
    use_backend,
    window_attention,
)
from lmsleep.ops import backend as backends
from lmsleep.ops.backend import Backend, register, resolve

CPU = torch.device("cpu")
no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="tells what happens without CUDA")


def broken():
    raise OSError("undefined symbol: _ZN3c10")


@pytest.fixture
def op(monkeypatch):
    """An op of its own, with tables that are thrown away afterwards."""
    for name, kind in [("_TABLES", dict), ("_FORCED", dict), ("_LOADED", dict), ("_BROKEN", dict), ("_CHOSEN", dict)]:
        monkeypatch.setattr(backends, name, kind(getattr(backends, name)))
    monkeypatch.setattr(backends, "_SAID", set())
    loads = []

    def kernel():
        loads.append("kernel")
        return lambda x: x + 1

    register(
        "double",
        Backend("broken", broken, install="pip install broken"),
        Backend("kernel", kernel, install="pip install kernel", cuda_only=True, dtypes=(torch.bfloat16,)),
        Backend("torch", lambda: torch.add),
        Backend("spare", lambda: torch.mul),
        Backend("naive", lambda: torch.sub, automatic=False),
    )
    return loads


def test_the_definition_of_every_op_is_in_naive_py_of_its_folder():
    tables = backends._TABLES
    assert len(tables) > 7
    homes = {name: table["naive"].load().__module__ for name, table in tables.items()}
    assert not {name: home for name, home in homes.items() if not home.endswith(".naive")}


def test_takes_the_first_that_can_run_and_says_so_once(op, caplog):
    with caplog.at_level(logging.INFO, logger="lmsleep.ops.backend"):
        assert resolve("double", CPU, torch.float32) is torch.add
        assert resolve("double", CPU, torch.float32) is torch.add
        assert resolve("double", CPU, torch.float64) is torch.add
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("double: torch (broken: its import failed (OSError: undefined symbol: _Z")


@no_cuda
def test_a_kernel_is_not_even_imported_without_cuda(op):
    assert resolve("double", CPU, torch.float32) is torch.add
    with pytest.raises(
        ValueError, match=r"^double: backend 'kernel' cannot run: no CUDA device; use 'broken', 'torch'"
    ):
        resolve("double", CPU, torch.bfloat16, "kernel")
    assert op == []


def test_with_cuda_a_kernel_runs_on_cuda_tensors_of_its_dtypes(op, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cuda = torch.device("cuda")
    assert resolve("double", cuda, torch.bfloat16)(1) == 2
    assert resolve("double", cuda, torch.float64) is torch.add
    with pytest.raises(ValueError, match="it does not take float64; convert to one of bfloat16, or use"):
        resolve("double", cuda, torch.float64, "kernel")
    with pytest.raises(ValueError, match="the tensors are on cpu; move them to CUDA or use"):
        resolve("double", CPU, torch.bfloat16, "kernel")
    assert op == ["kernel"]


def test_long_windows_take_the_kernels_made_for_them_first(op, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cuda = torch.device("cuda")
    register(
        "double",
        Backend("short", lambda: torch.add, cuda_only=True, short=True),
        Backend("any", lambda: torch.sub, cuda_only=True, dtypes=(torch.float32,)),
        Backend("torch", lambda: torch.mul),
    )
    assert resolve("double", cuda, torch.float32) is torch.add
    assert resolve("double", cuda, torch.float32, long=True) is torch.sub
    assert resolve("double", cuda, torch.float64, long=True) is torch.add
    assert resolve("double", cuda, torch.float32, "short", long=True) is torch.add
    assert describe("cuda", long=True)["double"].others["short"] == "could run, any is preferred"


def test_beyond_its_limit_a_backend_is_not_taken(op):
    limit = "at most 8 tokens"
    register("double", Backend("small", lambda: torch.add, limit=limit), Backend("torch", lambda: torch.mul))
    assert resolve("double", CPU, torch.float32) is torch.add
    assert resolve("double", CPU, torch.float32, long=True) is torch.add
    assert resolve("double", CPU, torch.float32, beyond=True) is torch.mul
    assert resolve("double", CPU, torch.float32, "small") is torch.add
    assert resolve("double", CPU, torch.float32, "torch", beyond=True, n=9) is torch.mul
    with pytest.raises(
        ValueError, match=r"^double: backend 'small' cannot run for n=9, K=2: it takes at most 8 tokens; use 'torch'$"
    ):
        resolve("double", CPU, torch.float32, "small", beyond=True, n=9, K=2)


@pytest.mark.parametrize("name", ["gated_delta", "ssd", "short_conv", "add_norm", "window_attention"])
def test_sizes_that_no_kernel_takes_are_left_to_torch(name, op, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(backends, "_LOADED", {(name, each): torch.add for each in backends._TABLES[name]})
    assert describe("cuda")[name].backend != "torch"
    assert describe("cuda", beyond=True)[name].backend == "torch"


def key_of(size):
    x, gate = torch.zeros(1, 1, 2, size), torch.zeros(1, 1, 2)
    return lambda: gated_delta(x, x, x, gate, gate)


def state_of(size):
    x, B = torch.zeros(1, 2, 1, 4), torch.zeros(1, 2, 1, size)
    return lambda: ssd(x, x[..., 0], -torch.ones(1), B, B)


def convolution_of(channels, taps):
    return lambda: short_conv(torch.zeros(1, 2, channels), torch.zeros(channels, taps))


@pytest.mark.parametrize(
    ("call", "beyond"),
    [
        *((key_of(256), False), (key_of(257), True), (state_of(256), False), (state_of(257), True)),
        *((convolution_of(8, 4), False), (convolution_of(8, 2), False), (convolution_of(12, 4), True)),
        *((convolution_of(8, 5), True), (convolution_of(8, 1), True)),
    ],
)
def test_an_op_says_whether_its_sizes_are_beyond_its_kernels(call, beyond, monkeypatch):
    said = []
    chosen = backends._chosen
    monkeypatch.setattr(backends, "_chosen", lambda *case: said.append(case[5]) or chosen(*case))
    call()
    assert said == [beyond]


def norm_of(channels):
    return lambda: add_norm(torch.zeros(1, channels), None, torch.zeros(channels))


def window_of(n, channels):
    x = torch.zeros(1, n, channels)
    return lambda: window_attention(x, x, x, (torch.zeros(n, channels // 2),) * 2)


@pytest.mark.parametrize(
    ("name", "kernel", "call", "said"),
    [
        ("gated_delta", "triton", key_of(257), "K=257: it takes keys of at most 256 channels"),
        ("gated_delta", "fla", key_of(257), "K=257: it takes keys of at most 256 channels"),
        ("ssd", "mamba_ssm", state_of(257), "N=257: it takes N of at most 256"),
        ("short_conv", "causal_conv1d", convolution_of(12, 5), "D=12, W=5: it takes 2 to 4 taps, and channels in mul"),
        ("add_norm", "triton", norm_of(8193), "D=8193: it takes at most 8192 channels"),
        ("window_attention", "triton", window_of(65, 66), "n=65, K=66: it takes at most 64 tokens and heads of 128 "),
    ],
)
def test_a_kernel_that_is_asked_for_more_than_it_takes_names_the_sizes(op, monkeypatch, name, kernel, call, said):
    monkeypatch.setitem(backends._TABLES[name], kernel, replace(backends._TABLES[name][kernel], cuda_only=False))
    backends._LOADED[name, kernel] = torch.add
    sentence = rf"^{name}: backend '{kernel}' cannot run for {said}.*; use 'torch', 'naive'$"
    with use_backend(**{name: kernel}), pytest.raises(ValueError, match=sentence):
        call()


@no_cuda
@pytest.mark.parametrize(
    ("backend", "said"),
    [("cuda", "cannot run: no CUDA device"), ("small", "cannot run for n=9: it"), ("x", "must be one")],
)
def test_compiled_code_refuses_in_the_same_sentence(op, backend, said):
    """And not as an error of the compiler, in which the sentence would be one of many lines."""
    few = Backend("small", lambda: torch.add, limit="at most 8 tokens")
    register("double", Backend("cuda", lambda: torch.add, cuda_only=True), few, Backend("torch", lambda: torch.mul))

    def call(x):
        return resolve("double", x.device, x.dtype, backend, beyond=x.shape[0] > 8, n=x.shape[0])(x, x)

    x = torch.ones(9 if backend == "small" else 8)
    torch.compiler.reset()
    for each in (call, torch.compile(call, backend="eager")):
        with pytest.raises(ValueError, match=f"^double: backend .*{said}"):
            each(x)


def test_compiled_code_leaves_eager_kernels_alone(op, monkeypatch):
    register("double", Backend("kernel", lambda: torch.add, eager=True), Backend("torch", lambda: torch.mul))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert resolve("double", CPU, torch.float32) is torch.mul
    assert resolve("double", CPU, torch.float32, "kernel") is torch.add
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: False)
    assert resolve("double", CPU, torch.float32) is torch.add


def test_describe_gives_a_reason_for_every_other_backend(op, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    chosen, others = describe("cuda", torch.bfloat16)["double"]
    assert chosen == "kernel"
    assert others["broken"] == (
        "its import failed (OSError: undefined symbol: _ZN3c10); use 'torch', 'spare', 'naive', "
        "or install it with: pip install broken"
    )
    assert others["torch"] == others["spare"] == "could run, kernel is preferred"
    assert others["naive"] == "used only when asked for"


def test_force_by_argument_goes_before_force_by_block(op):
    with use_backend(double="naive"):
        assert resolve("double", CPU, torch.float32) is torch.sub
        assert resolve("double", CPU, torch.float32, "torch") is torch.add
        with use_backend(double="torch"):
            assert resolve("double", CPU, torch.float32) is torch.add
        assert resolve("double", CPU, torch.float32) is torch.sub
    assert resolve("double", CPU, torch.float32) is torch.add


def test_a_block_that_raises_forces_nothing_afterwards(op):
    with pytest.raises(RuntimeError), use_backend(double="naive"):
        raise RuntimeError
    assert resolve("double", CPU, torch.float32) is torch.add


def test_unknown_names_are_refused(op):
    with pytest.raises(ValueError, match=r"op must be one of .*double.*, got 'triple'"), use_backend(triple="naive"):
        pass
    with pytest.raises(ValueError, match="double: backend must be one of broken, kernel, torch, spare, naive, got 'x'"):
        resolve("double", CPU, torch.float32, "x")
    with pytest.raises(ValueError, match="double: backend must be one of broken, kernel, torch, spare, naive, got ''"):
        resolve("double", CPU, torch.float32, "")
    with pytest.raises(ValueError, match="got 'x'"), use_backend(double="naive", ssd="x"):
        pass
    assert resolve("double", CPU, torch.float32) is torch.add


def test_a_broken_package_says_what_to_use_and_how_to_install_it(op):
    with pytest.raises(
        ValueError,
        match=r"'broken' cannot run: its import failed .*; use 'torch', 'spare', 'naive', or install it with: .+$",
    ):
        resolve("double", CPU, torch.float32, "broken")


def test_every_op_runs_on_torch_alone():
    for op, choice in describe("cpu").items():
        assert choice.backend == "torch", op
        assert "naive" in choice.others, op


def small_ops():
    x = torch.ones(1, 3, 2, 4)
    yield "ssd", lambda **kw: ssd(x, x[..., 0], -torch.ones(2), x[:, :, :1], x[:, :, :1], **kw)[0]
    yield "gated_delta", lambda **kw: gated_delta(x, x, x, -x[..., 0], x[..., 0] / 2, None, **kw)[0]
    yield "short_conv", lambda **kw: short_conv(x[:, :, 0], torch.ones(4, 4), **kw)
    heads = [torch.ones(2), torch.ones(2), torch.ones(4), torch.ones(1, 2, 4, 4)]
    yield "delta_layer", lambda **kw: delta_layer(torch.ones(1, 3, 36), torch.ones(24, 4), *heads, **kw)[0]
    yield "window_attention", lambda **kw: window_attention(*[x[:, :, 0]] * 3, (x[0, :, 0, :2],) * 2, **kw)
    yield "dynamic_conv", lambda **kw: dynamic_conv(x[:, :, 0], torch.ones(1, 3, 4, 4), **kw)


@pytest.mark.parametrize(("name", "call"), small_ops())
def test_ops_follow_the_argument_and_the_block(name, call, monkeypatch):
    taken = []

    def spy(op, *rest, **options):
        implementation = resolve(op, *rest, **options)
        taken.append(implementation.__name__)
        return implementation

    # The module is looked up by name: `lmsleep.ops.ssd` is the function that the package exports.
    module = sys.modules[f"lmsleep.ops.{'short_conv' if 'conv' in name else name}"]
    monkeypatch.setattr(module, "resolve", spy)
    call()
    call(backend="naive")
    with use_backend(**{name: "naive"}):
        call()
    assert taken == [f"{name}_torch", f"{name}_naive", f"{name}_naive"]


@no_cuda
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: ssd(x, x[..., 0], x[0, 0, :, 0], x, x, backend="mamba_ssm"), "ssd: backend 'mamba_ssm' cannot run"),
        (
            lambda x: short_conv(x[0], x[0, 0], backend="causal_conv1d"),
            "short_conv: backend 'causal_conv1d' cannot run",
        ),
    ],
)
def test_a_kernel_asked_for_on_a_cpu_machine_is_one_sentence(call, words):
    with pytest.raises(ValueError, match=f"^{words}: no CUDA device; use 'torch', 'naive' here$"):
        call(torch.ones(4, 4, 4, 4))


@no_cuda
def test_no_kernel_package_is_imported_without_cuda():
    """Nor looked for, as where there is none a package could be installed all the same."""
    code = """
import sys, torch
asked = []
sys.meta_path.insert(0, type("Finder", (), {"find_spec": lambda name, *_: asked.append(name)}))
from lmsleep.ops import describe, short_conv, ssd
x = torch.ones(1, 4, 2, 4)
ssd(x, x[..., 0], -torch.ones(2), x, x), short_conv(x[0], torch.ones(4, 4)), describe(), describe("cuda")
assert "lmsleep.ops" in asked
print(*[name for name in asked if name.split(".")[0] in ("mamba_ssm", "causal_conv1d", "fla")])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


@pytest.mark.parametrize(("name", "call"), small_ops())
def test_compiles_into_one_graph_and_follows_a_block(name, call):
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph

    torch.compiler.reset()
    compiled = torch.compile(call, backend=keep, fullgraph=True)
    torch.testing.assert_close(compiled(), call())
    compiled()
    assert len(graphs) == 1
    with use_backend(**{name: "naive"}):
        torch.testing.assert_close(compiled(), call())
    assert len(graphs) == 2


@pytest.mark.parametrize("sizes", [[(8, 4), (9, 4), (16, 5)], [(16, 1), (24, 2)]])
def test_sizes_may_be_symbols_to_the_compiler(sizes):
    torch._dynamo.reset()
    compiled = torch.compile(lambda x, w: short_conv(x, w), backend="eager", dynamic=True, fullgraph=True)
    for channels, taps in sizes:
        x, w = torch.randn(2, 7, channels), torch.randn(channels, taps)
        torch.testing.assert_close(compiled(x, w), short_conv(x, w))
