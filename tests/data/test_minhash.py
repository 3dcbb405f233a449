from __future__ import annotations

import random

import numpy as np
import pytest

from danlu.data.minhash import PERMUTATIONS, SHINGLE_WORDS, band_count, band_keys, shingles, signatures


def _words(text: str) -> list[str]:
    """The definition, slowly: runs between white space and punctuation, Chinese characters alone."""
    words: list[str] = []
    joined = False
    for character in text.lower():
        if "\u4e00" <= character <= "\u9fff":
            words.append(character)
            joined = False
        elif character.isalnum() or character in "+$<=>^`|~":
            words[-1:] = [words[-1] + character] if joined else [*words[-1:], character]
            joined = True
        else:
            joined = False
    return words


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = _words(text)
    return {tuple(words[begin : begin + SHINGLE_WORDS]) for begin in range(len(words) - SHINGLE_WORDS + 1)}


def _texts(count: int, chinese: bool) -> list[str]:
    chance = random.Random(5)
    vocabulary = [chr(chance.randrange(0x4E00, 0x9FFF)) for _ in range(400)] if chinese else [f"word{number}" for number in range(400)]
    base = [chance.choice(vocabulary) for _ in range(300)]
    texts = []
    for number in range(count):
        changed = [chance.choice(vocabulary) if chance.random() < number / count / 5 else word for word in base]
        texts.append(("" if chinese else " ").join(changed))
    return texts


def test_hashes_are_equal_just_when_the_shingles_are() -> None:
    texts = [
        "",
        "one two",
        "The quick brown fox jumps over the lazy dog.",
        "the QUICK brown-fox jumps\nover (the) lazy dog",
        "床前明月光，疑是地上霜",
    ]
    hashes, offsets = shingles(texts)
    slow = [_shingles(text) for text in texts]
    fast = [hashes[int(offsets[number]) : int(offsets[number + 1])].tolist() for number in range(len(texts))]
    assert [len(run) for run in fast] == [0, 0, 5, 5, 6]
    assert fast[2] == fast[3]
    assert len(set().union(*map(set, fast))) == len(set().union(*slow))


def test_a_text_has_the_same_hashes_alone_and_among_others() -> None:
    texts = ["mixed 中文 and English words, seven of them", "short", "another text with more than five words in it", "中" * 9]
    hashes, offsets = shingles(texts)
    for number, text in enumerate(texts):
        assert shingles([text])[0].tolist() == hashes[int(offsets[number]) : int(offsets[number + 1])].tolist()


def test_no_hash_collides_among_many_words() -> None:
    numbers = " ".join(f"{number}" for number in range(100_000))
    hashes, _ = shingles([numbers])
    assert len(np.unique(hashes)) == 100_000 - SHINGLE_WORDS + 1


def test_estimates_are_near_the_true_similarity() -> None:
    for chinese in (False, True):
        texts = _texts(40, chinese)
        rows, has = signatures(texts)
        assert has.all()
        true = [_shingles(text) for text in texts]
        errors = [
            (rows[0] == rows[other]).mean() - len(true[0] & true[other]) / len(true[0] | true[other]) for other in range(1, len(texts))
        ]
        assert abs(np.mean(errors)) < 0.03
        assert np.std(errors) < 1.5 * 0.5 / np.sqrt(PERMUTATIONS)


def test_long_texts_are_hashed_in_parts_and_stay_comparable() -> None:
    chance = random.Random(0)
    words = [f"word{chance.randrange(100_000)}" for _ in range(100_000)]
    other = [f"else{chance.randrange(100_000)}" for _ in range(10_000)]
    rows, has = signatures([" ".join(words), "short and not alike to any of the others", " ".join(other + words[10_000:]), ""])
    assert has.tolist() == [True, True, True, False]
    assert (rows[0] == rows[2]).mean() == pytest.approx(0.9 / 1.1, abs=0.12)
    assert (rows[0] == rows[1]).mean() < 0.1


def test_short_texts_have_no_signature() -> None:
    rows, has = signatures(["a b c d", "a b c d e", "", "五个字才行"])
    assert has.tolist() == [False, True, False, True]
    assert rows.shape == (4, PERMUTATIONS)


def test_bands_meet_the_promised_recall() -> None:
    for threshold in (0.5, 0.7, 0.8, 0.9, 0.99):
        bands = band_count(threshold)
        assert 1 - (1 - threshold ** (PERMUTATIONS // bands)) ** bands >= 0.9


def test_band_keys_are_equal_just_where_the_band_is() -> None:
    rows = np.random.default_rng(0).integers(0, 2**32, (2, PERMUTATIONS), dtype=np.uint32)
    rows[1, :64] = rows[0, :64]
    keys = band_keys(rows, 16)
    assert (keys[0] == keys[1]).tolist() == [True] * 8 + [False] * 8
