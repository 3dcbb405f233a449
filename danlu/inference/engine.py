"""Continuous batching: one thread advances all running answers together; requests join and leave between any two steps."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from danlu.base.errors import DanluError, RequestError
from danlu.inference import scheduler
from danlu.inference.cache import Cache, CacheShape, States
from danlu.inference.sampling import Sampler, Sampling
from danlu.inference.scheduler import Limits, Request, Schedule
from danlu.inference.sources import Stacked, stack_sources
from danlu.inference.spelling import Spelling
from danlu.inference.text import TextStream, Token, scored
from danlu.inputs.tokenizer import Tokenizer
from danlu.models.base import Inputs
from danlu.nn.attention import KeyValue

log = logging.getLogger(__name__)

LONGEST = 2**20  # positions of a recurrent network, whose memory does not grow


class Decoder(Protocol):
    """What the engine needs of a model. Shapes: tokens (B, T) -> hidden states (B, T, D) -> logits (..., V)."""

    config: Any

    def __call__(self, inputs: Inputs, cache: Sequence[Any] | None, **read: Any) -> Tensor: ...

    def read_source(self, inputs: Inputs) -> list[KeyValue]:
        """Of an encoder-decoder: the source's keys and values, layer by layer."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of every vocabulary entry."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The next part of one answer; the last one says why the answer ended: "stop" or "length"."""

    index: int
    text: str = ""
    tokens: tuple[Token, ...] = ()
    finish_reason: str | None = None

    @property
    def token_ids(self) -> list[int]:
        """The tokens that this piece is made of."""
        return [token.id for token in self.tokens]

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, kw_only=True)
class Status:
    """How an engine is doing."""

    alive: bool
    running: int
    waiting: int
    seconds_in_step: float


class Engine:
    """Answers requests with one decoder model.

    Neighbours do not change what a sequence says; its logits may differ from a lone run's in the last bits,
    because products over other shapes add in another order.
    """

    def __init__(
        self, module: Decoder, tokenizer: Tokenizer | None = None, *, end_ids: Sequence[int] = (), limits: Limits | None = None
    ) -> None:
        self.module, self.tokenizer, self.end_ids, self.limits = module, tokenizer, frozenset(end_ids), limits or Limits()
        self.spelling = Spelling(tokenizer) if tokenizer is not None else None
        self.vocabulary_size: int = module.config.vocabulary_size
        self.cache = self._empty_cache()
        self.context_length = LONGEST if isinstance(self.cache, States) else min(module.config.context_length, self.cache.most_tokens)
        self.stacked: tuple[list[scheduler.Sequence], Stacked] | None = None  # sources of the sequences that decoded last
        self.schedule = Schedule(self.limits, self.cache)
        self.condition = threading.Condition()
        self.inbox: list[Request] = []
        self.thread: threading.Thread | None = None
        self.closed = False
        self.step_began = 0.0

    def _empty_cache(self) -> Cache | States:
        config = self.module.config
        if hasattr(config, "state_width"):
            width = config.state_width
            return States(config.num_layers, width, max(1, self.limits.cache_bytes // (4 * config.num_layers * width)))
        shape = CacheShape(num_layers=config.num_layers, num_kv_heads=config.num_kv_heads, head_dim=config.head_dim)
        return Cache(shape, self.limits.cache_bytes // shape.bytes_per_token)

    def submit(
        self, ids: Sequence[int], sampling: Sampling, deliver: Callable[[Piece | DanluError], None], source: Sequence[int] | None = None
    ) -> Request:  # fmt: skip
        """Queue a prompt; pieces of its answers, or one error, arrive through `deliver` on the engine's thread.

        An encoder-decoder reads `source` and goes on from `ids`.
        Raises: RequestError if the prompt does not fit, a token is unknown, the queue is full or the engine is closed.
        """
        request = self._check(list(ids), sampling, deliver, None if source is None else list(source))
        with self.condition:
            if self.closed:
                raise RequestError("the engine is shutting down; ask again later", code="engine_stopped")
            if len(self.inbox) + len(self.schedule.waiting) >= self.limits.waiting:
                raise RequestError(f"{self.limits.waiting} requests are waiting already; ask again in a few seconds", code="queue_full")
            if self.thread is None or not self.thread.is_alive():
                self.thread = threading.Thread(target=self._run, name="danlu-engine", daemon=True)
                self.thread.start()
            self.inbox.append(request)
            self.condition.notify()
        return request

    def status(self) -> Status:
        """Whether the engine lives, and what it has to do."""
        alive = not self.closed and (self.thread is None or self.thread.is_alive())
        began = self.step_began
        return Status(
            alive=alive,
            running=len(self.schedule.rows),
            waiting=len(self.inbox) + len(self.schedule.waiting),
            seconds_in_step=time.monotonic() - began if began else 0.0,
        )

    def close(self) -> None:
        """Stop; what is unfinished gets an error."""
        with self.condition:
            self.closed = True
            self.condition.notify()
        if self.thread is not None and self.thread is not threading.current_thread():
            self.thread.join()

    def _check(
        self, ids: list[int], sampling: Sampling, deliver: Callable[[Piece | DanluError], None], source: list[int] | None
    ) -> Request:  # fmt: skip
        if not ids or source == []:
            raise RequestError("the prompt came without tokens; expected at least one", param="prompt")
        for token in ids + (source or []):
            if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < self.vocabulary_size:
                raise RequestError(
                    f"the prompt holds a token that the model lacks; expected 0 to {self.vocabulary_size - 1}", param="prompt"
                )
        if any(token >= self.vocabulary_size for token in sampling.logit_bias):
            raise RequestError(f"logit_bias names a token that the model lacks; expected below {self.vocabulary_size}", param="logit_bias")
        if sampling.stop and self.tokenizer is None:
            raise RequestError("stop strings came for a model without a tokenizer; leave stop out", param="stop")
        room, given = self.context_length - len(ids), len(ids) if source is None else len(source)
        if given > self.context_length or (room <= 0 and sampling.max_tokens != 0):
            raise RequestError(
                f"the prompt is {given} tokens long and leaves no room for an answer in this model's context of "
                f"{self.context_length} tokens; shorten it",
                param="prompt",
                code="context_length_exceeded",
            )
        most_new = room if sampling.max_tokens is None else min(sampling.max_tokens, room)
        seed = random.SystemRandom().getrandbits(62) if sampling.seed is None else sampling.seed
        request = Request(ids, sampling, seed, most_new, deliver, source)
        request.wake = self._wake
        return request

    def _wake(self) -> None:
        with self.condition:
            self.condition.notify()

    def _run(self) -> None:
        with torch.inference_mode():
            while True:
                with self.condition:
                    while not (self.closed or self.inbox or self.schedule.rows or self.schedule.waiting):
                        self.condition.wait()
                    arrived, self.inbox = self.inbox, []
                    if self.closed:
                        break
                    self.schedule.waiting.extend(self._sequences(request) for request in arrived)
                try:
                    self.step_began = time.monotonic()
                    self.step()
                except Exception:
                    # A fault between the steps leaves rows and cache in doubt: start over with an empty table.
                    log.exception("the engine failed between two steps and starts over")
                    self._fail_all("the engine failed; ask again", "engine_failure")
                finally:
                    self.step_began = 0.0
        for request in arrived:
            self._tell(request, RequestError("the engine stopped before it began", code="engine_stopped"))
        self._fail_all("the engine stopped before the answer was complete", "engine_stopped")

    def _sequences(self, request: Request) -> scheduler.Sequence:
        first, *siblings = (
            scheduler.Sequence(
                request=request,
                index=index,
                sampler=Sampler(request.sampling, request.seed, index),
                text=TextStream(self.tokenizer, request.sampling.stop),
                ids=list(request.ids),
            )
            for index in range(request.sampling.n)
        )
        first.siblings = siblings
        return first

    def step(self) -> None:
        """Drop what was cancelled, let in what waits, read one chunk of prompts, then one token for all who decode."""
        for sequence in self.schedule:
            if sequence.request.cancelled:
                self.schedule.leave(sequence)
        self.schedule.admit()
        group, new = self.schedule.prompt_group()
        if group:
            self._guard(group, lambda some: self._read_prompts(some, new))
        self.schedule.make_room()
        decoding = self.schedule.rows[: self.schedule.decoding]
        if decoding:
            self._guard(decoding, self._decode)
        if not self.schedule.rows and not self.schedule.waiting:
            self.cache.release()
            self.stacked = None

    def _guard(self, sequences: list[scheduler.Sequence], work: Callable[[list[scheduler.Sequence]], None]) -> None:
        """Run one step; if it fails before anybody moved on, each sequence is tried alone: only the guilty one fails."""
        before = [sequence.computed for sequence in sequences]
        try:
            work(sequences)
        except Exception:
            if self.cache.broken:
                raise
            log.exception("a step over %d sequences failed", len(sequences))
            unmoved = self.cache.pads and before == [sequence.computed for sequence in sequences]
            for sequence in sequences:
                if len(sequences) == 1 or not unmoved:
                    self._fail(sequence, "the model failed on this request", "engine_failure")
                elif not sequence.ended:
                    self._guard([sequence], work)

    def _read_prompts(self, group: list[scheduler.Sequence], new: int) -> None:
        counts = [min(new, sequence.remaining) for sequence in group]
        parts = [sequence.ids[sequence.computed : sequence.computed + count] for sequence, count in zip(group, counts, strict=True)]
        ids = torch.tensor([part + [0] * (new - len(part)) for part in parts])  # what stands behind the end is seen by nobody
        for sequence in group:
            if sequence.request.source is not None and sequence.read is None:
                sequence.read = self.module.read_source(Inputs(tokens=ids[:1], source=torch.tensor([sequence.request.source])))
        hidden = self._forward(group, ids)
        if group[0].request.sampling.prompt_logprobs and not group[0].generated:
            self._report_prompt(group[0], self.module.logits(hidden[0]))
        for sequence, count in zip(group, counts, strict=True):
            sequence.computed += count
        ready, chosen = [], []
        for row, sequence in enumerate(group):
            if sequence.remaining == 0:
                self.schedule.start_decoding(sequence)
                for sibling in [sequence, *sequence.siblings]:  # each draws its own first token from the same logits
                    ready.append(sibling)
                    chosen.append(row)
        if ready:
            ends = torch.tensor(counts)[chosen] - 1
            self._advance(ready, self.module.logits(hidden[chosen, ends]))
        for sequence in ready:
            siblings, sequence.siblings = sequence.siblings, []
            for sibling in siblings:
                if not sibling.ended:
                    self.schedule.fork(sequence, sibling)
        self._leave_ended(ready)

    def _decode(self, sequences: list[scheduler.Sequence]) -> None:
        ids = torch.tensor([sequence.ids[-1:] for sequence in sequences])
        logits = self.module.logits(self._forward(sequences, ids)[:, -1])
        for sequence in sequences:
            sequence.computed += 1
        self._advance(sequences, logits)
        self._leave_ended(sequences)

    def _advance(self, sequences: list[scheduler.Sequence], logits: Tensor) -> None:
        """Draw one token for each sequence from its logits (B, V) and tell whoever waits for it."""
        finite = logits.sum(-1).isfinite().tolist()
        likeliest = logits.argmax(-1).tolist()
        for row, sequence in enumerate(sequences):
            if sequence.request.cancelled:
                sequence.ended = True
            elif not finite[row]:
                if sequence.row >= 0:
                    self.cache.clear(sequence.row)
                self._fail(sequence, "the model's numbers are not finite on this request; its weights may be damaged", "engine_failure")
            elif len(sequence.generated) >= sequence.request.most_new:  # nothing was asked for but the prompt
                self._end(sequence, "length")
            else:
                plain = sequence.sampler.greedy and not sequence.sampler.transforms
                self._extend(sequence, likeliest[row] if plain else self._draw(sequence, logits[row]), logits[row])

    def _draw(self, sequence: scheduler.Sequence, logits: Tensor) -> int:
        sampler, begun = sequence.sampler, sequence.text.begun
        drawn = sampler.choose(logits, sequence.generated)
        if sampler.greedy or self.spelling is None or self.spelling.fits(begun, drawn):
            return drawn
        return sampler.choose(self.spelling.fitting(begun, logits), sequence.generated)

    def _extend(self, sequence: scheduler.Sequence, drawn: int, logits: Tensor) -> None:
        request = sequence.request
        request.sampled += 1
        token = Token(id=drawn)
        if request.sampling.logprobs is not None:
            token = scored(logits.log_softmax(-1), drawn, request.sampling.logprobs)
        if drawn in self.end_ids:
            text, tokens = sequence.text.finish()
            # Who has the prompt's tokens reported counts tokens: lm-eval takes the last for the one that was drawn, whichever it was.
            self._end(sequence, "stop", text, [*tokens, token] if request.sampling.prompt_logprobs else tokens)
            return
        sequence.ids.append(drawn)
        sequence.generated.append(drawn)
        text, tokens, stopped = sequence.text.push(token)
        if stopped:
            self._end(sequence, "stop", text, tokens)
        elif len(sequence.generated) >= request.most_new:
            more, rest = sequence.text.finish()
            self._end(sequence, "length", text + more, tokens + rest)
        elif tokens:
            self._tell(request, Piece(index=sequence.index, text=text, tokens=tuple(tokens)))

    def _end(self, sequence: scheduler.Sequence, reason: str, text: str | None = None, tokens: Sequence[Token] = ()) -> None:
        if text is None:
            text, tokens = sequence.text.finish()
        sequence.ended = True
        sequence.request.open -= 1
        self._tell(sequence.request, Piece(index=sequence.index, text=text, tokens=tuple(tokens), finish_reason=reason))

    def _leave_ended(self, sequences: list[scheduler.Sequence]) -> None:
        for sequence in sequences:
            if sequence.ended:
                self.schedule.leave(sequence)

    def _report_prompt(self, sequence: scheduler.Sequence, logits: Tensor) -> None:
        """Note the log-probabilities of the prompt's tokens that these logits (T, V) foretell."""
        request = sequence.request
        if sequence.computed == 0:
            request.prompt_tokens = [Token(id=sequence.ids[0])]  # nothing foretells the first
        following = sequence.ids[sequence.computed + 1 : sequence.computed + 1 + len(logits)]
        logprobs = logits[: len(following)].log_softmax(-1)
        alternatives = request.sampling.logprobs or 0
        request.prompt_tokens += [scored(row, token, alternatives) for row, token in zip(logprobs, following, strict=True)]

    def _fail(self, sequence: scheduler.Sequence, message: str, code: str) -> None:
        """End a request with an error, and all its answers with it."""
        request = sequence.request
        for other in [sequence, *self.schedule]:
            if other.request is request and not other.ended:
                other.ended = True
                self.schedule.leave(other)
        self._tell(request, RequestError(message, code=code))
        request.open, request.cancelled = 0, True

    def _fail_all(self, message: str, code: str) -> None:
        requests = {id(sequence.request): sequence.request for sequence in self.schedule}
        self.cache = self._empty_cache()
        self.schedule = Schedule(self.limits, self.cache)
        for request in requests.values():
            self._tell(request, RequestError(message, code=code))

    def _tell(self, request: Request, event: Piece | DanluError) -> None:
        if request.cancelled:
            return
        try:
            request.deliver(event)
        except Exception:  # the listener is gone, and with it the reason to go on
            log.debug("a request's listener is gone", exc_info=True)
            request.cancelled = True

    def _forward(self, group: list[scheduler.Sequence], ids: Tensor) -> Tensor:
        """One pass over new tokens (B, T) of some rows, to hidden states (B, T, D)."""
        starts = [sequence.computed for sequence in group]
        rows = [sequence.row for sequence in group]
        new = ids.shape[1]
        positions = torch.tensor(starts)[:, None] + torch.arange(new)
        simple = max(starts) == 0 or (new == 1 and min(starts) == max(starts))  # plain causal, or everything is seen
        visible = None if simple else torch.arange(max(starts) + new) <= positions[:, None, :, None]
        positions = positions.clamp(max=self.context_length - 1)
        cache = self.cache.view(rows, starts, new)
        if group[0].read is None:
            return self.module(Inputs(tokens=ids, positions=positions, visible=visible), cache=cache)
        if self.stacked is None or self.stacked[0] != group:
            self.stacked = (list(group), stack_sources([sequence.read or [] for sequence in group]))
        read, source_visible = self.stacked[1]
        return self.module(Inputs(tokens=ids, positions=positions, visible=visible, source_visible=source_visible), cache=cache, read=read)
