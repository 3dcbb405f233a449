"""A decoder as a table of layers, made from its configuration and its packed weights: what a step walks through, whatever the family."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from danlu.base.device import lone_threads
from danlu.base.memory import zeros
from danlu.kernels.packing import Packed, Precision, Quantised, pack, paired, stacked
from danlu.models.gpt import GPTConfig
from danlu.nn.position import RotaryConfig, turns

LANES = 16
ALIGNED = 64  # bytes

Weight = Callable[[str], Tensor | Quantised | None]  # an own parameter's name to its numbers; None if the model has none of that name


@dataclass(frozen=True, kw_only=True)
class Norm:
    """x / sqrt(mean(x^2) + epsilon) * weight; with a bias, x less its mean first. Shapes: (D,)."""

    weight: Tensor
    bias: Tensor | None
    epsilon: float


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One block: matrices over one input are one matrix."""

    attention_norm: Norm
    query_norm: Norm | None
    key_norm: Norm | None
    query_key_value: Packed
    output: Packed
    feedforward_norm: Norm
    up: Packed
    down: Packed


class Turning:
    """Cosines and sines of rotary positions, computed when a step first comes so far: contexts are long, and most texts are short.

    Shapes: cosines and sines (S, E / 2), float32.
    """

    STRETCH = 1024  # positions computed at once

    def __init__(self, rotary: RotaryConfig, head_dim: int, context_length: int) -> None:
        self.rotary, self.head_dim, self.filled = rotary, head_dim, 0
        shape = (context_length, head_dim // 2)
        self.cosines, self.sines = (zeros(4 * math.prod(shape), huge=False).view(torch.float32).view(shape) for _ in range(2))

    def reach(self, count: int) -> None:
        """Fill the tables for the first `count` positions, at least."""
        start, end = self.filled, min(count + -count % self.STRETCH, len(self.cosines))
        if count > start:
            for table, found in zip((self.cosines, self.sines), turns(self.rotary, self.head_dim, start, end), strict=True):
                table.numpy()[start:end] = found.numpy()
            self.filled = end


@dataclass(frozen=True, kw_only=True)
class Table:
    """All that a step needs to know. Shapes: positions (S, D)."""

    config: GPTConfig
    precision: Precision
    layers: tuple[Layer, ...]
    norm: Norm
    embedding: Packed
    head: Packed
    turning: Turning | None
    positions: Tensor | None

    @property
    def score_scale(self) -> float:
        """What queries are multiplied by."""
        return 1 / math.sqrt(self.config.head_dim) if self.config.attention.scaled else 1.0

    @property
    def num_bytes(self) -> int:
        """Of all packed weights; a tied head is counted once."""
        matrices = {id(m): m.num_bytes for layer in self.layers for m in (layer.query_key_value, layer.output, layer.up, layer.down)}
        return sum((matrices | {id(self.embedding): self.embedding.num_bytes, id(self.head): self.head.num_bytes}).values())


def can_walk(config: object) -> bool:
    """Whether a step knows how to compute a model of this configuration."""
    return isinstance(config, GPTConfig) and config.head_dim % LANES == 0


def make_table(config: GPTConfig, weight: Weight, precision: Precision) -> Table:
    """The table of a decoder, its weights in `precision`; what comes quantised stays as it is. Scores are never under 8 bits."""

    def norm(name: str) -> Norm | None:
        found = weight(f"{name}.weight")
        return None if found is None else Norm(weight=_plain(found), bias=_bias(weight, name), epsilon=config.norm.epsilon)

    def needed(name: str) -> Norm:
        found = norm(name)
        assert found is not None
        return found

    def matrix(name: str, least: Precision = precision) -> Packed:
        found = weight(f"{name}.weight")
        assert found is not None, name
        return pack(found, least, _bias(weight, name))

    def together(*names: str) -> list[Packed]:
        parts = [matrix(name) for name in names]
        if len({(part.precision, part.minimums) for part in parts}) > 1:  # a file that keeps some of them otherwise
            parts = [pack(_plain(weight(f"{name}.weight")), "int8", part.bias) for name, part in zip(names, parts, strict=True)]
        return parts

    def layer(block: str) -> Layer:
        up = paired(*together(f"{block}.feedforward.gate", f"{block}.feedforward.up")) if config.feedforward.gated else None
        return Layer(
            attention_norm=needed(f"{block}.attention_norm"),
            query_norm=norm(f"{block}.attention.query_norm"),
            key_norm=norm(f"{block}.attention.key_norm"),
            query_key_value=stacked(together(*(f"{block}.attention.{part}" for part in ("query", "key", "value")))),
            output=matrix(f"{block}.attention.output"),
            feedforward_norm=needed(f"{block}.feedforward_norm"),
            up=up or matrix(f"{block}.feedforward.up"),
            down=matrix(f"{block}.feedforward.down"),
        )

    scores: Precision = "int8" if precision == "int4" else precision
    shelf = Shelf()
    head = shelf.moved(matrix("embedding" if config.tied else "head", scores))  # first, while nothing else takes room
    embedding = head if config.tied else shelf.moved(matrix("embedding", scores))
    with lone_threads() as threads:  # which do not wait for each other at the end of every small operation
        layers = [shelf.layer(one) for one in threads.map(layer, [f"blocks.{i}" for i in range(config.num_layers)])]
    positions = weight("position.weight")
    return Table(
        config=config,
        precision=precision,
        layers=tuple(layers),
        norm=needed("norm"),
        embedding=embedding,
        head=head,
        turning=None if config.rotary is None else Turning(config.rotary, config.head_dim, config.context_length),
        positions=None if positions is None else _plain(positions),
    )


class Shelf:
    """Stretches of huge pages into which matrices are moved, layer behind layer as a step reads them; what they leave is freed."""

    SIZE = 2**28  # bytes of one stretch; what nothing is moved to takes no memory

    def __init__(self) -> None:
        self.room, self.begin = zeros(0, huge=True), 0

    def moved(self, matrix: Packed) -> Packed:
        """The same matrix, here."""
        if self.begin + matrix.num_bytes > len(self.room):
            self.room, self.begin = zeros(max(self.SIZE, matrix.num_bytes), huge=True), 0
        place = self.room[self.begin : self.begin + matrix.num_bytes].view(matrix.panels.shape)
        self.begin += matrix.num_bytes + -matrix.num_bytes % ALIGNED
        place.numpy()[:] = matrix.panels.numpy()
        return replace(matrix, panels=place)

    def layer(self, layer: Layer) -> Layer:
        """The same layer, its matrices here."""
        return replace(
            layer,
            query_key_value=self.moved(layer.query_key_value),
            output=self.moved(layer.output),
            up=self.moved(layer.up),
            down=self.moved(layer.down),
        )


def weights_of(module: torch.nn.Module) -> Weight:
    """The weights of a module in memory."""
    known = dict(module.named_parameters())
    return lambda name: known[name].detach().cpu() if name in known else None


def _bias(weight: Weight, name: str) -> Tensor | None:
    found = weight(f"{name}.bias")
    return None if found is None else _plain(found)


def _plain(found: Tensor | Quantised | None) -> Tensor:
    assert found is not None
    return found.dequantised() if isinstance(found, Quantised) else found.detach().float().contiguous()
