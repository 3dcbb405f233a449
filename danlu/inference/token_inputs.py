"""Token ids that someone gives, as a model's inputs: shapes, bounds and padding checked first."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from danlu.base.errors import RequestError
from danlu.models.base import Inputs


def read_ids(module: nn.Module, ids: Any, target_ids: Any = None, visible: Any = None) -> tuple[Inputs, Tensor | None]:
    """The inputs of ids (B, T) or (T,), with `visible` (B, T) as a mask (B, 1, 1, T); an encoder-decoder needs target_ids too.

    Raises: RequestError naming what does not fit the model.
    """
    tokens = _tokens(module, ids, "ids")
    padding = None if visible is None else _padding(visible, tokens)
    if reads_source(module):
        if target_ids is None:
            raise RequestError("this model is an encoder-decoder; expected source ids and target_ids to go on from", param="target_ids")
        return Inputs(tokens=_tokens(module, target_ids, "target_ids"), source=tokens, source_visible=padding), padding
    if target_ids is not None:
        raise RequestError("target_ids came for a model that reads one text; leave them out", param="target_ids")
    return Inputs(tokens=tokens, visible=padding if _sees_ahead(module) else None), padding


def reads_source(module: nn.Module) -> bool:
    """Whether a model is an encoder-decoder."""
    return hasattr(module, "read_source")


def _sees_ahead(module: nn.Module) -> bool:
    """Whether positions see those behind them; if not, padding there is out of sight by itself."""
    attention = getattr(module.config, "attention", None)
    return attention is not None and not attention.causal


def _tokens(module: nn.Module, ids: Any, name: str) -> Tensor:
    config: Any = module.config
    try:
        tokens = torch.as_tensor(ids, dtype=torch.long)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise RequestError(f"{name} came as no numbers in rows of one length; expected (B, T) or (T,)", param=name) from None
    tokens = tokens[None] if tokens.ndim == 1 else tokens
    if tokens.ndim != 2 or not tokens.numel():
        raise RequestError(f"{name} came with the shape {tuple(tokens.shape)}; expected (B, T) or (T,)", param=name)
    if int(tokens.min()) < 0 or int(tokens.max()) >= config.vocabulary_size:
        raise RequestError(f"{name} hold a token that the model lacks; expected 0 to {config.vocabulary_size - 1}", param=name)
    if tokens.shape[1] > config.context_length:
        raise RequestError(
            f"{name} are {tokens.shape[1]} tokens long; this model's context holds {config.context_length}",
            param=name,
            code="context_length_exceeded",
        )
    return tokens


def _padding(visible: Any, tokens: Tensor) -> Tensor:
    mask = torch.as_tensor(visible).bool()
    mask = mask[None] if mask.ndim == 1 else mask
    if mask.shape != tokens.shape:
        raise RequestError(f"visible came with the shape {tuple(mask.shape)}; expected that of ids, {tuple(tokens.shape)}", param="visible")
    if not bool(mask[:, 0].all()) or bool((mask[:, 1:] & ~mask[:, :-1]).any()):
        raise RequestError("visible came with padding before a token; expected each text first, then its padding", param="visible")
    return mask[:, None, None]
