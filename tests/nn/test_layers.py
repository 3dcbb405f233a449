from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from danlu.base.errors import ConfigError
from danlu.nn.feedforward import ACTIVATIONS, FeedForward, FeedForwardConfig
from danlu.nn.norm import NormConfig, make_norm
from danlu.nn.recurrent import Recurrent

FORMULAS = {
    "gelu": lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: max(x, 0.0),
    "silu": lambda x: x / (1 + math.exp(-x)),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_feedforward_is_its_formula(activation: str, gated: bool, bias: bool) -> None:
    torch.manual_seed(0)
    layer = FeedForward(FeedForwardConfig(hidden_width=9, activation=activation, gated=gated, bias=bias), 5)
    x = torch.randn(2, 4, 5)

    def apply(linear: torch.nn.Linear, values: np.ndarray) -> np.ndarray:
        return values @ linear.weight.detach().numpy().T + (linear.bias.detach().numpy() if bias else 0)

    bend, values = np.vectorize(FORMULAS[activation]), x.numpy().astype(np.float64)
    up = apply(layer.up, values)
    inner = bend(apply(layer.gate, values)) * up if gated else bend(up)
    np.testing.assert_allclose(layer(x).detach().numpy(), apply(layer.down, inner), atol=1e-5)


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_norms_are_their_formulas(kind: str) -> None:
    torch.manual_seed(0)
    norm = make_norm(NormConfig(kind=kind, epsilon=0.01), 8)  # type: ignore[arg-type]
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(3, 8) + 2
    values = x.numpy().astype(np.float64)
    if kind == "layer":
        torch.nn.init.normal_(norm.bias)
        values = values - values.mean(-1, keepdims=True)
    expected = values / np.sqrt((values**2).mean(-1, keepdims=True) + 0.01) * norm.weight.detach().numpy()
    expected += norm.bias.detach().numpy() if kind == "layer" else 0
    np.testing.assert_allclose(norm(x).detach().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(("numbers", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("turned", [False, True])
def test_gradients_of_rms_are_those_that_torch_derives(numbers: torch.dtype, bound: float, turned: bool) -> None:
    torch.manual_seed(0)
    norm = make_norm(NormConfig(kind="rms", epsilon=0.01), 16).to(torch.float64 if numbers == torch.float64 else torch.float32)
    torch.nn.init.normal_(norm.weight)
    x, gradient = (torch.randn(5, 3, 7, 16, dtype=torch.float64).to(numbers) for _ in range(2))
    x[0, 0, 0] = 0
    if turned:  # as heads come
        x, gradient = x.transpose(1, 2), gradient.transpose(1, 2)
    x.requires_grad_()
    found = torch.autograd.grad(norm(x), (x, norm.weight), gradient)
    exact, weight = x.detach().double().requires_grad_(), norm.weight.detach().double().requires_grad_()
    formula = exact / (exact.square().mean(-1, keepdim=True) + 0.01).sqrt() * weight
    for one, wanted in zip(found, torch.autograd.grad(formula, (exact, weight), gradient.double()), strict=True):
        assert (one.double() - wanted).abs().max() <= bound * wanted.abs().max()
    norm.weight.requires_grad_(False)  # as with adapters
    assert torch.equal(torch.autograd.grad(norm(x), x, gradient)[0], found[0])


def test_what_is_unknown_or_absurd_is_refused() -> None:
    with pytest.raises(ConfigError, match="'swish9'; expected one of gelu"):
        FeedForwardConfig(hidden_width=8, activation="swish9")
    with pytest.raises(ConfigError, match="hidden_width came as 0"):
        FeedForwardConfig(hidden_width=0)
    with pytest.raises(ConfigError, match=r"norm\.kind came as 'batch'"):
        NormConfig(kind="batch")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"norm\.epsilon came as -1"):
        NormConfig(epsilon=-1)


@pytest.mark.parametrize("cell", ["tanh", "gru", "lstm"])
def test_recurrent_layers_compute_products_in_half_precision(cell: Any) -> None:
    torch.manual_seed(0)
    layer, x = Recurrent(cell, 16), torch.randn(2, 9, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(x)
    torch.testing.assert_close(found.float(), layer(x), atol=0.02, rtol=0.02)
