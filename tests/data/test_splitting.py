from __future__ import annotations

import numpy as np
import pytest

from danlu.data.splitting import TEST, TRAIN, VALIDATION, align, split_by_bytes, split_by_document


def _keys(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2**64, (count, 2), dtype=np.uint64)


def test_shares_are_as_asked() -> None:
    splits = split_by_document(_keys(100_000), 0.1, 0.05, 0)
    assert np.bincount(splits) / 100_000 == pytest.approx([0.85, 0.1, 0.05], abs=0.005)


def test_each_document_is_decided_alone() -> None:
    keys = _keys(1000)
    whole = split_by_document(keys, 0.1, 0.1, 3)
    assert (split_by_document(keys[::-2], 0.1, 0.1, 3) == whole[::-2]).all()


def test_another_seed_splits_otherwise() -> None:
    keys = _keys(1000)
    assert (split_by_document(keys, 0.1, 0.1, 0) != split_by_document(keys, 0.1, 0.1, 1)).sum() > 100


def test_the_last_tenth_of_the_bytes() -> None:
    assert split_by_bytes(np.array([60, 40]), 0.1, 0.0).tolist() == [[0, 0, 60, TRAIN], [1, 0, 30, TRAIN], [1, 30, 40, VALIDATION]]


def test_a_test_split_stands_before_validation() -> None:
    rows = split_by_bytes(np.array([100]), 0.1, 0.2).tolist()
    assert rows == [[0, 0, 70, TRAIN], [0, 70, 90, TEST], [0, 90, 100, VALIDATION]]


@pytest.mark.parametrize("text", ["one\ntwo\nthree\nfour\nfive\n", "一二三四五六七八九十", "words without any line end at all", "x" * 40])
def test_cuts_lie_between_characters_and_lose_nothing(text: str) -> None:
    content = text.encode()
    for cut in range(len(content) + 1):
        at = align(content, cut)
        assert content[:at].decode() + content[at:].decode() == text


def test_cuts_move_to_the_end_of_the_line() -> None:
    content = b"one two\n" * 50
    assert align(content, 203) == 208
