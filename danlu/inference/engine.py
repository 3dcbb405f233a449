"""Continuous batching: one thread advances all running answers together; requests join and leave between any two steps."""

from __future__ import annotations

import itertools
import logging
import random
import threading
import time
from collections.abc import Callable
from collections.abc import Sequence as Several
from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.base.errors import DanluError, RequestError
from danlu.inference.backend import Backend, Logits, Part
from danlu.inference.request import Limits, Request, Sequence
from danlu.inference.sampling import MOST_ANSWERS, Sampler, Sampling
from danlu.inference.scheduler import Schedule
from danlu.inference.spelling import Spelling
from danlu.inference.text import TextStream, Token, scored
from danlu.inputs.tokenizer import Tokenizer

log = logging.getLogger(__name__)


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
    """Answers requests with one model.

    Neighbours do not change what a sequence says. Where a module computes (Padded), its logits may differ from a lone run's in the
    last bits, because products over other shapes add in another order; the kernels (Paged) add in one order, and not a bit differs.
    """

    def __init__(
        self, backend: Backend, tokenizer: Tokenizer | None = None, *, end_ids: Several[int] = (), limits: Limits | None = None
    ) -> None:
        self.backend, self.tokenizer, self.end_ids, self.limits = backend, tokenizer, frozenset(end_ids), limits or Limits()
        self.spelling = Spelling(tokenizer) if tokenizer is not None else None
        self.vocabulary_size, self.context_length = backend.vocabulary_size, backend.context_length
        self.schedule = Schedule(self.limits, backend)
        self.condition = threading.Condition()
        self.inbox: list[Request] = []
        self.thread: threading.Thread | None = None
        self.closed = False
        self.step_began = 0.0

    def submit(
        self,
        ids: Several[int],
        sampling: Sampling,
        deliver: Callable[[Piece | DanluError], None],
        source: Several[int] | None = None,
        owner: str = "",
    ) -> Request:
        """Queue a prompt; pieces of its answers, or one error, arrive through `deliver` on the engine's thread.

        An encoder-decoder reads `source` and goes on from `ids`. What was read for one `owner` is used again for that one alone.
        Raises: RequestError if the prompt does not fit, a token is unknown, the queue is full or the engine is closed.
        """
        return self._queue(self._check(list(ids), sampling, deliver, None if source is None else list(source), owner))

    def judge(
        self,
        ids: Several[int],
        answers: Several[Several[int]],
        deliver: Callable[[Piece | DanluError], None],
        source: Several[int] | None = None,
        owner: str = "",
    ) -> Request:
        """Queue a prompt and answers to it: of each one piece comes, whose tokens have their log-probabilities and the likeliest token.

        The prompt is read once for all of them. Raises: as submit.
        """
        given = [list(answer) for answer in answers]
        if not given or not all(given):
            raise RequestError("an answer to judge came without tokens; expected at least one each", param="prompt")
        if len(given) > MOST_ANSWERS:
            raise RequestError(f"{len(given)} answers came to judge; expected {MOST_ANSWERS} at most", param="n")
        found = None if source is None else list(source)
        return self._queue(self._check(list(ids), Sampling(max_tokens=0), deliver, found, owner, given))

    def _queue(self, request: Request) -> Request:
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
            running=len(self.schedule.running),
            waiting=len(self.inbox) + len(self.schedule.waiting),
            seconds_in_step=time.monotonic() - began if began else 0.0,
        )

    def close(self) -> None:
        """Stop; what is unfinished gets an error."""
        with self.condition:
            self.closed = True
            self.condition.notify()
        if self.thread is threading.current_thread():
            return
        if self.thread is not None:
            self.thread.join()
        self.backend.close()

    def _check(
        self,
        ids: list[int],
        sampling: Sampling,
        deliver: Callable[[Piece | DanluError], None],
        source: list[int] | None,
        owner: str,
        given: list[list[int]] | None = None,
    ) -> Request:
        if not ids or source == []:
            raise RequestError("the prompt came without tokens; expected at least one", param="prompt")
        room, length = self.context_length - len(ids), len(ids) if source is None else len(source)
        wanted = int(sampling.max_tokens != 0) if given is None else max(map(len, given)) - 1  # an answer's last token is not read
        if length > self.context_length or wanted > room:
            raise RequestError(
                f"the prompt is {length} tokens long and leaves no room for an answer in this model's context of "
                f"{self.context_length} tokens; shorten it",
                param="prompt",
                code="context_length_exceeded",
            )
        for token in itertools.chain(ids, source or [], *(given or [])):
            if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < self.vocabulary_size:
                raise RequestError(
                    f"the prompt holds a token that the model lacks; expected 0 to {self.vocabulary_size - 1}", param="prompt"
                )
        if any(token >= self.vocabulary_size for token in sampling.logit_bias):
            raise RequestError(f"logit_bias names a token that the model lacks; expected below {self.vocabulary_size}", param="logit_bias")
        if sampling.stop and self.tokenizer is None:
            raise RequestError("stop strings came for a model without a tokenizer; leave stop out", param="stop")
        most_new = room if sampling.max_tokens is None else min(sampling.max_tokens, room)
        seed = random.SystemRandom().getrandbits(62) if sampling.seed is None else sampling.seed
        request = Request(ids, sampling, seed, most_new, deliver, source, owner, given)
        request.wake = self._wake
        return request

    def _wake(self) -> None:
        with self.condition:
            self.condition.notify()

    def _run(self) -> None:
        torch.get_num_threads()  # a new thread takes over what was set (--threads) when it is first asked
        with torch.inference_mode():
            while True:
                with self.condition:
                    while not (self.closed or self.inbox or self.schedule.running or self.schedule.waiting):
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

    def _sequences(self, request: Request) -> Sequence:
        first, *siblings = (
            Sequence(
                request=request,
                index=index,
                sampler=Sampler(request.sampling, request.seed, index),
                text=TextStream(self.tokenizer, request.sampling.stop),
                ids=list(request.ids),
            )
            for index in range(request.open)
        )
        first.siblings = siblings
        return first

    def step(self) -> None:
        """Drop what was cancelled, let in what waits, then compute: a chunk of prompts, and one token for all who are being answered."""
        for sequence in self.schedule:
            if sequence.request.cancelled:
                self.schedule.leave(sequence)
        self.schedule.admit()
        self.schedule.make_room()
        reading, going = self.schedule.parts()
        for parts in [going + reading] if self.backend.flat else [reading, going]:
            if parts:
                self._compute(parts)
        if not self.schedule.running and not self.schedule.waiting:
            self.backend.rest()

    def _compute(self, parts: list[Part]) -> None:
        """Read the parts and go on from what they found; if that fails, each is tried alone: only the guilty one fails."""
        try:
            found = self.backend.compute(parts)
        except Exception:
            if not self.backend.sound:
                raise
            log.exception("a step over %d sequences failed", len(parts))
            for part in parts:
                if len(parts) == 1 or not self.backend.retries:
                    self._fail(part.sequence, "the model failed on this request", "engine_failure")
                elif not part.sequence.ended:
                    self._compute([part])
            return
        for part in parts:  # before any of them leaves or forks, since a backend moves what is known of the others then
            part.sequence.computed += part.count
        for part, logits in zip(parts, found, strict=True):
            if not part.sequence.ended:
                self._absorb(part, logits)

    def _absorb(self, part: Part, logits: Logits | None) -> None:
        sequence = part.sequence
        if logits is not None and sequence.reports_prompt:
            self._report_prompt(sequence, sequence.computed - part.count, logits.values)
        if logits is None or (sequence.remaining and sequence.given is None):
            return
        siblings, sequence.siblings = sequence.siblings, []
        everyone = [sequence, *siblings]
        for each in everyone:  # each has its own first token from the same logits
            if not each.ended:
                self._advance(each, logits)
        for sibling in siblings:
            if not sibling.ended:
                self.schedule.fork(sequence, sibling)
        if sequence.ended and sequence.place is not None:
            self.schedule.leave(sequence)

    def _advance(self, sequence: Sequence, found: Logits) -> None:
        """Draw one token for a sequence from the last of its logits and tell whoever waits for it."""
        if sequence.request.cancelled:
            sequence.ended = True
        elif not all(found.finite[-1:] if sequence.given is None else found.finite):
            if sequence.place is not None:
                self.backend.forget(sequence)
            self._fail(sequence, "the model's numbers are not finite on this request; its weights may be damaged", "engine_failure")
        elif sequence.given is not None:
            self._judge(sequence, found)
        elif len(sequence.generated) >= sequence.request.most_new:  # nothing was asked for but the prompt
            self._end(sequence, "length")
        else:
            plain = sequence.sampler.greedy and not sequence.sampler.changes
            logits = found.values[-1]
            self._extend(sequence, found.likeliest[-1] if plain else self._draw(sequence, logits), logits)

    def _judge(self, sequence: Sequence, found: Logits) -> None:
        """Note how likely the next tokens of a given answer are; after the first, what is left of it is read in one go."""
        given, start = sequence.given or [], len(sequence.judged)
        targets = given[start : start + len(found.values)]
        for row, (target, best, total) in enumerate(zip(targets, found.likeliest, found.totals, strict=True)):
            logits = found.values[row]
            likeliest = (best, float(logits[best]) - total)
            sequence.judged.append(Token(id=target, logprob=float(logits[target]) - total, alternatives=(likeliest,)))
        if len(sequence.judged) == len(given):
            self._end(sequence, "length", "", sequence.judged)
        elif not start:
            sequence.ids += given[:-1]

    def _draw(self, sequence: Sequence, logits: Tensor) -> int:
        sampler, begun = sequence.sampler, sequence.text.begun
        drawn = sampler.choose(logits, sequence.generated)
        if sampler.greedy or self.spelling is None or self.spelling.fits(begun, drawn):
            return drawn
        return sampler.choose(self.spelling.fitting(begun, logits), sequence.generated)

    def _extend(self, sequence: Sequence, drawn: int, logits: Tensor) -> None:
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

    def _end(self, sequence: Sequence, reason: str, text: str | None = None, tokens: Several[Token] = ()) -> None:
        if text is None:
            text, tokens = sequence.text.finish()
        sequence.ended = True
        sequence.request.open -= 1
        self._tell(sequence.request, Piece(index=sequence.index, text=text, tokens=tuple(tokens), finish_reason=reason))

    def _report_prompt(self, sequence: Sequence, start: int, logits: Tensor) -> None:
        """Note the log-probabilities of the prompt's tokens that the logits (T, V) of positions from `start` on foretell."""
        request = sequence.request
        if start == 0:
            request.prompt_tokens = [Token(id=sequence.ids[0])]  # nothing foretells the first
        following = sequence.ids[start + 1 : start + 1 + len(logits)]
        logprobs = logits[: len(following)].log_softmax(-1)
        alternatives = request.sampling.logprobs or 0
        request.prompt_tokens += [scored(row, token, alternatives) for row, token in zip(logprobs, following, strict=True)]

    def _fail(self, sequence: Sequence, message: str, code: str) -> None:
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
        self.backend.clear()
        self.schedule = Schedule(self.limits, self.backend)
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
