"""The fast path for tokenizing much text: tiktoken with the same merges, where it provably gives the same ids."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import tiktoken
from numpy.typing import NDArray
from tokenizers import Tokenizer as RawTokenizer

from danlu.inputs.cutting import LLAMA3, QWEN2, byte_of_character

MARK = "\x01"  # stands where white space is to be cut; a text that holds it itself is the library's own affair
UNUSED = "<|danlu: not a token|>"  # without any special token tiktoken looks for the empty one, at every byte
TAIL = r"|\s+(?!\S)|\s+"
WITHOUT_LETTERS = r"[^\s\p{L}\p{N}\x01]"
GPT2_PIECES = rf"'(?:[sdmt]|ll|ve|re)| ?\p{{L}}+| ?\p{{N}}+| ?{WITHOUT_LETTERS}+"
# The same after every digit was set apart: white space before a digit then ends its piece.
GPT2_PIECES_DIGITS_APART = rf"'(?:[sdmt]|ll|ve|re)|\p{{N}}| ?\p{{L}}+| ?{WITHOUT_LETTERS}+"
# Qwen2's and Llama 3's patterns, and the same without their ends.
KNOWN_PATTERNS = {pattern: pattern.removesuffix(TAIL).replace(r"\p{N}]", r"\p{N}\x01]") for pattern in (QWEN2, LLAMA3)}

SPACE, NEWLINE, NUMBER, UNASSIGNED = 1, 2, 4, 8
SPACES = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"


@dataclass(frozen=True, kw_only=True)
class Cut:
    r"""How text is cut into pieces: a pattern without the look-ahead `\s+(?!\S)`, which costs half of the time, and what replaces it.

    That alternative leaves the last white space of a run to the word behind the run. Here a MARK is put before that last one
    instead (if the run has at least two), which is a piece of its own, and its token is taken out again.
    """

    pattern: str
    marks: bool = True
    before_numbers: bool = True  # whether runs before a number are cut too
    after_newlines: bool = False  # whether a run begins behind its last line end, which is in a piece before

    def mark(self, text: str) -> str | None:
        """The text with its marks, or None where the two libraries may see different kinds of characters."""
        if not self.marks:
            return text
        if MARK in text:
            return None
        if text.isascii():
            codes: NDArray[Any] = np.frombuffer(text.encode("ascii"), dtype=np.uint8)
            kinds = _kinds()[codes]
        else:
            codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
            kinds = _kinds()[np.minimum(codes, 0xFFFF)]
            beyond = codes > 0xFFFF
            if beyond.any():
                found, places = np.unique(codes[beyond], return_inverse=True)
                kinds[beyond] = np.array([_kind(code) for code in found.tolist()], dtype=np.uint8)[places]
            if (kinds & UNASSIGNED).any():  # each library knows another version of Unicode
                return None
        inside = (kinds & (SPACE | NEWLINE) if not self.after_newlines else kinds & SPACE) != 0
        behind = kinds[2:] & (SPACE | NEWLINE if self.before_numbers else SPACE | NEWLINE | NUMBER) == 0
        places = np.flatnonzero(inside[:-2] & inside[1:-1] & behind) + 1
        if not len(places):
            return text
        marked = np.insert(codes, places, ord(MARK)).tobytes()
        return marked.decode("ascii" if codes.dtype == np.uint8 else "utf-32-le")


class BulkEncoder:
    """Byte-level BPE by tiktoken; ids are those of the tokenizer it was made of."""

    def __init__(self, raw: RawTokenizer, encoding: tiktoken.Encoding, cut: Cut, ids: NDArray[np.uint32]) -> None:
        self.raw, self.encoding, self.cut, self.ids = raw, encoding, cut, ids
        self.mark = encoding.encode_single_token(MARK)

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> NDArray[np.uint32]:
        marked = self.cut.mark(text)
        if marked is not None:
            ranks = self.encoding.encode_to_numpy(marked, disallowed_special=())
            if len(marked) > len(text):
                ranks = ranks[ranks != self.mark]
            if not len(ranks) or ranks.max() < len(self.ids):  # else a byte that the vocabulary lacks, which the library drops
                return self.ids[ranks]
        return np.array(self.raw.encode(text, add_special_tokens=False).ids, dtype=np.uint32)

    @classmethod
    def of(cls, raw: RawTokenizer) -> BulkEncoder | None:
        """An encoder equal to `raw`, or None where that is not certain.

        tiktoken merges any two neighbours whose bytes are a token, in the order of the tokens; `raw` merges listed pairs in
        the order of the list. Both agree on every text if each token is made by one listed pair and is itself what its own
        bytes become (then two tokens that stand side by side can never be the wrong halves of a third): both are checked.
        """
        whole = json.loads(raw.to_str())
        model, cut = whole["model"], _cut(whole.get("pre_tokenizer"))
        if cut is None or model["type"] != "BPE" or whole.get("normalizer") is not None:
            return None
        if model.get("ignore_merges") or model.get("dropout") or model.get("byte_fallback") or model.get("continuing_subword_prefix"):
            return None
        known, vocabulary = byte_of_character(), model["vocab"]
        merges = [pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]]
        tokens = [character for character in known if character in vocabulary] + [left + right for left, right in merges]
        ranks = {token: rank for rank, token in enumerate(tokens)}
        if len(ranks) != len(tokens) or not vocabulary.keys() >= ranks.keys() or not known.keys() >= set("".join(tokens)):
            return None
        if not all(left in ranks and right in ranks for left, right in merges):
            return None
        if not is_consistent([(ranks[left], ranks[right]) for left, right in merges], len(tokens) - len(merges)):
            return None
        table = str.maketrans({character: chr(byte) for character, byte in known.items()})
        ranks = {token.translate(table).encode("latin-1"): rank for token, rank in ranks.items()}  # type: ignore[misc]
        lacking = [bytes([byte]) for byte in range(256) if bytes([byte]) not in ranks]  # tiktoken wants all bytes: these come last
        ranks |= {byte: len(tokens) + i for i, byte in enumerate(lacking)}  # type: ignore[misc]
        special = {UNUSED: len(ranks)}
        encoding = tiktoken.Encoding("danlu", pat_str=cut.pattern, mergeable_ranks=ranks, special_tokens=special)  # type: ignore[arg-type]
        return cls(raw, encoding, cut, np.array([vocabulary[token] for token in tokens], dtype=np.uint32))


def is_consistent(merges: Sequence[tuple[int, int]], characters: int) -> bool:
    """True if each token's own bytes become just the two listed halves of it before they become the token.

    Token `characters + i` is made of the two lower ones that merges[i] names. Token by token: its halves (which are right by
    then) become themselves unless some lower token is made across their border first. So the border is walked back in time:
    the two tokens there must not be a pair for a token that is made before the later made of them goes on, which is then
    taken apart. Merges of one rank go from left to right: left of the border before across it, across it before right of it.
    Source: github.com/github/rust-gems, crate bpe, is_valid_token_pair.
    """
    pairs = {pair: characters + i for i, pair in enumerate(merges)}
    for i, (left, right) in enumerate(merges):
        limit = characters + i
        if left >= limit or right >= limit:
            return False
        while True:
            if pairs.get((left, right), limit) < limit:
                return False
            if left > right:
                if left < characters:
                    break
                limit, left = left, merges[left - characters][1]
            else:
                if right < characters:
                    break
                limit, right = right + 1, merges[right - characters][0]
    return True


def _cut(pre_tokenizer: dict[str, Any] | None) -> Cut | None:
    """The pattern that cuts text as this pre-tokenizer does, or None if no one pattern is known to."""
    steps = [] if pre_tokenizer is None else pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    match steps:
        case [{"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}]:
            return Cut(pattern=_complete(GPT2_PIECES))
        case [{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}]:
            return Cut(pattern=_complete(GPT2_PIECES_DIGITS_APART), before_numbers=False)
        case [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ]:
            if pattern in KNOWN_PATTERNS:
                return Cut(pattern=_complete(KNOWN_PATTERNS[pattern]), after_newlines=True)
            return Cut(pattern=str(pattern), marks=False)
    return None


def _complete(pattern: str) -> str:
    return rf"\x01|{pattern}|\s+"


@cache
def _kinds() -> NDArray[np.uint8]:
    """The kind of each character of the basic plane."""
    return np.array([_kind(code) for code in range(0x10000)], dtype=np.uint8)


def _kind(code: int) -> int:
    character = chr(code)
    if character in SPACES:
        return NEWLINE if character in "\r\n" else SPACE
    category = unicodedata.category(character)
    return UNASSIGNED if category == "Cn" else NUMBER if category[0] == "N" else 0
