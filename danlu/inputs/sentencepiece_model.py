"""sentencepiece's model files: pieces, scores and how text is normalised, read from their bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer as RawTokenizer

from danlu.inputs.pieces import Kind, Piece, Spacing, scored_bpe, unigram

# The numbers of the fields that matter, in messages of sentencepiece_model.proto; what is left out there has these defaults.
PIECE, TRAINER, NORMALIZER = 1, 2, 3
TEXT, SCORE, KIND = 1, 2, 3
MODEL_KIND, SPACE_AS_SUFFIX = 3, 24
REPLACEMENTS, PREFIX, MERGE, ESCAPE = 2, 3, 4, 5

UNIGRAM, BPE = 1, 2
MAKERS: Mapping[int, Callable[[Sequence[Piece], Spacing], RawTokenizer]] = {UNIGRAM: unigram, BPE: scored_bpe}

VARINT, EIGHT_BYTES, COUNTED, FOUR_BYTES = 0, 1, 2, 5  # protobuf's ways of writing a value


@dataclass(frozen=True, kw_only=True)
class SentencePieceModel:
    """What decides the ids of a text."""

    kind: int
    pieces: list[Piece]
    spacing: Spacing

    def tokenizer(self) -> RawTokenizer:
        """The same tokenizer in the library's terms.

        Raises: ValueError if the pieces make no vocabulary.
        """
        return MAKERS[self.kind](self.pieces, self.spacing)


def read_model(data: bytes) -> SentencePieceModel:
    """Read a model file; every length is checked against the file before it is used.

    Raises: ValueError if it is cut or damaged, or of a kind that is not understood.
    Source: github.com/google/sentencepiece, src/sentencepiece_model.proto; protobuf.dev, "Encoding".
    """
    pieces: list[Piece] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in _fields(data):
        if number == PIECE:
            pieces.append(_piece(dict(_fields(_bytes(value)))))
        elif number == TRAINER:
            trainer |= dict(_fields(_bytes(value)))
        elif number == NORMALIZER:
            normalizer |= dict(_fields(_bytes(value)))
    kind = trainer.get(MODEL_KIND, UNIGRAM)
    if not isinstance(kind, int) or kind not in MAKERS or trainer.get(SPACE_AS_SUFFIX) or not normalizer.get(ESCAPE, True):
        raise ValueError(
            f"its kind is {kind!r} or it keeps spaces otherwise; known are {UNIGRAM} (Unigram) and {BPE} (BPE), spaces before words"
        )
    if not pieces:
        raise ValueError("no piece is in it")
    spacing = Spacing(
        prefix=bool(normalizer.get(PREFIX, True)),
        merge=bool(normalizer.get(MERGE, True)),
        replacements=_bytes(normalizer.get(REPLACEMENTS, b"")),
    )
    return SentencePieceModel(kind=kind, pieces=pieces, spacing=spacing)


def _piece(fields: Mapping[int, int | bytes]) -> Piece:
    [score] = struct.unpack("<f", _bytes(fields.get(SCORE, bytes(4))))
    return Piece(_bytes(fields[TEXT]).decode("utf-8"), score, Kind(fields.get(KIND, Kind.NORMAL)))  # type: ignore[arg-type]


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a message: an int if it is a varint, else its bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        way = key & 7
        if way == VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if way == COUNTED:
            size, at = _varint(data, at)
        elif way in (EIGHT_BYTES, FOUR_BYTES):
            size = 8 if way == EIGHT_BYTES else 4
        else:
            raise ValueError(f"a field is written in way {way} before byte {at}")
        if size > len(data) - at:
            raise ValueError(f"{size} bytes are announced at byte {at} of {len(data)}")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, lowest first, and the place behind it."""
    if at < len(data) and data[at] < 0x80:  # nearly all are this short
        return data[at], at + 1
    value = 0
    for shift, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, at + shift + 1
    raise ValueError(f"a number at byte {at} has no end")


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number stands where text or bytes belong")
    return value
