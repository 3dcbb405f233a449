"""The order of training: every window once an epoch, and the same at any step whatever was asked before."""

from __future__ import annotations

import numpy as np
import pytest

from danlu.base.errors import DataError
from danlu.data.batches import Batches

SHARDS = [np.arange(0, 1000, dtype=np.uint16), np.arange(1000, 1500, dtype=np.uint16)]


def test_targets_are_the_next_tokens() -> None:
    tokens, targets = Batches(SHARDS, 16, 4, seed=1).at(3)
    assert tokens.shape == targets.shape == (4, 16)
    assert (targets == tokens + 1).all()  # the shards count upward


def test_an_epoch_reads_no_token_twice_and_nearly_all_once() -> None:
    batches = Batches(SHARDS, 16, 1, seed=1)
    windows = sum(batches.windows)
    seen = np.concatenate([batches.at(step)[0].numpy().ravel() for step in range(windows)])
    assert len(np.unique(seen)) == len(seen) == windows * 16
    assert len(seen) > 1500 - 2 * 2 * 17  # at most two windows of each shard are left out
    again = np.concatenate([batches.at(step)[0].numpy().ravel() for step in range(windows, 2 * windows)])
    assert not np.array_equal(seen, again)


def test_a_step_is_a_function_of_seed_and_number() -> None:
    walked = Batches(SHARDS, 16, 4, seed=1)
    for step in range(40):
        last = walked.at(step)
    assert (Batches(SHARDS, 16, 4, seed=1).at(39)[0] == last[0]).all()
    assert not (Batches(SHARDS, 16, 4, seed=2).at(39)[0] == last[0]).all()


def test_too_little_text() -> None:
    with pytest.raises(DataError, match="context of 64 needs at least 129"):
        Batches([np.arange(100, dtype=np.uint16)], 64, 1, seed=0)
