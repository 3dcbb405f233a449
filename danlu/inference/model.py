"""A loaded model: what `danlu.load` gives, and what the command line and the server ask."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from danlu.base.errors import DanluError, RequestError
from danlu.inference.backends import choose_numbers, make_backend
from danlu.inference.embedding import Embedder, Pooling, Text, read_pooling
from danlu.inference.engine import Engine, Piece, Status
from danlu.inference.request import Limits, Request
from danlu.inference.sampling import Sampling, parameters, told
from danlu.inference.text import Token
from danlu.inference.token_inputs import read_ids
from danlu.inputs.conversation import chat_ids, end_ids
from danlu.kernels.native import found as kernels
from danlu.kernels.packing import Precision
from danlu.kernels.table import can_walk
from danlu.models.loading import Loaded, Opened, open_model
from danlu.nn.fused import fused

PROMPT_CHARACTERS = 128  # for each token of the context: hardly a token has more, and what is longer is not cut into tokens at all

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
    """A model ready to be asked; safe to ask from several threads at once.

    What goes on from a text (generate, stream, chat) asks the engine, which is made when first needed. Encoders have none.
    """

    def __init__(self, source: Loaded | Opened, limits: Limits | None = None, precision: str = "auto") -> None:
        self.name, self.tokenizer, self.config, self.family = source.name, source.tokenizer, source.config, source.family
        self.path, self.limits, self.closed = source.path, limits or Limits(), False
        self.precision, self.reason = choose_numbers(source, precision)
        self.source: Loaded | Opened = source
        self.exact: Precision = "float32" if precision == "auto" else self.precision  # what prompts' likelihoods are computed in
        self._engines: dict[Precision, Engine] = {}
        self._making = threading.Lock()
        if isinstance(source, Opened) and not self._packs:
            self.source = source.filled()  # now, so that damage shows

    @property
    def _packs(self) -> bool:
        """Whether answers need no weights but the packed ones."""
        return can_walk(self.config) and (self.precision != "float32" or kernels() is not None)

    @cached_property
    def module(self) -> Any:
        """The model in float32; read when something else than answers is asked for."""
        loaded = self.source if isinstance(self.source, Loaded) else self.source.filled()
        return loaded.module.eval()

    @property
    def generates(self) -> bool:
        """Whether it can go on from a text; an encoder only reads."""
        return self.family.memory != "none"

    def check_generates(self) -> None:
        """Raises: RequestError if the model is an encoder."""
        if not self.generates:
            raise RequestError(
                f"{self.name} is an encoder: it reads texts and does not generate; use embed, hidden or logits (over HTTP: /v1/embeddings)",
                param="model",
                code="not_supported",
            )

    @property
    def engine(self) -> Engine:
        """What answers requests. Raises: RequestError if the model is an encoder."""
        return self._engine_in(self.precision)

    def engine_for(self, sampling: Sampling) -> Engine:
        """What answers such a request; made first where nobody has asked so before, which takes seconds."""
        return self.judging_engine if sampling.prompt_logprobs else self.engine

    @property
    def judging_engine(self) -> Engine:
        """What tells how likely texts are: in float32, unless the model was loaded in other numbers by name."""
        return self._engine_in(self.exact)

    def status(self) -> Status:
        """How all that answers is doing, together; each thing's worst."""
        found = [self.engine.status(), *(engine.status() for engine in list(self._engines.values()) if engine is not self.engine)]
        return Status(
            alive=all(one.alive for one in found),
            running=sum(one.running for one in found),
            waiting=sum(one.waiting for one in found),
            seconds_in_step=max(one.seconds_in_step for one in found),
        )

    def _engine_in(self, precision: Precision) -> Engine:
        self.check_generates()
        with self._making:
            if precision not in self._engines:
                if self.closed:
                    raise RequestError(f"{self.name} was closed; load it again", code="engine_stopped")
                ends = tuple(end_ids(self.tokenizer))  # first: what a tokenizer leaves behind is given back with what packing does
                made = Engine(make_backend(self.source, self.limits, precision), self.tokenizer, end_ids=ends, limits=self.limits)
                self._engines[precision] = made
                weakref.finalize(self, made.close)
            return self._engines[precision]

    def close(self) -> None:
        """Stop answering; what is unfinished gets an error."""
        with self._making:
            self.closed = True
        for engine in self._engines.values():
            engine.close()

    def generate(self, prompt: Prompt, **sampling: Any) -> Generation:
        """Answer a prompt (text or token ids); the keywords are the fields of Sampling."""
        return self._gather(self.encode(prompt), sampling_of(sampling))

    def stream(self, prompt: Prompt, **sampling: Any) -> Stream:
        """Answer a prompt piece by piece; leaving the loop ends the work."""
        return Stream(self, self.encode(prompt), sampling_of(sampling))

    def chat(self, messages: Sequence[Message], **sampling: Any) -> Generation:
        """Answer a conversation of {"role", "content"} with the model's own template; max_tokens is unbounded unless given."""
        self.check_generates()
        return self._gather(chat_ids(self.tokenizer, messages), sampling_of({"max_tokens": None, **sampling}))

    def chat_stream(self, messages: Sequence[Message], **sampling: Any) -> Stream:
        """Answer a conversation piece by piece."""
        self.check_generates()
        return Stream(self, chat_ids(self.tokenizer, messages), sampling_of({"max_tokens": None, **sampling}))

    def submit(self, ids: list[int], sampling: Sampling, deliver: Callable[[Piece | DanluError], None], owner: str = "") -> Request:
        """Queue a prompt's ids; an encoder-decoder reads them and begins a text of its own.

        Who asks how likely a prompt is measures, and gets float32's numbers, unless the model was loaded in others by name.
        """
        engine = self.engine_for(sampling)
        if self.has_source:
            return engine.submit([self.config.start_id], sampling, deliver, source=ids, owner=owner)
        return engine.submit(ids, sampling, deliver, owner=owner)

    def judge(
        self, ids: Sequence[int], answers: Sequence[Sequence[int]], deliver: Callable[[Piece | DanluError], None], owner: str = ""
    ) -> Request:
        """Queue a prompt's ids and answers to it, each of which comes back as a piece with its tokens' likelihoods."""
        engine = self.judging_engine
        if self.has_source:
            return engine.judge([self.config.start_id], answers, deliver, source=ids, owner=owner)
        return engine.judge(ids, answers, deliver, owner=owner)

    @property
    def has_source(self) -> bool:
        """Whether it is an encoder-decoder."""
        return hasattr(self.config, "start_id")

    def encode(self, prompt: Prompt) -> list[int]:
        """A prompt's token ids; an empty prompt begins where texts begin. What an encoder-decoder reads ends as its texts do."""
        if not isinstance(prompt, str):
            ids = prompt.tolist() if hasattr(prompt, "tolist") else list(prompt)
        elif self.tokenizer is None:
            raise RequestError(f"{self.name} has no tokenizer; give token ids instead of text", param="prompt")
        else:
            self.check_characters(len(prompt))
            ids = self.tokenizer.encode(prompt)
            if self.has_source:  # is read whole, as in training
                before, after = self.tokenizer.frame
                ids = [*before, *ids, *after]
            elif self.begins_with_bos:
                ids = [self.tokenizer.bos_id, *ids]
        if not ids and self.tokenizer is not None:
            start = self.tokenizer.bos_id if self.tokenizer.bos_id is not None else self.tokenizer.end_of_text_id
            ids = [] if start is None else [start]
        return ids

    def check_characters(self, count: int) -> None:
        """Raises: RequestError for a text of which one knows that it is too long, before it is cut into tokens."""
        most = self.config.context_length * PROMPT_CHARACTERS
        if count > most:
            raise RequestError(
                f"the prompt is {count} characters long, and this model's context of {self.config.context_length} tokens holds at most "
                f"{most}; shorten it",
                param="prompt",
                code="context_length_exceeded",
            )

    @cached_property
    def begins_with_bos(self) -> bool:
        """Whether the tokenizer's own rules put a beginning token before every text."""
        bos = None if self.tokenizer is None else self.tokenizer.bos_id
        return self.tokenizer is not None and bos is not None and self.tokenizer.raw.encode("x").ids[:1] == [bos]

    def embed(self, texts: str | Sequence[Text], truncate: bool = False) -> Tensor:
        """One vector a text (or list of token ids), as sentence-transformers' files in the folder say; without them the mean of the
        last hidden states, of unit length, for decoders too. `truncate` cuts texts that are too long.

        Shapes: (texts, D), float32.     Raises: RequestError naming both lengths of a text that is too long.
        """
        return self.embedder.embed([texts] if isinstance(texts, str) else texts, truncate)

    @cached_property
    def embedder(self) -> Embedder:
        """What makes vectors. Raises: RequestError if the model's kind has none; CheckpointError if its folder's files are damaged."""
        if self.has_source or self.family.memory == "state":
            raise RequestError(f"{self.name} is of the family {self.family.name}, which embed does not know", code="not_supported")
        pooling = read_pooling(self.path) if self.path.is_dir() else Pooling()
        module = self.module if self.generates else fused(self.module)
        return Embedder(self.name, module, self.config, self.tokenizer, pooling)

    @torch.inference_mode()
    def logits(self, ids: Any, target_ids: Any = None, *, visible: Any = None) -> Tensor:
        """What the model's head says of token ids (B, T) or (T,), in float32; an encoder-decoder reads `ids` and goes on from `target_ids`.

        Where texts are of different lengths, `visible` (B, T) is True for tokens and False for the padding behind them.
        Shapes: words (B, T, V), classes (B, C), token labels (B, T, C), spans (B, T, 2).
        Raises: RequestError if ids do not fit the model, or it has no head.
        """
        inputs, padding = read_ids(self.module, ids, target_ids, visible)
        hidden = self.module(inputs, None)
        head = getattr(self.config, "head", None)
        one_a_text = head is not None and head.kind == "classes"
        return (self.module.logits(hidden, padding) if one_a_text else self.module.logits(hidden)).float()

    @torch.inference_mode()
    def hidden(self, ids: Any, target_ids: Any = None, *, visible: Any = None) -> Tensor:
        """The last hidden states, with the arguments of `logits`. Shapes: (B, T, D), float32."""
        inputs, _ = read_ids(self.module, ids, target_ids, visible)
        return self.module(inputs, None).float()

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


def load(name: str | Path, *, limits: Limits | None = None, precision: str = "auto") -> Model:
    """Load a model: a run, a Hugging Face folder, a .gguf file, a catalog name or hf:owner/name.

    `precision`: the numbers that a decoder answers in, float32, bfloat16, int8 or int4; auto: what the file has, or what is quick here.
    """
    return Model(open_model(str(name)), limits, precision)
