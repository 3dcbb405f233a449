"""MinHash signatures of texts: how alike two documents are, estimated from 128 numbers each."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

PERMUTATIONS = 128
SHINGLE_WORDS = 5
SEED = 1
SLICE_CHARACTERS = 1 << 18  # texts are hashed in groups, and long ones in parts, of about so many characters: arrays stay in cache
BASE = 0x632BE59BD9B4E019  # odd, so that it has an inverse modulo 2^64
RECALL = 0.9  # of the pairs exactly at the threshold, at least so many share a band
SEPARATOR, LETTER, ALONE = 0, 1, 2
EAST_ASIAN = ((0x2E80, 0x2FFF), (0x3040, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xA960, 0xA97F), (0xAC00, 0xD7FF), (0xF900, 0xFAFF))

Hashes = NDArray[np.uint64]


def signatures(texts: list[str]) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """MinHash signatures of texts, and which texts have one.

    The set compared is that of all runs of SHINGLE_WORDS words, lower case. Words are runs of letters, digits and signs
    between white space and punctuation; each Chinese, Japanese or Korean character is a word of its own. A text of fewer
    words has no signature and counts as unlike all others.
    Shapes: n texts -> (n, PERMUTATIONS), (n,).    Source: Broder 1997, "On the resemblance and containment of documents".
    """
    parts = [text[begin : begin + SLICE_CHARACTERS] for text in texts for begin in range(0, max(len(text), 1), SLICE_CHARACTERS)]
    firsts = np.cumsum([0, *(max(1, -(-len(text) // SLICE_CHARACTERS)) for text in texts)])[:-1]
    rows = np.full((len(parts), PERMUTATIONS), np.iinfo(np.uint32).max, dtype=np.uint32)
    has = np.zeros(len(parts), dtype=bool)
    begin = 0
    while begin < len(parts):
        end, size = begin, 0
        while end < len(parts) and size < SLICE_CHARACTERS:
            size += len(parts[end])
            end += 1
        hashes, offsets = shingles(parts[begin:end])
        has[begin:end] = offsets[1:] > offsets[:-1]
        if len(hashes):
            matrix: Any = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, PERMUTATIONS, SEED)
            rows[begin:end] = np.asarray(matrix.to_rows(), dtype=np.uint32)
        begin = end
    if len(parts) > len(texts):  # the signature of a union is the smaller of the parts' in each place
        rows, has = np.minimum.reduceat(rows, firsts), np.logical_or.reduceat(has, firsts)
    return rows, has


def shingles(texts: list[str]) -> tuple[Hashes, Hashes]:
    """Hashes of all runs of SHINGLE_WORDS words of each text, one after another.

    Shapes: n texts -> (total,), (n + 1,) where each text's run begins.
    """
    lowered = [text.lower() for text in texts]
    begins = np.cumsum([0, *(len(text) for text in lowered)])
    codes, kinds = _characters("".join(lowered))
    letters = kinds == LETTER
    alone = kinds == ALONE
    joined = letters[1:] & letters[:-1]  # whether a word goes on from one character to the next
    inner = begins[1:-1]
    joined[inner[(inner > 0) & (inner < len(codes))] - 1] = False
    starts = np.flatnonzero(alone | (letters & np.concatenate([[True], ~joined])))
    ends = np.flatnonzero(alone | (letters & np.concatenate([~joined, [True]]))) + 1
    words_before = np.searchsorted(starts, begins)
    counts = np.maximum(np.diff(words_before) - SHINGLE_WORDS + 1, 0)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    if not offsets[-1]:
        return np.zeros(0, dtype=np.uint64), offsets.astype(np.uint64)
    words = _words(codes, starts, ends)
    runs = np.zeros(len(words) - SHINGLE_WORDS + 1, dtype=np.uint64)
    for place in range(SHINGLE_WORDS):  # order matters: each place has its own (odd) multiplier
        runs += words[place : place + len(runs)] * np.uint64(pow(BASE, place + 1, 1 << 64))
    whole = np.repeat(words_before[:-1] - offsets[:-1], counts) + np.arange(int(offsets[-1]))
    return _mix(runs[whole]), offsets.astype(np.uint64)


def _characters(text: str) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """The code of each character and its kind."""
    if text.isascii():
        short = np.frombuffer(text.encode("ascii"), dtype=np.uint8)
        return short, _kinds()[short]
    codes = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32)
    kinds = _kinds()[np.minimum(codes, 0xFFFF)]
    kinds[codes >= 0x10000] = ALONE  # rarer Chinese characters and emoji
    return codes, kinds


def _words(codes: NDArray[Any], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Hashes:
    """One hash a word: a polynomial of its characters modulo 2^64, from differences of one running sum."""
    powers, inverses = _powers(1 << max(len(codes).bit_length(), 20))
    sums = np.zeros(len(codes) + 1, dtype=np.uint64)
    np.cumsum(codes * powers[: len(codes)], out=sums[1:])
    return _mix((sums[ends] - sums[starts]) * inverses[starts])


@lru_cache(maxsize=1)  # one size serves all slices
def _powers(count: int) -> tuple[Hashes, Hashes]:
    """BASE^n and BASE^-n modulo 2^64 for n < count."""
    tables = []
    for base in (BASE, pow(BASE, -1, 1 << 64)):
        factors = np.full(count, base, dtype=np.uint64)
        factors[0] = 1
        tables.append(np.cumprod(factors, dtype=np.uint64))
    return tables[0], tables[1]


def _mix(values: Hashes) -> Hashes:
    """Spread every bit over all others (the end of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@lru_cache(maxsize=1)
def _kinds() -> NDArray[np.uint8]:
    """What each character of the basic plane is: a separator, part of a word, or a word alone."""
    kinds = np.empty(0x10000, dtype=np.uint8)
    for code in range(0x10000):
        category = unicodedata.category(chr(code))
        kinds[code] = SEPARATOR if category[0] in "ZPC" else LETTER
    for first, last in EAST_ASIAN:
        block = kinds[first : last + 1]
        block[block == LETTER] = ALONE
    return kinds


def band_count(threshold: float) -> int:
    """How many bands make pairs at the threshold meet with probability RECALL or more.

    Source: Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, 3.4: 1 - (1 - s^rows)^bands.
    """
    for rows in (16, 8, 4, 2):
        bands = PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** bands >= RECALL:
            return bands
    return PERMUTATIONS


def band_keys(rows: NDArray[np.uint32], bands: int) -> Hashes:
    """One 64-bit key a band: documents that agree in a whole band agree in its key.

    Shapes: (n, PERMUTATIONS) -> (n, bands).
    """
    width = PERMUTATIONS // bands
    keys = np.zeros((len(rows), bands), dtype=np.uint64)
    parts = rows.reshape(len(rows), bands, width).astype(np.uint64)
    for place in range(width):
        keys = _mix(keys + parts[:, :, place] + np.uint64(0x9E3779B97F4A7C15))
    return keys
