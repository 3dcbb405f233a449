"""What is asked of an engine: requests, and the answers to each on their way."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from danlu.base.errors import ConfigError
from danlu.inference.sampling import MOST_ANSWERS, Sampler, Sampling
from danlu.inference.text import TextStream, Token

_arrivals = itertools.count()


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What bounds an engine's memory and waiting."""

    sequences: int = 32  # running together
    waiting: int = 256  # requests in the queue
    chunk: int = 256  # prompt tokens computed in one step; half as many while others decode, who wait that long for each token
    cache_bytes: int = 2 * 2**30

    def __post_init__(self) -> None:
        if self.sequences < MOST_ANSWERS or self.waiting < 1 or self.chunk < 1 or self.cache_bytes < 1:
            raise ConfigError(f"limits came as {self}; expected sequences of at least {MOST_ANSWERS} and positive numbers")


class Request:
    """One prompt on its way; `deliver` is called on the engine's thread with a Piece, or once with an error."""

    def __init__(
        self,
        ids: list[int],
        sampling: Sampling,
        seed: int,
        most_new: int,
        deliver: Callable[[Any], None],
        source: list[int] | None = None,
        owner: str = "",
        given: list[list[int]] | None = None,
    ) -> None:
        self.ids, self.sampling, self.seed, self.most_new, self.deliver = ids, sampling, seed, most_new, deliver
        self.given = given  # answers that are not drawn but judged: how likely is each of their tokens?
        self.source = source  # what an encoder-decoder reads before it goes on from ids
        self.owner = owner  # whose it is: what was read for one is not shown to another, not even by how soon an answer comes
        self.arrival = next(_arrivals)
        self.open = sampling.n if given is None else len(given)  # answers that have not ended
        self.sampled = 0  # tokens drawn for all answers, the one that ends an answer included
        self.known = 0  # tokens of the prompt that were in the cache already
        self.prompt_tokens: list[Token] = []  # with log-probabilities, if they were asked for
        self.cancelled = False
        self.wake: Callable[[], None] = lambda: None

    @property
    def prompt_length(self) -> int:
        """Tokens that came with the request."""
        return len(self.ids) if self.source is None else len(self.source)

    def cancel(self) -> None:
        """Stop computing for this request as soon as the running step ends; nothing more is delivered."""
        self.cancelled = True
        self.wake()


@dataclass(eq=False)
class Sequence:
    """One answer being written, or (while `siblings` wait for its prompt) several."""

    request: Request
    index: int
    sampler: Sampler
    text: TextStream
    ids: list[int]
    siblings: list[Sequence] = field(default_factory=list)
    generated: list[int] = field(default_factory=list)
    judged: list[Token] = field(default_factory=list)  # of the answer that was given
    computed: int = 0  # positions that the backend remembers
    place: Any = None  # where it does; None while waiting
    ended: bool = False

    @property
    def remaining(self) -> int:
        """Tokens that the backend has not read."""
        return len(self.ids) - self.computed

    @property
    def order(self) -> tuple[int, int]:
        """Who came first."""
        return self.request.arrival, self.index

    @property
    def given(self) -> list[int] | None:
        """The answer that is judged."""
        return None if self.request.given is None else self.request.given[self.index]

    @property
    def reports_prompt(self) -> bool:
        """Whether the logits of all its prompt's positions are asked for."""
        return self.request.sampling.prompt_logprobs and not self.generated

    @property
    def asked_from(self) -> int:
        """The first position whose logits are asked for: the last, where a token is drawn."""
        if self.given is not None:
            return len(self.request.ids) - 1 + len(self.judged)
        return 0 if self.reports_prompt else len(self.ids) - 1
