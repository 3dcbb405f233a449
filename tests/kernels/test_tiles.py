"""Rows of prompts by tiles: bfloat16 products of the same weights, and the same bits whatever is computed beside them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from danlu.kernels import native
from danlu.kernels.packing import Packed, Precision, Quantised, pack, paired, quantise, unpacked, widened

from .stepping import LLAMA, SHAPES, Reader, by_module, decoder, prompts_of, readers_of, step, steps_of, table_of

TILED: dict[str, Any] = {name: library for name, library in native._built() if library.danlu_tiles()}
pytestmark = pytest.mark.skipif(not TILED, reason="this processor or this system has no tiles")
FEWER: tuple[Precision, ...] = ("bfloat16", "int8", "int4")


@pytest.fixture(params=TILED)
def build(request: pytest.FixtureRequest) -> Any:
    return TILED[request.param]


def from_eight(weight: Tensor) -> Quantised:
    """4 bits without minimums, as a file of Q4_0 has them."""
    found = quantise(weight, "int4")
    scale = float(weight.abs().amax() / 8)
    return replace(found, scales=np.full_like(found.scales, scale), minimums=None)


KINDS = {
    "bfloat16": lambda weight: weight,
    "int8": lambda weight: quantise(weight, "int8"),
    "int8 of 4 bits": lambda weight: widened(quantise(weight, "int4")),
    "int4": lambda weight: quantise(weight, "int4"),
    "int4 from 8": from_eight,
}


def packed(kind: str, weight: Tensor, bias: Tensor | None = None) -> Packed:
    made = KINDS[kind](weight)
    return pack(made, "bfloat16" if isinstance(made, Tensor) else made.precision, bias)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "columns"), [(16, 32), (576, 64), (61, 35), (100, 200)])
def test_a_product_is_that_of_numbers_rounded_to_bfloat16(build: Any, kind: str, rows: int, columns: int) -> None:
    torch.manual_seed(0)
    matrix = packed(kind, torch.randn(rows, columns) / 8, torch.randn(rows))
    for count in (1, 15, 16, 17, 32, 33, 530):
        x = torch.randn(count, columns)
        found = native.multiply(matrix, x, build, read=True)
        expected = x.bfloat16().double() @ unpacked(matrix).bfloat16().double().t() + matrix.bias[:rows]  # type: ignore[index]
        # A weight that lies between two of bfloat16 may go to either.
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=2**-8 * float(expected.abs().max()))


def test_gates_come_beside_what_they_gate(build: Any) -> None:
    torch.manual_seed(0)
    gate, up, x = torch.randn(40, 64), torch.randn(40, 64), torch.randn(20, 64)
    both = native.multiply(paired(packed("int8", gate), packed("int8", up)), x, build, read=True)
    apart = torch.stack([native.multiply(packed("int8", one), x, build, read=True) for one in (gate, up)])
    panels = both.unflatten(1, (-1, 2, 16))
    for side in range(2):
        assert torch.equal(panels[:, :, side].flatten(1)[:, :40], apart[side])


def test_a_number_that_is_none_stays_in_its_row(build: Any) -> None:
    x = torch.randn(40, 64)
    x[7, 3] = torch.nan
    found = native.multiply(packed("int4", torch.randn(48, 64)), x, build, read=True)
    assert found[7].isnan().all() and found.isfinite().all(-1).sum() == 39


@pytest.mark.parametrize("kind", ["int8", "int4", "int4 from 8"])
@pytest.mark.parametrize("bits", [0xFFFF, 0x7FFF, 0x7E00, 0x7C00])
def test_a_scale_that_is_no_number_is_seen(build: Any, kind: str, bits: int) -> None:
    matrix = packed(kind, torch.randn(16, 32))
    width = 512 if kind == "int8" else 256
    matrix.panels[0, width : width + 2] = torch.tensor([bits & 255, bits >> 8], dtype=torch.uint8)  # of the first weight's group
    found = native.multiply(matrix, torch.randn(20, 32), build, read=True)
    assert not found[:, 0].isfinite().any() and found[:, 1:].isfinite().all()


def read_rows(steps: Any, said: list[tuple[Reader, int]], read: list[tuple[Reader, int]]) -> list[Tensor]:
    """One step of answers' rows, then prompts': logits of each part."""
    found = step(steps, said + read, prompts=len(read))
    return list(found.logits.split([count for _, count in said + read]))


@pytest.mark.parametrize("precision", FEWER)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_prompt_is_no_farther_from_the_module_than_an_answer(build: Any, shape: str, precision: Precision) -> None:
    module = decoder(SHAPES[shape])
    (ids,) = prompts_of(module.config, [77])
    steps = steps_of(table_of(module, precision), build)
    assert steps.tiles
    (found,) = read_rows(steps, [], [(readers_of([ids], 12)[0], 77)])
    (rounded,) = read_rows(steps, [(readers_of([ids], 12)[0], 77)], [])
    for name, weight in module.named_parameters():
        if weight.dim() == 2:
            weight.copy_(unpacked(pack(weight, "int8" if precision == "int4" and name == "embedding.weight" else precision)))
    expected = by_module(module, ids)
    apart, otherwise = (float((one - expected).abs().mean() / expected.abs().mean()) for one in (found, rounded))
    assert apart < 1.03 * otherwise
    assert precision == "bfloat16" or not torch.equal(found, rounded)
    steps.close()


@pytest.mark.parametrize("precision", FEWER)
@pytest.mark.parametrize("shape", ["llama", "gpt2", "odd-sizes"])
def test_what_is_beside_a_prompt_changes_no_bit_of_it(build: Any, shape: str, precision: Precision) -> None:
    table = table_of(decoder(SHAPES[shape]), precision)
    prompts = prompts_of(table.config, [70, 64, 33, 3, 1])
    for threads in (1, 3):
        steps = steps_of(table, build, threads)
        alone = [read_rows(steps, [], [(reader, len(reader.ids))])[0] for reader in readers_of(prompts[:3], 60)]
        answers = [read_rows(steps, [(reader, len(reader.ids))], [])[0] for reader in readers_of(prompts[3:], 60)]
        readers = readers_of(prompts, 60, seed=1)
        together = read_rows(steps, [(readers[3], 3), (readers[4], 1)], [(reader, len(reader.ids)) for reader in readers[:3]])
        assert all(map(torch.equal, together, answers + alone))
        reader = readers_of(prompts[:1], 60, seed=2)[0]
        parts = [read_rows(steps, [], [(reader, count)])[0] for count in (7, 40, 1, 22)]
        assert torch.equal(torch.cat(parts), alone[0])
        steps.close()


def test_float32_is_left_to_vectors(build: Any) -> None:
    module = decoder(LLAMA)
    steps = steps_of(table_of(module, "float32"), build)
    (ids,) = prompts_of(module.config, [50])
    (found,) = read_rows(steps, [], [(readers_of([ids], 9)[0], 50)])
    (expected,) = read_rows(steps, [(readers_of([ids], 9)[0], 50)], [])
    assert torch.equal(found, expected)
    steps.close()
