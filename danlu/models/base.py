"""What every model family has in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a model reads. A new modality adds a field here and a processor in inputs/, not a second forward.

    Shapes: tokens (B, T) of ids; positions (B, T), or None for 0, 1, 2, ...;
    visible (B or 1, 1, T, S) with True = may look, or None for the family's own habit (a decoder: itself and all before).
    """

    tokens: Tensor
    positions: Tensor | None = None
    visible: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Names:
    """How a family's weights are called elsewhere.

    `to_own` turns tensors under foreign names into a state dictionary of the module, `to_foreign` turns one back.
    """

    to_own: Callable[[Mapping[str, Tensor], Any], dict[str, Tensor]]
    to_foreign: Callable[[Mapping[str, Tensor], Any], dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model of some size is best trained: the highest rate, and tokens in a step."""

    rate: float
    batch_tokens: int


@dataclass(frozen=True, kw_only=True)
class Family:
    """One model family: its folder entry in models/ defines one of these under the name FAMILY.

    hugging_face maps a "model_type" to the naming of its weights; gguf does so for a "general.architecture".
    """

    name: str
    sizes: Callable[[str, int, int | None], Any]  # a size's name, the vocabulary and, if given, the context to a configuration
    recipe: Callable[[Any, bool], Recipe]  # a configuration, and whether training begins from scratch
    build: Callable[[Any], nn.Module]
    hugging_face: Mapping[str, Names]
    read_config: Callable[[Mapping[str, Any]], Any]  # config.json -> configuration
    write_config: Callable[[Any], dict[str, Any]]  # configuration -> config.json
    gguf: Mapping[str, Names]
    read_gguf_config: Callable[[Mapping[str, Any]], Any]  # GGUF metadata -> configuration
