from __future__ import annotations

import pytest
import torch

from danlu.nn.attention import AttentionConfig, Look, Packing
from danlu.nn.block import Block, BlockConfig
from danlu.nn.feedforward import ACTIVATIONS, FeedForwardConfig
from danlu.nn.fused import FusedLinear, fused
from danlu.nn.norm import NormConfig

WIDTH = 48


def block(activation: str = "gelu", gated: bool = False, bias: bool = True) -> Block:
    torch.manual_seed(0)
    attention = AttentionConfig(num_heads=6, num_kv_heads=3, head_dim=8, causal=False, input_bias=bias, output_bias=bias)
    feedforward = FeedForwardConfig(hidden_width=80, activation=activation, gated=gated, bias=bias)
    made = Block(BlockConfig(attention=attention, feedforward=feedforward, norm=NormConfig(kind="layer"), norm_first=False), WIDTH)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_the_twin_computes_the_same(activation: str, gated: bool, bias: bool) -> None:
    plain = block(activation, gated, bias)
    twin = fused(plain)
    assert sum(isinstance(part, FusedLinear) for part in twin.modules()) == (7 if gated else 6)
    lengths = (7, 7, 1, 20)
    with torch.inference_mode():
        for x, look in ((torch.randn(3, 11, WIDTH), Look()), (torch.randn(1, sum(lengths), WIDTH), Look(visible=Packing(lengths)))):
            torch.testing.assert_close(twin(x, look), plain(x, look), atol=1e-5, rtol=1e-5)


def test_the_module_stays_as_it_was_and_shares_what_is_no_product() -> None:
    plain, untouched = block(), block()
    twin = fused(plain)
    x = torch.randn(2, 5, WIDTH)
    assert torch.equal(plain(x, Look()), untouched(x, Look()))
    assert twin.attention_norm.weight is plain.attention_norm.weight
    assert not any(isinstance(part, FusedLinear) for part in plain.modules())


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_other_numbers_are_left_alone(kind: torch.dtype) -> None:
    plain = block().to(kind)
    assert fused(plain) is plain
