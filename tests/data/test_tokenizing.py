"""What stands between documents, and how wide their ids are."""

from __future__ import annotations

import numpy as np
from tokenizers import AddedToken

from danlu.data.tokenizing import separator_id, token_dtype
from danlu.inputs.tokenizer import Tokenizer
from danlu.inputs.vocabulary_training import train_bpe, train_unigram, train_wordpiece


def test_the_end_of_a_turn_does_not_separate_documents() -> None:
    raw = train_bpe(["some text"], vocabulary_size=257).raw
    raw.add_special_tokens([AddedToken("<|im_end|>", special=True)])
    chat = Tokenizer(raw, {"eos_token": "<|im_end|>"})
    assert chat.end_of_text_id == raw.token_to_id("<|im_end|>")
    assert separator_id(chat) == raw.token_to_id("<|endoftext|>") != chat.end_of_text_id


def test_another_end_of_text_separates_where_the_usual_one_is_missing() -> None:
    raw = train_bpe(["some text"], vocabulary_size=257).raw
    assert separator_id(Tokenizer(raw)) == raw.token_to_id("<|endoftext|>")
    other = type(raw).from_str(raw.to_str().replace("<|endoftext|>", "</s>"))
    assert separator_id(Tokenizer(other, {"eos_token": "</s>"})) == other.token_to_id("</s>")
    assert separator_id(Tokenizer(other)) is None


def test_berts_separator_and_t5s_end_of_text_separate() -> None:
    bert, t5 = train_wordpiece(["some text"], 128), train_unigram(["some text"], 512)
    assert separator_id(bert) == bert.sep_id == bert.raw.token_to_id("[SEP]")
    assert separator_id(t5) == t5.end_of_text_id == t5.raw.token_to_id("</s>")


def test_ids_take_two_bytes_where_they_fit() -> None:
    assert token_dtype(65_536) == np.uint16
    assert token_dtype(65_537) == np.uint32
