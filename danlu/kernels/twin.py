"""The kernels' twin in PyTorch: it says what they compute, stands in where they were not built, and is what tests compare them with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from danlu.kernels.packing import GROUP, Packed, Precision, unpacked
from danlu.kernels.steps import CACHES, PAGE, WIDTHS, Found, Steps, StepWork, key_bytes
from danlu.kernels.table import Norm, Table
from danlu.nn.feedforward import ACTIVATIONS

FINE = 16  # columns that share an activation's scale


def rounded(x: Tensor, precision: Precision) -> Tensor:
    """Activations as a product of this precision reads them: bfloat16, or whole numbers to 127 times a scale for each 16."""
    if precision == "float32":
        return x
    if precision == "bfloat16":
        return x.bfloat16().float()
    whole, scales = quantised(F.pad(x, (0, -x.shape[-1] % GROUP)), FINE)
    return (whole * scales.repeat_interleave(FINE, -1))[..., : x.shape[-1]]


def quantised(x: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Whole numbers to 127 and a scale for each `group` of the last axis: (..., E) -> (..., E), (..., E / group)."""
    groups = x.unflatten(-1, (-1, group))
    most = groups.abs().amax(-1, keepdim=True)
    return (groups * (127 / most.clamp(min=1e-30))).round().flatten(-2), most[..., 0] / 127


def product(x: Tensor, packed: Packed, weight: Tensor) -> Tensor:
    """x W^T + bias, with both rounded as the kernel has them. Shapes: (rows, K) -> (rows, N); `weight` is the matrix unpacked."""
    y = rounded(x, packed.precision) @ weight.t()
    return y if packed.bias is None else y + _bias(packed)


def _bias(packed: Packed) -> Tensor:
    assert packed.bias is not None
    bias = packed.bias.unflatten(0, (-1, 2, 16)).transpose(0, 1).flatten() if packed.pairs else packed.bias
    return bias[: packed.rows]


class TwinSteps(Steps):
    """Steps by PyTorch's operations, over the same cache."""

    def __init__(self, table: Table, cache: Tensor) -> None:
        self.table, self.cache = table, cache
        self.weights: dict[int, Tensor] = {}

    def step(self, work: StepWork) -> Found:
        table, config = self.table, self.table.config
        positions = torch.tensor(work.positions)
        x = self._weight(table.embedding)[torch.tensor(work.tokens)]
        if table.positions is not None:
            x = x + table.positions[positions]
        queries, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        for index, layer in enumerate(table.layers):
            heads = self._product(normalised(x, layer.attention_norm), layer.query_key_value)
            query, key, value = (part.unflatten(1, (-1, config.head_dim)) for part in heads.split([queries, kv, kv], dim=1))
            query, key = self._turned(query, layer.query_norm, positions), self._turned(key, layer.key_norm, positions)
            self._keep(index, key, value, work)
            mixed = self._mixed(index, query * table.score_scale, work)
            x = x + self._product(mixed, layer.output)
            up = self._product(normalised(x, layer.feedforward_norm), layer.up)
            bend = ACTIVATIONS[config.feedforward.activation]
            if layer.up.pairs:
                gate, up = (part[:, : config.feedforward.hidden_width] for part in up.chunk(2, dim=1))
                up = bend(gate) * up
            else:
                up = bend(up)
            x = x + self._product(up, layer.down)
        logits = self._product(normalised(x[torch.tensor(work.wanted, dtype=torch.long)], table.norm), table.head)
        return Found(logits=logits, likeliest=logits.argmax(-1).tolist(), finite=logits.isfinite().all(-1).int().tolist())

    def _weight(self, packed: Packed) -> Tensor:
        if id(packed) not in self.weights:
            self.weights[id(packed)] = unpacked(packed)
        return self.weights[id(packed)]

    def _product(self, x: Tensor, packed: Packed) -> Tensor:
        return product(x, packed, self._weight(packed))

    def _turned(self, heads: Tensor, norm: Norm | None, positions: Tensor) -> Tensor:
        """Queries or keys (rows, heads, E), normalised where the model does, turned to their positions."""
        heads = heads if norm is None else normalised(heads, norm)
        if self.table.turning is None:
            return heads
        self.table.turning.reach(int(positions.max()) + 1)
        cosines, sines = self.table.turning.cosines[positions, None], self.table.turning.sines[positions, None]
        first, second = heads.chunk(2, dim=-1)
        return torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)

    @property
    def _kind(self) -> Precision:
        return CACHES[self.table.precision]

    def _views(self, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One layer's keys (kv heads, pages, E / n, 16, n) and values (kv heads, pages, 16 / n, E, n) as the cache has them, and
        in 8 bits (else empty) the keys' scales (kv heads, pages, E / 16, 16) and the values' (kv heads, pages, 16)."""
        dim, kind = self.table.config.head_dim, self._kind
        n, split, numbers = {"float32": 1, "bfloat16": 2, "int8": 4}[kind], key_bytes(kind, dim), PAGE * dim * WIDTHS[kind]
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.uint8}[kind]
        layer = self.cache[index]
        keys, values = (part[..., :numbers].view(dtype) for part in (layer[..., :split], layer[..., split:]))
        scales = [part[..., numbers:].view(torch.float32) for part in (layer[..., :split], layer[..., split:])]
        return (
            keys.unflatten(-1, (dim // n, PAGE, n)),
            values.unflatten(-1, (PAGE // n, dim, n)),
            scales[0].unflatten(-1, (-1, PAGE)) if kind == "int8" else scales[0],
            scales[1],
        )

    def _keep(self, index: int, key: Tensor, value: Tensor, work: StepWork) -> None:
        keys, values, key_scales, value_scales = self._views(index)
        n, row = keys.shape[-1], 0
        for count, first in zip(work.part_rows, work.part_first_page, strict=True):
            for r in range(row, row + count):
                page, slot = work.pages[first + work.positions[r] // PAGE], work.positions[r] % PAGE
                k, v = key[r], value[r]
                if n == 4:
                    k, key_scales[:, page, :, slot] = quantised(k, FINE)
                    v, scale = quantised(v, v.shape[-1])
                    value_scales[:, page, slot] = scale[:, 0]
                    k, v = k + 128, v % 256  # bytes count from 128 in keys and are signed in values
                keys[:, page, :, slot] = k.unflatten(-1, (-1, n)).to(keys.dtype)
                values[:, page, slot // n, :, slot % n] = v.to(values.dtype)
            row += count

    def _asked(self, query: Tensor) -> Tensor:
        if self._kind != "int8":
            return rounded(query, self._kind)
        whole, scales = quantised(query, FINE)
        return whole * scales.repeat_interleave(FINE, -1)

    def _mixed(self, index: int, query: Tensor, work: StepWork) -> Tensor:
        keys, values, key_scales, value_scales = self._views(index)
        mixed, row = [], 0
        for count, first in zip(work.part_rows, work.part_first_page, strict=True):
            rows = slice(row, row + count)
            seen = max(work.positions[rows]) + 1
            pages = list(work.pages[first : first + -(-seen // PAGE)])
            key = keys[:, pages].transpose(2, 3).flatten(3).flatten(1, 2).float()  # (kv heads, S, E)
            value = values[:, pages].transpose(3, 4).flatten(2, 3).flatten(1, 2).float()
            q = self._asked(query[rows]).unflatten(1, (len(key), -1))  # (rows, kv heads, heads of each, E)
            if self._kind == "int8":
                scales = key_scales[:, pages].transpose(2, 3).flatten(1, 2)  # (kv heads, S, E / 16)
                key = (key - 128) * scales.repeat_interleave(FINE, -1)
                value = (value + 128) % 256 - 128
            visible = torch.arange(key.shape[1]) <= torch.tensor(work.positions[rows])[:, None]
            scores = torch.einsum("tkge,kse->tkgs", q, key).masked_fill(~visible[:, None, None], -torch.inf)
            weights = (scores - scores.amax(-1, keepdim=True)).exp()
            if self._kind == "bfloat16":
                weights = weights.bfloat16().float()
            total = weights.sum(-1, keepdim=True)
            if self._kind == "int8":
                whole, scale = quantised(weights * value_scales[:, pages].flatten(1)[:, None], FINE)
                weights = whole * scale.repeat_interleave(FINE, -1)
            mixed.append((torch.einsum("tkgs,kse->tkge", weights, value) / total).flatten(1))
            row += count
        return torch.cat(mixed)


def normalised(x: Tensor, norm: Norm) -> Tensor:
    """x over its last axis, as the norm says."""
    if norm.bias is None:
        return F.rms_norm(x, x.shape[-1:], norm.weight, norm.epsilon)
    return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.epsilon)
