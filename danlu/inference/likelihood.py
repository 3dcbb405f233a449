"""How likely a model finds continuations of prompts, as its engine reads them: what several have in common is read once."""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from danlu.base.errors import DanluError, RequestError
from danlu.inference.engine import Piece
from danlu.inference.model import Model
from danlu.inference.request import Request
from danlu.inference.sampling import MOST_ANSWERS
from danlu.inputs.tokenizer import Tokenizer

TOGETHER = 64  # prompts that are asked together: more than run at once, fewer than an engine lets wait
SHARED = 64  # tokens that two prompts begin with, from which it pays to read one before the other

AGAIN = 0.02  # seconds until a queue that others have filled is tried again

Part = tuple[int, int]  # a prompt's number, and that of the first of its continuations that are asked together
Prompt = tuple[Sequence[int], Sequence[Sequence[int]]]  # ids of a prompt and of each of its continuations


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """What a model makes of one continuation.

    `nats` is the natural logarithm of its probability, summed over its tokens; `greedy` whether each of them is the likeliest in its
    place; `cut` counts the prompt's tokens that were left out.
    """

    nats: float
    tokens: int
    greedy: bool
    cut: int = 0


class _Call:
    """What was asked of an engine at once and is not heard yet; ends with everything heard, or given up."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.events: queue.SimpleQueue[tuple[Part, Piece | DanluError]] = queue.SimpleQueue()
        self.requests: dict[Part, Request] = {}
        self.left: dict[Part, int] = {}
        self.found: dict[tuple[int, int], Piece] = {}  # by the numbers of a prompt and of its continuation

    def __enter__(self) -> _Call:
        return self

    def __exit__(self, *_: object) -> None:
        for request in self.requests.values():
            request.cancel()

    def ask(self, part: Part, ids: list[int], answers: Sequence[Sequence[int]]) -> None:
        """Queue a prompt with some of its continuations; a full queue is waited for."""
        given = [list(map(int, answer)) for answer in answers]
        self.left[part] = len(given)
        while part not in self.requests:
            try:
                self.requests[part] = self.model.judge(ids, given, lambda event: self.events.put((part, event)))
            except RequestError as error:
                if error.code != "queue_full":
                    raise
                if self.requests:
                    self.hear()
                else:  # others fill the queue
                    time.sleep(AGAIN)

    def hear(self) -> None:
        """Wait for what comes next. Raises: the error that came."""
        part, event = self.events.get()
        if isinstance(event, DanluError):
            raise event
        number, start = part
        self.found[number, start + event.index] = event
        self.left[part] -= 1
        if not self.left[part]:
            del self.requests[part]


class Likelihoods:
    """Scores continuations with one model, through its engine; safe to ask from several threads.

    A prompt is read once for all its continuations, and what the cache has of an earlier one that begins alike is not read again. The
    last token of a continuation is not read at all.
    """

    def __init__(self, model: Model, truncate: bool = False) -> None:
        """`truncate` cuts prompts that are too long from the left. Raises: RequestError if the model is an encoder."""
        model.check_generates()
        self.model, self.truncate = model, truncate

    @cached_property
    def context_length(self) -> int:
        """Tokens that the engine can remember of one text: the model's context, or what its cache has room for."""
        return self.model.judging_engine.context_length

    def score(self, prompts: Sequence[Prompt]) -> list[list[Scored]]:
        """The likelihood of every continuation behind its prompt, in their order.

        Raises: RequestError if one does not fit the model, or its numbers are not finite.
        """
        fitting = [self.fit(*prompt) for prompt in prompts]
        # Of those that begin alike the first is read before the others, where what was read is used again.
        order = sorted((number for number, (_, some) in enumerate(prompts) if some), key=lambda number: list(fitting[number][0]))
        shares, first = self.model.judging_engine.backend.flat, -1
        with _Call(self.model) as call:
            for number in order:
                ids = list(map(int, fitting[number][0]))
                if first < 0 or not _share(fitting[first][0], ids):
                    first = number
                for start in range(0, len(prompts[number][1]), MOST_ANSWERS):
                    while len(call.requests) == TOGETHER or (shares and (first, 0) in call.requests):
                        call.hear()
                    call.ask((number, start), ids, prompts[number][1][start : start + MOST_ANSWERS])
            while call.requests:
                call.hear()
        return [
            [_scored(call.found[number, index], cut) for index in range(len(some))]
            for number, ((_, some), (_, cut)) in enumerate(zip(prompts, fitting, strict=True))
        ]

    def score_texts(self, prompts: Sequence[tuple[str, Sequence[str]]]) -> list[list[Scored]]:
        """The same of texts: each continuation is what stands behind its prompt, its space included."""
        return self.score([encode_continuations(self.model, *prompt) for prompt in prompts])

    def fit(self, ids: Sequence[int], continuations: Sequence[Sequence[int]]) -> tuple[Sequence[int], int]:
        """A prompt as the model can read it before each of its continuations, and how many of its tokens are left out.

        All continuations of a prompt read the same of it, so that they can be compared.
        Raises: RequestError naming both lengths if it is too long and not to be cut; if there are no tokens, or one that the model lacks.
        """
        size = self.model.config.vocabulary_size
        if not len(ids) or not all(map(len, continuations)):
            raise RequestError("a prompt or a continuation came without tokens; expected at least one each", param="prompt")
        if any(not 0 <= token < size for some in (ids, *continuations) for token in some):
            raise RequestError(f"a prompt holds a token that the model lacks; expected 0 to {size - 1}", param="prompt")
        longest = max(map(len, continuations), default=0)
        room = self.context_length if self.model.has_source else self.context_length + 1 - longest  # the last token is not read
        if longest > self.context_length:
            raise self._too_long(f"a continuation is {longest}")
        if len(ids) <= room:
            return ids, 0
        if not self.truncate:
            raise self._too_long(f"a prompt and its continuation are {len(ids) + longest}")
        return ids[len(ids) - room :], len(ids) - room

    def _too_long(self, what: str) -> RequestError:
        return RequestError(
            f"{what} tokens long; the context of {self.model.name} holds {self.context_length}: shorten it, or have prompts cut (truncate)",
            param="prompt",
            code="context_length_exceeded",
        )


def _scored(piece: Piece, cut: int) -> Scored:
    return Scored(
        nats=sum(token.logprob or 0.0 for token in piece.tokens),
        tokens=len(piece.tokens),
        greedy=all(token.alternatives[0][0] == token.id for token in piece.tokens),
        cut=cut,
    )


def _share(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether so much of two prompts is the same that one waits for the other."""
    return len(one) >= SHARED <= len(other) and list(one[:SHARED]) == list(other[:SHARED])


def encode_continuations(model: Model, prompt: str, continuations: Sequence[str]) -> tuple[list[int], list[list[int]]]:
    """Ids of a prompt, and of each continuation as it is cut into tokens behind it.

    Spaces at the prompt's end begin the continuations, since most tokens bring their space along. A prompt and a continuation are cut
    as one text, and the continuation is what is more than the prompt has alone: what EleutherAI's harness takes for it.
    An encoder-decoder reads both apart.
    Raises: RequestError if the model has no tokenizer, or a continuation adds no token.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise RequestError(f"{model.name} has no tokenizer; give token ids instead of text", param="prompt")
    shown = prompt.rstrip()
    continuations = [prompt[len(shown) :] + continuation for continuation in continuations]
    ids = model.encode(shown)
    if model.has_source:
        return ids, [tokenizer.encode(continuation) for continuation in continuations]
    before = [tokenizer.bos_id] if model.begins_with_bos and tokenizer.bos_id is not None else []
    alone = ids[len(before) :] if shown else []
    found = [whole[len(alone) :] for whole in _encoded(tokenizer, [shown + continuation for continuation in continuations])]
    for continuation, own in zip(continuations, found, strict=True):
        if not own:
            raise RequestError(f"the continuation {continuation[:40]!r} adds no token to its prompt", param="prompt")
    return ids, found


def encode_pair(model: Model, prompt: str, continuation: str) -> tuple[list[int], list[int]]:
    """Ids of a prompt and of one continuation behind it, as encode_continuations has them."""
    ids, (found,) = encode_continuations(model, prompt, [continuation])
    return ids, found


def _encoded(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    return [row.tolist() for row in tokenizer.encode_batch(texts)]
