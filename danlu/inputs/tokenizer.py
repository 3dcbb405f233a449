"""Text to ids and back: one class over every kind of tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as RawTokenizer

from danlu.base.errors import CheckpointError, ConfigError
from danlu.base.storage import write_whole
from danlu.inputs.bulk import BulkEncoder, byte_of_character

END_OF_TEXT = "<|endoftext|>"

# Qwen2's pattern: known to llama.cpp and vLLM by that name, and kind to Chinese, digits and code.
PIECES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


class Tokenizer:
    """A trained tokenizer with its control tokens and, if it has one, its chat template.

    Text is data: control tokens that are written in it stay text, unless `special=True` asks for them.
    """

    def __init__(self, raw: RawTokenizer, settings: Mapping[str, Any] | None = None) -> None:
        self.raw = raw
        self.settings = dict(settings or {})
        self.raw.encode_special_tokens = True
        self.raw.no_padding()
        self.raw.no_truncation()
        self.bos_id = self._id_of("bos_token")
        self.end_of_text_id = self._id_of("eos_token")
        self.special_ids = frozenset(id for id, token in raw.get_added_tokens_decoder().items() if token.special)

    @property
    def vocabulary_size(self) -> int:
        """Number of ids, control tokens counted."""
        return self.raw.get_vocab_size(with_added_tokens=True)

    @property
    def chat_template(self) -> str | None:
        template = self.settings.get("chat_template")
        if isinstance(template, list):  # several under names: the one called default counts
            template = next((entry["template"] for entry in template if entry.get("name") == "default"), None)
        return template

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Ids of a text, nothing added before or after; `special` reads control tokens written in it as such."""
        raw = self._reading_controls if special else self.raw
        return raw.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of many texts, the same as encode gives one by one, but faster."""
        if self._bulk is not None:
            return self._bulk.encode_batch(texts)
        return [np.array(found.ids, dtype=np.uint32) for found in self.raw.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; control tokens are left out."""
        return self.raw.decode(list(ids), skip_special_tokens=True)

    def token_bytes(self, id: int) -> bytes:
        """The bytes that one id stands for, which may be part of a character; control tokens have none."""
        token = self.raw.id_to_token(id)
        if token is None or id in self.special_ids:
            return b""
        if not self.is_byte_level:
            return token.replace("\u2581", " ").encode()
        known = byte_of_character()
        return bytes(known[character] for character in token) if all(character in known for character in token) else token.encode()

    @cached_property
    def is_byte_level(self) -> bool:
        """True if tokens are sequences of bytes written as characters, as GPT-2 does."""
        return '"ByteLevel"' in json.dumps(json.loads(self.raw.to_str()).get("decoder"))

    @cached_property
    def _reading_controls(self) -> RawTokenizer:
        return RawTokenizer.from_str(self.raw.to_str())  # a twin, since the setting is the tokenizer's and threads share it

    @cached_property
    def _bulk(self) -> BulkEncoder | None:
        return BulkEncoder.of(self.raw)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over what decides the ids, in hexadecimal."""
        return hashlib.sha256(self.raw.to_str().encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json as transformers reads them."""
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False} | self.settings
        write_whole(folder / "tokenizer.json", self.raw.to_str(pretty=True).encode())
        write_whole(folder / "tokenizer_config.json", json.dumps(settings, indent=2, ensure_ascii=False).encode())

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """Read a folder that holds tokenizer.json, or that file itself.

        Raises: CheckpointError if it is not there or damaged.
        """
        path = Path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.is_file():
            raise CheckpointError(f"{path} has no tokenizer; expected a tokenizer.json there")
        try:
            raw = RawTokenizer.from_file(str(file))
        except Exception as error:  # the library raises plain Exception for whatever it cannot parse
            raise CheckpointError(f"{file} cannot be read as a tokenizer ({error}); fetch or save it again") from None
        settings: dict[str, Any] = {}
        beside = file.with_name("tokenizer_config.json")
        try:
            if beside.is_file():
                settings = json.loads(beside.read_text(encoding="utf-8"))
            template = file.with_name("chat_template.jinja")
            if template.is_file():
                settings["chat_template"] = template.read_text(encoding="utf-8")
            if not isinstance(settings, dict):
                raise ValueError(f"it holds a {type(settings).__name__}")
        except (ValueError, TypeError, RecursionError) as error:
            raise CheckpointError(f"{beside} cannot be read ({error}); fetch or save it again") from None
        return cls(raw, settings)

    def _id_of(self, setting: str) -> int | None:
        token = self.settings.get(setting)
        if isinstance(token, Mapping):  # older folders write the token with its stripping rules
            token = token.get("content")
        return None if token is None else self.raw.token_to_id(token)


def train_bpe(texts: Iterable[str], vocabulary_size: int) -> Tokenizer:
    """Learn a byte-level BPE: any Unicode text goes in and comes out unchanged.

    Raises: ConfigError if the vocabulary cannot hold the 256 bytes and the end of text.
    Source: Sennrich et al. 2016, arXiv:1508.07909; Radford et al. 2019 (bytes).
    """
    if vocabulary_size < 257:
        raise ConfigError(f"vocabulary_size came as {vocabulary_size}; expected at least 257: one for each byte and the end of text")
    raw = RawTokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PIECES), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[AddedToken(END_OF_TEXT, special=True, normalized=False)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    return Tokenizer(raw, {"eos_token": END_OF_TEXT, "bos_token": END_OF_TEXT})
