"""Tokenizers of scored pieces: sentencepiece's Unigram and its BPE, wherever the pieces were stored (its own files, GGUF, training)."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, decoders, models, normalizers
from tokenizers import Tokenizer as RawTokenizer

SPACE = "\u2581"  # how a space is written in pieces; this very character therefore comes back as a space
OUTER_SPACES, MANY_SPACES = rf"\A +|[ {SPACE}]+\z", " {2,}"
LONGEST_PIECE = 1024  # characters; real ones have up to a few hundred spaces. All places to cut a piece are tried
UNREACHABLE = -1e6  # a score with which a piece is never read in a text whose characters are all known


class Kind(IntEnum):
    """What a piece is, by the numbers that sentencepiece's files and GGUF share."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary; its place is its id."""

    text: str
    score: float = 0.0
    kind: Kind = Kind.NORMAL


@dataclass(frozen=True, kw_only=True)
class Spacing:
    """What happens to a text before it is cut: a table of replacements (such as NFKC), then its spaces."""

    prefix: bool = True  # a space is set before each text, so that a word is the same piece at its beginning and inside
    merge: bool = False  # several spaces become one, and none stay at the ends
    replacements: bytes = b""  # sentencepiece's precompiled_charsmap

    def normalizer(self) -> normalizers.Normalizer:
        steps: list[normalizers.Normalizer] = []
        if self.replacements:
            check_replacements(self.replacements)
            steps.append(normalizers.Precompiled(self.replacements))
        if self.merge:
            steps += [normalizers.Replace(Regex(OUTER_SPACES), ""), normalizers.Replace(Regex(MANY_SPACES), " ")]
        if self.prefix:
            steps.append(normalizers.Prepend(SPACE))
        return normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])

    @classmethod
    def of(cls, raw: RawTokenizer) -> Spacing:
        """What a tokenizer does, by its normalizer and pre-tokenizer; transformers' way of writing T5, Llama and XLM-R is known too.

        Raises: ValueError for a step that cannot be said like this.
        """
        prefix = merge = False
        replacements = b""
        parts = [part for part in (raw.normalizer, raw.pre_tokenizer) if part is not None]
        whole = [json.loads(part.__getstate__()) for part in parts]
        for step in [step for part in whole for step in part.get("normalizers", part.get("pretokenizers", [part]))]:
            match step:
                case {"type": "Precompiled", "precompiled_charsmap": str(table)}:
                    replacements = base64.b64decode(table)
                case {"type": "Prepend", "prepend": "\u2581"}:
                    prefix = True
                case {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme}:
                    prefix |= scheme != "never"
                case {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}:
                    pass
                case {"type": "WhitespaceSplit" | "Strip"}:
                    merge = True
                case {"type": "Replace", "pattern": {"Regex": pattern}} if pattern in (OUTER_SPACES, MANY_SPACES):
                    merge = True
                case _:
                    raise ValueError(f"a step {step} is there")
        return cls(prefix=prefix, merge=merge, replacements=replacements)

    def decoder(self) -> decoders.Decoder:
        steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        return decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if self.prefix else steps)


def unigram(pieces: Sequence[Piece], spacing: Spacing) -> RawTokenizer:
    """The likeliest sequence of pieces.

    Raises: ValueError if the pieces make no vocabulary.
    Source: Kudo 2018, arXiv:1804.10959.
    """
    # The library would read bytes and unused pieces where a text spells their names, which sentencepiece does not.
    # It also misreads its own files in the 17th digit of a number: nine places keep all of a score that is stored in 32 bits.
    scores = [UNREACHABLE if piece.kind in (Kind.BYTE, Kind.UNUSED) else round(piece.score, 9) for piece in pieces]
    unknown = next((id for id, piece in enumerate(pieces) if piece.kind == Kind.UNKNOWN), None)
    if unknown is None:
        raise ValueError("no piece for unknown characters is there")
    vocabulary = [(piece.text, score) for piece, score in zip(pieces, scores, strict=True)]
    return _finish(RawTokenizer(models.Unigram(vocabulary, unknown, _has_bytes(pieces))), pieces, spacing)


def scored_bpe(pieces: Sequence[Piece], spacing: Spacing) -> RawTokenizer:
    """Merges of neighbours, those of the highest score first; Llama's kind.

    Raises: ValueError if the pieces make no vocabulary.
    Source: Sennrich et al. 2016, arXiv:1508.07909; Kudo and Richardson 2018, arXiv:1808.06226.
    """
    vocabulary = {piece.text: id for id, piece in enumerate(pieces)}
    unknown = next((piece.text for piece in pieces if piece.kind == Kind.UNKNOWN), None)
    model = models.BPE(vocab=vocabulary, merges=merges_by_score(pieces), unk_token=unknown, fuse_unk=True, byte_fallback=_has_bytes(pieces))
    return _finish(RawTokenizer(model), pieces, spacing)


def merges_by_score(pieces: Sequence[Piece]) -> list[tuple[str, str]]:
    """Every pair of pieces that makes a piece, in the order in which sentencepiece merges them.

    Pairs that make the same piece have no order there (the leftmost goes first); here they need one.
    """
    scores = {piece.text: piece.score for piece in pieces if piece.kind == Kind.NORMAL}
    merges = []
    for text in sorted(scores, key=lambda text: -scores[text]):
        if len(text) > LONGEST_PIECE:
            raise ValueError(f"a piece of {len(text)} characters is there; expected {LONGEST_PIECE} at most")
        merges += [(text[:cut], text[cut:]) for cut in range(1, len(text)) if text[:cut] in scores and text[cut:] in scores]
    return merges


def sentinel(number: int) -> str:
    """The token that stands for the number-th span that was cut out of a text, as T5 names them."""
    return f"<extra_id_{number}>"


def add_sentinels(raw: RawTokenizer, total: int) -> None:
    """Add control tokens for `total` spans; T5's first has the highest id. They take the spaces around them along."""
    names = (sentinel(number) for number in reversed(range(total)))
    raw.add_special_tokens([AddedToken(name, lstrip=True, rstrip=True, normalized=False) for name in names])


def byte_piece(byte: int) -> str:
    """How a byte is written as a piece."""
    return f"<0x{byte:02X}>"


def _has_bytes(pieces: Sequence[Piece]) -> bool:
    """Whether unknown characters can be written as bytes."""
    return {piece.text for piece in pieces if piece.kind == Kind.BYTE} == set(map(byte_piece, range(256)))


def _finish(raw: RawTokenizer, pieces: Sequence[Piece], spacing: Spacing) -> RawTokenizer:
    if len({piece.text for piece in pieces}) < len(pieces):
        raise ValueError("a piece is there twice")
    raw.normalizer, raw.decoder = spacing.normalizer(), spacing.decoder()
    raw.add_special_tokens([AddedToken(p.text, normalized=False) for p in pieces if p.kind in (Kind.CONTROL, Kind.UNKNOWN)])
    raw.add_tokens([AddedToken(p.text, normalized=False) for p in pieces if p.kind == Kind.USER_DEFINED])
    return raw


def check_replacements(blob: bytes) -> None:
    """Raises: ValueError if a walk through the table could leave it: the library would panic in the middle of a text.

    The blob is the size of an array of 32-bit units, that array (a double-array trie over bytes) and the replacements, each
    ended by a zero byte. A unit holds its label in bits 0-7, whether it ends a key in bit 8, and the distance to its children.
    Source: github.com/google/sentencepiece, src/normalizer.cc; github.com/s-yata/darts-clone, darts.h.
    """
    size = int.from_bytes(blob[:4], "little")
    if len(blob) < 4 or size % 4 or not 4 <= size <= len(blob) - 4:
        raise ValueError(f"a table of {size} bytes in {len(blob)} is announced")
    units: NDArray[np.uint32] = np.frombuffer(blob, dtype="<u4", count=size // 4, offset=4)
    texts = blob[4 + size :]
    texts.decode("utf-8")
    begins = np.frombuffer(texts, dtype=np.uint8) & 0xC0 != 0x80  # where a character begins
    offsets = (units >> 10) << ((units & 0x200) >> 6)
    nodes, seen = np.zeros(1, dtype=np.int64), np.zeros(len(units), dtype=bool)
    while len(nodes):
        seen[nodes] = True
        below = nodes ^ offsets[nodes]
        if (below | 0xFF).max() >= len(units):
            raise ValueError("its table of replacements leads out of itself")
        ends = units[below[(units[nodes] >> 8) & 1 == 1]] & 0x7FFFFFFF
        if len(ends) and (ends.max() >= len(texts) or not begins[ends].all()):
            raise ValueError("its table of replacements points beside its texts")
        children = below[:, None] ^ np.arange(1, 256)
        nodes = np.unique(children[units[children] & 0x800000FF == np.arange(1, 256)])
        nodes = nodes[~seen[nodes]]
