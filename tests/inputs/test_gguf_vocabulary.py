"""Tokenizers in GGUF metadata, written by the gguf package and read back: the same ids for every kind."""

from __future__ import annotations

import io
import json
import random
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import pytest
from sentencepiece import SentencePieceTrainer
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models, normalizers, pre_tokenizers, processors

from danlu.base.errors import CheckpointError
from danlu.base.gguf_header import read_header
from danlu.inputs.cutting import NAMES
from danlu.inputs.framing import frame_ends
from danlu.inputs.gguf_fields import write_vocabulary
from danlu.inputs.gguf_vocabulary import read_vocabulary
from danlu.inputs.sentencepiece_model import read_model
from danlu.inputs.tokenizer import Tokenizer
from danlu.inputs.vocabulary_training import train_bpe, train_unigram, train_wordpiece

from .texts import ODD, some_texts

TEXTS = [*some_texts(20), *ODD]
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def byte_level(cut: str) -> Tokenizer:
    cutting = NAMES[cut]
    whole = json.loads(train_bpe(some_texts(), 500).raw.to_str())
    whole["model"]["ignore_merges"] = cutting.ignore_merges
    raw = RawTokenizer.from_str(json.dumps(whole))
    raw.pre_tokenizer = cutting.pre_tokenizer()
    return Tokenizer(raw, {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "chat_template": TEMPLATE})


def pieces(kind: str, before: str | None, after: str | None, **options: Any) -> Tokenizer:
    model = io.BytesIO()
    lines = (line for text in some_texts() for line in text.split("\n"))
    options = {"model_type": kind, "vocab_size": 600, "hard_vocab_limit": False, "pad_id": 3, "minloglevel": 2} | options
    SentencePieceTrainer.train(sentence_iterator=lines, model_writer=model, **options)
    raw = read_model(model.getvalue()).tokenizer()
    frame_ends(raw, before, after)
    return Tokenizer(raw, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"})


def framed(tokenizer: Tokenizer, before: str | None, after: str | None) -> Tokenizer:
    frame_ends(tokenizer.raw, before, after)
    return tokenizer


IDENTITY = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
LLAMA = {"byte_fallback": True, **IDENTITY}
CUTS = ("gpt-2", "smollm", "qwen2", "llama-bpe", "dbrx", "falcon", "default", "qwen35")
MAKERS: dict[str, Callable[[], Tokenizer]] = {
    **{f"gpt2 {cut}": lambda cut=cut: byte_level(cut) for cut in CUTS},  # type: ignore[misc]
    "gpt2 with both ends": lambda: framed(byte_level("gpt-2"), "<|endoftext|>", "<|endoftext|>"),
    "bert": lambda: train_wordpiece(some_texts(), 600),
    "bert in lower case": lambda: train_wordpiece(some_texts(), 600, lowercase=True),
    "t5": lambda: train_unigram(some_texts(), 700),
    "t5 with replacements": lambda: pieces("unigram", None, "</s>"),
    "t5 without prefix": lambda: pieces("unigram", None, "</s>", add_dummy_prefix=False, **IDENTITY),
    "llama": lambda: pieces("bpe", "<s>", None, **LLAMA),
    "llama without prefix": lambda: pieces("bpe", None, None, add_dummy_prefix=False, user_defined_symbols="<sep>", **LLAMA),
}


@cache
def made(name: str) -> Tokenizer:
    return MAKERS[name]()


def through_file(fields: dict[str, Any], path: Path) -> dict[str, Any]:
    """What comes back of the fields, written as their types say."""
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in fields.items():
        match value:
            case bool():
                writer.add_bool(name, value)
            case int():
                writer.add_uint32(name, value)
            case str():
                writer.add_string(name, value)
            case _:
                writer.add_array(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return read_header(path).settings


@pytest.mark.parametrize("name", MAKERS)
def test_written_and_read_it_gives_the_same_ids(name: str, tmp_path: Path) -> None:
    own = made(name)
    size = own.vocabulary_size + 9
    again = read_vocabulary(through_file(write_vocabulary(own, size), tmp_path / "a.gguf"), tmp_path / "a.gguf")
    assert again.vocabulary_size == size
    assert again.special_ids == own.special_ids
    assert again.sentinel_ids == own.sentinel_ids
    assert again.chat_template == own.chat_template
    for token in ("unk_id", "pad_id", "sep_id", "cls_id", "mask_id", "end_of_text_id"):
        assert getattr(again, token) == getattr(own, token)
    assert again.bos_id == (own.cls_id if own.bos_id is None else own.bos_id)
    for text in TEXTS:
        ids = own.encode(text)
        assert again.encode(text) == ids
        assert again.encode_model_input(text, "b").ids.tolist() == own.encode_model_input(text, "b").ids.tolist()
        assert again.decode(ids) == own.decode(ids)
        assert b"".join(map(again.token_bytes, ids)) == b"".join(map(own.token_bytes, ids))
    fields = write_vocabulary(again, size)
    assert {key: value for key, value in fields.items() if key != "tokenizer.ggml.token_type"} == {
        key: value for key, value in write_vocabulary(own, size).items() if key != "tokenizer.ggml.token_type"
    }


def test_fields_are_those_of_the_format(tmp_path: Path) -> None:
    fields = through_file(write_vocabulary(made("bert"), 610), tmp_path / "a.gguf")
    assert fields["tokenizer.ggml.model"] == "bert"
    tokens = list(fields["tokenizer.ggml.tokens"])
    assert tokens[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert fields["tokenizer.ggml.token_type"][:5] == [3, 2, 3, 3, 3]
    assert "\u2581furnace" in tokens and "##" not in "".join(tokens)
    known = {name for name in vars(gguf.Keys.Tokenizer).values() if isinstance(name, str)}
    known |= {f"tokenizer.ggml.{name}" for name in ("cls_token_id", "normalizer.lowercase", "normalizer.strip_accents")}  # llama.cpp's own
    for name in MAKERS:
        assert write_vocabulary(made(name), made(name).vocabulary_size).keys() <= known
    assert len(fields["tokenizer.ggml.tokens"]) == len(fields["tokenizer.ggml.token_type"]) == 610
    assert fields["tokenizer.ggml.token_type"][-1] == 5


def test_llama3_names_skip_merges_and_begin_texts() -> None:
    fields = write_vocabulary(byte_level("llama-bpe"), 500)
    assert fields["tokenizer.ggml.add_bos_token"] is False
    del fields["tokenizer.ggml.add_bos_token"]
    again = read_vocabulary(fields, Path("a.gguf"))
    assert again.encode_model_input("a").ids[0] == again.bos_id
    assert json.loads(again.raw.to_str())["model"]["ignore_merges"]


def refused(change: Callable[[RawTokenizer], None], name: str) -> str:
    raw = RawTokenizer.from_str(made(name).raw.to_str())
    change(raw)
    with pytest.raises(CheckpointError) as caught:
        write_vocabulary(Tokenizer(raw, made(name).settings), 2000)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_gguf_cannot_say_is_refused() -> None:
    def other_pattern(raw: RawTokenizer) -> None:
        raw.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split("x", behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )

    def lower(raw: RawTokenizer) -> None:
        raw.normalizer = normalizers.Lowercase()

    def both_texts(raw: RawTokenizer) -> None:
        raw.post_processor = processors.TemplateProcessing(single="[CLS] [CLS] $A", special_tokens=[("[CLS]", 2)])

    assert "'x'" in refused(other_pattern, "gpt2 qwen2")
    for name in ("gpt2 qwen2", "llama", "t5", "bert"):
        assert "Lowercase" in refused(lower, name)
    assert "[2, 2]" in refused(both_texts, "bert")
    with pytest.raises(CheckpointError, match="500 tokens came for a model of 499"):
        write_vocabulary(made("gpt2 qwen2"), 499)
    with pytest.raises(CheckpointError, match="kind WordLevel"):
        write_vocabulary(Tokenizer(RawTokenizer(models.WordLevel({"a": 0}, unk_token="a"))), 1)


def test_merges_that_scores_cannot_say_are_refused() -> None:
    whole = json.loads(made("llama").raw.to_str())
    merges = whole["model"]["merges"]
    twice = next(place for place in range(1, len(merges)) if "".join(merges[place]) == "".join(merges[place - 1]))
    pair = merges.pop(twice)  # its piece is made by another pair too
    for more in ([], [pair]):  # now not at all, then after pairs of other pieces
        merges += more
        with pytest.raises(CheckpointError, match="every pair"):
            write_vocabulary(Tokenizer(RawTokenizer.from_str(json.dumps(whole))), 700)


@pytest.mark.parametrize("cut", ["tekken", 5, "gpt 2"])
def test_an_unknown_name_is_refused(cut: Any) -> None:
    fields = write_vocabulary(made("gpt2 qwen2"), 500) | {"tokenizer.ggml.pre": cut}
    with pytest.raises(CheckpointError, match=f"cuts text as {cut!r}; known are gpt-2"):
        read_vocabulary(fields, Path("a.gguf"))


def test_changed_metadata_is_read_or_refused_soon() -> None:
    dice, outcomes = random.Random(0), set()
    odd: list[Any] = [None, -1, 2**40, "", "x", [], [0], ["a"], [["a"]], True, 0.5, b"\xff" * 9]
    for number in range(400):
        fields = dict(write_vocabulary(made(dice.choice(["gpt2 qwen2", "bert", "t5 with replacements", "llama"])), 710))
        name = dice.choice(list(fields))
        if dice.random() < 0.5 and isinstance(fields[name], list | bytes) and len(fields[name]):
            values = list(fields[name])
            values[dice.randrange(len(values))] = dice.choice(odd[:6])
            fields[name] = values[: dice.choice([len(values), len(values) // 2])]
        else:
            fields[name] = dice.choice(odd)
        began = time.monotonic()
        try:
            read_vocabulary(fields, Path("a.gguf")).encode("the furnace 丹炉 ﬁ Å")
            outcomes.add("read")
        except CheckpointError as error:
            assert "\n" not in str(error), number
            outcomes.add("refused")
        assert time.monotonic() - began < 5
    assert outcomes == {"read", "refused"}
