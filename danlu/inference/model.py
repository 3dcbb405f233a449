"""A loaded model: what `danlu.load` gives, and what the command line and the server ask."""

from __future__ import annotations

import queue
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor

from danlu.base.errors import DanluError, RequestError
from danlu.inference.conversation import chat_ids, end_ids
from danlu.inference.engine import Decoder, Engine, Piece
from danlu.inference.sampling import Sampling, parameters, told
from danlu.inference.scheduler import Limits, Request
from danlu.inference.text import Token
from danlu.models.base import Inputs
from danlu.models.loading import Loaded, load_model

Prompt = str | Sequence[int]
Message = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One whole answer."""

    index: int
    text: str
    tokens: tuple[Token, ...]
    finish_reason: str

    @property
    def token_ids(self) -> list[int]:
        """The answer's tokens."""
        return [token.id for token in self.tokens]


@dataclass(frozen=True, kw_only=True)
class Generation:
    """All answers to one prompt."""

    choices: tuple[Choice, ...]
    prompt_tokens: int
    completion_tokens: int

    @property
    def text(self) -> str:
        """The first answer."""
        return self.choices[0].text

    def __str__(self) -> str:
        return self.text


class Model:
    """A decoder ready to answer; safe to ask from several threads at once."""

    def __init__(self, loaded: Loaded, limits: Limits | None = None) -> None:
        self.name, self.tokenizer, self.config = loaded.name, loaded.tokenizer, loaded.config
        self.module = cast(Decoder, loaded.module.eval())
        self.engine = Engine(self.module, self.tokenizer, end_ids=tuple(end_ids(self.tokenizer)), limits=limits)
        self.close = weakref.finalize(self, self.engine.close)

    def generate(self, prompt: Prompt, **sampling: Any) -> Generation:
        """Answer a prompt (text or token ids); the keywords are the fields of Sampling."""
        return self._gather(self.encode(prompt), sampling_of(sampling))

    def stream(self, prompt: Prompt, **sampling: Any) -> Stream:
        """Answer a prompt piece by piece; leaving the loop ends the work."""
        return Stream(self, self.encode(prompt), sampling_of(sampling))

    def chat(self, messages: Sequence[Message], **sampling: Any) -> Generation:
        """Answer a conversation of {"role", "content"} with the model's own template; max_tokens is unbounded unless given."""
        return self._gather(chat_ids(self.tokenizer, messages), sampling_of({"max_tokens": None, **sampling}))

    def chat_stream(self, messages: Sequence[Message], **sampling: Any) -> Stream:
        """Answer a conversation piece by piece."""
        return Stream(self, chat_ids(self.tokenizer, messages), sampling_of({"max_tokens": None, **sampling}))

    def submit(self, ids: list[int], sampling: Sampling, deliver: Callable[[Piece | DanluError], None]) -> Request:
        """Queue a prompt's ids; an encoder-decoder reads them and begins a text of its own."""
        if hasattr(self.module, "read_source"):
            return self.engine.submit([self.config.start_id], sampling, deliver, source=ids)
        return self.engine.submit(ids, sampling, deliver)

    def encode(self, prompt: Prompt) -> list[int]:
        """A prompt's token ids; an empty prompt begins where texts begin."""
        if not isinstance(prompt, str):
            ids = prompt.tolist() if hasattr(prompt, "tolist") else list(prompt)
        elif self.tokenizer is None:
            raise RequestError(f"{self.name} has no tokenizer; give token ids instead of text", param="prompt")
        else:
            ids = self.tokenizer.encode(prompt)
            if self.begins_with_bos:
                ids = [self.tokenizer.bos_id, *ids]
        if not ids and self.tokenizer is not None:
            start = self.tokenizer.bos_id if self.tokenizer.bos_id is not None else self.tokenizer.end_of_text_id
            ids = [] if start is None else [start]
        return ids

    @cached_property
    def begins_with_bos(self) -> bool:
        """Whether the tokenizer's own rules put a beginning token before every text."""
        bos = None if self.tokenizer is None else self.tokenizer.bos_id
        return self.tokenizer is not None and bos is not None and self.tokenizer.raw.encode("x").ids[:1] == [bos]

    @torch.inference_mode()
    def logits(self, ids: Any) -> Tensor:
        """The model's logits for token ids (B, T) or (T,). Shapes: (B, T, V), float32."""
        tokens = torch.as_tensor(ids, dtype=torch.long)
        tokens = tokens[None] if tokens.ndim == 1 else tokens
        if tokens.ndim != 2 or tokens.shape[1] < 1:
            raise RequestError(f"ids came with the shape {tuple(tokens.shape)}; expected (B, T) or (T,)", param="ids")
        if int(tokens.min()) < 0 or int(tokens.max()) >= self.config.vocabulary_size:
            raise RequestError(f"ids hold a token that the model lacks; expected 0 to {self.config.vocabulary_size - 1}", param="ids")
        if tokens.shape[1] > self.config.context_length:
            raise RequestError(
                f"ids are {tokens.shape[1]} tokens long; this model's context holds {self.config.context_length}",
                param="ids",
                code="context_length_exceeded",
            )
        return self.module.logits(self.module(Inputs(tokens=tokens), cache=None)).float()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Model({self.name!r}, context of {self.config.context_length} tokens, vocabulary of {self.config.vocabulary_size})"

    def _gather(self, ids: list[int], sampling: Sampling) -> Generation:
        stream = Stream(self, ids, sampling)
        gathered = Gathered(sampling.n)
        for piece in stream:
            gathered.add(piece)
        return Generation(choices=gathered.choices(), prompt_tokens=len(ids), completion_tokens=stream.request.sampled)


class Gathered:
    """Joins the pieces of a request to whole answers."""

    def __init__(self, answers: int) -> None:
        self.pieces: list[list[Piece]] = [[] for _ in range(answers)]

    def add(self, piece: Piece) -> None:
        """Take the next piece of any answer."""
        self.pieces[piece.index].append(piece)

    def ended(self, index: int) -> bool:
        """Whether an answer is complete."""
        return bool(self.pieces[index]) and self.pieces[index][-1].finish_reason is not None

    def choices(self) -> tuple[Choice, ...]:
        """The answers, all of which have ended."""
        return tuple(
            Choice(
                index=index,
                text="".join(piece.text for piece in pieces),
                tokens=tuple(token for piece in pieces for token in piece.tokens),
                finish_reason=pieces[-1].finish_reason or "",
            )
            for index, pieces in enumerate(self.pieces)
        )


class Stream:
    """Pieces of a request as they come; the request ends when the stream is closed or forgotten."""

    def __init__(self, model: Model, ids: list[int], sampling: Sampling) -> None:
        self.model = model  # kept alive while its answer is read
        self.events: queue.SimpleQueue[Piece | DanluError] = queue.SimpleQueue()
        self.open = sampling.n
        self.request: Request = model.submit(ids, sampling, self.events.put)

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Piece:
        if not self.open:
            raise StopIteration
        try:
            event = self.events.get()
        except BaseException:  # Ctrl-C while waiting
            self.close()
            raise
        if isinstance(event, DanluError):
            self.open = 0
            raise event
        if event.finish_reason:
            self.open -= 1
        return event

    def close(self) -> None:
        """Stop the work."""
        self.open = 0
        self.request.cancel()

    def __del__(self) -> None:
        if getattr(self, "open", 0) and hasattr(self, "request"):
            self.request.cancel()


def sampling_of(given: Mapping[str, Any]) -> Sampling:
    """Sampling from keywords. Raises: RequestError naming a keyword that is none of its fields."""
    for name in given:
        if name not in parameters():
            raise RequestError(f"{told(name)} is no sampling parameter; expected one of {', '.join(parameters())}", param=name)
    return Sampling(**given)


def load(name: str, *, limits: Limits | None = None) -> Model:
    """Load a model: a run, a Hugging Face folder, a .gguf file, a catalog name or hf:owner/name."""
    return Model(load_model(name), limits)
