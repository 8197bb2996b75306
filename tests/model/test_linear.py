"""Weights that are joined and cast once a reading, against the layers one by one."""

from dataclasses import replace
from threading import Thread

import pytest
import torch
from torch import nn

from lmsleep.model.linear import MAX_PRODUCT_ROWS, GradAccumulator, SharedWeights, lookup_embedding, project
from lmsleep.ops import backend, use_backend
from lmsleep.runtime import Session
from lmsleep.sleep import read_windows, sleep

CUDA = torch.cuda.is_available()


def layers(*sizes, width=6, dtype=torch.float64):
    torch.manual_seed(0)
    return [nn.Linear(width, size, bias=False, dtype=dtype) for size in sizes]


def gradients(model, rows, n_passes, shared):
    model.zero_grad()
    out = read_windows(model, *rows, n_passes=n_passes, shared=SharedWeights() if shared else None)
    out.loss.backward()
    return out.loss.detach(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("pattern", ["AG", "Wg", "AJ", "AM"])
def test_a_reading_has_the_loss_and_the_gradients_of_layers_one_by_one(build, rows, pattern, checkpointing):
    model = build(pattern, sliding_window=3)
    loss, want = gradients(model, rows, 3, shared=False)
    model.blocks.checkpointing = checkpointing
    again, got = gradients(model, rows, 3, shared=True)
    torch.testing.assert_close(again, loss)
    torch.testing.assert_close(got, want)


@pytest.fixture
def on_kernels(monkeypatch):
    """Our Triton kernels wherever there is one, through the interpreter on a CPU."""
    pytest.importorskip("triton")
    from lmsleep.ops import backend

    for table in ("_LOADED", "_BROKEN", "_CHOSEN"):
        monkeypatch.setattr(backend, table, {})
    for op in ("add_norm", "delta_layer", "swiglu", "window_attention"):
        monkeypatch.setitem(
            backend._TABLES[op], "triton", replace(backend._TABLES[op]["triton"], cuda_only=False, automatic=True)
        )


@pytest.mark.skipif(CUDA, reason="there the kernels run anyway")
@pytest.mark.interpreter
@pytest.mark.parametrize("pattern", ["AG", "AJ"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_reading_on_kernels_has_the_loss_and_the_gradients_of_one_without(
    build, rows, pattern, checkpointing, on_kernels
):
    ops = dict.fromkeys(("add_norm", "delta_layer", "swiglu", "window_attention"), "torch")
    with use_backend(**ops):
        loss, want = gradients(build(pattern, torch.float32).double(), rows, 2, shared=False)
    model = build(pattern, torch.float32)
    model.blocks.checkpointing = checkpointing
    again, got = gradients(model, rows, 2, shared=True)
    torch.testing.assert_close(again.double(), loss, rtol=1e-6, atol=1e-6)
    for name, x in want.items():
        assert (got[name].double() - x).norm() <= 2e-5 * x.norm(), name


def test_gradients_that_lie_side_by_side_are_not_joined_again(monkeypatch):
    first, second = layers(3, 5)
    x = torch.randn(2, 4, 6, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(2, 4, 8, dtype=torch.float64)
    parts = project(x, first, second, shared=SharedWeights())
    want = upstream @ torch.cat([first.weight, second.weight]).detach()
    apart = [part.clone() for part in upstream.split([3, 5], dim=-1)]
    swapped = upstream.roll(5, dims=-1).split([5, 3], dim=-1)[::-1]  # of one tensor, in another order
    for grads in (apart, swapped):
        torch.testing.assert_close(torch.autograd.grad(parts, x, list(grads), retain_graph=True)[0], want)
    monkeypatch.setattr(torch, "cat", None)  # is not called any more
    beside = upstream.split([3, 5], dim=-1)
    torch.testing.assert_close(torch.autograd.grad(parts, x, list(beside), retain_graph=True)[0], want)


def test_several_layers_are_one_product_and_every_use_adds_to_their_gradients():
    first, second = layers(3, 5)
    x, y = torch.randn(2, 4, 6, dtype=torch.float64), torch.randn(7, 6, dtype=torch.float64)
    shared = SharedWeights()
    outs = [*project(x, first, second, shared=shared), *project(y, first, second, shared=shared)]
    assert [tuple(out.shape) for out in outs] == [(2, 4, 3), (2, 4, 5), (7, 3), (7, 5)]
    assert outs[0]._base is outs[1]._base is not None
    upstream = [torch.randn_like(out) for out in outs]
    torch.autograd.backward(outs, upstream)
    for layer, a, b in ((first, 0, 2), (second, 1, 3)):
        want = torch.einsum("bno,bnd->od", upstream[a], x) + torch.einsum("no,nd->od", upstream[b], y)
        torch.testing.assert_close(layer.weight.grad, want)


def test_a_second_backward_starts_from_nothing():
    (layer,) = layers(3)
    x = torch.randn(4, 6, dtype=torch.float64)
    (out,) = project(x, layer, shared=SharedWeights())
    first, second = (torch.autograd.grad(out.sum(), layer.weight, retain_graph=True)[0] for _ in range(2))
    torch.testing.assert_close(first, second)


def test_a_gradient_of_the_input_alone_leaves_nothing_behind():
    (layer,) = layers(3)
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    (out,) = project(x, layer, shared=SharedWeights())
    (dx,) = torch.autograd.grad(out.sum(), x, retain_graph=True)
    torch.testing.assert_close(dx, layer.weight.sum(0).detach().expand(4, 6))
    (dweight,) = torch.autograd.grad(out.sum(), layer.weight)
    torch.testing.assert_close(dweight, x.detach().sum(0).expand(3, 6))


DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not CUDA, reason="needs CUDA")])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_total_sums_products_in_float32_or_wider(device, dtype):
    torch.manual_seed(0)
    parts = [(torch.randn(40, 5), torch.randn(40, 6)) for _ in range(8)]
    parts = [(dy.to(device, dtype), x.to(device, dtype)) for dy, x in parts]
    total = GradAccumulator()
    for dy, x in parts:
        total.add(dy, x)
    got, want = total.take(), sum(dy.double().mT @ x.double() for dy, x in parts)
    assert got.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-4)
    assert total.take() is None


class OnCard(torch.Tensor):
    """Says of a tensor on the CPU that it is on a card."""

    is_cuda = True  # pyright: ignore


def test_on_a_card_narrow_products_are_added_to_a_float32_sum_without_casts(monkeypatch):
    asked = []

    def product(start, a, b, dtype, *, out):
        asked.append((a.dtype, b.dtype, start.dtype, dtype))
        return out.copy_((start.double() + a.double() @ b.double()).to(dtype))

    monkeypatch.setattr(torch.ops.aten.addmm, "dtype_out", product)
    total, parts = GradAccumulator(), [(torch.randn(9, 5).bfloat16(), torch.randn(9, 6).bfloat16()) for _ in range(3)]
    for dy, x in parts:
        total.add(dy.as_subclass(OnCard), x.as_subclass(OnCard))
    want = sum(dy.double().mT @ x.double() for dy, x in parts)
    torch.testing.assert_close(total.take().as_subclass(torch.Tensor).double(), want, rtol=1e-5, atol=1e-5)
    assert asked == [(torch.bfloat16, torch.bfloat16, torch.float32, torch.float32)] * 3


def test_sums_over_many_uses_in_bfloat16_keep_float32_accuracy():
    (layer,) = layers(8, dtype=torch.float32)
    uses = [torch.randn(16, 6) for _ in range(64)]
    shared = SharedWeights()
    with torch.autocast("cpu", torch.bfloat16):
        total = sum(project(x, layer, shared=shared)[0].float().sum() for x in uses)
    total.backward()
    parts = [x.bfloat16().double().sum(0) for x in uses]
    want = torch.stack(parts).sum(0).expand(8, 6)
    assert layer.weight.grad.dtype == torch.float32
    error = (layer.weight.grad - want).norm() / want.norm()
    assert error < 1e-3


def test_layers_that_do_not_train_get_no_gradient_and_stop_none():
    first, second = layers(3, 5)
    second.weight.requires_grad_(False)
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    a, b = project(x, first, second, shared=SharedWeights())
    (a.sum() + 2 * b.sum()).backward()
    assert second.weight.grad is None
    torch.testing.assert_close(first.weight.grad, x.detach().sum(0).expand(3, 6))
    torch.testing.assert_close(x.grad, (first.weight.sum(0) + 2 * second.weight.sum(0)).detach().expand(4, 6))


def test_weights_that_change_between_readings_are_joined_anew():
    (layer,) = layers(3)
    x = torch.randn(4, 6, dtype=torch.float64)
    for _ in range(2):
        torch.testing.assert_close(project(x, layer, shared=SharedWeights())[0], layer(x))
        with torch.no_grad():
            layer.weight.mul_(2)


def test_layers_with_something_of_their_own_are_called():
    plain, biased = layers(3)[0], nn.Linear(6, 3, dtype=torch.float64)
    x = torch.randn(4, 6, dtype=torch.float64)
    got = project(x, plain, biased, shared=SharedWeights())
    assert torch.equal(got[0], plain(x)) and torch.equal(got[1], biased(x))


@pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"])
def test_a_hook_on_a_layer_is_called(kind):
    (layer,) = layers(3)
    called = []
    getattr(layer, f"register_{kind}")(lambda *_: called.append(1))
    (y,) = project(torch.randn(4, 6, dtype=torch.float64, requires_grad=True), layer, shared=SharedWeights())
    y.sum().backward()
    assert called == [1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_gradient_of_a_small_table_is_that_of_an_embedding_without_its_sorting(dtype):
    torch.manual_seed(0)
    table = nn.Embedding(5, 6, dtype=dtype)
    tokens, upstream = torch.randint(5, (64, 9)), torch.randn(64, 9, 6).to(dtype)
    (want,) = torch.autograd.grad(table(tokens), table.weight, upstream)
    rows = lookup_embedding(table, tokens, SharedWeights())
    assert torch.equal(rows, table(tokens)) and "Embedding" not in rows.grad_fn.name()
    (got,) = torch.autograd.grad(rows, table.weight, upstream)
    exact = torch.zeros(5, 6).double().index_add_(0, tokens.flatten(), upstream.double().flatten(0, 1))
    assert got.dtype == dtype and (got - exact).norm() <= (want - exact).norm().clamp(min=1e-12)


def test_a_large_table_and_one_with_a_hook_are_called():
    large, hooked = nn.Embedding(MAX_PRODUCT_ROWS + 1, 6), nn.Embedding(5, 6)
    called = []
    hooked.register_forward_hook(lambda *_: called.append(1))
    tokens = torch.ones(2, 3, dtype=torch.long)
    out = [lookup_embedding(table, tokens, SharedWeights()) for table in (large, hooked)]
    assert called == [1] and all("Embedding" in y.grad_fn.name() for y in out)


def test_autocast_leaves_float64_alone():
    (layer,) = layers(3)
    x = torch.randn(4, 6, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(project(x, layer, shared=SharedWeights())[0], layer(x))


@pytest.mark.slow
def test_compiled_code_is_whole_where_nothing_is_shared(build, draw_tokens, monkeypatch):
    for cache in ("_LOADED", "_CHOSEN"):  # as in a new process, in which no backend was used yet
        monkeypatch.setattr(backend, cache, {})
    model, tokens = build("AG", torch.float32), draw_tokens(2, 4)
    h, S, cache = model.embed(tokens).detach(), model.init_fast_weights(2), model.init_cache()

    def breaks(shared):
        torch._dynamo.reset()
        ctx = model.blocks.context(h, cache, use_cache=False, shared=shared)
        return torch._dynamo.explain(lambda h: model.blocks.run(0, 2, h, S, cache, ctx)[0])(h).graph_break_count

    alone = breaks(None)
    assert alone <= 1 and breaks(SharedWeights()) > alone


@pytest.mark.slow
def test_compiled_code_is_not_compiled_again_for_the_shared_weights_of_every_step(build, draw_tokens):
    model, compiled = build("AG", torch.float32), []
    tokens, targets = draw_tokens(2, 18), draw_tokens(2, 18, seed=1)
    targets[:, :12] = -100
    torch._dynamo.reset()

    def backend(graph, _):
        compiled.append(graph)
        return graph

    for block in model.blocks.layers:
        block.compile(dynamic=False, backend=backend)
    for step in range(3):
        before = len(compiled)
        read_windows(model, tokens, targets, n_passes=2, shared=SharedWeights()).loss.backward()
        assert (len(compiled) > before) == (step == 0)


def test_a_session_reads_in_one_thread_while_a_training_step_shares_weights_in_another(build, rows, draw_tokens):
    """And training goes on afterwards with the gradients that it has without that session."""
    model, tokens = build("AG"), draw_tokens(1, 20)
    alone, answers = Session(model, n_passes=2).feed(tokens), []

    def sleep_while_another_reads(blocks, h, S):
        session = Session(model, n_passes=2)
        thread = Thread(target=lambda: answers.append(session.feed(tokens)))
        thread.start()
        thread.join()
        return sleep(blocks, h, S, n_passes=2)

    out = read_windows(model, *rows, on_overflow=sleep_while_another_reads, shared=SharedWeights())
    got = torch.autograd.grad(out.loss, list(model.parameters()))
    want = torch.autograd.grad(read_windows(model, *rows, n_passes=2).loss, list(model.parameters()))
    torch.testing.assert_close(got, want)
    assert len(answers) == 2
    for answer in answers:
        torch.testing.assert_close(answer, alone)
