"""Names for ways of cutting text: each is found again in a tokenizer, and none is guessed."""

from __future__ import annotations

import re

import pytest
from tokenizers import Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as RawTokenizer

from danlu.base.errors import CheckpointError
from danlu.inputs.bulk import KNOWN_PATTERNS
from danlu.inputs.cutting import GPT2, NAMES, QWEN2, name_of


def bare(pre_tokenizer: pre_tokenizers.PreTokenizer, **options: bool) -> RawTokenizer:
    raw = RawTokenizer(models.BPE(**options))
    raw.pre_tokenizer, raw.decoder = pre_tokenizer, decoders.ByteLevel()
    return raw


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_found_again_or_another_of_the_same_cutting(name: str) -> None:
    cutting = NAMES[name]
    found = name_of(bare(cutting.pre_tokenizer(), ignore_merges=cutting.ignore_merges))
    assert NAMES[found] == cutting
    assert found == next(other for other in NAMES if NAMES[other] == cutting)


CUTS = {
    "gpt-2": ["We", "'", "LL", " see", " 12345", " it", "'s", "   ", "\n", "丹炉", " 12"],
    "smollm": ["We", "'", "LL", " see", " ", "1", "2", "3", "4", "5", " it", "'s", "   ", "\n", "丹炉", " ", "1", "2"],
    "qwen2": ["We", "'LL", " see", " ", "1", "2", "3", "4", "5", " it", "'s", "   \n", "丹炉", " ", "1", "2"],
    "llama-bpe": ["We", "'LL", " see", " ", "123", "45", " it", "'s", "   \n", "丹炉", " ", "12"],
    "default": ["We", "'", "LL", " see", " ", "123", "45", " it", "'", "s", "   ", "\n", "丹炉", " ", "12"],
}


@pytest.mark.parametrize("name", CUTS)
def test_cuts_lie_where_the_patterns_set_them(name: str) -> None:
    text = "We'LL see 12345 it's   \n丹炉 12"
    spans = [span for _, span in NAMES[name].pre_tokenizer().pre_tokenize_str(text)]
    pieces = [text[begin:end] for begin, end in spans]
    assert "".join(pieces) == text
    assert pieces == CUTS[name]


def test_a_gpt2_split_by_its_pattern_is_gpt2() -> None:
    cut = pre_tokenizers.Split(Regex(GPT2), behavior="isolated")
    assert name_of(bare(pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]))) == "gpt-2"


@pytest.mark.parametrize(
    ("pattern", "options"),
    [(r"\p{L}+|\p{N}{1,2}", {}), (QWEN2 + "|x", {}), (QWEN2, {"ignore_merges": True}), (QWEN2.replace("i:", ":"), {})],
)
def test_an_unknown_pattern_is_refused_by_name(pattern: str, options: dict[str, bool]) -> None:
    cut = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    raw = bare(pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]), **options)
    with pytest.raises(CheckpointError, match=re.escape(repr(pattern))) as caught:
        name_of(raw)
    assert "\n" not in str(caught.value) and "qwen2" in str(caught.value)


@pytest.mark.parametrize(
    "cut",
    [pre_tokenizers.ByteLevel(add_prefix_space=True), pre_tokenizers.Whitespace(), pre_tokenizers.Split(Regex("a"), behavior="removed")],
)
def test_other_ways_of_cutting_are_refused(cut: pre_tokenizers.PreTokenizer) -> None:
    with pytest.raises(CheckpointError, match="no name"):
        name_of(bare(cut))


def test_the_fast_path_knows_the_patterns_that_are_trained_with() -> None:
    assert QWEN2 in KNOWN_PATTERNS
