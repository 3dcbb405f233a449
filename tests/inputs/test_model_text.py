"""Inputs of one and two texts, whole and cut, against transformers."""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from danlu.base.errors import ConfigError
from danlu.inputs.tokenizer import Tokenizer
from danlu.inputs.vocabulary_training import TRAINERS

from .texts import ODD, some_texts

FIRST, SECOND = "The furnace is hot, isn't it? 丹炉里炼出来的大模型。", "a bridge over silver rivers"


@cache
def trained(kind: str) -> Tokenizer:
    return TRAINERS[kind](some_texts(), 700)


@pytest.fixture(params=list(TRAINERS))
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Tokenizer, Any]:
    trained(request.param).save(tmp_path)
    return trained(request.param), AutoTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("second", [None, SECOND, FIRST * 3, " "])
def test_ids_segments_and_lengths_are_those_of_transformers(pair: tuple[Tokenizer, Any], second: str | None) -> None:
    own, theirs = pair
    least = own.encode_model_input("", None if second is None else "").ids.size
    whole = own.encode_model_input(FIRST, second)
    assert whole.num_cut == 0
    for max_tokens in [None, *range(max(1, least), len(whole.ids) + 2)]:
        found = own.encode_model_input(FIRST, second, max_tokens)
        expected = theirs(FIRST, second, truncation=max_tokens is not None, max_length=max_tokens, return_token_type_ids=True)
        assert found.ids.tolist() == expected["input_ids"]
        assert found.segments.tolist() == expected["token_type_ids"]
        assert found.offsets.tolist() == [list(span) for span in expected.encodings[0].offsets]
        assert [None if text < 0 else text for text in found.sequence.tolist()] == expected.sequence_ids()
        assert found.is_special.tolist() == [bool(mark) for mark in expected.encodings[0].special_tokens_mask]
        assert found.num_cut == len(whole.ids) - len(found.ids)


def test_offsets_are_places_in_the_text(pair: tuple[Tokenizer, Any]) -> None:
    own, _ = pair
    found = own.encode_model_input(FIRST, SECOND)
    for text, (begin, end), id in zip(found.sequence.tolist(), found.offsets.tolist(), found.ids.tolist(), strict=True):
        if text < 0:
            assert (begin, end) == (0, 0)
            continue
        token = own.token_bytes(id).decode(errors="replace").strip()
        is_whole = token and "\ufffd" not in token and id != own.unk_id  # not part of a character, nor a space alone
        assert not is_whole or (FIRST, SECOND)[text][begin:end].strip() == token
    assert found.offsets.max() == len(FIRST)


@pytest.mark.parametrize("max_tokens", [None, 2, 3, 17])
def test_batches_equal_single_texts(pair: tuple[Tokenizer, Any], max_tokens: int | None) -> None:
    own, _ = pair
    texts = [*some_texts(12), *ODD[:12], FIRST]
    for row, text in zip(own.encode_model_inputs(texts, max_tokens), texts, strict=True):
        assert row.dtype == np.int64
        assert row.tolist() == own.encode_model_input(text, max_tokens=max_tokens).ids.tolist()
    assert own.encode_model_inputs([]) == []


def test_no_room_for_the_control_tokens_is_told() -> None:
    bert = trained("wordpiece")
    assert bert.encode_model_input(FIRST, SECOND, 3).ids.tolist() == [bert.cls_id, bert.sep_id, bert.sep_id]
    with pytest.raises(ConfigError, match="max_tokens came as 2; expected at least 3"):
        bert.encode_model_input(FIRST, SECOND, 2)
    with pytest.raises(ConfigError, match="max_tokens came as 1; expected at least 2"):
        bert.encode_model_inputs([FIRST], 1)


def test_threads_that_cut_to_different_lengths_do_not_meet() -> None:
    own = trained("wordpiece")
    wrong: list[int] = []

    def work(length: int) -> None:
        for _ in range(100):
            if len(own.encode_model_input(FIRST, FIRST, length).ids) != length or len(own.encode(FIRST)) < 20:
                wrong.append(length)

    threads = [threading.Thread(target=work, args=(length,)) for length in (5, 9, 14)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_control_tokens_in_a_text_stay_text_amid_control_tokens() -> None:
    for kind, name in (("wordpiece", "[SEP]"), ("unigram", "</s>"), ("unigram", "<extra_id_3>")):
        own = trained(kind)
        found = own.encode_model_input(f"a {name} b")
        assert not set(found.ids[~found.is_special].tolist()) & (own.special_ids - {own.unk_id})
