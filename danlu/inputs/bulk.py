"""The fast path for tokenizing much text: tiktoken with the same merges, where it provably gives the same ids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import tiktoken
from tokenizers import Tokenizer as RawTokenizer

GPT2_PIECES = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# The same after every digit was set apart: white space before a digit then ends its piece.
GPT2_PIECES_DIGITS_APART = r"'(?:[sdmt]|ll|ve|re)|\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+"


class BulkEncoder:
    """Byte-level BPE by tiktoken; ids are those of the tokenizer it was made of."""

    def __init__(self, raw: RawTokenizer, encoding: tiktoken.Encoding, ids: np.ndarray) -> None:
        self.raw, self.encoding, self.ids = raw, encoding, ids

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> np.ndarray:
        ranks = self.encoding.encode_to_numpy(text, disallowed_special=())
        if len(ranks) and ranks.max() >= len(self.ids):  # a byte that the vocabulary lacks: rare, and the library's own affair
            return np.array(self.raw.encode(text, add_special_tokens=False).ids, dtype=np.uint32)
        return self.ids[ranks]

    @classmethod
    def of(cls, raw: RawTokenizer) -> BulkEncoder | None:
        """An encoder equal to `raw`, or None where that is not certain.

        tiktoken merges any two neighbours whose bytes are a token, in the order of the tokens; `raw` merges listed pairs in
        the order of the list. Both agree on every text if each token is made by one listed pair and is itself what its own
        bytes become (then two tokens that stand side by side can never be the wrong halves of a third): both are checked.
        """
        whole = json.loads(raw.to_str())
        model, pattern = whole["model"], _pattern(whole.get("pre_tokenizer"))
        if pattern is None or model["type"] != "BPE" or whole.get("normalizer") is not None:
            return None
        if model.get("ignore_merges") or model.get("dropout") or model.get("byte_fallback") or model.get("continuing_subword_prefix"):
            return None
        known, vocabulary = byte_of_character(), model["vocab"]
        merges = [pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]]
        characters = [character for character in known if character in vocabulary]
        tokens = characters + ["".join(pair) for pair in merges]
        if len(set(tokens)) != len(tokens) or any(token not in vocabulary for token in tokens):
            return None
        ranks = {_bytes(token): rank for rank, token in enumerate(tokens)}
        halves = {ranks[_bytes(left + right)]: (ranks[_bytes(left)], ranks[_bytes(right)]) for left, right in merges}
        if not _is_consistent(ranks, halves):
            return None
        lacking = [bytes([byte]) for byte in range(256) if bytes([byte]) not in ranks]  # tiktoken wants all bytes: these come last
        ranks |= {byte: len(tokens) + i for i, byte in enumerate(lacking)}
        encoding = tiktoken.Encoding("danlu", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        return cls(raw, encoding, np.array([vocabulary[token] for token in tokens], dtype=np.uint32))


def _is_consistent(ranks: dict[bytes, int], halves: dict[int, tuple[int, int]]) -> bool:
    """True if merging any neighbours by rank makes every token out of just its two listed halves."""
    for token, rank in ranks.items():
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            candidates = [ranks.get(left + right, rank) for left, right in pairwise(parts)]
            best = min(candidates)
            if best >= rank:
                return False
            at = candidates.index(best)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2 and (ranks[parts[0]], ranks[parts[1]]) != halves[rank]:
            return False
    return True


def _bytes(token: str) -> bytes:
    known = byte_of_character()
    return bytes(known[character] for character in token)


def _pattern(pre_tokenizer: dict[str, Any] | None) -> str | None:
    """The pattern that cuts text as this pre-tokenizer does, or None if no one pattern is known to."""
    steps = [] if pre_tokenizer is None else pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    match steps:
        case [{"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}]:
            return GPT2_PIECES
        case [{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}]:
            return GPT2_PIECES_DIGITS_APART
        case [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ]:
            return str(pattern)
    return None


@cache
def byte_of_character() -> dict[str, int]:
    """GPT-2's way of writing bytes as printable characters: character -> byte, in the order of GPT-2's first 256 tokens."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
