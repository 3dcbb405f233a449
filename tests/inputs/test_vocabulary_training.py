"""What is learned from text, for every kind: repeatable, lossless where the kind allows, and the same in transformers."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, BertTokenizer

from danlu.base.errors import ConfigError
from danlu.inputs.tokenizer import Tokenizer
from danlu.inputs.vocabulary_training import SMALLEST, TRAINERS, train_bpe, train_unigram, train_wordpiece

from .texts import CHARACTERS, ODD, some_texts

KINDS = list(TRAINERS)
CONTROLS = ["</s>", "<pad>", "<unk>", "<extra_id_0>", "<extra_id_99>", "[CLS]", "[SEP]", "[MASK]", "<|endoftext|>", "<0x0A>", "<0xE4>"]
anything = st.lists(st.text() | st.sampled_from([*CONTROLS, *ODD[:13], "the furnace", "丹炉", "<", "0x0A>"]), max_size=6).map("".join)


@cache
def trained(kind: str) -> Tokenizer:
    return TRAINERS[kind](some_texts(), 700)


@settings(max_examples=300, deadline=None)
@given(anything)
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_any_text_comes_back_unchanged_and_its_tokens_are_its_bytes(kind: str, text: str) -> None:
    tokenizer = trained(kind)
    ids = tokenizer.encode(text)
    kept = text.replace("\u2581", " ") if kind == "unigram" else text  # the one character that stands for a space there
    assert tokenizer.decode(ids) == kept
    prefix = " " if kind == "unigram" and text else ""
    assert b"".join(tokenizer.token_bytes(id) for id in ids) == (prefix + kept).encode()
    assert not tokenizer.special_ids & set(ids)  # control tokens in a text stay text
    assert tokenizer.encode_batch([text])[0].tolist() == ids


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_all_single_characters_come_back(kind: str) -> None:
    for start in range(0, 0x30000, 0x800):
        text = "".join(chr(code) for code in range(start, start + 0x800) if not 0xD800 <= code < 0xE000).replace("\u2581", "")
        assert trained(kind).decode(trained(kind).encode(text)) == text


@settings(max_examples=100, deadline=None)
@given(anything)
def test_wordpiece_joins_its_pieces_and_reads_no_control_tokens(text: str) -> None:
    tokenizer = trained("wordpiece")
    ids = tokenizer.encode(text)
    assert set(ids) & tokenizer.special_ids <= {tokenizer.unk_id}
    joined = b"".join(tokenizer.token_bytes(id) for id in ids).decode()
    assert joined.replace(" ", "") == tokenizer.decode(ids).replace(" ", "")


def test_wordpiece_is_that_of_bert() -> None:
    tokenizer = trained("wordpiece")
    assert [tokenizer.raw.id_to_token(id) for id in range(5)] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    theirs = BertTokenizer(vocab=tokenizer.raw.get_vocab(), do_lower_case=False)
    for text in [*some_texts(12), *ODD]:
        assert tokenizer.encode_model_input(text).ids.tolist() == theirs(text)["input_ids"]
    ids = tokenizer.encode("the furnaced bridges 丹炉")
    assert any(tokenizer.raw.id_to_token(id).startswith("##") for id in ids)
    assert tokenizer.decode(ids) == "the furnaced bridges 丹 炉"
    assert b"".join(map(tokenizer.token_bytes, ids)) == " the furnaced bridges 丹 炉".encode()


def test_wordpiece_keeps_case_unless_asked_not_to() -> None:
    lower = train_wordpiece(some_texts(), 700, lowercase=True)
    assert lower.encode("THE Furnacé") == lower.encode("the furnace")
    assert trained("wordpiece").encode("THE") != trained("wordpiece").encode("the")


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_repeatable_and_learns_words(kind: str) -> None:
    first, second = TRAINERS[kind](iter(some_texts()), 700), TRAINERS[kind](some_texts(), 700)
    assert first.fingerprint == second.fingerprint == trained(kind).fingerprint
    assert first.vocabulary_size <= 700
    assert len(first.encode("the furnace of iron")) < 10
    assert TRAINERS[kind](some_texts(100), 700).fingerprint != first.fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_that_is_too_small_is_refused(kind: str) -> None:
    assert TRAINERS[kind](some_texts(), SMALLEST[kind]).vocabulary_size <= SMALLEST[kind]
    with pytest.raises(ConfigError, match=f"{SMALLEST[kind] - 1}; expected at least {SMALLEST[kind]}"):
        TRAINERS[kind](some_texts(), SMALLEST[kind] - 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("texts", [[], [""], ["\n\n"], ["a"], ["\x00"], [CHARACTERS * 20, "".join(map(chr, range(0x4E00, 0x6000)))]])
def test_little_and_strange_text_makes_a_vocabulary(kind: str, texts: list[str]) -> None:
    tokenizer = TRAINERS[kind](texts, 600)
    assert tokenizer.vocabulary_size <= 600
    if kind != "wordpiece":
        assert tokenizer.decode(tokenizer.encode("丹 a")) == "丹 a"


def test_bpe_learns_down_to_bytes() -> None:
    assert train_bpe([], 1000).vocabulary_size == 257
    assert len(train_bpe(["furnace "] * 50, 270).encode("furnace")) < len("furnace")


def test_unigram_has_the_control_tokens_of_t5() -> None:
    tokenizer = train_unigram(some_texts(), 700)
    assert (tokenizer.pad_id, tokenizer.end_of_text_id, tokenizer.unk_id) == (0, 1, 2)
    highest = tokenizer.vocabulary_size - 1
    assert tokenizer.sentinel_ids == tuple(range(highest, highest - 100, -1))
    assert tokenizer.encode("hot <extra_id_0> iron", special=True) == [
        *tokenizer.encode("hot"), tokenizer.sentinel_ids[0], *tokenizer.encode("iron"),
    ]  # fmt: skip
    assert trained("bpe").sentinel_ids == trained("wordpiece").sentinel_ids == ()


@pytest.mark.parametrize(("kind", "model_type"), [("bpe", "llama"), ("wordpiece", "bert"), ("unigram", "t5"), ("unigram", "marian")])
def test_saved_it_is_the_same_here_and_in_transformers(kind: str, model_type: str, tmp_path: Path) -> None:
    tokenizer = trained(kind)
    tokenizer.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))  # transformers goes by it where it can
    again, theirs = Tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint
    for name in ("bos", "eos", "cls", "sep", "mask", "pad", "unk"):
        own = again.end_of_text_id if name == "eos" else getattr(again, f"{name}_id")
        assert own == getattr(theirs, f"{name}_token_id")
    for text in [*some_texts(8), *ODD]:
        found = theirs(text)
        assert found["input_ids"] == again.encode_model_input(text).ids.tolist() == tokenizer.encode_model_inputs([text])[0].tolist()
        assert theirs(text, "x" + text[:50])["input_ids"] == again.encode_model_input(text, "x" + text[:50]).ids.tolist()
        assert ("token_type_ids" in found) == (kind == "wordpiece")  # GPT and T5 refuse inputs that they do not have


def test_control_tokens_stand_where_bert_and_t5_have_them() -> None:
    bert, t5, gpt = trained("wordpiece"), trained("unigram"), trained("bpe")
    assert bert.encode_model_input("iron", "hot").ids.tolist() == [
        bert.cls_id, *bert.encode("iron"), bert.sep_id, *bert.encode("hot"), bert.sep_id,
    ]  # fmt: skip
    assert t5.encode_model_input("iron").ids.tolist() == [*t5.encode("iron"), t5.end_of_text_id]
    assert gpt.encode_model_input("iron").ids.tolist() == gpt.encode("iron")
