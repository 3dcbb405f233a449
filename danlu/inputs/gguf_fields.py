"""A tokenizer as the metadata of a GGUF file, so that llama.cpp gives the same ids; what it cannot say is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from danlu.base.errors import CheckpointError
from danlu.inputs.cutting import name_of
from danlu.inputs.gguf_vocabulary import FIELD, TEMPLATE, TOKEN_IDS, read_word
from danlu.inputs.pieces import SPACE, UNREACHABLE, Kind, Piece, Spacing, byte_piece, merges_by_score
from danlu.inputs.tokenizer import Tokenizer

BYTES = frozenset(map(byte_piece, range(256)))


def write_vocabulary(tokenizer: Tokenizer, vocabulary_size: int) -> dict[str, Any]:
    """The fields by name, with unused tokens up to the model's `vocabulary_size`.

    Values: int is uint32, bytes an array of uint8, lists of int are of int32 and lists of float of float32.
    A Unigram with byte pieces gives <unk> in llama.cpp where Danlu and transformers write a character as bytes.
    Raises: CheckpointError if GGUF cannot say how this tokenizer works, naming what it cannot say.
    """
    whole = json.loads(tokenizer.raw.to_str())
    model = whole["model"]
    if tokenizer.vocabulary_size > vocabulary_size:
        raise CheckpointError(
            f"a tokenizer of {tokenizer.vocabulary_size} tokens came for a model of {vocabulary_size}; expected at most as many as it has"
        )
    pieces = _pieces(tokenizer, vocabulary_size)
    match model:
        case {"type": "BPE"} if tokenizer.is_byte_level:
            fields = _byte_level(tokenizer, whole, model)
        case {"type": "BPE"}:
            pieces, fields = _llama(tokenizer, model, pieces)
        case {"type": "Unigram"}:
            pieces, fields = _t5(tokenizer, model, pieces)
        case {"type": "WordPiece", "continuing_subword_prefix": "##"}:
            pieces, fields = _bert(whole, pieces)
        case _:
            raise CheckpointError(f"GGUF has no tokenizer of kind {model['type']}; expected BPE, WordPiece with ## or Unigram")
    fields |= _tokens(tokenizer) | _frame(tokenizer)
    fields["tokens"] = [piece.text for piece in pieces]
    fields["token_type"] = [int(piece.kind) for piece in pieces]
    named = {FIELD + name: value for name, value in fields.items()}
    return named if tokenizer.chat_template is None else named | {TEMPLATE: tokenizer.chat_template}


def _pieces(tokenizer: Tokenizer, vocabulary_size: int) -> list[Piece]:
    """Each id's token and what it is; ids that nobody has are unused."""
    added = tokenizer.raw.get_added_tokens_decoder()
    pieces = []
    for id in range(vocabulary_size):
        text, kind = tokenizer.raw.id_to_token(id), Kind.NORMAL
        if text is None:
            text, kind = f"[PAD{id}]", Kind.UNUSED
        elif id == tokenizer.unk_id and not tokenizer.is_byte_level:
            kind = Kind.UNKNOWN
        elif id in added:
            kind = Kind.CONTROL if added[id].special else Kind.USER_DEFINED
        pieces.append(Piece(text, UNREACHABLE if kind == Kind.UNUSED else 0.0, kind))
    return pieces


def _byte_level(tokenizer: Tokenizer, whole: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    # Qwen's files compose characters first (NFC). llama.cpp does not, and Qwen's own GGUF files leave it out too.
    if whole["normalizer"] not in (None, {"type": "NFC"}) or model.get("dropout") or model.get("continuing_subword_prefix"):
        raise CheckpointError(f"GGUF cannot say how this tokenizer changes text before it cuts it: {whole['normalizer']}")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return {"model": "gpt2", "pre": name_of(tokenizer.raw), "merges": merges}


def _llama(tokenizer: Tokenizer, model: Mapping[str, Any], pieces: list[Piece]) -> tuple[list[Piece], dict[str, Any]]:
    """Merges become scores: the earlier a piece is made, the higher. That says the same if every pair that makes a piece is listed."""
    spacing = _spacing(tokenizer)
    merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
    ranks: dict[str, int] = {}
    for left, right in merges:
        ranks.setdefault(left + right, len(ranks))
    pieces = [replace(_as_byte(piece), score=float(-ranks.get(piece.text, len(ranks)))) for piece in pieces]
    said = merges_by_score(pieces)
    same_order = list(map("".join, said)) == list(map("".join, merges))
    if set(said) != set(merges) or not same_order or spacing.merge or spacing.replacements:
        raise CheckpointError("GGUF can say only a BPE of pieces that merges every pair that makes one and changes no text but spaces")
    return pieces, {"model": "llama", "pre": "default", "add_space_prefix": spacing.prefix, "scores": [piece.score for piece in pieces]}


def _t5(tokenizer: Tokenizer, model: Mapping[str, Any], pieces: list[Piece]) -> tuple[list[Piece], dict[str, Any]]:
    spacing = _spacing(tokenizer)
    scores = [score for _, score in model["vocab"]]
    scored = [replace(piece, score=score) for piece, score in zip(pieces, scores, strict=False)] + pieces[len(scores) :]
    pieces = [_as_byte(piece) if piece.score > UNREACHABLE or piece.text in BYTES else replace(piece, kind=Kind.UNUSED) for piece in scored]
    fields: dict[str, Any] = {"model": "t5", "pre": "default", "scores": [piece.score for piece in pieces]}
    fields |= {"add_space_prefix": spacing.prefix, "remove_extra_whitespaces": spacing.merge}
    return pieces, fields | ({"precompiled_charsmap": spacing.replacements} if spacing.replacements else {})


def _bert(whole: Mapping[str, Any], pieces: list[Piece]) -> tuple[list[Piece], dict[str, Any]]:
    match whole:
        case {
            "normalizer": {
                "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": lowercase, "strip_accents": strips,
            },
            "pre_tokenizer": {"type": "BertPreTokenizer"},
        }:  # fmt: skip
            written = [replace(piece, text=_word(piece)) for piece in pieces]
            for piece, other in zip(pieces, written, strict=True):
                if read_word(other) != piece.text:
                    raise CheckpointError(f"GGUF cannot say the token {piece.text!r}: it marks words by {SPACE} and controls by brackets")
            strips = lowercase if strips is None else strips
            return written, {"model": "bert", "pre": "default", "normalizer.lowercase": lowercase, "normalizer.strip_accents": strips}
    raise CheckpointError(f"GGUF cannot say how this WordPiece splits text: {whole['normalizer']}, {whole['pre_tokenizer']}")


def _word(piece: Piece) -> str:
    """A token as GGUF has it: words begin with a mark, what goes on in them has none."""
    if piece.kind != Kind.NORMAL or (piece.text.startswith("[") and piece.text.endswith("]")):
        return piece.text
    return piece.text[2:] if piece.text.startswith("##") and len(piece.text) > 2 else SPACE + piece.text


def _as_byte(piece: Piece) -> Piece:
    return replace(piece, kind=Kind.BYTE) if piece.text in BYTES else piece


def _spacing(tokenizer: Tokenizer) -> Spacing:
    try:
        return Spacing.of(tokenizer.raw)
    except ValueError as error:
        raise CheckpointError(f"GGUF cannot say how this tokenizer changes text before it cuts it: {error}") from None


def _tokens(tokenizer: Tokenizer) -> dict[str, Any]:
    ids = {
        "bos": tokenizer.bos_id, "eos": tokenizer.end_of_text_id, "unknown": tokenizer.unk_id, "padding": tokenizer.pad_id,
        "seperator": tokenizer.sep_id, "cls": tokenizer.cls_id, "mask": tokenizer.mask_id,
    }  # fmt: skip
    assert set(ids) == set(TOKEN_IDS.values())
    if ids["bos"] is None:  # what llama.cpp sets before a text has this name there, [CLS] too
        ids["bos"] = ids["cls"]
    return {f"{name}_token_id": id for name, id in ids.items() if id is not None}


def _frame(tokenizer: Tokenizer) -> dict[str, bool]:
    """Which control tokens stand around a text."""
    before, after = tokenizer.frame
    begins, ends = tokenizer.cls_id if tokenizer.bos_id is None else tokenizer.bos_id, tokenizer.end_of_text_id
    if before not in ([], [begins]) or after not in ([], [ends], [tokenizer.sep_id]):
        raise CheckpointError(f"GGUF can say one token before a text and one behind it; this tokenizer sets {before} and {after}")
    if tokenizer.end_of_text_id is None:
        return {"add_bos_token": bool(before), "add_sep_token": bool(after)}
    return {"add_bos_token": bool(before), "add_eos_token": bool(after)}
