"""Which tokens go on as UTF-8, where tokens are pieces of bytes."""

from __future__ import annotations

import codecs
from functools import cached_property

import torch
from torch import Tensor

from danlu.inputs.tokenizer import Tokenizer


class Spelling:
    """Tells tokens that make a broken character from those that do not.

    A model that has seen little text now and then draws a byte that fits no character; such a token is drawn again among the
    others, which is the same as drawing among the fitting ones from the start.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.known: dict[bytes, Tensor] = {}

    def fits(self, begun: bytes, token: int) -> bool:
        """Whether a token may follow the `begun` bytes of a character (b"" between characters)."""
        return _fits(begun, self.tokenizer.token_bytes(token))

    def fitting(self, begun: bytes, logits: Tensor) -> Tensor:
        """Logits (V,) with those of tokens that do not fit at minus infinity, or as they came where none fits."""
        begun = _same_as(begun)
        if begun not in self.known:
            self.known[begun] = torch.tensor([_fits(begun, text) for text in self._texts])
        fits = torch.ones(len(logits), dtype=torch.bool)  # behind the vocabulary's end stands what nobody reads
        fits[: len(self.known[begun])] = self.known[begun][: len(logits)]
        kept = logits.masked_fill(~fits, -torch.inf)
        return kept if kept.max() > -torch.inf else logits

    @cached_property
    def _texts(self) -> list[bytes]:
        return [self.tokenizer.token_bytes(token) for token in range(self.tokenizer.vocabulary_size)]


def _fits(begun: bytes, text: bytes) -> bool:
    try:
        _, read = codecs.utf_8_decode(begun + text, "strict", False)
    except UnicodeDecodeError:
        return False
    rest = (begun + text)[read:]
    return not (rest[:1] == b"\xed" and rest[1:2] >= b"\xa0")  # half of a pair of UTF-16, which this decoder sees a byte too late


def _same_as(begun: bytes) -> bytes:
    """The shortest bytes after which the same may follow; there are few, so that little is kept."""
    if len(begun) < 2:
        return begun
    missing = (2 if begun[0] < 0xE0 else 3 if begun[0] < 0xF0 else 4) - len(begun)
    return b"\xc2" if missing == 1 else b"\xe1"
