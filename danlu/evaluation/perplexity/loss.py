"""How well a language model foretells a text: loss, perplexity, bits per byte; streamed, whatever the text's length."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from danlu.base.device import Precision, computing_in
from danlu.base.errors import DataError
from danlu.base.progress import progress
from danlu.models.base import Inputs
from danlu.nn.loss import IGNORED, token_loss

ROWS = 16  # windows evaluated at once


@dataclass(frozen=True, kw_only=True)
class TextLoss:
    """What a model makes of a text.

    Units: loss in nats per token; perplexity is exp of it; bits_per_byte = total nats / ln 2 / bytes, with the standard
    error that follows from how it varies between windows of the text.
    """

    loss_nats: float
    perplexity: float
    bits_per_byte: float
    bits_per_byte_error: float
    tokens: int
    bytes: int
    wall_seconds: float


def measure_text(
    module: nn.Module,
    pieces: Iterable[NDArray[Any]],
    num_bytes: int,
    start_id: int,
    precision: Precision = "float32",
    context_length: int | None = None,
    show: bool = True,
    share: float = 1.0,
) -> TextLoss:
    """Foretell every token of a stream once, in windows of the context that do not overlap.

    pieces are consecutive token arrays; the first token is foretold from start_id. Of the windows a `share` is measured, spread evenly;
    bytes are then those of all, times the share of tokens.
    Raises: DataError if there is no token.
    """
    tokens_in_all = 0
    if share < 1:
        pieces = list(pieces)
        tokens_in_all = sum(map(len, pieces))
    began = time.perf_counter()
    device = next(module.parameters()).device
    config: Any = module.config
    context = min(context_length or config.context_length, config.context_length)
    was_training = module.training
    module.eval()
    sums: list[float] = []
    counts: list[int] = []
    with torch.inference_mode(), progress("evaluating", unit="tokens") if show else _silent() as meter:
        for tokens, targets in _windows(pieces, start_id, context) if share >= 1 else _spread(_windows(pieces, start_id, context), share):
            tokens, targets = tokens.to(device), targets.to(device)
            with computing_in(precision, device):
                hidden = module(Inputs(tokens=tokens))
                sums += [_row_nats(module, *row) for row in zip(hidden.split(1), targets.split(1), strict=True)]
            counts += (targets != IGNORED).sum(1).tolist()
            meter.advance(sum(counts[-len(tokens) :]))
    module.train(was_training)
    if not sum(counts):
        raise DataError("the text to evaluate on has no tokens; expected at least one character")
    nats, total = math.fsum(sums), sum(counts)
    if share < 1:
        num_bytes = round(num_bytes * total / tokens_in_all)
    bits = nats / math.log(2) / max(num_bytes, 1)
    spread = np.std(np.array(sums) / np.array(counts), ddof=1) / math.sqrt(len(sums)) if len(sums) > 1 else 0.0
    return TextLoss(
        loss_nats=nats / total,
        perplexity=math.exp(min(nats / total, 700)),
        bits_per_byte=bits,
        bits_per_byte_error=bits * float(spread) / max(nats / total, 1e-12),
        tokens=total,
        bytes=num_bytes,
        wall_seconds=round(time.perf_counter() - began, 3),
    )


def _row_nats(module: Any, hidden: Tensor, targets: Tensor) -> float:
    return float(token_loss(module.logits, hidden, targets, module.config.vocabulary_size))


def _windows(pieces: Iterable[NDArray[Any]], start_id: int, context: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of up to `context` tokens with the tokens after them; ROWS of them at once, the last batch filled up with IGNORED."""
    left = np.array([start_id], dtype=np.int64)
    for piece in pieces:
        for begin in range(0, len(piece), ROWS * context):  # a shard may hold a billion tokens
            left = np.concatenate([left, piece[begin : begin + ROWS * context].astype(np.int64)])
            while len(left) > ROWS * context:
                block = torch.from_numpy(left[: ROWS * context + 1])
                yield block[:-1].view(ROWS, context), block[1:].view(ROWS, context)
                left = left[ROWS * context :]
    if len(left) > 1:
        rows = -(-(len(left) - 1) // context)
        tokens = torch.full((rows * context,), start_id, dtype=torch.long)
        targets = torch.full((rows * context,), IGNORED, dtype=torch.long)
        tokens[: len(left) - 1] = torch.from_numpy(left[:-1])
        targets[: len(left) - 1] = torch.from_numpy(left[1:])
        yield tokens.view(rows, context), targets.view(rows, context)


def _spread(windows: Iterable[tuple[Tensor, Tensor]], share: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Of every 1 / share rows the first; at least one in all, and at most ROWS at once."""
    kept: list[tuple[Tensor, Tensor]] = []
    row = 0
    for tokens, targets in windows:
        for one in zip(tokens, targets, strict=True):
            if row == 0 or int(row * share) > int((row - 1) * share):
                kept.append(one)
            row += 1
        if len(kept) >= ROWS:
            yield torch.stack([one for one, _ in kept[:ROWS]]), torch.stack([one for _, one in kept[:ROWS]])
            kept = kept[ROWS:]
    if kept:
        yield torch.stack([one for one, _ in kept]), torch.stack([one for _, one in kept])


class _silent:
    """A meter that nobody sees."""

    def __enter__(self) -> _silent:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def advance(self, amount: float) -> None:
        """Count nothing."""
