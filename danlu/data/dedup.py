"""Finds exact and near duplicates over all documents; the first of each cluster, in input order, stays.

What is held in memory is a few numbers a document (about 60 bytes at the peak), never text; signatures stay on disk.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from danlu.base.memory import let_go

BLOCK = 1 << 15  # pairs that are compared at once: their signatures take 32 MiB

Indices = NDArray[np.int64]


def exact_duplicates(hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """True where a document's 128-bit hash has come before.

    Shapes: (n, 2) -> (n,).
    """
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))  # stable: equal hashes stay in input order
    same = np.zeros(len(hashes), dtype=bool)
    same[order[1:]] = (hashes[order[1:]] == hashes[order[:-1]]).all(axis=1)
    return same


class Signatures:
    """Signatures and band keys of all documents, written as they come and read back in parts."""

    def __init__(self, folder: Path, bands: int, permutations: int) -> None:
        self.bands, self.permutations, self.count = bands, permutations, 0
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "signatures.u32"
        self.band_paths = [folder / f"band-{band:03d}.u64" for band in range(bands)]
        self.files = [path.open("wb") for path in (self.path, *self.band_paths)]

    def append(self, signatures: NDArray[np.uint32], bands: NDArray[np.uint64]) -> None:
        """Add the rows of one chunk."""
        self.files[0].write(np.ascontiguousarray(signatures).data)
        for band, file in enumerate(self.files[1:]):
            file.write(np.ascontiguousarray(bands[:, band]).data)
        self.count += len(signatures)

    def close(self) -> None:
        """Finish writing."""
        for file in self.files:
            file.close()

    def band(self, band: int) -> NDArray[np.uint64]:
        """The keys of one band, in input order."""
        return np.fromfile(self.band_paths[band], dtype=np.uint64)

    def agreement(self, left: Indices, right: Indices) -> NDArray[np.float64]:
        """The share of equal places in the signatures of pairs: an estimate of their Jaccard similarity."""
        result = np.empty(len(left))
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            for begin in range(0, len(left), BLOCK):
                end = begin + BLOCK
                rows = np.frombuffer(mapped, dtype=np.uint32).reshape(-1, self.permutations)
                result[begin:end] = (rows[left[begin:end]] == rows[right[begin:end]]).mean(axis=1)
                del rows
                let_go(mapped)
        return result


def near_duplicates(signatures: Signatures, candidates: NDArray[np.bool_], threshold: float) -> NDArray[np.bool_]:
    """True for documents that are alike (signatures agree in `threshold` of their places) to an earlier one, directly or by a chain.

    Only `candidates` (documents with a signature that are no exact duplicates) are looked at.
    Shapes: candidates (n,) -> (n,).
    """
    parents = np.arange(len(candidates))
    for band in range(signatures.bands):
        for left, right in _pairs(signatures.band(band), candidates):
            left_roots, right_roots = roots(parents, left), roots(parents, right)
            apart = left_roots != right_roots  # found alike in an earlier band: not compared again
            left, right = left[apart], right[apart]
            alike = signatures.agreement(left, right) >= threshold if len(left) else np.zeros(0, dtype=bool)
            join(parents, left[alike], right[alike])
    return candidates & (roots(parents, np.arange(len(parents))) != np.arange(len(parents)))


def _pairs(keys: NDArray[np.uint64], candidates: NDArray[np.bool_]) -> Iterator[tuple[Indices, Indices]]:
    """Pairs of documents with the same key: each with the first of its group, and with the one before it."""
    members = np.flatnonzero(candidates)
    order = members[np.argsort(keys[members], kind="stable")]
    ordered = keys[order]
    begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(order) else np.zeros(0, dtype=np.int64)
    sizes = np.diff(np.append(begins, len(order)))
    firsts = np.repeat(order[begins], sizes)
    later = order != firsts
    yield firsts[later], order[later]
    third = np.flatnonzero(later)[1:]
    third = third[firsts[third] != order[third - 1]]
    yield order[third - 1], order[third]


def roots(parents: Indices, items: Indices) -> Indices:
    """The first document of each item's cluster."""
    found = parents[items]
    while True:
        above = parents[found]
        if (above == found).all():
            return found
        found = above


def join(parents: Indices, left: Indices, right: Indices) -> None:
    """Unite the clusters of pairs; the smallest member leads, so that the first document in input order stays."""
    while len(left):
        left, right = roots(parents, left), roots(parents, right)
        apart = left != right
        left, right = left[apart], right[apart]
        low, high = np.minimum(left, right), np.maximum(left, right)
        np.minimum.at(parents, high, low)
