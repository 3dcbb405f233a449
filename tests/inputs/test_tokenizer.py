from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as RawTokenizer
from transformers import AutoTokenizer

from danlu.base.errors import CheckpointError
from danlu.inputs.tokenizer import END_OF_TEXT, Tokenizer
from danlu.inputs.vocabulary_training import train_bpe

TEXTS = ["The furnace is hot, isn't it? ", "丹炉里炼出来的大模型。", "def f(x):\n\treturn x[12] + 345\r\n", "😀 e\u0301 \u200d\u3000"]


def make_tokenizer() -> Tokenizer:
    raw = train_bpe(TEXTS * 8, 360).raw
    raw.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in ("<|im_start|>", "<|im_end|>")])
    return Tokenizer(raw, {"eos_token": END_OF_TEXT, "bos_token": "<|im_start|>"})


TOKENIZER = make_tokenizer()
CONTROLS = ["<|im_start|>", "<|im_end|>", END_OF_TEXT]
anything = st.lists(st.text() | st.sampled_from([*TEXTS, *CONTROLS, " ", "\r\n", "'s", "<|", "0"]), max_size=8).map("".join)


@settings(max_examples=300, deadline=None)
@given(anything)
def test_any_text_comes_back_unchanged_and_its_tokens_are_its_bytes(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert b"".join(TOKENIZER.token_bytes(id) for id in ids) == text.encode()
    assert not TOKENIZER.special_ids & set(ids)  # control tokens in a text stay text
    (bulk,) = TOKENIZER.encode_batch([text])
    assert bulk.tolist() == ids


def test_all_single_characters_come_back() -> None:
    for start in range(0, 0x30000, 0x800):
        text = "".join(chr(code) for code in range(start, start + 0x800) if not 0xD800 <= code < 0xE000)
        assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_control_tokens_are_read_only_on_request() -> None:
    start, end = (TOKENIZER.raw.token_to_id(name) for name in CONTROLS[:2])
    text = "<|im_start|>hot<|im_end|>"
    read = TOKENIZER.encode(text, special=True)
    assert (read[0], read[-1]) == (start, end)
    assert read[1:-1] == TOKENIZER.encode("hot")
    assert TOKENIZER.decode(read) == "hot"
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text  # and asking once changes nothing for later texts
    assert TOKENIZER.special_ids == {start, end, TOKENIZER.end_of_text_id}
    assert (TOKENIZER.bos_id, TOKENIZER.token_bytes(start)) == (start, b"")


def test_saved_it_is_the_same_here_and_in_transformers(tmp_path: Path) -> None:
    own = Tokenizer(TOKENIZER.raw, TOKENIZER.settings | {"chat_template": "{{ messages }}"})
    own.save(tmp_path)
    again, theirs = Tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert again.fingerprint == Tokenizer.load(tmp_path / "tokenizer.json").fingerprint == own.fingerprint
    assert again.chat_template == theirs.chat_template == "{{ messages }}"
    assert (again.end_of_text_id, again.bos_id) == (theirs.eos_token_id, theirs.bos_token_id) == (own.end_of_text_id, own.bos_id)
    for text in [*TEXTS, "", "  two  spaces\n\n\n1234567 ", "x<|im_end|>y" * 2]:
        assert theirs(text, add_special_tokens=False)["input_ids"] == again.encode(text, special=True) == own.encode(text, special=True)
        assert again.encode(text) == own.encode(text)


def test_a_template_in_its_own_file_counts(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    assert Tokenizer.load(tmp_path).chat_template is None
    (tmp_path / "chat_template.jinja").write_text("丹{{ messages }}", encoding="utf-8")
    assert Tokenizer.load(tmp_path).chat_template == "丹{{ messages }}"


def test_padding_and_truncation_of_a_file_do_not_count(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    raw = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    raw["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw), encoding="utf-8")
    assert Tokenizer.load(tmp_path).encode(TEXTS[0]) == TOKENIZER.encode(TEXTS[0])


def test_batches_equal_single_texts() -> None:
    texts = [*TEXTS, "", *CONTROLS, "a" * 3000]
    for found, text in zip(TOKENIZER.encode_batch(texts), texts, strict=True):
        assert isinstance(found, np.ndarray)
        assert found.tolist() == TOKENIZER.encode(text)
    assert TOKENIZER.encode_batch([]) == []


@pytest.mark.parametrize("content", [b"", b"{}", b"null", b"\xff", b'{"version": "9"}'])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"[]", b"3", b"\xff"])
def test_damaged_settings_are_refused(tmp_path: Path, content: bytes) -> None:
    TOKENIZER.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json cannot be read"):
        Tokenizer.load(tmp_path)


def test_a_folder_without_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        Tokenizer.load(tmp_path)


def test_what_reads_controls_is_the_same_tokenizer_with_holes_and_tokens_of_all_kinds() -> None:
    def make() -> RawTokenizer:
        raw = RawTokenizer(models.WordLevel({"a": 0, "b": 7, "<s>": 3, "<x>": 9}, unk_token="a"))
        raw.normalizer, raw.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
        raw.add_tokens([AddedToken("kiln", single_word=True), AddedToken("b", normalized=False)])
        raw.add_special_tokens([AddedToken("<s>", lstrip=True), AddedToken("<new>", normalized=False)])
        raw.add_tokens([AddedToken("火", rstrip=True)])
        raw.add_special_tokens([AddedToken("<last>")])
        return raw

    own, other = Tokenizer(make()), make()  # the library's, which reads control tokens unless told otherwise
    for text in ("a b <s> kiln <new>火 b<last>", "A kilns  <S><x>", "", "火火<s>"):
        assert own.encode(text, special=True) == other.encode(text, add_special_tokens=False).ids
    assert own.encode("<s> a<new>", special=True) == [3, 0, 8]


def test_thousands_of_added_tokens_keep_their_ids() -> None:
    raw = RawTokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    raw.add_special_tokens([AddedToken(f"<{number}>", normalized=False) for number in range(6000)])
    assert Tokenizer(raw).encode("<7><5999>a", special=True) == [8, 6000, 0]


def test_ids_of_control_tokens_come_from_the_settings() -> None:
    names = {"pad_token": "<|im_end|>", "unk_token": {"content": END_OF_TEXT, "lstrip": False}, "cls_token": "none such", "mask_token": 5}
    own = Tokenizer(TOKENIZER.raw, names)
    assert own.pad_id == TOKENIZER.raw.token_to_id("<|im_end|>")
    assert own.unk_id == TOKENIZER.end_of_text_id
    assert own.cls_id is own.mask_id is own.sep_id is own.bos_id is None


def test_a_vocabulary_with_holes_counts_to_its_highest_id() -> None:
    raw = RawTokenizer(models.WordLevel({"a": 0, "b": 7}, unk_token="a"))
    assert Tokenizer(raw).vocabulary_size == 8
    assert Tokenizer(raw).token_bytes(5) == b""
