"""Products by oneDNN are torch's own, with their gradients, and are taken only where they should be."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from danlu.nn import linear as products
from danlu.nn import native
from danlu.nn.linear import Linear, linear

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """As on a processor that has use for it, for products of any size; the shapes of those that went that way."""
    monkeypatch.setattr(products, "better_by_onednn", lambda: True)
    monkeypatch.setattr(products, "_wide", lambda: True)
    monkeypatch.setattr(products, "FEW", 0)
    shapes, own = list[tuple[int, ...]](), products._multiplied

    def noting(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        shapes.append((*x.shape, len(weight)))
        return own(x, weight, bias)

    monkeypatch.setattr(products, "_multiplied", noting)
    return shapes


@needs_onednn
@pytest.mark.parametrize("shape", [(7, 33), (2, 5, 33), (1, 33), (3, 2, 4, 33)])
@pytest.mark.parametrize("bias", [True, False])
def test_products_and_their_gradients(taken: list[tuple[int, ...]], shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer = Linear(33, 18, bias=bias)
    x, back = torch.randn(shape, requires_grad=True), torch.randn(*shape[:-1], 18)
    given = [x, *layer.parameters()]
    exact = [one.detach().double().requires_grad_() for one in given]
    found, expected = layer(x), F.linear(*exact)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    gradients = zip(torch.autograd.grad(found, given, back), torch.autograd.grad(expected, exact, back.double()), strict=True)
    for one, other in gradients:
        torch.testing.assert_close(one.double(), other, atol=2e-5, rtol=1e-5)
    assert len(taken) == 3


@needs_onednn
def test_where_vectors_are_narrow_weights_have_their_gradients_from_torch(
    taken: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_wide", lambda: False)
    layer, x = Linear(33, 18), torch.randn(7, 33, requires_grad=True)
    given = [x, *layer.parameters()]
    found = torch.autograd.grad(layer(x).square().sum(), given)
    expected = torch.autograd.grad(F.linear(x, layer.weight, layer.bias).square().sum(), given)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-5)
    assert taken == [(7, 33, 18), (7, 18, 33)]


@needs_onednn
def test_only_what_is_asked_for_is_computed_on_the_way_back(taken: list[tuple[int, ...]]) -> None:
    layer = Linear(8, 4).requires_grad_(False)
    layer(torch.randn(3, 8, requires_grad=True)).sum().backward()
    assert taken == [(3, 8, 4), (3, 4, 8)]
    kept = list[torch.Tensor]()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):  # type: ignore[func-returns-value]
        layer(torch.randn(3, 8, requires_grad=True))
    assert [tuple(one.shape) for one in kept] == [(4, 8)]  # x is needed for the weight alone


@needs_onednn
def test_other_numbers_and_turned_ones_too(taken: list[tuple[int, ...]]) -> None:
    weight, x = torch.randn(16, 8), torch.randn(8, 5).t()
    torch.testing.assert_close(linear(x, weight.t().contiguous().t()), F.linear(x, weight))
    assert len(taken) == 1
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
    assert linear(x.double(), weight.double()).dtype == torch.float64
    assert linear(x.bfloat16(), weight.bfloat16()).dtype == torch.bfloat16
    assert len(taken) == 1


@needs_onednn
def test_whatever_does_not_lie_side_by_side_is_laid_so(taken: list[tuple[int, ...]]) -> None:
    """oneDNN would multiply it number by number, two thousand times as slowly."""
    dense = torch.randn(6, 8)
    third, apart, expanded = torch.randn(8, 12).t()[:4], torch.randn(4, 24)[:, :8], torch.ones(1, 8).expand(4, 8)
    assert products._dense(dense) is dense and products._dense(turned := dense.t()) is turned
    for weight in (third, apart, expanded):
        assert products._dense(weight).is_contiguous() and torch.equal(products._dense(weight), weight)
        torch.testing.assert_close(linear(dense, weight), F.linear(dense, weight))
    assert len(taken) == 3


@needs_onednn
def test_a_bias_that_lies_apart_and_rows_without_a_batch(taken: list[tuple[int, ...]]) -> None:
    x, weight, bias = torch.randn(6, 8), torch.randn(4, 8), torch.randn(4, 2)[:, 0]
    torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias))
    one = torch.randn(8, requires_grad=True)
    linear(one, weight).sum().backward()  # by torch
    torch.testing.assert_close(one.grad, weight.sum(0))
    assert taken == [(6, 8, 4)]


def test_elsewhere_it_is_torchs_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "better_by_onednn", lambda: False)
    layer, x = Linear(600, 500), torch.randn(100, 600)
    assert isinstance(layer, nn.Linear) and torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes"):
        layer(torch.randn(100, 601))


@pytest.fixture
def tiled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """As on a processor with tiles, for products of any size; the shapes of the gradients that were made so."""
    shapes, library = list[tuple[int, ...]](), native._library()
    own = native.weight_gradient

    def weight_gradient(back: torch.Tensor, x: torch.Tensor, biased: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        shapes.append((back.shape[1], x.shape[1]))
        if library is not None and library.tiled:
            return own(back, x, biased)
        return back.float().t() @ x.float(), back.float().sum(0) if biased else None

    monkeypatch.setattr(native, "_library", lambda: SimpleNamespace(tiled=True) if library is None or not library.tiled else library)
    monkeypatch.setattr(native, "weight_gradient", weight_gradient)
    monkeypatch.setattr(products, "FEW", 0)
    return shapes


@pytest.mark.parametrize("shape", [(7, 64), (2, 5, 64)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("numbers", [torch.float32, torch.bfloat16])
def test_products_in_bfloat16_and_their_gradients(
    tiled: list[tuple[int, ...]], shape: tuple[int, ...], bias: bool, numbers: torch.dtype
) -> None:
    torch.manual_seed(0)
    layer = Linear(64, 32, bias=bias)
    x, back = torch.randn(shape).to(numbers).requires_grad_(), torch.randn(*shape[:-1], 32).bfloat16()
    given = [x, *layer.parameters()]
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    ours = torch.autograd.grad(found, given, back)
    exact = [one.detach().bfloat16().double().requires_grad_() for one in given]
    expected = F.linear(*exact)
    assert found.dtype == torch.bfloat16 and [one.dtype for one in ours] == [one.dtype for one in given]
    torch.testing.assert_close(found.double(), expected, atol=1e-2, rtol=1e-2)
    right = torch.autograd.grad(expected, exact, back.double())
    for number, (one, other) in enumerate(zip(ours, right, strict=True)):
        bound = 1e-5 if number else 1e-2  # weights' and biases' are not rounded to bfloat16
        torch.testing.assert_close(one.double(), other, atol=bound, rtol=bound)
    assert tiled == [(32, 64)]


def test_tiles_only_where_float32_weights_learn_in_bfloat16(tiled: list[tuple[int, ...]]) -> None:
    x = torch.randn(3, 64, requires_grad=True)
    Linear(64, 32)(x).sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        Linear(64, 32).requires_grad_(False)(x).sum().backward()
        Linear(64, 33)(x).sum().backward()
        Linear(48, 32)(x[:, :48]).sum().backward()
        with torch.no_grad():
            Linear(64, 32)(x)
    Linear(64, 32).bfloat16()(x.bfloat16()).sum().backward()
    assert tiled == []
    with torch.autocast("cpu", torch.bfloat16):
        Linear(64, 32)(x.detach()).sum().backward()
    assert tiled == [(32, 64)]
