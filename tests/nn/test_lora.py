from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from danlu.models.adapters import add_lora, merge, twin
from danlu.models.base import Inputs
from danlu.models.loading import families
from danlu.nn.fused import fused
from danlu.nn.lora import LoRALinear, adapted, is_added, projections


@pytest.mark.parametrize("bias", [True, False])
def test_it_computes_what_the_paper_says(bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(6, 4, bias=bias)
    layer, x = LoRALinear(linear, rank=2, alpha=3.0), torch.randn(5, 6)
    assert torch.equal(layer(x), linear(x))  # it begins as the base
    assert layer.lora_A.abs().max() <= 6**-0.5 and layer.lora_A.std() > 0.1  # kaiming-uniform, as a linear layer's own
    nn.init.normal_(layer.lora_B)
    w, a, b = (tensor.detach().double().numpy() for tensor in (layer.weight, layer.lora_A, layer.lora_B))
    expected = x.double().numpy() @ (w + 3.0 / 2 * b @ a).T + (linear.bias.detach().numpy() if bias else 0)
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, atol=1e-5)
    before = linear.weight.clone()
    np.testing.assert_allclose(layer.merged()(x).detach().numpy(), expected, atol=1e-5)
    assert torch.equal(linear.weight, before)


@pytest.mark.parametrize("family", ["gpt", "bert", "seq2seq"])
def test_every_projection_of_a_family_gets_one_and_loses_it_when_merged(family: str) -> None:
    found = families()[family]
    module = found.build(found.sizes("nano", 50, 16)).eval()
    ids = torch.arange(12).view(1, 12)
    inputs = Inputs(tokens=ids, source=ids)
    names = [name for name, _ in projections(module)]
    other = twin(module)
    add_lora(other, 3, 6.0)
    assert [name for name, _ in adapted(other)] == names and not list(adapted(module))
    plain = module(inputs)
    assert torch.equal(other(inputs), plain)
    for name, parameter in other.named_parameters():
        if is_added(name):
            nn.init.normal_(parameter, std=0.2)
    assert (other(inputs) - plain).abs().max() > 0.01 and torch.equal(module(inputs), plain)
    other.double()  # T5's first weights make a thousand of each rounding
    changed = other(inputs)
    merge(other)
    assert [name for name, _ in projections(other)] == names
    assert (other(inputs) - changed).abs().max() < 1e-9 * changed.abs().max()


def test_a_fused_twin_keeps_adapters_that_stand_apart() -> None:
    found = families()["bert"]
    module = found.build(found.sizes("nano", 50, 16)).eval()
    add_lora(module, 3, 6.0)
    for name, parameter in module.named_parameters():
        if is_added(name):
            nn.init.normal_(parameter, std=0.2)
    inputs = Inputs(tokens=torch.arange(12).view(1, 12))
    with torch.inference_mode():
        assert (fused(module)(inputs) - module(inputs)).abs().max() < 1e-5
