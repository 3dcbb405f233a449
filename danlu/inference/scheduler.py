"""Who computes next: sequences wait, take a row of the cache, read their prompt in chunks, then decode together."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from danlu.base.errors import ConfigError
from danlu.inference.cache import Cache, States
from danlu.inference.sampling import MOST_ANSWERS, Sampler, Sampling
from danlu.inference.text import TextStream, Token
from danlu.nn.attention import KeyValue

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
        self, ids: list[int], sampling: Sampling, seed: int, most_new: int, deliver: Callable[[Any], None], source: list[int] | None = None
    ) -> None:  # fmt: skip
        self.ids, self.sampling, self.seed, self.most_new, self.deliver = ids, sampling, seed, most_new, deliver
        self.source = source  # what an encoder-decoder reads before it goes on from ids
        self.arrival = next(_arrivals)
        self.open = sampling.n  # answers that have not ended
        self.sampled = 0  # tokens drawn for all answers, the one that ends an answer included
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
    computed: int = 0  # positions whose keys and values are in the cache
    row: int = -1
    ended: bool = False
    read: list[KeyValue] | None = None  # of an encoder-decoder: the source's keys and values, layer by layer

    @property
    def remaining(self) -> int:
        """Tokens that the cache lacks."""
        return len(self.ids) - self.computed

    @property
    def order(self) -> tuple[int, int]:
        """Who came first."""
        return self.request.arrival, self.index


class Schedule:
    """Rows 0 to `decoding` - 1 of the cache decode together, the rows after them still read their prompts."""

    def __init__(self, limits: Limits, cache: Cache | States) -> None:
        self.limits, self.cache = limits, cache
        self.waiting: deque[Sequence] = deque()
        self.rows: list[Sequence] = []
        self.decoding = 0
        self.oldest_next = False

    def __iter__(self) -> Iterator[Sequence]:
        return itertools.chain(list(self.rows), list(self.waiting))

    def admit(self) -> None:
        """Give rows to waiting sequences, first come first served, as far as rows and memory go."""
        while self.waiting:
            first = self.waiting[0]
            rows = 1 + len(first.siblings)
            taken = sum(1 + len(sequence.siblings) for sequence in self.rows)
            if self.rows and taken + rows > self.limits.sequences:
                return
            if self.rows and not self.cache.fits(taken + rows, max(len(first.ids) + 1, self._columns())):
                return
            self.waiting.popleft()
            self._append(first)

    def prompt_group(self) -> tuple[list[Sequence], int]:
        """Sequences whose prompts go on in the next step, and by how many tokens at most.

        Short ones come first, every other time the oldest, so that nobody starves.
        """
        reading = self.rows[self.decoding :]
        if not reading:
            return [], 0
        self.oldest_next = not self.oldest_next
        chunk = max(self.limits.chunk // 2, 1) if self.decoding else self.limits.chunk
        reading.sort(key=lambda entry: entry.order if self.oldest_next else (entry.remaining, entry.order))
        first, others = reading[0], sorted(reading[1:], key=lambda entry: entry.remaining)
        if first.request.sampling.prompt_logprobs or not self.cache.pads:  # needs the logits of all positions, or bears no padding
            return [first], min(first.remaining, chunk)
        new = min(first.remaining, chunk)
        others = [entry for entry in others if entry.computed + new <= self.cache.columns and not entry.request.sampling.prompt_logprobs]
        return sorted([first, *others[: chunk // new - 1]], key=lambda entry: entry.row), new

    def make_room(self) -> None:
        """Grow the cache for one more token each; beyond its limit the youngest go back to the queue and compute again later."""
        while len(self.rows) > 1 and not self.cache.fits(len(self.rows), self._columns()):
            youngest = max(self.rows, key=lambda entry: entry.order)
            self.leave(youngest)
            self.waiting.appendleft(youngest)
        if self.rows:
            self.cache.reserve(len(self.rows), self._columns(), [entry.computed for entry in self.rows])

    def _columns(self) -> int:
        return max(len(entry.ids) for entry in self.rows) + 1

    def start_decoding(self, sequence: Sequence) -> None:
        """Move a sequence whose prompt is read among those that decode."""
        other = self.rows[self.decoding]
        if other is not sequence:
            self.cache.swap(sequence.row, other.row, max(sequence.computed, other.computed))
            self.rows[sequence.row], self.rows[other.row] = other, sequence
            sequence.row, other.row = other.row, sequence.row
        self.decoding += 1

    def fork(self, source: Sequence, sibling: Sequence) -> None:
        """Give a sibling its own copy of a prompt's keys and values, or a place at the head of the queue if there is no room."""
        if len(self.rows) >= self.limits.sequences or not self.cache.fits(len(self.rows) + 1, self._columns()):
            self.waiting.appendleft(sibling)
            return
        self._append(sibling)
        self.cache.copy(source.row, sibling.row, source.computed)
        sibling.computed, sibling.read = source.computed, source.read
        self.start_decoding(sibling)

    def leave(self, sequence: Sequence) -> None:
        """Free a sequence's row, or its place in the queue; rows stay side by side."""
        if sequence.row < 0:
            self.waiting = deque(entry for entry in self.waiting if entry is not sequence)
            return
        hole = sequence.row
        if hole < self.decoding:
            self.decoding -= 1
            hole = self._move(self.decoding, hole)
        self._move(len(self.rows) - 1, hole)
        self.rows.pop()
        sequence.row, sequence.computed = -1, 0

    def _move(self, source: int, target: int) -> int:
        """Move a row into a hole; return the new hole."""
        if source != target:
            moved = self.rows[source]
            self.cache.copy(source, target, moved.computed)
            self.rows[target] = moved
            moved.row = target
        return source

    def _append(self, sequence: Sequence) -> None:
        self.cache.reserve(len(self.rows) + 1, len(sequence.ids) + 1, [entry.computed for entry in self.rows])
        sequence.row, sequence.computed = len(self.rows), 0
        self.rows.append(sequence)
