"""Weights as the kernels read them: 16 rows side by side, in float32, bfloat16, 8 or 4 bits.

The layouts are said in native/model.h. A weight of 8 or 4 bits is scale * q + minimum; 32 columns of a row share scale and minimum,
which are float16. Without minimums q counts from 128 or 8, and a minimum is that many times the scale, downwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from danlu.base.errors import CheckpointError
from danlu.base.gguf_kinds import Array

Precision = Literal["float32", "bfloat16", "int8", "int4"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8", "int4")
LANES, GROUP = 16, 32
ZERO_POINT = {"int8": 128, "int4": 8}
SHRINKS = (1.0, 0.975, 0.95, 0.925, 0.9, 0.875, 0.85, 0.8)  # of a group's range: the least squared error wins
LARGEST_HALF = 65504.0
AT_ONCE = 2**17  # weights quantised in one go: what stays in a processor's cache


@dataclass(frozen=True, kw_only=True)
class Packed:
    """One matrix (rows, columns) in panels. Shapes: panels (ceil(rows / 16), bytes), uint8; bias (rows padded to 16) or None."""

    precision: Precision
    rows: int
    columns: int
    panels: Tensor
    minimums: bool = False
    bias: Tensor | None = None
    pairs: bool = False  # panels alternate between a gate and what it gates; rows and bias count both

    @property
    def num_bytes(self) -> int:
        """What one token reads of it."""
        return self.panels.numel()


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """Weights of 8 or 4 bits before they are laid out: numpy's, since a model is served from them without a page of torch's code.

    Shapes: q (N, G, 32) of 8 bits or (N, G, 16) of 4, uint8, a group's columns 0 to 15 in the low halves; scales and minimums (N, G),
    float16. G: groups of a row, K / 32 rounded up.
    """

    precision: Precision
    columns: int  # K
    q: Array
    scales: Array
    minimums: Array | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)"""
        return len(self.q), self.columns

    def dequantised(self) -> Tensor:
        """What the numbers stand for, float32 (N, K)."""
        scales = self.scales.astype(np.float32)
        low = -ZERO_POINT[self.precision] * scales if self.minimums is None else self.minimums.astype(np.float32)
        with np.errstate(all="ignore"):  # damage shows in the numbers
            numbers = _bytes(self) * scales[..., None] + low[..., None]
        return torch.from_numpy(numbers.reshape(len(numbers), -1)[:, : self.columns])


def _bytes(weight: Quantised) -> Array:
    """q with a byte for each: (N, G, 32)."""
    return weight.q if weight.precision == "int8" else np.concatenate((weight.q & 15, weight.q >> 4), axis=-1)


def quantise(weight: Tensor, precision: Precision) -> Quantised:
    """_quantise, some rows at a time: the steps between take many times the room."""
    parts = [_quantise(part, precision) for part in weight.split(max(1, AT_ONCE // weight.shape[1]))]
    minimums = None if parts[0].minimums is None else np.concatenate([part.minimums for part in parts if part.minimums is not None])
    q, scales = np.concatenate([part.q for part in parts]), np.concatenate([part.scales for part in parts])
    return replace(parts[0], q=q, scales=scales, minimums=minimums)


def _quantise(weight: Tensor, precision: Precision) -> Quantised:
    """The nearest weights of 8 bits (from 128), or 4 bits with minimums, for float32 (N, K); K is padded to 32 with zeros.

    Raises: CheckpointError if a scale does not fit float16.
    """
    columns = weight.shape[1]
    weight = F.pad(weight.float(), (0, -columns % GROUP))
    groups = weight.unflatten(1, (-1, GROUP))  # (N, G, 32)
    if precision == "int8":
        scales = _half(groups.abs().amax(-1) / 127)
        q = _nearest(groups, scales, None, 127, -127) + 128
        return Quantised(precision="int8", columns=columns, q=q.to(torch.uint8).numpy(), scales=scales.numpy())
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
    best: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
    for shrink in SHRINKS:
        scales, minimums = _half((high - low) * (shrink / 15)), _half(low * shrink)
        q = _nearest(groups, scales, minimums, 15, 0)
        error = (q * scales.float()[..., None] + minimums.float()[..., None] - groups).square().sum(-1)
        if best is None:
            best = (error, q, scales, minimums)
        else:
            better = error < best[0]
            pairs = zip((error, q, scales, minimums), best, strict=True)
            best = tuple(torch.where(better if new.dim() == 2 else better[..., None], new, old) for new, old in pairs)  # type: ignore[assignment]
    assert best is not None
    q = best[1].to(torch.uint8)
    halves = q[..., :16] | q[..., 16:] << 4
    return Quantised(precision="int4", columns=columns, q=halves.numpy(), scales=best[2].numpy(), minimums=best[3].numpy())


def _half(x: Tensor) -> Tensor:
    if (x.abs() > LARGEST_HALF).any():
        raise CheckpointError("a weight is too large for scales of 16 bits; load the model with --precision float32")
    return x.half()


def _nearest(groups: Tensor, scales: Tensor, minimums: Tensor | None, most: int, least: int) -> Tensor:
    scale = scales.float()[..., None]
    shifted = groups if minimums is None else groups - minimums.float()[..., None]
    # A scale of 0 stands for weights of 0; one that is not a number stays what it is, so that the damage shows.
    return torch.where(scale == 0, 0.0, shifted / scale).nan_to_num(0.0).round().clamp(least, most)


def from_gguf(blocks: Array, kind: str) -> Quantised | None:
    """The weights of a GGUF file exactly as they are: blocks (N, bytes), uint8, of kind Q4_0, Q4_1 or Q8_0; None for other kinds."""
    if kind not in GGUF_BLOCKS:
        return None
    precision, heading, size = GGUF_BLOCKS[kind]
    blocks = blocks.reshape(len(blocks), -1, heading + size)
    numbers = np.ascontiguousarray(blocks[..., :heading]).view(np.float16)
    q = blocks[..., heading:]
    return Quantised(
        precision=precision,
        columns=blocks.shape[1] * GROUP,
        q=q ^ 128 if precision == "int8" else q,  # signed bytes count from 128 here
        scales=numbers[..., 0],
        minimums=numbers[..., 1] if heading == 4 else None,
    )


GGUF_BLOCKS: dict[str, tuple[Precision, int, int]] = {"Q4_0": ("int4", 2, 16), "Q4_1": ("int4", 4, 16), "Q8_0": ("int8", 2, 32)}


def widened(weight: Quantised) -> Quantised:
    """Weights of 4 bits as the same weights of 8."""
    if weight.precision == "int8":
        return weight
    with np.errstate(all="ignore"):  # a scale too large for this shows in the numbers
        minimums = weight.scales * np.float16(-ZERO_POINT["int4"]) if weight.minimums is None else weight.minimums
    return replace(weight, precision="int8", q=_bytes(weight), minimums=minimums)


def pack(weight: Tensor | Quantised, precision: Precision, bias: Tensor | None = None) -> Packed:
    """Lay a matrix out for the kernels; float weights (N, K) are brought to `precision`, quantised ones stay as they are."""
    if isinstance(weight, Tensor):
        if precision in ("int8", "int4"):
            return pack(quantise(weight, precision), precision, bias)
        rows, columns = weight.shape
        padded = F.pad(weight.float(), (0, -columns % GROUP, 0, -rows % LANES))
        if precision == "float32":
            panels = padded.unflatten(0, (-1, LANES)).transpose(1, 2)  # (P, K, 16)
        else:
            panels = padded.bfloat16().unflatten(0, (-1, LANES)).unflatten(2, (-1, 2)).transpose(1, 2)  # (P, K / 2, 16, 2)
        kept = panels.contiguous().view(torch.uint8).flatten(1)
        return Packed(precision=precision, rows=rows, columns=columns, panels=kept, bias=_padded(bias))
    rows, groups = len(weight.q), weight.q.shape[1]
    words = np.ascontiguousarray(weight.q).view(np.uint32)  # (N, G, quads)
    size = words.shape[2] * LANES * 4
    numbers = [weight.scales] if weight.minimums is None else [weight.scales, weight.minimums]
    panels = np.zeros((-(-rows // LANES), groups, size + len(numbers) * LANES * 2), np.uint8)
    _lay(words, panels[..., :size].view(np.uint32).reshape(len(panels), groups, -1, LANES))
    for number, each in enumerate(numbers):
        place = panels[..., size + number * LANES * 2 :][..., : LANES * 2]
        _lay(each.view(np.uint16)[..., None], place.view(np.uint16)[:, :, None])
    return Packed(
        precision=weight.precision,
        rows=rows,
        columns=weight.columns,
        panels=torch.from_numpy(panels.reshape(len(panels), -1)),
        minimums=weight.minimums is not None,
        bias=_padded(bias),
    )


def _lay(rows: Array, panels: Array) -> None:
    """Rows side by side. Shapes: rows (N, G, X) -> panels (N / 16 rounded up, G, X, 16), zeros where there is no row."""
    whole, rest = divmod(len(rows), LANES)
    panels[:whole] = rows[: whole * LANES].reshape(whole, LANES, *rows.shape[1:]).transpose(0, 2, 3, 1)
    if rest:
        panels[whole, ..., :rest] = rows[whole * LANES :].transpose(1, 2, 0)


def _padded(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else F.pad(bias.detach().float(), (0, -len(bias) % LANES)).contiguous()


def stacked(parts: Sequence[Packed]) -> Packed:
    """Several matrices over the same input as one, rows one behind the other; all but the last fill their panels."""
    first = parts[0]
    biases = None
    if any(part.bias is not None for part in parts):
        biases = torch.cat([torch.zeros(len(part.panels) * LANES) if part.bias is None else part.bias for part in parts])
    panels = torch.from_numpy(np.concatenate([part.panels.numpy() for part in parts]))
    rows = sum(part.rows for part in parts)
    return Packed(precision=first.precision, rows=rows, columns=first.columns, panels=panels, minimums=first.minimums, bias=biases)


def paired(gate: Packed, up: Packed) -> Packed:
    """A gate's panels before those that it gates, one by one."""
    both = stacked([gate, up])
    panels = torch.from_numpy(np.stack((gate.panels.numpy(), up.panels.numpy()), axis=1).reshape(-1, gate.panels.shape[1]))
    bias = both.bias
    if bias is not None:
        bias = torch.stack(bias.chunk(2)).unflatten(1, (-1, LANES)).transpose(0, 1).flatten().contiguous()
    rows = len(panels) * LANES
    return Packed(precision=gate.precision, rows=rows, columns=gate.columns, panels=panels, minimums=gate.minimums, bias=bias, pairs=True)


def unpacked(packed: Packed) -> Tensor:
    """The weights that a packed matrix stands for, float32 (rows, columns): what tests and the twin compute with."""
    panels, columns = packed.panels, -(-packed.columns // GROUP) * GROUP
    if packed.precision == "float32":
        whole = panels.view(torch.float32).unflatten(1, (columns, LANES)).transpose(1, 2).flatten(0, 1)
    elif packed.precision == "bfloat16":
        whole = panels.view(torch.bfloat16).unflatten(1, (columns // 2, LANES, 2)).transpose(1, 2).flatten(2).flatten(0, 1).float()
    else:
        groups, quads = columns // GROUP, 8 if packed.precision == "int8" else 4
        size = quads * LANES * 4
        parts = panels.numpy().reshape(len(panels), groups, -1)
        words = np.ascontiguousarray(parts[..., :size]).view(np.uint32).reshape(len(panels), groups, quads, LANES)
        q = np.ascontiguousarray(words.transpose(0, 3, 1, 2)).view(np.uint8).reshape(-1, groups, quads * 4)  # (P x 16, G, 32 or 16)
        numbers = np.ascontiguousarray(parts[..., size:]).view(np.float16).reshape(len(panels), groups, -1, LANES)
        scales, *minimums = numbers.transpose(2, 0, 3, 1).reshape(-1, len(panels) * LANES, groups)
        found = Quantised(
            precision=packed.precision, columns=packed.columns, q=q, scales=scales, minimums=minimums[0] if minimums else None
        )
        whole = found.dequantised()
    if packed.pairs:
        whole = whole.unflatten(0, (-1, 2, LANES)).transpose(0, 1).flatten(0, 2)
    return whole[: packed.rows, : packed.columns]
