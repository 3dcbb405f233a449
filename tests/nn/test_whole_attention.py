"""Attention of whole sequences by native/whole_attention.h, in every build, against its definition in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from danlu.nn import native
from danlu.nn.attention import WHOLE, Attention, AttentionConfig, Look, Packing, at_once, whole_attention
from danlu.nn.norm import NormConfig

CLOSE = {torch.bfloat16: 8e-3, torch.float32: 2e-6}  # relative: what rounding leaves


@pytest.fixture(params=CLOSE, ids=str)
def numbers(request: pytest.FixtureRequest, build: Any) -> torch.dtype:
    if request.param == torch.float32 and build.tiled:
        pytest.skip("tiles have no float32")
    return request.param  # type: ignore[no-any-return]


def made(*shape: int, numbers: torch.dtype = torch.bfloat16) -> Tensor:
    """(B, H, T, E) as projections leave it: heads innermost but one."""
    batch, heads, length, channels = shape
    return torch.randn(batch, length, heads, channels).to(numbers).transpose(1, 2)


def defined(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> Tensor:
    group = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(group, 1).mT * scale
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
    return scores.softmax(-1) @ value.repeat_interleave(group, 1)


def with_gradients(function: Any, given: list[Tensor], back: Tensor) -> list[Tensor]:
    given = [one.detach().requires_grad_() for one in given]
    found = function(*given)
    return [found.detach(), *torch.autograd.grad(found, given, back.to(found.dtype))]


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("batch", "heads", "kv_heads", "length", "channels"),
    [
        *[(2, 4, 4, 64, 64), (1, 6, 2, 37, 32), (3, 1, 1, 5, 16), (1, 2, 1, 130, 48), (1, 1, 1, 16, 128)],
        *[(1, 2, 2, 17, 80), (2, 3, 3, 8, 64), (1, 2, 1, 1037, 32)],
    ],
)
def test_mixed_values_and_gradients(
    numbers: torch.dtype, batch: int, heads: int, kv_heads: int, length: int, channels: int, causal: bool
) -> None:
    torch.manual_seed(0)
    given = [made(batch, each, length, channels, numbers=numbers) for each in (heads, kv_heads, kv_heads)]
    back, scale = made(batch, heads, length, channels, numbers=numbers), channels**-0.5
    expected = with_gradients(lambda *x: defined(*x, causal, scale), [one.double() for one in given], back)
    found = with_gradients(lambda *x: native.attended(*x, causal, scale), given, back)
    assert [one.shape for one in found] == [one.shape for one in expected]
    assert all(distance(one, other) < CLOSE[numbers] for one, other in zip(found, expected, strict=True))
    *lying, back = (one.mT.contiguous().mT for one in (*given, back))
    turned = with_gradients(lambda *x: native.attended(*x, causal, scale), lying, back)
    assert all(torch.equal(one, other) for one, other in zip(found, turned, strict=True))  # however the numbers lie


def test_large_scores_neither_overflow_nor_reach_later_positions(numbers: torch.dtype) -> None:
    torch.manual_seed(0)
    query, key, value, back = (made(1, 2, 40, 32, numbers=numbers) for _ in range(4))
    given = [query * 20, key * 20, value]
    expected = with_gradients(lambda *x: defined(*x, True, 1.0), [one.double() for one in given], back)
    found = with_gradients(lambda *x: native.attended(*x, True, 1.0), given, back)
    assert distance(found[0], expected[0]) < max(CLOSE[numbers], 1e-4) and all(one.isfinite().all() for one in found)
    given[2][:, :, 30:] = 1e30  # what comes later is not seen, not even with a weight that is hardly one
    assert torch.equal(native.attended(*given, True, 1.0)[:, :, :30], found[0][:, :, :30])


def test_numbers_that_are_none_show(numbers: torch.dtype) -> None:
    query, key, value = (made(1, 1, 20, 16, numbers=numbers) for _ in range(3))
    key[0, 0, 7, 3] = torch.nan
    found = native.attended(query, key, value, True, 0.25)
    assert found[:, :, :7].isfinite().all() and found[:, :, 7:].isnan().all()


def test_threads_change_no_bit(numbers: torch.dtype) -> None:
    torch.manual_seed(0)
    *given, back = (made(3, 2, 50, 32, numbers=numbers) for _ in range(4))
    before, found = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(with_gradients(lambda *x: native.attended(*x, True, 0.2), given, back))
    torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("kind", CLOSE, ids=str)
def test_a_layer_takes_it_also_over_sequences_one_behind_the_other(monkeypatch: pytest.MonkeyPatch, kind: torch.dtype) -> None:
    if not native.attends(*[made(1, 1, 4, 16, numbers=kind)] * 3, False):
        pytest.skip(f"no kernel here takes {kind}")
    torch.manual_seed(0)
    config = AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=16, causal=False)
    layer, x = Attention(config, 64, NormConfig(epsilon=1e-6)).to(kind), torch.randn(1, 45, 64).to(kind)
    look, found = Look(visible=Packing((20, 20, 5))), []
    for taken in (True, False):
        if not taken:
            monkeypatch.setattr(native, "attends", lambda *_: False)
        found.append(with_gradients(lambda x: layer(x, look), [x], torch.ones_like(x)))
    for one, other in zip(*found, strict=True):
        assert 0 < distance(one, other.double()) < 3 * CLOSE[kind]


def test_shapes_that_do_not_belong_together_are_not_taken() -> None:
    def taken(*given: Tensor) -> bool:
        return native.attends(*given, causal=True)

    query, one = made(4, 2, 8, 16), made(1, 2, 8, 16)
    assert not any(taken(query, other, other) for other in (one, made(4, 3, 8, 16), made(4, 2, 9, 16), made(4, 2, 8, 32)))
    assert not taken(query, made(4, 2, 8, 16), made(4, 1, 8, 16)) and not taken(*[made(4, 2, 0, 16)] * 3)
    assert not taken(*[made(4, 2, 8, 24)] * 3) and not taken(*[made(4, 2, 8, 16).double()] * 3)
    assert not taken(query, query.float(), query)


def test_as_long_as_it_is_quicker(monkeypatch: pytest.MonkeyPatch, build: Any) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    for (kind, causal), longest in build.longest.items():
        assert not native.attends(*[made(1, 2, longest + 1, 16, numbers=kind)] * 3, causal)
        assert not longest or native.attends(*[made(1, 2, longest, 16, numbers=kind)] * 3, causal)
        assert longest <= 512 or not native.attends(*[made(1, 1, longest, 16, numbers=kind)] * 3, causal)  # one thread would wait
    monkeypatch.setattr(native, "attends", lambda *_: False)
    assert [at_once(*[made(1, 1, length, 16).requires_grad_()] * 3, True) for length in (WHOLE, WHOLE + 1)] == [True, False]


def test_without_the_kernel_three_operations_do_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    given, back = [made(2, 3, 33, 16) for _ in range(3)], made(2, 3, 33, 16)
    monkeypatch.setattr(native, "attends", lambda *_: False)
    for causal in (True, False):
        found = with_gradients(lambda *x, causal=causal: whole_attention(*x, causal, None), given, back)
        full = [one.float() for one in given]
        expected = with_gradients(lambda *x, causal=causal: F.scaled_dot_product_attention(*x, is_causal=causal), full, back)
        assert all(distance(one, other.double()) < 2e-2 for one, other in zip(found, expected, strict=True))
