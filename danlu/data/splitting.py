"""Which documents are for training, validation and test: decided by each document alone, so that adding data moves none."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TRAIN, VALIDATION, TEST = range(3)
SPLITS = ("train", "validation", "test")
FEW_DOCUMENTS = 20  # fewer are split by bytes: by documents a split could come out empty

Segments = NDArray[np.int64]


def split_by_document(keys: NDArray[np.uint64], validation: float, test: float, seed: int) -> NDArray[np.int8]:
    """The split of each document by its 128-bit key (the hash of its text) and the seed.

    Shapes: (n, 2) -> (n,).
    """
    mixed = keys[:, 1] ^ (keys[:, 0] * np.uint64(2 * seed + 1 & 0xFFFFFFFFFFFFFFFF))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    share = (mixed ^ (mixed >> np.uint64(31))).astype(np.float64) / 2.0**64
    splits = np.full(len(keys), TRAIN, dtype=np.int8)
    splits[share < validation + test] = TEST
    splits[share < validation] = VALIDATION
    return splits


def split_by_bytes(sizes: NDArray[np.int64], validation: float, test: float) -> Segments:
    """Rows (document, begin, end, split): the text in order is cut by bytes: training, test if any, then validation.

    A cut may fall inside a document; whoever reads the segments moves it to the end of a line.
    """
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    cuts = ((0, round(total * (1 - validation - test)), TRAIN), (0, round(total * (1 - validation)), TEST), (0, total, VALIDATION))
    rows = []
    begin = 0
    for _, end, split in cuts:
        for document in range(len(sizes)):
            start = int(ends[document] - sizes[document])
            first, last = max(begin, start), min(end, int(ends[document]))
            if first < last:
                rows.append((document, first - start, last - start, split))
        begin = end
    return np.array(rows, dtype=np.int64).reshape(-1, 4)


def whole_segments(documents: NDArray[np.int64], sizes: NDArray[np.int64], splits: NDArray[np.int8]) -> Segments:
    """Rows (document, begin, end, split) for documents that stay whole."""
    return np.stack([documents, np.zeros_like(documents), sizes, splits.astype(np.int64)], axis=1)


def align(text: bytes, cut: int) -> int:
    """The end of the line around a cut, or the next space or character where the text has no line end near."""
    if cut <= 0 or cut >= len(text):
        return max(0, min(cut, len(text)))
    for mark in (b"\n", b" "):
        end = text.find(mark, cut - 1, cut + len(text) // 20 + 1)
        if end >= 0:
            return end + 1
    while cut < len(text) and text[cut] & 0xC0 == 0x80:
        cut += 1
    return cut
