"""Every build of the kernels says what their twin in PyTorch says, and in float32 what the module says."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from danlu.base import builds
from danlu.base.errors import ConfigError
from danlu.kernels import native
from danlu.kernels.packing import PRECISIONS, Packed, Precision, Quantised, pack, paired, quantise, stacked, unpacked, widened
from danlu.kernels.twin import product
from tests.models.shapes import distance

from .stepping import LLAMA, SHAPES, by_module, decoder, prompts_of, read, readers_of, step, steps_of, table_of

BUILDS: dict[str, Any] = dict(native._built())
pytestmark = pytest.mark.skipif(not BUILDS, reason="no kernels were built here")


def without_minimums(weight: Tensor) -> Quantised:
    """4 bits from 8 downwards, as a file of Q4_0 has them."""
    found = quantise(weight, "int4")
    scale = float(weight.abs().amax() / 8)
    return replace(found, scales=np.full_like(found.scales, scale), minimums=None)


# All kinds of matrices that kernels know.
KINDS: dict[str, Callable[[Tensor, Tensor | None], Packed]] = {
    "float32": lambda weight, bias: pack(weight, "float32", bias),
    "bfloat16": lambda weight, bias: pack(weight, "bfloat16", bias),
    "int8": lambda weight, bias: pack(weight, "int8", bias),
    "int8-minimums": lambda weight, bias: pack(widened(quantise(weight, "int4")), "int8", bias),
    "int4": lambda weight, bias: pack(without_minimums(weight), "int4", bias),
    "int4-minimums": lambda weight, bias: pack(weight, "int4", bias),
}
PRODUCTS = [(1, 16, 32), (2, 1, 1), (3, 17, 33), (7, 50, 40), (16, 5, 64), (37, 40, 130), (150, 33, 96)]


@pytest.fixture(params=BUILDS)
def build(request: pytest.FixtureRequest) -> Any:
    return BUILDS[request.param]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("biased", [False, True])
def test_products_are_the_twins(build: Any, kind: str, biased: bool) -> None:
    for rows, height, width in PRODUCTS:
        x, weight = numbers(rows, width), numbers(height, width)
        packed = KINDS[kind](weight, numbers(height) if biased else None)
        found, expected = native.multiply(packed, x, build), product(x, packed, unpacked(packed))
        assert distance(found, expected) < (2e-5 if kind == "bfloat16" else 2e-6), (rows, height, width)


def test_products_of_stacked_and_paired_matrices_are_those_of_each(build: Any, kind: str) -> None:
    x = numbers(5, 70)
    parts = [KINDS[kind](numbers(height, 70), bias) for height, bias in ((32, numbers(32)), (16, None), (21, numbers(21)))]
    expected = torch.cat([native.multiply(part, x, build) for part in parts], dim=1)
    assert torch.equal(native.multiply(stacked(parts), x, build), expected)
    gate, up = (KINDS[kind](numbers(40 + seed, 70)[:40], numbers(40)) for seed in range(2))
    both = native.multiply(paired(gate, up), x, build).unflatten(1, (-1, 2, 16))
    for side, part in enumerate((gate, up)):
        assert torch.equal(both[:, :, side].flatten(1)[:, :40], native.multiply(part, x, build))


def test_a_row_alone_gives_the_bits_that_it_gives_among_others(build: Any, kind: str) -> None:
    x, packed = numbers(39, 90), KINDS[kind](numbers(35, 90), numbers(35))
    together = native.multiply(packed, x, build)
    for count in (1, 2, 3, 5, 8, 15, 16, 23):
        apart = torch.cat([native.multiply(packed, some, build) for some in x.split(count)])
        assert torch.equal(apart, together), count


def test_large_small_and_no_numbers_are_multiplied(build: Any, kind: str) -> None:
    packed = KINDS[kind](numbers(20, 64), None)
    for scale in (0.0, 1e-42, 1e-36, 1e-20, 1e20):
        x = numbers(3, 64) * scale
        x[1, :32] = 0
        found, expected = native.multiply(packed, x, build), product(x, packed, unpacked(packed))
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()) + 1e-35), scale


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_a_number_shows_in_its_own_row_alone(build: Any, kind: str, bad: float) -> None:
    packed, x = KINDS[kind](numbers(20, 70), None), numbers(9, 70)
    clean = native.multiply(packed, x, build)
    for column in (0, 15, 31, 40, 69):
        damaged = x.clone()
        damaged[4, column] = bad
        found = native.multiply(packed, damaged, build)
        assert not found[4].isfinite().any()
        assert torch.equal(found[:4], clean[:4]) and torch.equal(found[5:], clean[5:])


@pytest.mark.parametrize("shape", SHAPES)
def test_steps_say_what_the_module_says(build: Any, shape: str) -> None:
    """Prompts of several lengths in chunks, over pages in no order that others have used before."""
    module = decoder(SHAPES[shape])
    steps = steps_of(table_of(module, "float32"), build)
    prompts = prompts_of(module.config, [1, 16, 40, 70, 17])
    read(steps, readers_of(prompts[::-1], 30, seed=1))
    for ids, found in zip(prompts, read(steps, readers_of(prompts, 30, seed=2), chunk=13), strict=True):
        assert distance(found, by_module(module, ids)) < 1e-5
    steps.close()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_steps_are_the_twins(build: Any, shape: str, precision: Precision) -> None:
    """But for numbers halfway between two others, which one rounds up and the other down: in a layer, most rows have none."""
    table = table_of(decoder(replace(SHAPES[shape], num_layers=1 if precision in ("int8", "int4") else 2)), precision)
    prompts = prompts_of(table.config, [1, 2, 3, 1, 18, 2, 4, 33, 2, 3, 1, 2, 1])
    steps, twin = steps_of(table, build), steps_of(table, None)
    found = torch.cat(read(steps, readers_of(prompts, 20), chunk=20))
    expected = torch.cat(read(twin, readers_of(prompts, 20, seed=1), chunk=30))
    apart = sorted(map(distance, found, expected))
    assert apart[len(apart) * 3 // 4] < 1e-5 and apart[-1] < (1e-5 if precision == "float32" else 5e-2)
    steps.close()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_steps_come_near_a_module_of_the_same_weights(build: Any, precision: Precision) -> None:
    """What is lost beyond the weights is lost by rounding activations, keys and values."""
    module = decoder(LLAMA)
    (ids,) = prompts_of(module.config, [60])
    steps = steps_of(table_of(module, precision), build)
    (found,) = read(steps, readers_of([ids], 5))
    for name, weight in module.named_parameters():
        if weight.dim() == 2:
            weight.copy_(unpacked(pack(weight, "int8" if precision == "int4" and name == "embedding.weight" else precision)))
    expected = by_module(module, ids)
    mean = float((found - expected).abs().mean() / expected.abs().mean())
    assert mean < {"float32": 1e-5, "bfloat16": 0.01}.get(precision, 0.03)
    steps.close()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", ["llama", "fourteen-heads-for-one", "gpt2", "odd-sizes"])
def test_sequences_in_one_step_give_the_bits_that_each_gives_alone(build: Any, shape: str, precision: Precision) -> None:
    table = table_of(decoder(SHAPES[shape]), precision)
    prompts = prompts_of(table.config, [5, 80, 1, 33, 16, 2, 47, 64, 3, 19])
    steps, other = steps_of(table, build), steps_of(table, build)
    together = read(steps, readers_of(prompts, 60))
    assert all(torch.equal(read(other, readers_of([ids], 60, seed=1))[0], found) for ids, found in zip(prompts, together, strict=True))
    chunked = read(steps, readers_of(prompts, 60, seed=2), chunk=3)
    assert all(map(torch.equal, chunked, together))
    steps.close()
    other.close()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_any_number_of_threads_gives_the_same_bits(build: Any, precision: Precision) -> None:
    module = decoder(replace(LLAMA, context_length=400))
    table, found = table_of(module, precision), []
    prompts = prompts_of(module.config, [300, 4, 1])
    for threads in (1, 2, 5):
        steps, readers = steps_of(table, build, threads), readers_of(prompts, 40)
        found.append([step(steps, [(readers[0], 290), (readers[1], 3)]), step(steps, [(readers[1], 1), (readers[2], 1), (readers[0], 10)])])
        steps.close()
    for others in found[1:]:
        for one, first in zip(others, found[0], strict=True):
            assert torch.equal(one.logits, first.logits) and one.likeliest == first.likeliest
    expected = by_module(module, prompts[0])
    assert precision != "float32" or distance(torch.cat((found[0][0].logits[:290], found[0][1].logits[2:])), expected) < 1e-5


@pytest.mark.parametrize("precision", PRECISIONS)
def test_logits_of_some_rows_are_those_of_all(build: Any, precision: Precision) -> None:
    table = table_of(decoder(LLAMA), precision)
    prompts = prompts_of(table.config, [20, 1, 30])
    steps = steps_of(table, build)
    counts = [20, 1, 30]
    whole = step(steps, list(zip(readers_of(prompts, 20), counts, strict=True)))
    for wanted in ([], [0], [19, 20, 50], [3, 4, 49], list(range(7, 51))):
        found = step(steps, list(zip(readers_of(prompts, 20, seed=3), counts, strict=True)), wanted)
        assert torch.equal(found.logits, whole.logits[wanted])
        assert found.likeliest == [whole.likeliest[row] for row in wanted] and found.finite == [1] * len(wanted)
    steps.close()


@pytest.mark.parametrize("vocabulary", [96, 97, 111, 5])
def test_the_likeliest_is_the_first_of_the_largest(build: Any, vocabulary: int) -> None:
    module = decoder(replace(LLAMA, vocabulary_size=vocabulary, tied=False))
    (ids,) = prompts_of(module.config, [50])
    assert module.head is not None
    half = (vocabulary + 1) // 2
    for twice in (False, True):
        if twice:
            module.head.weight[half:] = module.head.weight[: vocabulary - half].clone()
        steps = steps_of(table_of(module, "float32"), build)
        found = step(steps, [(readers_of([ids], 5)[0], 50)])
        assert found.likeliest == found.logits.argmax(-1).tolist()
        assert not twice or max(found.likeliest) < half
        steps.close()


DAMAGED = ["blocks.0.attention.query", "blocks.0.attention.value", "blocks.1.attention.output", "blocks.0.feedforward.gate", "norm", "head"]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_weights_show_in_every_row(build: Any, name: str, precision: Precision) -> None:
    module = decoder(replace(LLAMA, tied=False))
    weight = module.get_parameter(f"{name}.weight")
    weight[(3, 5) if weight.dim() == 2 else 3] = float("nan")
    steps = steps_of(table_of(module, precision), build)
    prompts = prompts_of(module.config, [1, 20])
    found = step(steps, list(zip(readers_of(prompts, 9), (1, 20), strict=True)))
    assert found.finite == [0] * 21
    assert all(0 <= token < module.config.vocabulary_size for token in found.likeliest)
    steps.close()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_damaged_token_hurts_nobody_else(build: Any, precision: Precision) -> None:
    module = decoder(replace(LLAMA, tied=False))
    prompts = [[(token + 1) % 90 for token in ids] for ids in prompts_of(replace(module.config, vocabulary_size=89), [20, 12, 35])]
    steps = steps_of(table_of(module, precision), build)
    expected = read(steps, readers_of(prompts, 9))
    steps.close()
    module.embedding.weight[95, 7] = float("nan")
    steps = steps_of(table_of(module, precision), build)
    readers = readers_of([[*prompts[0][:9], 95, *prompts[0][10:]], *prompts[1:]], 9)
    found = step(steps, list(zip(readers, (20, 12, 35), strict=True)))
    assert found.finite[9:] == [0] * 11 + [1] * 47
    assert torch.equal(found.logits[20:], torch.cat(expected[1:]))
    steps.close()


def test_builds_of_another_version_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Longer(ctypes.Structure):
        _fields_ = [*native.CStep._fields_, ("more", ctypes.c_int64)]

    file = Path(next(iter(BUILDS.values()))._name)
    assert native._open(file) is not None
    monkeypatch.setattr(native, "CStep", Longer)
    with pytest.raises(ConfigError, match=f"{file.name} was built from another version"):
        native._open(file)


def test_the_fastest_build_is_found() -> None:
    found = native.found()
    assert found is not None and found[0] == next(iter(BUILDS))
    assert [name for name in builds.BUILDS if name in BUILDS] == list(BUILDS)
