"""The tokenizer that a GGUF file carries in its metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as RawTokenizer

from danlu.base.errors import CheckpointError
from danlu.inputs.cutting import NAMES
from danlu.inputs.framing import frame_bert, frame_ends
from danlu.inputs.pieces import SPACE, Kind, Piece, Spacing, scored_bpe, unigram
from danlu.inputs.tokenizer import Tokenizer
from danlu.inputs.vocabulary_files import NO_SEGMENTS, SEGMENTS

Settings = dict[str, Any]

FIELD = "tokenizer.ggml."
TEMPLATE = "tokenizer.chat_template"
TOKEN_IDS = {  # our settings' names and GGUF's, misspelt as it is
    "bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding", "sep_token": "seperator",
    "cls_token": "cls", "mask_token": "mask",
}  # fmt: skip
# The ids that llama.cpp takes where a file names none.
USUAL_IDS: Mapping[str, Mapping[str, int]] = {
    "llama": {"bos_token": 1, "eos_token": 2, "unk_token": 0},
    "bert": {"cls_token": 101, "unk_token": 100, "sep_token": 102, "pad_token": 0, "mask_token": 103},
    "t5": {"eos_token": 1, "unk_token": 2, "pad_token": 0},
}


def read_vocabulary(metadata: Mapping[str, Any], source: Path) -> Tokenizer:
    """Build the tokenizer of a GGUF file; where the file leaves something open, llama.cpp's defaults hold.

    Raises: CheckpointError if its kind or its way of cutting text is not known, or fields are missing.
    """
    kind = metadata.get(FIELD + "model")
    if not isinstance(kind, str) or kind not in READERS:
        raise CheckpointError(f"{source} came with a tokenizer of kind {kind!r}; known are {', '.join(READERS)}")
    cut = metadata.get(FIELD + "pre", "default")
    if kind == "gpt2" and (not isinstance(cut, str) or cut not in NAMES):
        raise CheckpointError(f"{source} came with a tokenizer that cuts text as {cut!r}; known are {', '.join(NAMES)}")
    try:
        pieces = Pieces(metadata)
        settings = _settings(metadata, kind, pieces)
        return Tokenizer(READERS[kind](metadata, pieces, settings), settings)
    except Exception as error:  # the library raises plain Exception for merges it cannot take
        raise CheckpointError(f"{source} came with a damaged vocabulary ({error!r}); fetch it again") from None


class Pieces(Sequence[Piece]):
    """A file's vocabulary. Pieces are made when they are asked for: all of them would be ten megabytes of small objects, which leave holes
    in Python's memory between what stays."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.texts: list[str] = list(metadata[FIELD + "tokens"])
        self.kinds: Sequence[int] = metadata.get(FIELD + "token_type") or [Kind.NORMAL] * len(self.texts)
        self.scores: Sequence[float] = metadata.get(FIELD + "scores") or [0.0] * len(self.texts)
        if not len(self.texts) == len(self.kinds) == len(self.scores):
            raise ValueError(f"{len(self.texts)} tokens with {len(self.kinds)} types and {len(self.scores)} scores")
        for kind in set(self.kinds):
            Kind(kind or Kind.NORMAL)  # ValueError for one that is none

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, id: Any) -> Any:
        if isinstance(id, slice):
            return [self[each] for each in range(*id.indices(len(self)))]
        return Piece(self.texts[id], float(self.scores[id]), Kind(self.kinds[id] or Kind.NORMAL))

    def texts_of(self, *kinds: Kind) -> list[str]:
        """The texts of all pieces of these kinds."""
        return [text for text, kind in zip(self.texts, self.kinds, strict=True) if kind in kinds]


def _settings(metadata: Mapping[str, Any], kind: str, pieces: Pieces) -> Settings:
    ids = {ours: metadata.get(f"{FIELD}{theirs}_token_id", USUAL_IDS.get(kind, {}).get(ours)) for ours, theirs in TOKEN_IDS.items()}
    settings: Settings = {ours: pieces[id].text for ours, id in ids.items() if id is not None and 0 <= id < len(pieces)}
    template = metadata.get(TEMPLATE)
    settings |= SEGMENTS if kind == "bert" else NO_SEGMENTS
    return settings if template is None else settings | {"chat_template": template}


def _byte_level(metadata: Mapping[str, Any], pieces: Pieces, settings: Settings) -> RawTokenizer:
    cutting = NAMES[metadata.get(FIELD + "pre", "default")]
    known = {text: text for text in pieces.texts}  # one object for a text, however often it is merged
    merges = [tuple(known.get(part, part) for part in merge.split(" ", 1)) for merge in metadata[FIELD + "merges"]]
    vocabulary = {text: id for id, text in enumerate(pieces.texts)}
    raw = RawTokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=cutting.ignore_merges))
    raw.pre_tokenizer = cutting.pre_tokenizer()
    raw.decoder = decoders.ByteLevel()
    _mark(raw, pieces)
    _frame(raw, metadata, settings, before=cutting.ignore_merges, after=False)
    return raw


def _llama(metadata: Mapping[str, Any], pieces: Pieces, settings: Settings) -> RawTokenizer:
    raw = scored_bpe(pieces, Spacing(prefix=metadata.get(FIELD + "add_space_prefix", True)))
    _frame(raw, metadata, settings, before=True, after=False)
    return raw


def _t5(metadata: Mapping[str, Any], pieces: Pieces, settings: Settings) -> RawTokenizer:
    spacing = Spacing(
        prefix=metadata.get(FIELD + "add_space_prefix", False),
        merge=metadata.get(FIELD + "remove_extra_whitespaces", False),
        replacements=bytes(byte & 0xFF for byte in metadata.get(FIELD + "precompiled_charsmap", ())),
    )
    raw = unigram(pieces, spacing)
    _frame(raw, metadata, settings, before=False, after=True)
    return raw


def _bert(metadata: Mapping[str, Any], pieces: Pieces, settings: Settings) -> RawTokenizer:
    vocabulary = {read_word(piece): id for id, piece in enumerate(pieces)}
    raw = RawTokenizer(models.WordPiece(vocabulary, unk_token=settings["unk_token"], max_input_chars_per_word=100))
    raw.normalizer = normalizers.BertNormalizer(
        lowercase=metadata.get(FIELD + "normalizer.lowercase", True), strip_accents=metadata.get(FIELD + "normalizer.strip_accents")
    )
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece()
    _mark(raw, pieces)
    if metadata.get(FIELD + "add_bos_token", True):
        settings.setdefault("cls_token", settings.get("bos_token"))
        frame_bert(raw, settings["cls_token"], settings["sep_token"])
    return raw


def read_word(piece: Piece) -> str:
    """A token as vocab.txt has it: GGUF marks the beginnings of words, vocab.txt what goes on in them."""
    if piece.kind != Kind.NORMAL or (piece.text.startswith("[") and piece.text.endswith("]")):
        return piece.text
    return piece.text[1:] if piece.text.startswith(SPACE) else "##" + piece.text


def _mark(raw: RawTokenizer, pieces: Pieces) -> None:
    raw.add_special_tokens([AddedToken(text, normalized=False) for text in pieces.texts_of(Kind.CONTROL, Kind.UNKNOWN)])
    raw.add_tokens([AddedToken(text, normalized=False) for text in pieces.texts_of(Kind.USER_DEFINED)])


def _frame(raw: RawTokenizer, metadata: Mapping[str, Any], settings: Settings, *, before: bool, after: bool) -> None:
    """Control tokens around a text, where the file or else its kind wants them."""
    begins, ends = metadata.get(FIELD + "add_bos_token", before), metadata.get(FIELD + "add_eos_token", after)
    frame_ends(raw, settings.get("bos_token") if begins else None, settings.get("eos_token") if ends else None)


READERS: Mapping[str, Callable[[Mapping[str, Any], Pieces, Settings], RawTokenizer]] = {
    "gpt2": _byte_level,
    "llama": _llama,
    "t5": _t5,
    "bert": _bert,
}
