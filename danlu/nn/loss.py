"""What training makes smaller and evaluation reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from danlu.nn import native

IGNORED = -100  # a target that does not count

CHUNK_LOGITS = 2**26  # logits held at once: 256 MiB in float32
CACHED_LOGITS = 2**19  # logits worked on at once: 2 MiB in float32


def token_loss(
    logits_of: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, vocabulary_size: int, smoothing: float = 0.0
) -> Tensor:
    """Sum of -ln p(target) over all targets that count (next tokens, hidden words), never holding more than a chunk of logits.

    Shapes: hidden (B, T, D), targets (B, T) with IGNORED where nothing is asked; logits_of maps (N, D) -> (N, V).
    `smoothing` spreads that share of each target's probability over all words (Szegedy et al. 2016, arXiv:1512.00567, section 7).
    Units: nats, summed: divide by the number of targets for nats per target.
    """
    hidden, targets = hidden.flatten(0, 1), targets.flatten()
    rows = max(1, CHUNK_LOGITS // vocabulary_size)
    if len(targets) <= rows:
        return _summed_nats(logits_of, hidden, targets, smoothing)
    recompute = torch.is_grad_enabled()  # logits are computed again in the backward pass rather than kept
    total = hidden.new_zeros((), dtype=torch.float32)
    for start in range(0, len(targets), rows):
        part = (logits_of, hidden[start : start + rows], targets[start : start + rows], smoothing)
        total = total + (checkpoint(_summed_nats, *part, use_reentrant=False) if recompute else _summed_nats(*part))
    return total


def _summed_nats(logits_of: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    return _Nats.apply(logits_of(hidden), targets, smoothing)  # type: ignore[no-any-return]


class _Nats(torch.autograd.Function):
    """Cross-entropy with its gradient in one walk over the logits; torch's own passes over all a dozen times and keeps them twice."""

    @staticmethod
    def forward(context: Any, logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        logits = logits.contiguous()
        gradient = torch.empty_like(logits) if context.needs_input_grad[0] else None
        count = native.nats if native.serves(logits) else _nats
        total = count(logits, targets, smoothing, gradient).sum()
        if gradient is not None:
            context.save_for_backward(gradient)  # so that checkpoint, where parts are many, drops it
        return total

    @staticmethod
    @once_differentiable
    def backward(context: Any, scale: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (gradient,) = context.saved_tensors
        return (gradient if scale == 1 else gradient * scale), None, None


def _nats(logits: Tensor, targets: Tensor, smoothing: float, gradient: Tensor | None) -> Tensor:
    """What native.nats counts, by torch: -ln p(target) of each row (N), and the gradient of their sum (N, V) if there is room for it."""
    found, rows = logits.new_zeros(len(targets), dtype=torch.float32), max(1, CACHED_LOGITS // logits.shape[1])
    for start in range(0, len(targets), rows):
        part = slice(start, start + rows)
        shares, asked = logits[part].float().log_softmax(-1), targets[part] != IGNORED
        wanted = targets[part].clamp(min=0)[:, None]
        nats = -(1 - smoothing) * shares.gather(1, wanted)[:, 0]
        if smoothing:
            nats -= smoothing * shares.mean(-1)
        found[part] = nats.masked_fill(~asked, 0)
        if gradient is not None:
            shares.exp_()
            if smoothing:
                shares -= smoothing / logits.shape[1]
            shares.scatter_add_(1, wanted, torch.full_like(wanted, smoothing - 1, dtype=shares.dtype))
            if not asked.all():
                shares[~asked] = 0
            gradient[part] = shares
    return found


def span_loss(scores: Tensor, spans: Tensor, visible: Tensor) -> Tensor:
    """Sum of half of -ln p(first token) - ln p(last token), each among the positions that may be answered.

    Shapes: scores (B, T, 2), spans (B, 2) of positions, visible (B, T), True = may be the answer. Units: nats, summed.
    """
    among = scores.float().masked_fill(~visible[..., None], -torch.inf).transpose(1, 2)  # (B, 2, T)
    return F.cross_entropy(among.flatten(0, 1), spans.flatten(), reduction="sum") / 2


def squared_error(found: Tensor, wanted: Tensor) -> Tensor:
    """Sum of (found - wanted)^2: divided by their number it is the mean squared error. Shapes: equal."""
    return F.mse_loss(found.float(), wanted, reduction="sum")
