from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from danlu.base.errors import ConfigError
from danlu.nn.position import FREQUENCY_SCALINGS, Rotary, RotaryConfig, rotate, turns

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 128}


@pytest.mark.parametrize("head_dim", [2, 6, 64])
@pytest.mark.parametrize("base", [10_000.0, 500_000.0])
def test_rotation_is_a_product_of_complex_numbers(head_dim: int, base: float) -> None:
    """Channel e + i * channel e + E/2, times exp(i * position * base^(-2e/E)), in double precision."""
    rotary = Rotary(RotaryConfig(base=base), head_dim, context_length=50)
    x = torch.randn(2, 3, 50, head_dim, generator=torch.Generator().manual_seed(0))
    half = head_dim // 2
    values = x.numpy().astype(np.float64)
    turns = np.exp(1j * np.arange(50)[:, None] * base ** (-2 * np.arange(half) / head_dim))
    turned = (values[..., :half] + 1j * values[..., half:]) * turns
    expected = np.concatenate([turned.real, turned.imag], axis=-1)
    np.testing.assert_allclose(rotate(x, rotary(50, torch.float32)).numpy(), expected, atol=2e-5)


def test_given_positions_turn_as_counted_ones() -> None:
    rotary = Rotary(RotaryConfig(), 8, context_length=20)
    x = torch.randn(1, 2, 5, 8)
    whole = rotate(torch.cat([torch.zeros(1, 2, 7, 8), x], dim=2), rotary(12, torch.float32))[:, :, 7:]
    assert torch.equal(rotate(x, rotary(torch.arange(7, 12)[None], torch.float32)), whole)
    assert not torch.allclose(rotate(x, rotary(5, torch.float32)), whole)


def test_scores_depend_on_distance_alone() -> None:
    torch.manual_seed(0)
    rotary = Rotary(RotaryConfig(), 16, context_length=64)
    query, key = torch.randn(2, 1, 1, 1, 16)

    def score(at: int, other: int) -> float:
        place = [rotary(torch.tensor([[position]]), torch.float32) for position in (at, other)]
        return float((rotate(query, place[0]) * rotate(key, place[1])).sum())

    assert score(9, 4) == pytest.approx(score(60, 55), abs=1e-4)
    assert score(9, 4) != pytest.approx(score(9, 5), abs=1e-2)


@pytest.mark.parametrize("scaling", [LLAMA3, LLAMA3 | {"factor": 32.0, "high_freq_factor": 2.0}, {"rope_type": "linear", "factor": 2.5}])
@pytest.mark.parametrize("head_dim", [16, 128])
def test_scaled_frequencies_equal_those_of_transformers(scaling: dict[str, Any], head_dim: int) -> None:
    config = LlamaConfig(head_dim=head_dim, max_position_embeddings=1024, rope_parameters=scaling | {"rope_theta": 10_000.0})
    expected, attention_factor = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, torch.device("cpu"))
    plain = 10_000.0 ** -(np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    found = FREQUENCY_SCALINGS[scaling["rope_type"]](plain, scaling)
    assert attention_factor == 1.0
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5)
    assert not np.allclose(found, plain, rtol=1e-3)


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("yarn", {"rope_type": "yarn"}),
        ("factor", {"factor": None}),
        ("low_freq_factor", {"low_freq_factor": "1"}),
        ("factor", {"factor": 0}),
    ],
)
def test_unknown_and_incomplete_scalings_are_refused(field: str, changed: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=field):
        RotaryConfig(scaling=LLAMA3 | changed)


def test_the_way_back_through_a_turn_is_that_of_autograd() -> None:
    rotary = Rotary(RotaryConfig(), 8, 16)
    x = torch.randn(2, 3, 16, 8, dtype=torch.float64, requires_grad=True)
    cosines, sines = (each.double() for each in rotary(16, torch.float32))
    torch.testing.assert_close(rotate(x, (cosines, sines)), rotate(x.detach(), (cosines, sines)))
    assert torch.autograd.gradcheck(lambda given: rotate(given, (cosines, sines)), x)


@pytest.mark.parametrize("base", [10_000.0, 1_000_000.0])
def test_far_positions_turn_as_those_of_transformers(base: float) -> None:
    config = LlamaConfig(head_dim=64, max_position_embeddings=8192, rope_parameters={"rope_type": "default", "rope_theta": base})
    expected = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.arange(8192)[None])
    for found, other in zip(turns(RotaryConfig(base=base), 64, 0, 8192), expected, strict=True):
        torch.testing.assert_close(found, other[0, :, :32], atol=1e-7, rtol=0)


def test_a_stretch_of_positions_is_that_of_the_whole() -> None:
    for part, whole in zip(turns(RotaryConfig(), 8, 100, 120), turns(RotaryConfig(), 8, 0, 200), strict=True):
        assert torch.equal(part, whole[100:120])
