"""What training begins from: a size with fresh weights, or a model that is there, with a head for what is to be learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from danlu.base.errors import ConfigError
from danlu.inputs.tokenizer import Tokenizer
from danlu.models.base import Family, Head
from danlu.models.loading import Loaded, Unfilled, families, load_model, with_head


def family_of_size(start: str) -> Family | None:
    """The family if `start` names a size such as gpt/tiny, or None if it names a model that is there."""
    family = families().get(start.split("/")[0])
    return family if family is not None and "/" in start and not Path(start).exists() else None


def new_model(start: str, tokenizer: Tokenizer, context_length: int | None = None, head: Head | None = None) -> Loaded:
    """A model of a size with fresh weights, for the words of a tokenizer.

    Raises: ConfigError if there is no such size, or the family cannot answer what the head asks.
    """
    family, config = configuration(start, tokenizer, context_length, head)
    return Loaded(name=start, path=Path(start), family=family, config=config, module=family.build(config), tokenizer=tokenizer)


def count_weights(family: Family, config: Any) -> int:
    """How many weights a model will have, found without memory for them."""
    with torch.device("meta"), Unfilled():
        return sum(weight.numel() for weight in family.build(config).parameters())


def configuration(start: str, tokenizer: Tokenizer, context_length: int | None, head: Head | None) -> tuple[Family, Any]:
    """The family and shape of a size. Raises: as new_model()."""
    family = family_of_size(start)
    if family is None:
        known = ", ".join(f"{name}/tiny" for name in families())
        raise ConfigError(f"the size came as {start}; expected FAMILY/SIZE, for instance {known}")
    config = family.sizes(start.split("/", 1)[1], tokenizer.vocabulary_size, context_length)
    if head is not None:
        config = family.with_head(config, head)
    return family, config


def loaded_with_head(start: str, head: Head | None = None) -> Loaded:
    """A model that is there; with another head than it has, that head's weights are fresh and all others kept.

    Raises: ConfigError if the family cannot answer what the head asks.
    """
    loaded = load_model(start)
    return loaded if head is None else with_head(loaded, head)
