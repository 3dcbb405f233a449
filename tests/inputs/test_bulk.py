"""The fast encoder gives the ids of the library it stands in for, on every kind of text."""

from __future__ import annotations

import random
import string
import unicodedata
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, models, pre_tokenizers
from tokenizers import Tokenizer as RawTokenizer

from danlu.inputs.bulk import KNOWN_PATTERNS, MARK, BulkEncoder, is_consistent
from danlu.inputs.cutting import byte_of_character

DIGITS_APART, GPT2, *BY_PATTERN = ("digits apart", "gpt2", *KNOWN_PATTERNS)
WAYS = [DIGITS_APART, GPT2, *BY_PATTERN]
ODD = " \t\n\r\x0b\x0c\x85\xa0\u1680\u2003\u2028\u3000\u200b\ufeff\x1c\x1f\x00" + MARK
ALPHABET = ODD + " \n\n  '' stmd ll ve re SſTR 019²①٣五Ⅻ 中文，。、 éß e\u0301 🙂👩\u200d💻\U00011de0\U00020000 .,;-_=#*[]{}()\"`~"


def cut(way: str) -> pre_tokenizers.PreTokenizer:
    if way == GPT2:
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if way == DIGITS_APART:
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), cut(GPT2)])
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(way), behavior="isolated"), whole])


def raw_tokenizer(way: str, merges: list[tuple[str, str]], lacking: str = "") -> RawTokenizer:
    tokens = [character for character in byte_of_character() if character not in lacking] + [left + right for left, right in merges]
    raw = RawTokenizer(models.BPE(vocab={token: 2 * id for id, token in enumerate(tokens)}, merges=merges))
    raw.pre_tokenizer = cut(way)
    return raw


@pytest.fixture(scope="module", params=WAYS, ids=["digits apart", "gpt2", "qwen2", "llama3"])
def pair(request: pytest.FixtureRequest) -> tuple[RawTokenizer, BulkEncoder]:
    """A vocabulary in which any two bytes are a token: ids then tell where a text was cut, to the byte or nearly so."""
    raw = raw_tokenizer(request.param, [(left, right) for left in byte_of_character() for right in byte_of_character()])
    bulk = BulkEncoder.of(raw)
    assert bulk is not None
    return raw, bulk


def same(pair: tuple[RawTokenizer, BulkEncoder], text: str) -> bool:
    raw, bulk = pair
    ids: list[int] = raw.encode(text, add_special_tokens=False).ids
    return bulk.encode_batch([text])[0].tolist() == ids


@settings(max_examples=400, deadline=None)
@given(text=st.text(alphabet=st.sampled_from(ALPHABET), max_size=40) | st.text(max_size=20))
def test_any_text(pair: tuple[RawTokenizer, BulkEncoder], text: str) -> None:
    assert same(pair, text)


def test_long_random_text(pair: tuple[RawTokenizer, BulkEncoder]) -> None:
    chance = random.Random(0)
    plain = ALPHABET.replace(MARK, "").replace("\U00011de0", "")  # without what goes to the library at once
    for size in (1, 2, 3, 100, 20_000):
        assert same(pair, "".join(chance.choices(plain, k=size)))
        assert same(pair, "".join(chance.choices(string.printable, k=size)))


def test_every_character(pair: tuple[RawTokenizer, BulkEncoder]) -> None:
    """Each at the places where its kind decides, whatever version of Unicode each library knows."""
    bulk = pair[1]
    many = [*range(0x3400, 0xA000), *range(0xAC00, 0xD7A4), *range(0x17000, 0x18D00), *range(0x1B170, 0x1B300), *range(0x20000, 0x110000)]
    left_out = {code for code in many if code % 199} | {ord(MARK)}  # thousands of one kind: some of them do
    codes = [code for code in range(0x110000) if code not in left_out and unicodedata.category(chr(code)) not in ("Cn", "Cs")]
    for begin in range(0, len(codes), 100):
        found = [chr(code) for code in codes[begin : begin + 100]]
        text = "".join(f"a{it}1 {it}!{it}  {it}'{it}s\n {it}\r" for it in found)
        assert bulk.cut.mark(text) is not None
        assert same(pair, text), f"a character from {ord(found[0]):#x} to {ord(found[-1]):#x}"


def test_white_space_is_not_left_to_the_library(pair: tuple[RawTokenizer, BulkEncoder]) -> None:
    marked = pair[1].cut.mark("def f():\n        return 1  # 中文  好\n")
    assert marked is not None and marked.count(MARK) == 3
    assert pair[1].cut.mark(f"a{MARK}b") is None


def test_bytes_that_the_vocabulary_lacks() -> None:
    raw = raw_tokenizer(GPT2, [("a", "b")], lacking="cĀĄ")
    bulk = BulkEncoder.of(raw)
    assert bulk is not None
    for text in ("abab", "abcab  ab", "\x04ab\x00", "c"):
        assert same((raw, bulk), text)


def test_wrong_vocabularies_are_refused() -> None:
    assert BulkEncoder.of(raw_tokenizer(GPT2, [("a", "b"), ("ab", "c")])) is not None
    assert BulkEncoder.of(raw_tokenizer(GPT2, [("b", "c"), ("a", "b"), ("ab", "c")])) is None  # "abc" becomes a, bc


def simulated(merges: list[tuple[int, int]], characters: int) -> bool:
    """What is_consistent decides, by doing all merges of every token."""
    spelled: list[tuple[int, ...]] = [(character,) for character in range(characters)]
    for left, right in merges:
        spelled.append(spelled[left] + spelled[right])
    rank_of = {spelling: rank for rank, spelling in enumerate(spelled)}
    for rank, (left, right) in enumerate(merges, characters):
        parts: list[tuple[int, ...]] = [(character,) for character in spelled[rank]]
        while len(parts) > 2:
            made = [rank_of.get(one + other, rank) for one, other in pairwise(parts)]
            best = min(made)
            if best >= rank:
                return False
            at = made.index(best)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if (rank_of[parts[0]], rank_of[parts[1]]) != (left, right):
            return False
    return True


def test_consistency_is_that_of_doing_all_merges() -> None:
    chance = random.Random(0)
    verdicts = []
    for _ in range(30_000):
        characters = chance.randint(1, 3)
        spelled = [str(character) for character in range(characters)]
        merges: list[tuple[int, int]] = []
        for _ in range(chance.randint(1, 6)):
            one = chance.randrange(len(spelled)), chance.randrange(len(spelled))
            whole = spelled[one[0]] + spelled[one[1]]
            if whole not in spelled and len(whole) <= 24:
                merges.append(one)
                spelled.append(whole)
        verdicts.append(simulated(merges, characters))
        assert is_consistent(merges, characters) == verdicts[-1], merges
    assert 0.1 < np.mean(verdicts) < 0.9
    assert not is_consistent([(2, 0), (0, 0)], 1)  # a half that is made later
