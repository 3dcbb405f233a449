"""Products by oneDNN are torch's own, with their gradients, and are taken only where they should be."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from danlu.nn import linear as products
from danlu.nn.linear import Linear, linear

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """As on a processor that has use for it, for products of any size; the shapes of those that went that way."""
    monkeypatch.setattr(products, "_halves_are_unused", lambda: True)
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
def test_a_bias_that_lies_apart_and_rows_without_a_batch(taken: list[tuple[int, ...]]) -> None:
    x, weight, bias = torch.randn(6, 8), torch.randn(4, 8), torch.randn(4, 2)[:, 0]
    torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias))
    one = torch.randn(8, requires_grad=True)
    linear(one, weight).sum().backward()  # by torch
    torch.testing.assert_close(one.grad, weight.sum(0))
    assert taken == [(6, 8, 4)]


def test_elsewhere_it_is_torchs_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_halves_are_unused", lambda: False)
    layer, x = Linear(600, 500), torch.randn(100, 600)
    assert isinstance(layer, nn.Linear) and torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes"):
        layer(torch.randn(100, 601))
