"""Tokens in the order in which training reads them: a pure function of the seed and the step, so that resuming is exact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danlu.base.errors import DataError


class Batches:
    """Windows of a training split, each read once an epoch, in an order drawn anew for every epoch.

    Windows of one epoch do not overlap; where they begin shifts from epoch to epoch.
    """

    def __init__(self, shards: Sequence[NDArray[Any]], context_length: int, rows: int, seed: int) -> None:
        self.shards, self.context_length, self.rows, self.seed = shards, context_length, rows, seed
        # Shifts take up to one window of each shard away.
        self.windows = [max(0, (len(shard) - 1) // context_length - 1) for shard in shards]
        self.starts = np.cumsum([0, *self.windows])
        if not sum(self.windows):
            have = sum(len(shard) for shard in shards)
            least = 2 * context_length + 1
            raise DataError(f"the training split has {have} tokens; a context of {context_length} needs at least {least}: add text")
        self.order = (-1, np.zeros(0, dtype=np.int64), 0)  # epoch, permutation, shift

    @property
    def steps_an_epoch(self) -> int:
        """Steps in which every window is read about once."""
        return max(1, sum(self.windows) // self.rows)

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Tokens and the tokens after them, for one step. Shapes: (rows, context), (rows, context)."""
        return _stacked([self.window(step * self.rows + row) for row in range(self.rows)])

    def window(self, number: int) -> NDArray[Any]:
        """The window that is read after `number` others, with the token after it. Shape: (context + 1,)."""
        epoch, place = divmod(number, sum(self.windows))
        if self.order[0] != epoch:
            draw = np.random.default_rng((self.seed, epoch))
            self.order = (epoch, draw.permutation(sum(self.windows)), int(draw.integers(self.context_length)))
        _, permutation, shift = self.order
        window = int(permutation[place])
        shard = int(np.searchsorted(self.starts, window, side="right")) - 1
        start = shift + (window - int(self.starts[shard])) * self.context_length
        return self.shards[shard][start : start + self.context_length + 1]


class Mixture:
    """Windows of several texts, drawn in the proportion of their weights; of each text in its own order, none skipped or repeated."""

    PERIOD = 1000  # rows in which every text has its share

    def __init__(self, texts: Sequence[Batches], weights: Sequence[float], rows: int, seed: int) -> None:
        self.texts, self.rows = texts, rows
        shares = np.array(weights) / sum(weights) * self.PERIOD
        counts = np.maximum(1, np.floor(shares).astype(np.int64))
        counts[np.argmax(shares)] += self.PERIOD - counts.sum()
        self.counts = counts
        self.drawn = np.random.default_rng((seed, 2)).permutation(np.repeat(np.arange(len(texts)), counts))
        self.before = np.stack([np.cumsum(self.drawn == text) - (self.drawn == text) for text in range(len(texts))])

    @property
    def steps_an_epoch(self) -> int:
        """Steps in which as many windows are read as there are."""
        return sum(text.steps_an_epoch for text in self.texts)

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Tokens and the tokens after them, for one step. Shapes: (rows, context), (rows, context)."""
        return _stacked([self._window(step * self.rows + row) for row in range(self.rows)])

    def _window(self, number: int) -> NDArray[Any]:
        period, place = divmod(number, self.PERIOD)
        text = int(self.drawn[place])
        return self.texts[text].window(period * int(self.counts[text]) + int(self.before[text, place]))


def _stacked(windows: list[NDArray[Any]]) -> tuple[Tensor, Tensor]:
    batch = torch.from_numpy(np.stack(windows).astype(np.int64))
    return batch[:, :-1], batch[:, 1:]
