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
from danlu.nn.position import Rotary

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


@dataclass(frozen=True, kw_only=True)
class Table:
    """All that a step needs to know. Shapes: cosines and sines (S, E / 2), positions (S, D)."""

    config: GPTConfig
    precision: Precision
    layers: tuple[Layer, ...]
    norm: Norm
    embedding: Packed
    head: Packed
    cosines: Tensor | None
    sines: Tensor | None
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

    with lone_threads() as threads:  # which do not wait for each other at the end of every small operation
        layers = list(threads.map(layer, [f"blocks.{i}" for i in range(config.num_layers)]))
    scores: Precision = "int8" if precision == "int4" else precision
    embedding = matrix("embedding", scores)
    head = embedding if config.tied else matrix("head", scores)
    embedding, head = _side_by_side(layers, embedding, head)
    rotary = None if config.rotary is None else Rotary(config.rotary, config.head_dim, config.context_length)
    half = config.head_dim // 2
    positions = weight("position.weight")
    return Table(
        config=config,
        precision=precision,
        layers=tuple(layers),
        norm=needed("norm"),
        embedding=embedding,
        head=head,
        cosines=None if rotary is None else rotary.cosines[:, :half].contiguous(),
        sines=None if rotary is None else rotary.sines[:, :half].contiguous(),
        positions=None if positions is None else _plain(positions),
    )


def _side_by_side(layers: list[Layer], embedding: Packed, head: Packed) -> tuple[Packed, Packed]:
    """Move all matrices into one stretch of huge pages, in the order in which a step reads them; each is freed when it has been moved."""
    matrices = [one for layer in layers for one in (layer.query_key_value, layer.output, layer.up, layer.down)]
    matrices += [head] if embedding is head else [head, embedding]
    room, begin = zeros(sum(one.num_bytes + -one.num_bytes % ALIGNED for one in matrices), huge=True), 0
    del matrices

    def moved(matrix: Packed) -> Packed:
        nonlocal begin
        place = room[begin : begin + matrix.num_bytes].view(matrix.panels.shape)
        begin += matrix.num_bytes + -matrix.num_bytes % ALIGNED
        return replace(matrix, panels=place.copy_(matrix.panels))

    for number, layer in enumerate(layers):
        layers[number] = replace(
            layer,
            query_key_value=moved(layer.query_key_value),
            output=moved(layer.output),
            up=moved(layer.up),
            down=moved(layer.down),
        )
    last = moved(head)
    return (last if embedding is head else moved(embedding)), last


def weights_of(module: torch.nn.Module) -> Weight:
    """The weights of a module in memory."""
    known = dict(module.named_parameters())
    return lambda name: known[name].detach() if name in known else None


def _bias(weight: Weight, name: str) -> Tensor | None:
    found = weight(f"{name}.bias")
    return None if found is None else _plain(found)


def _plain(found: Tensor | Quantised | None) -> Tensor:
    assert found is not None
    return found.dequantised() if isinstance(found, Quantised) else found.detach().float().contiguous()
