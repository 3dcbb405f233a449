from __future__ import annotations

import pytest

from danlu.inputs.spacing import between
from danlu.inputs.tokenizer import Tokenizer
from danlu.models.loading import load_model


@pytest.fixture(scope="module")
def sentencepiece() -> Tokenizer:
    """multilingual e5's Unigram, which sets a space before every word."""
    found = load_model("multilingual-e5-small").tokenizer
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("words", "tokens", "of_word"),
    [
        (list("张三在北京"), ["▁", "张", "三", "在", "北", "京"], [0, 0, 1, 2, 3, 4]),
        (["Hello", "world"], ["▁Hello", "▁world"], [0, 1]),
        (["在", "world", "北", "京"], ["▁在", "▁world", "▁", "北", "京"], [0, 1, 2, 2, 3]),
    ],
)
def test_characters_that_stand_without_spaces_are_read_without_them(
    sentencepiece: Tokenizer, words: list[str], tokens: list[str], of_word: list[int]
) -> None:
    text, found = sentencepiece.encode_words(words)
    assert [sentencepiece.raw.id_to_token(int(id)) for id in text.ids[1:-1]] == tokens
    assert found.tolist() == [-1, *of_word, -1]
    assert len(text.ids) == len(text.segments) == len(text.offsets) == len(text.sequence)
    cut, of_cut = sentencepiece.encode_words(words, len(text.ids) - 1)
    assert of_cut.tolist() == [-1, *of_word[:-1], -1] and cut.ids.tolist() == [*text.ids[:-2].tolist(), text.ids[-1]]


def test_between_chinese_stands_nothing_and_between_korean_a_space() -> None:
    assert between("天", "下") == "" and between("는", "간") == " " and between("a", "天") == " " and between("", "a") == ""
