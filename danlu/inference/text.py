"""Tokens to text as they come: whole characters only, and nothing that a stop string may still claim."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from danlu.inputs.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Token:
    """One token with its log-probability in nats under the model's own distribution, and those of the likeliest tokens."""

    id: int
    logprob: float | None = None
    alternatives: tuple[tuple[int, float], ...] = ()


class TextStream:
    """Joins one answer's tokens to text; characters that span tokens are held back until they are whole."""

    def __init__(self, tokenizer: Tokenizer | None, stop: Sequence[str] = ()) -> None:
        self.tokenizer, self.stop = tokenizer, stop
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.held = ""  # decoded, not yet given out
        self.given = 0  # characters given out
        self.waiting: deque[tuple[int, Token]] = deque()  # tokens not yet given out, with the character they begin at

    @property
    def begun(self) -> bytes:
        """The first bytes of a character that is not whole yet."""
        return self.decoder.getstate()[0]

    def push(self, token: Token) -> tuple[str, list[Token], bool]:
        """Take one token; return the text and tokens that are certain now, and whether a stop string was met."""
        self.waiting.append((self.given + len(self.held), token))
        self.held += self.decoder.decode(self._bytes(token.id))
        found = min((place for place in map(self.held.find, self.stop) if place >= 0), default=-1)
        if found >= 0:
            return *self._give(found), True
        ready = len(self.held) - overlap(self.held, self.stop)
        return *self._give(ready, everything=ready == len(self.held) and not self.begun), False

    def finish(self) -> tuple[str, list[Token]]:
        """What is left when the answer ends; the first bytes of a character that never became whole are dropped."""
        return self._give(len(self.held), everything=True)

    def _bytes(self, token: int) -> bytes:
        if self.tokenizer is None or token in self.tokenizer.special_ids:
            return b""
        return self.tokenizer.token_bytes(token)

    def _give(self, count: int, everything: bool = False) -> tuple[str, list[Token]]:
        text, self.held = self.held[:count], self.held[count:]
        self.given += count
        tokens = []
        while self.waiting and (everything or self.waiting[0][0] < self.given):
            tokens.append(self.waiting.popleft()[1])
        return text, tokens


def overlap(text: str, stop: Sequence[str]) -> int:
    """How many of the last characters of `text` may be the beginning of a stop string."""
    most = 0
    for word in stop:
        for length in range(min(len(word) - 1, len(text)), most, -1):
            if text.endswith(word[:length]):
                most = length
                break
    return most


def scored(logprobs: Tensor, token: int, alternatives: int) -> Token:
    """A token with its log-probability and the likeliest tokens' from log-probabilities (V,)."""
    best: tuple[tuple[int, float], ...] = ()
    if alternatives:
        values, ids = logprobs.topk(min(alternatives, len(logprobs)))
        best = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return Token(id=token, logprob=float(logprobs[token]), alternatives=best)
