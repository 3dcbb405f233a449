"""The shapes of replies: completions and chats, whole and in pieces, as the OpenAI API has them."""

from __future__ import annotations

import codecs
import time
import uuid
from collections.abc import Sequence
from typing import Any

from danlu.inference.text import Token
from danlu.inputs.conversation import control_name
from danlu.inputs.tokenizer import Tokenizer

LEAST_LOGPROB = -9999.0  # JSON knows no infinity


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """What the request cost, in tokens."""
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": prompt_tokens + completion_tokens}


class Words:
    """How one answer's tokens are written in replies; it keeps track of where each begins in the text."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self.tokenizer = tokenizer
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.offset = 0  # characters

    def bytes_of(self, token: int) -> bytes:
        """A token's bytes; without a tokenizer, its number."""
        if self.tokenizer is None:
            return str(token).encode()
        if token in self.tokenizer.special_ids:
            return control_name(self.tokenizer, token).encode()
        return self.tokenizer.token_bytes(token)

    def name(self, token: int) -> str:
        """A token as text; part of a character as "bytes:" and hexadecimals, so that no two tokens look alike."""
        raw = self.bytes_of(token)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def completion_logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        """The logprobs object of completions."""
        offsets = []
        for token in tokens:
            offsets.append(self.offset)
            special = self.tokenizer is None or token.id in self.tokenizer.special_ids
            self.offset += 0 if special else len(self.decoder.decode(self.bytes_of(token.id)))
        return {
            "tokens": [self.name(token.id) for token in tokens],
            "token_logprobs": [_number(token.logprob) for token in tokens],
            "top_logprobs": [self._alternatives(token) for token in tokens],
            "text_offset": offsets,
        }

    def _alternatives(self, token: Token) -> dict[str, float | None] | None:
        """The likeliest tokens and, as the OpenAI API has it, the one that came."""
        if token.logprob is None:
            return None
        return {self.name(other): _number(value) for other, value in (*token.alternatives, (token.id, token.logprob))}

    def chat_logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        """The logprobs object of chats."""
        return {
            "content": [
                {**self._entry(token.id, token.logprob), "top_logprobs": [self._entry(*other) for other in token.alternatives]}
                for token in tokens
            ],
            "refusal": None,
        }

    def _entry(self, token: int, logprob: float | None) -> dict[str, Any]:
        return {"token": self.name(token), "logprob": _number(logprob), "bytes": list(self.bytes_of(token))}


def _number(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, LEAST_LOGPROB)


class CompletionShape:
    """Replies of /v1/completions."""

    def __init__(self, model: str) -> None:
        self.head = {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": int(time.time()), "model": model}

    def first(self, _index: int) -> dict[str, Any] | None:
        """What opens each answer of a stream."""
        return None

    def part(self, index: int, text: str, reason: str | None, logprobs: Any, token_ids: list[int] | None) -> dict[str, Any]:
        """One choice of a piece of a stream."""
        return self.choice(index, text, reason, logprobs, token_ids)

    def choice(self, index: int, text: str, reason: str | None, logprobs: Any, token_ids: list[int] | None) -> dict[str, Any]:
        """One whole choice; token ids only for models that have no text."""
        entry = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
        return entry if token_ids is None else {**entry, "token_ids": token_ids}

    def piece(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """One piece of a stream."""
        return {**self.head, "choices": choices}

    def whole(self, choices: list[dict[str, Any]], cost: dict[str, int]) -> dict[str, Any]:
        """The whole reply."""
        return {**self.head, "choices": choices, "usage": cost}

    def logprobs(self, words: Words, tokens: Sequence[Token]) -> dict[str, Any]:
        """Log-probabilities of some tokens."""
        return words.completion_logprobs(tokens)


class ChatShape(CompletionShape):
    """Replies of /v1/chat/completions."""

    def __init__(self, model: str) -> None:
        self.head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": "chat.completion", "created": int(time.time()), "model": model}

    def first(self, index: int) -> dict[str, Any] | None:
        return {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}

    def part(self, index: int, text: str, reason: str | None, logprobs: Any, token_ids: list[int] | None) -> dict[str, Any]:
        return {"index": index, "delta": {"content": text} if text else {}, "logprobs": logprobs, "finish_reason": reason}

    def choice(self, index: int, text: str, reason: str | None, logprobs: Any, token_ids: list[int] | None) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}

    def piece(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self.head, "object": "chat.completion.chunk", "choices": choices}

    def logprobs(self, words: Words, tokens: Sequence[Token]) -> dict[str, Any]:
        return words.chat_logprobs(tokens)
