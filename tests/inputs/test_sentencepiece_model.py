"""Model files read from their bytes, against sentencepiece's own protobuf reader."""

from __future__ import annotations

import io
import random
import time
from functools import cache

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer, sentencepiece_model_pb2

from danlu.inputs.pieces import Kind, Spacing
from danlu.inputs.sentencepiece_model import read_model

from .texts import ODD, some_texts


@cache
def made(kind: str, rule: str = "identity", **options: object) -> bytes:
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=(line for text in some_texts() for line in text.split("\n")),
        model_writer=model, model_type=kind, vocab_size=600, hard_vocab_limit=False, normalization_rule_name=rule, minloglevel=2, **options,
    )  # fmt: skip
    return model.getvalue()


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize("rule", ["identity", "nmt_nfkc", "nmt_nfkc_cf"])
@pytest.mark.parametrize("merge", [True, False])
def test_fields_are_those_that_protobuf_finds(kind: str, rule: str, merge: bool) -> None:
    data = made(kind, rule, remove_extra_whitespaces=merge, user_defined_symbols="<sep>,丹", byte_fallback=rule == "identity")
    own, theirs = read_model(data), sentencepiece_model_pb2.ModelProto.FromString(data)
    assert [(piece.text, piece.score, int(piece.kind)) for piece in own.pieces] == [(it.piece, it.score, it.type) for it in theirs.pieces]
    assert own.kind == theirs.trainer_spec.model_type
    spec = theirs.normalizer_spec
    assert own.spacing == Spacing(prefix=spec.add_dummy_prefix, merge=spec.remove_extra_whitespaces, replacements=spec.precompiled_charsmap)
    assert {Kind.NORMAL, Kind.CONTROL, Kind.UNKNOWN, Kind.USER_DEFINED} <= {piece.kind for piece in own.pieces}


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize("rule", ["identity", "nmt_nfkc"])
@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("byte_fallback", [True, False])
def test_ids_are_those_of_sentencepiece(kind: str, rule: str, merge: bool, byte_fallback: bool) -> None:
    data = made(kind, rule, remove_extra_whitespaces=merge, byte_fallback=byte_fallback)
    own, theirs = read_model(data).tokenizer(), SentencePieceProcessor(model_proto=data)
    for text in [*some_texts(40), *ODD]:
        if "\x01" in text or "<0x" in text:  # names of bytes, where the vocabulary lacks a character that they are spelled with
            continue
        if rule != "identity" and not merge:
            text = text.replace("\r\n", "\n")  # tokenizers takes the pair for one character and makes one space of it
        ids = own.encode(text, add_special_tokens=False).ids
        assert ids == theirs.encode(text)
        if byte_fallback:
            assert own.decode(ids) == theirs.decode(ids)


@pytest.mark.parametrize("options", [{"kind": "word"}, {"kind": "char"}, {"kind": "unigram", "treat_whitespace_as_suffix": True}])
def test_other_kinds_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"known are 1 \(Unigram\) and 2 \(BPE\)"):
        read_model(made(**options))  # type: ignore[arg-type]


def test_cut_files_are_refused_or_hold_fewer_pieces() -> None:
    data = made("unigram")
    whole = read_model(data)
    for length in [*range(60), *range(60, len(data), 97)]:
        try:
            assert read_model(data[:length]).pieces == whole.pieces[: len(read_model(data[:length]).pieces)]
        except (ValueError, KeyError) as error:
            assert "\n" not in repr(error)


def test_changed_files_are_read_or_refused_soon() -> None:
    data = made("unigram", "nmt_nfkc")
    dice, outcomes = random.Random(0), set()
    for _ in range(150):
        changed = bytearray(data)
        for _ in range(dice.choice([1, 1, 4])):
            place, count = dice.randrange(dice.choice([300, len(data)])), dice.choice([1, 4, 8])
            changed[place : place + count] = dice.choice([dice.randbytes(count), b"\xff" * count, bytes(count)])
        began = time.monotonic()
        try:
            raw = read_model(bytes(changed)).tokenizer()
            raw.decode(raw.encode("ﬁ Å ①½ か\u3099 ﷺ \u3000 abc 丹炉 ").ids)
            outcomes.add(True)
        except Exception as error:  # but not a panic of the library, which is none
            assert "\n" not in repr(error)
            outcomes.add(False)
        assert time.monotonic() - began < 5
    assert outcomes == {True, False}
