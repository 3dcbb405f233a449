"""How fast a model answers here: through its engine, as users do, with prompts that no cache has seen."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

from danlu.base.errors import ConfigError, DanluError
from danlu.inference.engine import Piece
from danlu.inference.model import Model
from danlu.inference.sampling import Sampling

SHORT = 16  # tokens of a short prompt
TURNS = 3  # the best counts
FIRSTS = 20  # first tokens that are timed; the median counts


@dataclass(frozen=True, kw_only=True)
class Speed:
    """One figure. `what`: decode (answers advance together), prefill (one prompt), or first_token (milliseconds of a short prompt)."""

    what: str
    batch: int
    context: int  # tokens that each answer had behind it when the clock began
    tokens_per_second: float | None = None
    milliseconds: float | None = None


class Meter:
    """Draws prompts and times answers of one model, greedy or drawn; none of them ends before its length."""

    def __init__(self, model: Model, seed: int = 0, temperature: float = 0.0) -> None:
        self.model, self.draw, self.temperature = model, random.Random(seed), temperature
        self.size = model.config.vocabulary_size

    def prompt(self, length: int) -> list[int]:
        """Token ids at random, so that nobody has read their beginning."""
        return [self.draw.randrange(3 if self.size > 3 else 0, self.size) for _ in range(length)]

    def decode(self, batch: int, tokens: int, context: int = 0) -> Speed:
        """`batch` answers of `tokens` tokens at once. With a context, the prompts were read before the clock begins."""
        self._check(max(context, SHORT) + tokens)
        best = 0.0
        with self._endless():
            for _ in range(TURNS):
                prompts = [self.prompt(context or SHORT) for _ in range(batch)]
                if context:
                    self._answer(prompts, 1)  # after this their pages are known
                began, _, ended = self._answer(prompts, tokens)
                best = max(best, batch * tokens / (ended - began))
        return Speed(what="decode", batch=batch, context=context, tokens_per_second=best)

    def prefill(self, length: int) -> Speed:
        """One prompt of `length` tokens, to its first token."""
        self._check(length + 1)
        with self._endless():
            seconds = min(self._first_token(length) for _ in range(TURNS))
        return Speed(what="prefill", batch=1, context=0, tokens_per_second=length / seconds)

    def first_token(self) -> Speed:
        """How soon a short prompt's first token comes."""
        with self._endless():
            seconds = median(self._first_token(SHORT) for _ in range(FIRSTS))
        return Speed(what="first_token", batch=1, context=0, milliseconds=1000 * seconds)

    def _first_token(self, length: int) -> float:
        began, _, ended = self._answer([self.prompt(length)], 1)
        return ended - began

    def _answer(self, prompts: Sequence[list[int]], tokens: int) -> tuple[float, list[float], float]:
        """When the prompts were given, when each had its first token, and when all had ended."""
        self.moments: list[list[float]] = [[] for _ in prompts]
        left, done, failed = [len(prompts)], threading.Event(), list[DanluError]()

        def listener(number: int) -> object:
            def hear(event: Piece | DanluError) -> None:
                if isinstance(event, DanluError):
                    failed.append(event)
                else:
                    self.moments[number] += [time.perf_counter()] * len(event.tokens)
                if isinstance(event, DanluError) or event.finish_reason:
                    left[0] -= 1
                    if not left[0]:
                        done.set()

            return hear

        sampling = Sampling(temperature=self.temperature, max_tokens=tokens)
        began = time.perf_counter()
        for number, prompt in enumerate(prompts):
            self.model.submit(prompt, sampling, listener(number))  # type: ignore[arg-type]
        done.wait()
        if failed:
            raise failed[0]
        return began, [moments[0] for moments in self.moments], time.perf_counter()

    @contextmanager
    def _endless(self) -> Iterator[None]:
        engine = self.model.engine
        ends, engine.end_ids = engine.end_ids, frozenset()
        try:
            yield
        finally:
            engine.end_ids = ends

    def _check(self, length: int) -> None:
        longest = self.model.engine.context_length
        if length > longest:
            raise ConfigError(f"{length} tokens were asked of {self.model.name}, whose context holds {longest}; ask for fewer")
