"""Scored pieces: which merges their scores say, and what their spacing says, both ways."""

from __future__ import annotations

import pytest
from tokenizers import Regex, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as RawTokenizer

from danlu.inputs.pieces import LONGEST_PIECE, Kind, Piece, Spacing, byte_piece, check_replacements, merges_by_score, scored_bpe, unigram

UNKNOWN = Piece("<unk>", 0.0, Kind.UNKNOWN)


def test_merges_go_by_score_and_take_every_pair() -> None:
    scores = {"a": -9, "b": -9, "ab": -1, "ba": -0.5, "aba": -3, "c": -9, "xy": 0}
    pieces = [UNKNOWN, *(Piece(text, score) for text, score in scores.items())]
    assert merges_by_score(pieces) == [("b", "a"), ("a", "b"), ("a", "ba"), ("ab", "a")]
    raw = scored_bpe(pieces, Spacing(prefix=False))
    assert raw.encode("abab").tokens == ["aba", "b"]
    with pytest.raises(ValueError, match=f"{LONGEST_PIECE + 1} characters"):
        merges_by_score([Piece("a" * (LONGEST_PIECE + 1))])


def test_unigram_takes_the_likeliest_and_reads_no_names() -> None:
    hidden = [Piece(byte_piece(byte), kind=Kind.BYTE) for byte in range(256)] + [Piece("old", kind=Kind.UNUSED)]
    letters = [Piece(text, -5.0) for text in "old<0xA>"]
    raw = unigram([UNKNOWN, *hidden, Piece("ab", -1.0), Piece("a", -2.0), Piece("b", -2.0), *letters], Spacing(prefix=False))
    assert raw.encode("abba").tokens == ["ab", "b", "a"]
    assert raw.encode("old<0x0A>").tokens == [*"old<0x0A>"]
    assert raw.encode("é").tokens == ["<0xC3>", "<0xA9>"]
    assert raw.decode(raw.encode("aéb").ids) == "aéb"


@pytest.mark.parametrize("pieces", [[], [Piece("a")], [UNKNOWN, Piece("a"), Piece("a")]])
def test_pieces_that_make_no_vocabulary_are_refused(pieces: list[Piece]) -> None:
    with pytest.raises(ValueError, match=r"unknown|twice"):
        unigram(pieces, Spacing())


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("merge", [True, False])
def test_spacing_is_found_again_in_a_tokenizer(prefix: bool, merge: bool) -> None:
    spacing = Spacing(prefix=prefix, merge=merge)
    raw = unigram([UNKNOWN, Piece("a", -1.0)], spacing)
    assert Spacing.of(raw) == spacing
    expected = "a_\n_b" if merge else "__a__\n_b_"
    assert raw.normalizer.normalize_str("  a  \n b ") == ("_" * prefix + expected).replace("_", "\u2581")


def test_spacing_as_transformers_writes_it() -> None:
    raw = RawTokenizer(models.Unigram([("<unk>", 0.0)], 0))
    raw.normalizer = normalizers.Sequence([normalizers.Strip(left=False), normalizers.Replace(Regex(" {2,}"), "\u2581")])
    raw.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    assert Spacing.of(raw) == Spacing(prefix=True, merge=True)
    raw.normalizer = normalizers.Lowercase()
    with pytest.raises(ValueError, match="Lowercase"):
        Spacing.of(raw)


@pytest.mark.parametrize("table", [b"", b"\1", bytes(8), b"\0\0\0\x80" + bytes(40), b"\x08\0\0\0" + b"\xff" * 8 + b"x\0"])
def test_tables_that_lead_out_of_themselves_are_refused(table: bytes) -> None:
    with pytest.raises(ValueError):
        check_replacements(table)
