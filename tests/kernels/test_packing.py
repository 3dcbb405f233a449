from __future__ import annotations

from collections.abc import Callable, Sequence

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from danlu.base.errors import CheckpointError
from danlu.kernels.packing import (
    GROUP,
    LANES,
    PRECISIONS,
    Packed,
    Precision,
    Quantised,
    from_gguf,
    pack,
    paired,
    quantise,
    stacked,
    unpacked,
    widened,
)

SIZES = [(1, 1), (16, 32), (17, 33), (5, 64), (50, 40), (48, 31), (3, 130)]
NATURAL: tuple[Precision, ...] = ("int8", "int4")
KINDS = ["Q4_0", "Q4_1", "Q8_0"]
LEAST_HALF = 2**-25  # what float16 is wrong by near zero


def matrix(rows: int, columns: int, seed: int = 0, spread: float = 1.0) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(rows, columns) * spread


def blocks_of(weight: Tensor, kind: str) -> tuple[np.ndarray, Tensor]:
    """What the gguf package makes of a matrix: its bytes, and what it then reads from them."""
    quantization = gguf.GGMLQuantizationType[kind]
    packed = gguf.quantize(weight.numpy(), quantization)
    return packed, torch.from_numpy(gguf.dequantize(packed, quantization).copy())


@pytest.mark.parametrize(("rows", "columns"), SIZES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_laid_out_comes_back(precision: Precision, rows: int, columns: int) -> None:
    weight = matrix(rows, columns)
    packed = pack(weight, precision)
    assert (packed.precision, packed.rows, packed.columns) == (precision, rows, columns)
    assert packed.panels.dtype == torch.uint8 and len(packed.panels) == -(-rows // LANES) and packed.panels.is_contiguous()
    expected = {
        "float32": lambda: weight,
        "bfloat16": lambda: weight.bfloat16().float(),
        "int8": lambda: quantise(weight, "int8").dequantised(),
        "int4": lambda: quantise(weight, "int4").dequantised(),
    }[precision]()
    assert torch.equal(unpacked(packed), expected)


@pytest.mark.parametrize(("rows", "columns"), SIZES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_padding_is_zeros(precision: Precision, rows: int, columns: int) -> None:
    packed = pack(matrix(rows, columns), precision)
    full = -(-rows // LANES) * LANES, -(-columns // GROUP) * GROUP
    whole = unpacked(Packed(precision=precision, rows=full[0], columns=full[1], panels=packed.panels, minimums=packed.minimums))
    assert not whole[rows:].any()
    near = {"int8": 0.0, "int4": float(whole.abs().max()) / 15}.get(precision, 0.0)  # a zero among others of its group
    assert float(whole[:, columns:].abs().max() if full[1] > columns else 0) <= near


@pytest.mark.parametrize("rows", [1, 16, 21])
@pytest.mark.parametrize("kind", KINDS)
def test_a_gguf_files_weights_stay_exactly_as_they_are(kind: str, rows: int) -> None:
    blocks, expected = blocks_of(matrix(rows, 96, spread=0.1), kind)
    found = from_gguf(blocks, kind)
    assert found is not None and found.columns == 96
    assert torch.equal(found.dequantised(), expected)
    for wish in PRECISIONS:  # whatever is wished, they stay
        packed = pack(found, wish)
        assert packed.precision == found.precision and packed.minimums == (kind == "Q4_1")
        assert torch.equal(unpacked(packed), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_all_bytes_that_a_block_can_hold_are_understood(kind: str) -> None:
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][1]
    blocks = np.random.default_rng(0).integers(0, 256, (40, 3, size), dtype=np.uint8)
    heading = 4 if kind == "Q4_1" else 2
    blocks[..., :heading] = np.random.default_rng(1).normal(size=(40, 3, heading // 2)).astype(np.float16).view(np.uint8)
    flat = blocks.reshape(40, -1)
    found = from_gguf(flat, kind)
    assert found is not None
    expected = torch.from_numpy(gguf.dequantize(flat, gguf.GGMLQuantizationType[kind]).copy())
    assert torch.equal(unpacked(pack(found, "int4")), expected)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1"])
def test_four_bits_are_the_same_weights_in_eight(kind: str) -> None:
    blocks, expected = blocks_of(matrix(20, 64), kind)
    found = from_gguf(blocks, kind)
    assert found is not None
    wide = widened(found)
    assert wide.precision == "int8" and np.array_equal(wide.q, np.concatenate((found.q & 15, found.q >> 4), axis=-1))
    assert torch.allclose(wide.dequantised(), expected, rtol=0, atol=1e-6)
    assert torch.allclose(unpacked(pack(wide, "int8")), expected, rtol=0, atol=1e-6)
    eight = from_gguf(blocks_of(matrix(20, 64), "Q8_0")[0], "Q8_0")
    assert eight is not None and widened(eight) is eight


@pytest.mark.parametrize("kind", ["Q5_0", "F16", "Q6_K", "F32"])
def test_other_kinds_are_not_taken(kind: str) -> None:
    assert from_gguf(np.zeros((2, 88), np.uint8), kind) is None


def grouped(weight: Tensor) -> Tensor:
    return torch.nn.functional.pad(weight, (0, -weight.shape[1] % GROUP)).unflatten(1, (-1, GROUP))


@pytest.mark.parametrize("spread", [1e-3, 1.0, 300.0])
@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_no_weight_is_further_from_its_number_than_half_a_step(rows: int, columns: int, spread: float) -> None:
    weight = matrix(rows, columns, spread=spread)
    groups = grouped(weight)
    error = (grouped(quantise(weight, "int8").dequantised()) - groups).abs().amax(-1)
    assert (error <= groups.abs().amax(-1) * (0.5 / 127 + 2**-11) + 127 * LEAST_HALF).all()
    span = groups.amax(-1).clamp(min=0) - groups.amin(-1).clamp(max=0)
    error = (grouped(quantise(weight, "int4").dequantised()) - groups).abs()
    assert (error.amax(-1) <= span * (0.5 / 15 + 0.2)).all()  # the ends of a range may be given up for what lies between
    assert (error.square().mean(-1).sqrt() <= span * (0.5 / 15 + 2**-10) + 16 * LEAST_HALF).all()


def long_tails(*size: int) -> Tensor:
    return torch.randn(size) * torch.exp(0.5 * torch.randn(size))


def by_least_and_most(weight: Tensor) -> Tensor:
    """The plain way to 4 bits: a range from its least to its most."""
    groups = grouped(weight)
    low = groups.amin(-1, keepdim=True).clamp(max=0).half().float()
    scale = ((groups.amax(-1, keepdim=True).clamp(min=0) - low) / 15).half().float()
    return (((groups - low) / scale).round().clamp(0, 15) * scale + low).flatten(1)[:, : weight.shape[1]]


@pytest.mark.parametrize("make", [torch.randn, torch.rand, long_tails], ids=["normal", "positive", "tails"])
def test_four_bits_come_nearer_than_the_plain_ways(make: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    weight = make(64, 256)

    def error(found: Tensor) -> float:
        return float((found - weight).square().sum())

    found = error(quantise(weight, "int4").dequantised())
    assert found < 0.98 * error(by_least_and_most(weight))
    assert found <= error(blocks_of(weight, "Q4_0")[1])


@pytest.mark.parametrize("precision", NATURAL)
def test_rows_are_quantised_alike_alone_and_together(precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = matrix(37, 70)
    whole = quantise(weight, precision)
    monkeypatch.setattr("danlu.kernels.packing.AT_ONCE", 200)
    assert torch.equal(quantise(weight, precision).dequantised(), whole.dequantised())
    assert torch.equal(quantise(weight[36:], precision).dequantised(), whole.dequantised()[36:])


@pytest.mark.parametrize("precision", NATURAL)
def test_groups_of_zeros_and_of_one_number_are_exact(precision: Precision) -> None:
    weight = torch.zeros(3, 64)
    weight[1], weight[2, :32] = 0.5, -2.0
    assert torch.equal(quantise(weight, precision).dequantised()[0], weight[0])
    assert torch.allclose(quantise(weight, precision).dequantised(), weight, rtol=2**-10)


@pytest.mark.parametrize("precision", NATURAL)
@pytest.mark.parametrize("least", [1e-9, 1e-7, 1e-5])
def test_tiny_weights_stay_tiny(precision: Precision, least: float) -> None:
    weight = matrix(8, 64) * least
    found = quantise(weight, precision).dequantised()
    assert found.isfinite().all()
    assert (found - weight).abs().max() <= max(float(weight.abs().max()), 127 * LEAST_HALF)


@pytest.mark.parametrize(("precision", "most"), [("int8", 1e7), ("int4", 7e4), ("int8", float("inf")), ("int4", float("inf"))])
def test_weights_too_large_for_half_scales_are_refused(precision: Precision, most: float) -> None:
    weight = matrix(4, 32)
    weight[2, 5] = -most
    with pytest.raises(CheckpointError, match=r"too large.*float32"):
        pack(weight, precision)
    assert torch.equal(unpacked(pack(weight, "float32")), weight)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_weight_that_is_not_a_number_shows(precision: Precision) -> None:
    weight = matrix(20, 70)
    weight[17, 40] = float("nan")
    found = unpacked(pack(weight, precision))
    assert found[17, 40].isnan()
    assert found[17, :32].isfinite().all() and found[:17].isfinite().all() and found[18:].isfinite().all()


BIASES: list[Sequence[bool]] = [(False, False, False), (True, True, True), (True, False, True)]


@pytest.mark.parametrize("biased", BIASES, ids=str)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_stacked_matrices_stand_one_behind_the_other(precision: Precision, biased: Sequence[bool]) -> None:
    weights = [matrix(rows, 50, seed=rows) for rows in (32, 16, 21)]
    biases = [matrix(1, len(weight), seed=9)[0] if has else None for weight, has in zip(weights, biased, strict=True)]
    parts = [pack(weight, precision, bias) for weight, bias in zip(weights, biases, strict=True)]
    found = stacked(parts)
    assert (found.rows, found.columns, found.minimums) == (69, 50, precision == "int4")
    assert torch.equal(unpacked(found), torch.cat([unpacked(part) for part in parts]))
    if not any(biased):
        assert found.bias is None
        return
    expected = torch.cat([torch.zeros(len(w)) if bias is None else bias for w, bias in zip(weights, biases, strict=True)])
    assert found.bias is not None and len(found.bias) == 80
    assert torch.equal(found.bias[:69], expected) and not found.bias[69:].any()


@pytest.mark.parametrize("biased", [(False, False), (True, True), (True, False), (False, True)], ids=str)
@pytest.mark.parametrize("rows", [32, 41])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_gates_panels_alternate_with_what_they_gate(precision: Precision, rows: int, biased: Sequence[bool]) -> None:
    gate, up = (
        pack(matrix(rows, 50, seed=seed), precision, matrix(1, rows, seed=seed + 5)[0] if has else None) for seed, has in enumerate(biased)
    )
    both = paired(gate, up)
    full = -(-rows // LANES) * LANES
    assert both.pairs and both.rows == 2 * full
    for panel in range(full // LANES):
        assert torch.equal(both.panels[2 * panel], gate.panels[panel]) and torch.equal(both.panels[2 * panel + 1], up.panels[panel])
    found = unpacked(both)  # the gate's rows, then those of the other
    assert torch.equal(found[:rows], unpacked(gate)) and torch.equal(found[full : full + rows], unpacked(up))
    if not any(biased):
        assert both.bias is None
        return
    assert both.bias is not None
    laid = both.bias.unflatten(0, (-1, 2, LANES))
    for side, part in enumerate((gate, up)):
        assert torch.equal(laid[:, side].flatten(), torch.zeros(full) if part.bias is None else part.bias)


def test_num_bytes_are_what_a_token_reads() -> None:
    weight = matrix(64, 128)
    read = {precision: pack(weight, precision).num_bytes / weight.numel() for precision in PRECISIONS}
    assert read == {"float32": 4, "bfloat16": 2, "int8": 1 + 2 / 32, "int4": 0.5 + 4 / 32}


def test_quantised_weights_keep_their_padding_out() -> None:
    found = quantise(matrix(4, 40), "int8")
    assert isinstance(found, Quantised) and found.q.shape == (4, 2, 32) and found.scales.shape == (4, 2)
    assert found.dequantised().shape == (4, 40)
