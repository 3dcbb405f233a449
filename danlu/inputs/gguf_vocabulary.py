"""The tokenizer that a GGUF file carries in its metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as RawTokenizer

from danlu.base.errors import CheckpointError
from danlu.inputs.tokenizer import PIECES, Tokenizer

CONTROL, USER_DEFINED = 3, 4  # GGUF's token types

LLAMA3_PIECES = PIECES.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


def _gpt2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _digits_apart() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


def _by_pattern(pattern: str) -> pre_tokenizers.PreTokenizer:
    cut = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


# llama.cpp's names for the ways of cutting text before the merges
PRE_TOKENIZERS = {
    "gpt-2": _gpt2,
    "default": _gpt2,
    "smollm": _digits_apart,
    "qwen2": lambda: _by_pattern(PIECES),
    "llama-bpe": lambda: _by_pattern(LLAMA3_PIECES),
}


def read_vocabulary(metadata: Mapping[str, Any], source: Path) -> Tokenizer:
    """Build the tokenizer of a GGUF file.

    Raises: CheckpointError if its kind or its way of cutting text is not known, or fields are missing.
    """
    kind, cut = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre", "default")
    if kind != "gpt2" or cut not in PRE_TOKENIZERS:
        raise CheckpointError(
            f"{source} came with a tokenizer of kind {kind!r}, cutting {cut!r}; known are kind 'gpt2' cutting {', '.join(PRE_TOKENIZERS)}"
        )
    try:
        return _build(metadata, cut)
    except Exception as error:  # the library raises plain Exception for merges it cannot take
        raise CheckpointError(f"{source} came with a damaged vocabulary ({error!r}); fetch it again") from None


def _build(metadata: Mapping[str, Any], cut: str) -> Tokenizer:
    tokens, merges, types = (metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "merges", "token_type"))
    vocabulary = {token: id for id, token in enumerate(tokens)}
    raw = RawTokenizer(models.BPE(vocab=vocabulary, merges=[tuple(merge.split(" ", 1)) for merge in merges]))
    raw.pre_tokenizer = PRE_TOKENIZERS[cut]()
    raw.decoder = decoders.ByteLevel()
    control = [token for token, type in zip(tokens, types, strict=True) if type == CONTROL]
    raw.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    raw.add_tokens([AddedToken(t, normalized=False) for t, type in zip(tokens, types, strict=True) if type == USER_DEFINED])
    settings: dict[str, Any] = {"chat_template": metadata.get("tokenizer.chat_template")}
    for ours, theirs in (("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding")):
        id = metadata.get(f"tokenizer.ggml.{theirs}_token_id")
        if id is not None:
            settings[ours] = tokens[id]
    return Tokenizer(raw, {key: value for key, value in settings.items() if value is not None})
