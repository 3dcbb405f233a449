from __future__ import annotations

from pathlib import Path

import numpy as np

from danlu.data.dedup import Signatures, exact_duplicates, join, near_duplicates, roots
from danlu.data.minhash import PERMUTATIONS, band_count, band_keys


def test_the_first_of_equal_hashes_stays() -> None:
    hashes = np.array([[1, 2], [1, 3], [1, 2], [2, 2], [1, 2], [1, 3]], dtype=np.uint64)
    assert exact_duplicates(hashes).tolist() == [False, False, True, False, True, True]


def test_clusters_are_those_of_a_plain_search() -> None:
    chance = np.random.default_rng(0)
    left, right = chance.integers(0, 300, 250), chance.integers(0, 300, 250)
    parents = np.arange(300)
    for begin in range(0, 250, 50):
        join(parents, left[begin : begin + 50], right[begin : begin + 50])
    found = roots(parents, np.arange(300))
    plain = list(range(300))
    for _ in range(300):
        for a, b in zip(left, right, strict=True):
            plain[a] = plain[b] = min(plain[a], plain[b])
    assert found.tolist() == plain


def _signed(tmp_path: Path, rows: np.ndarray, threshold: float) -> Signatures:
    bands = band_count(threshold)
    signatures = Signatures(tmp_path, bands, PERMUTATIONS)
    for begin in range(0, len(rows), 7):
        signatures.append(rows[begin : begin + 7], band_keys(rows[begin : begin + 7], bands))
    signatures.close()
    return signatures


def test_near_duplicates_are_those_of_comparing_all_pairs(tmp_path: Path) -> None:
    chance = np.random.default_rng(1)
    families = chance.integers(0, 2**32, (30, PERMUTATIONS), dtype=np.uint32)
    rows = families[chance.integers(0, 30, 200)].copy()
    noise = chance.integers(0, 2**32, rows.shape, dtype=np.uint32)
    strength = np.where(np.arange(200) % 3 == 0, 0.5, 0.03)  # some far from their family, others close to it
    changed = chance.random(rows.shape) < strength[:, None]
    rows[changed] = noise[changed]
    candidates = chance.random(200) < 0.9
    dropped = near_duplicates(_signed(tmp_path, rows, 0.8), candidates, 0.8)
    expected = np.zeros(200, dtype=bool)
    parents = list(range(200))
    for right in range(200):
        for left in range(right):
            if candidates[left] and candidates[right] and (rows[left] == rows[right]).mean() >= 0.8:
                low, high = sorted((parents[left], parents[right]))
                parents = [low if parent == high else parent for parent in parents]
    expected = np.array([parents[number] != number for number in range(200)])
    assert dropped.tolist() == expected.tolist()
    assert 50 < dropped.sum() < 150


def test_nothing_to_compare(tmp_path: Path) -> None:
    rows = np.zeros((3, PERMUTATIONS), dtype=np.uint32)
    assert not near_duplicates(_signed(tmp_path, rows, 0.8), np.zeros(3, dtype=bool), 0.8).any()
