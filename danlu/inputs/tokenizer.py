"""Text to ids and back: one class over every kind of tokenizer."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models

from danlu.base.errors import CheckpointError, ConfigError, RequestError
from danlu.base.storage import write_whole
from danlu.inputs.cutting import byte_of_character
from danlu.inputs.model_text import ModelText
from danlu.inputs.pieces import SPACE, UNREACHABLE, sentinel
from danlu.inputs.spacing import without_spaces
from danlu.inputs.vocabulary_files import FILE, read_settings, read_vocabulary_file, vocabulary_file

if TYPE_CHECKING:
    from danlu.inputs.bulk import BulkEncoder

LONG = 2**14  # characters: a matter of milliseconds
END_OF_TEXT = "<|endoftext|>"
BYTE_PIECE = re.compile("<0x([0-9A-F]{2})>")


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
        self.cls_id = self._id_of("cls_token")
        self.sep_id = self._id_of("sep_token")
        self.mask_id = self._id_of("mask_token")
        self.pad_id = self._id_of("pad_token")
        self.unk_id = self._id_of("unk_token")
        self.special_ids = frozenset(id for id, token in raw.get_added_tokens_decoder().items() if token.special)

    @cached_property
    def vocabulary_size(self) -> int:
        """Number of ids from 0 to the highest, control tokens counted."""
        return max(self.raw.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @cached_property
    def sentinel_ids(self) -> tuple[int, ...]:
        """Ids of <extra_id_0>, <extra_id_1>, ...: what stands for cut-out spans in T5's training; empty where it has none."""
        ids: list[int] = []
        while (id := self.raw.token_to_id(sentinel(len(ids)))) is not None:
            ids.append(id)
        return tuple(ids)

    @cached_property
    def frame(self) -> tuple[list[int], list[int]]:
        """Control tokens that are set before a text and behind it."""
        found = self.raw.encode("a")
        inside = [place for place, text in enumerate(found.sequence_ids) if text is not None]
        return (found.ids[: inside[0]], found.ids[inside[-1] + 1 :]) if inside else (found.ids, [])

    @property
    def chat_template(self) -> str | None:
        template = self.settings.get("chat_template")
        if isinstance(template, list):  # several under names: the one called default counts
            template = next((entry["template"] for entry in template if entry.get("name") == "default"), None)
        return template

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Ids of a text, nothing added before or after; `special` reads control tokens written in it as such."""
        raw = self._reading_controls if special else self._reading_text
        try:
            if len(text) > LONG:  # several at once are read without Python's lock, so that other threads go on
                return raw.encode_batch_fast([text], add_special_tokens=False)[0].ids
            return raw.encode(text, add_special_tokens=False).ids
        except TypeError:
            told = "the text is not UTF-8 (it holds half a surrogate pair); expected whole characters"
            raise RequestError(told, param="prompt") from None

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of many texts, the same as encode gives one by one, but faster."""
        if self._bulk is not None:
            return self._bulk.encode_batch(texts)
        found = self._reading_text.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(one.ids, dtype=np.uint32) for one in found]

    def encode_model_input(self, first: str, second: str | None = None, max_tokens: int | None = None) -> ModelText:
        """One or two texts as the model wants them, with the control tokens that its tokenizer sets around them (a GPT's sets none).

        Raises: ConfigError if max_tokens has no room for the control tokens.
        """
        found = ModelText.of(self._reading_text.encode(first, second))
        return found if max_tokens is None else found.cut_to(max_tokens)

    def encode_model_inputs(self, texts: Sequence[str], max_tokens: int | None = None) -> list[np.ndarray]:
        """Ids of many texts, the same as encode_model_input gives one by one, but faster.

        Raises: ConfigError if max_tokens has no room for the control tokens.
        """
        before, after = map(len, self.frame)
        if max_tokens is not None and max_tokens < before + after:
            raise ConfigError(f"max_tokens came as {max_tokens}; expected at least {before + after}, the control tokens alone")
        rows = [np.array(found.ids, dtype=np.int64) for found in self._reading_text.encode_batch_fast(list(texts))]
        if max_tokens is None:
            return rows
        return [row if len(row) <= max_tokens else np.concatenate([row[: max_tokens - after], row[len(row) - after :]]) for row in rows]

    def encode_words(self, words: Sequence[str], max_tokens: int | None = None) -> tuple[ModelText, np.ndarray]:
        """A text that was cut into words before, as the model wants it, and of which word each token is (-1 for control tokens).

        Shapes: (T,). Cut to max_tokens, the last words are left out.
        """
        encoding = self._reading_text.encode(list(words), is_pretokenized=True)
        text = ModelText.of(encoding)
        of_word = np.array([-1 if word is None else word for word in encoding.word_ids], dtype=np.int64)
        if not self.is_byte_level and not isinstance(self.raw.model, models.WordPiece):
            text, of_word = without_spaces(text, of_word, words, self.raw.id_to_token, self.raw.token_to_id)
        if max_tokens is None or len(of_word) <= max_tokens:
            return text, of_word
        room = max_tokens - int(text.is_special.sum())
        return text.cut_to(max_tokens), of_word[text.is_special | (np.cumsum(~text.is_special) <= room)]

    def continues_word(self, id: int) -> bool:
        """Whether a token goes on with the word of the token before it."""
        token = self.raw.id_to_token(id)
        if token is None or id in self.special_ids:
            return False
        if isinstance(self.raw.model, models.WordPiece):
            return token.startswith(self.raw.model.continuing_subword_prefix)
        said = self.token_bytes(id).decode("utf-8", errors="replace")
        return said[:1].isalnum() or said[:1] == "\ufffd"  # elsewhere a word brings its space along

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; control tokens are left out."""
        return self.raw.decode(list(ids), skip_special_tokens=True)

    def token_bytes(self, id: int) -> bytes:
        """The bytes that one id stands for, which may be part of a character; control tokens have none.

        Where words are tokens without their spaces, each that begins a word brings one before it.
        """
        token = self.raw.id_to_token(id)
        if token is None or id in self.special_ids:
            return b""
        if self.is_byte_level:
            known = byte_of_character()
            return bytes(known[character] for character in token) if all(character in known for character in token) else token.encode()
        if isinstance(self.raw.model, models.WordPiece):
            inner = self.raw.model.continuing_subword_prefix
            return (token.removeprefix(inner) if token.startswith(inner) else " " + token).encode()
        byte = BYTE_PIECE.fullmatch(token) if self._has_byte_pieces else None
        return bytes.fromhex(byte[1]) if byte else token.replace(SPACE, " ").encode()

    @cached_property
    def is_byte_level(self) -> bool:
        """True if tokens are sequences of bytes written as characters, as GPT-2 does."""
        return "ByteLevel" in self._decoding

    @cached_property
    def _has_byte_pieces(self) -> bool:
        """True if characters beyond the vocabulary are written as pieces like <0xE4>."""
        return "ByteFallback" in self._decoding

    @cached_property
    def _decoding(self) -> set[str]:
        """The steps from tokens to text, by the library's names."""
        whole = json.loads(self.raw.decoder.__getstate__()) if self.raw.decoder is not None else {}
        return {step["type"] for step in whole.get("decoders", [whole]) if step}

    @cached_property
    def _reading_text(self) -> RawTokenizer:
        """What reads texts. A Unigram model takes the name of a control or unused token in a text for that token.

        Its twin has names for them that no text spells: spaces become another character before the model sees them.
        """
        if not isinstance(self.raw.model, models.Unigram):
            return self.raw
        whole = json.loads(self.raw.to_str())
        for id, entry in enumerate(whole["model"]["vocab"]):
            is_unused = entry[1] <= UNREACHABLE and not BYTE_PIECE.fullmatch(entry[0])
            if id in self.special_ids or is_unused:
                entry[0] = " " + entry[0]
        whole["added_tokens"] = [token for token in whole["added_tokens"] if not token["special"]]
        twin = RawTokenizer.from_str(json.dumps(whole))
        twin.encode_special_tokens = True
        return twin

    @cached_property
    def _reading_controls(self) -> RawTokenizer:
        """A twin, since the setting is the tokenizer's and threads share it; over the same vocabulary in memory."""
        twin = RawTokenizer(self.raw.model)
        for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
            if getattr(self.raw, part) is not None:
                setattr(twin, part, getattr(self.raw, part))
        added = (token for _, token in sorted(self.raw.get_added_tokens_decoder().items()))
        for special, tokens in groupby(added, key=lambda token: token.special):  # together: each call looks at all again
            (twin.add_special_tokens if special else twin.add_tokens)(list(tokens))
        return twin

    @cached_property
    def _bulk(self) -> BulkEncoder | None:
        from danlu.inputs.bulk import BulkEncoder  # late: who answers has no use for tiktoken's megabyte

        return BulkEncoder.of(self.raw)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over what decides the ids, in hexadecimal."""
        return hashlib.sha256(self.raw.to_str().encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json as transformers reads them."""
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False} | self.settings
        write_whole(folder / FILE, self.raw.to_str(pretty=True).encode())
        write_whole(folder / "tokenizer_config.json", json.dumps(settings, indent=2, ensure_ascii=False).encode())

    @classmethod
    def find(cls, folder: Path) -> Tokenizer | None:
        """The tokenizer of a folder: from tokenizer.json, else from vocab.txt, vocab.json with merges.txt, or a sentencepiece model.

        Raises: CheckpointError if it is damaged, or its files alone do not say how it works.
        """
        file = vocabulary_file(folder)
        return cls.load(file) if file is not None else None

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """Read a folder that holds a tokenizer (see find), or the file itself; settings beside it count.

        Raises: CheckpointError if it is not there or damaged.
        """
        path = Path(path)
        file = vocabulary_file(path) if path.is_dir() else path
        if file is None or not file.is_file():
            raise CheckpointError(f"{path} has no tokenizer; expected a {FILE}, vocab.txt, vocab.json with merges.txt or *.model there")
        settings = read_settings(file.parent)
        if file.suffix != ".json" or file.name == "vocab.json":
            return cls(*read_vocabulary_file(file, settings))
        try:
            return cls(RawTokenizer.from_file(str(file)), settings)
        except Exception as error:  # the library raises plain Exception for whatever it cannot parse
            raise CheckpointError(f"{file} cannot be read as a tokenizer ({error}); fetch or save it again") from None

    def _id_of(self, setting: str) -> int | None:
        token = self.settings.get(setting)
        if isinstance(token, Mapping):  # older folders write the token with its stripping rules
            token = token.get("content")
        return self.raw.token_to_id(token) if isinstance(token, str) else None
