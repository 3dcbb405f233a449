"""Who computes next: sequences wait, join, read their prompt in chunks, then go on together."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterator

from danlu.inference.backend import Backend, Part
from danlu.inference.request import Limits, Sequence


class Schedule:
    """Which sequences wait and which run."""

    def __init__(self, limits: Limits, backend: Backend) -> None:
        self.limits, self.backend = limits, backend
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.oldest_next = False

    def __iter__(self) -> Iterator[Sequence]:
        return itertools.chain(list(self.running), list(self.waiting))

    def admit(self) -> None:
        """Let waiting sequences join, first come first served, as far as places and memory go."""
        self._make_way()
        while self.waiting and self._fits(self.waiting[0]):
            self._join(self.waiting[0])
            self.waiting.popleft()  # after it: who is lost in between is told by whoever clears up

    def _fits(self, sequence: Sequence) -> bool:
        """Whether it may join with its siblings; alone it always may."""
        if not self.running:
            return True
        more = 1 + len(sequence.siblings)
        lengths = [len(entry.ids) + 1 for entry in self.running for _ in range(1 + len(entry.siblings))]
        return len(lengths) + more <= self.limits.sequences and self.backend.fits([*lengths, *[len(sequence.ids) + 1] * more])

    def _make_way(self) -> None:
        """Who has no place does not wait for a request that has more than it wants: the latter's youngest answers go back to the queue.

        They are read again when they come back, to the same bits, mostly from pages that are kept.
        """
        served = {entry.request for entry in self.running}
        kept_out = next((entry for entry in self.waiting if entry.request not in served), None)
        if kept_out is None:
            return
        sent_back = list[Sequence]()
        while not self._fits(kept_out):
            places = Counter(entry.request for entry in self.running for _ in range(1 + len(entry.siblings)))
            largest = max(places, key=lambda request: (places[request], request.arrival))
            youngest = max((entry for entry in self.running if entry.request is largest), key=lambda entry: entry.order)
            if places[largest] <= 1 + len(kept_out.siblings) or youngest.siblings:
                break
            self.leave(youngest)
            sent_back.append(youngest)
        if sent_back:
            self.waiting.remove(kept_out)
            self.waiting.extendleft([*sent_back, kept_out])

    def parts(self) -> tuple[list[Part], list[Part]]:
        """What is computed in the next step: prompts that go on, and answers that do.

        Prompts get a share of `limits.chunk` tokens, the short ones first, every other time the oldest, so that nobody starves.
        """
        going = [entry for entry in self.running if entry.remaining == 1 and entry.generated]
        reading = [entry for entry in self.running if entry.remaining > 1 or not entry.generated]
        if not reading:
            return [], [Part(entry, 1) for entry in going]
        self.oldest_next = not self.oldest_next
        chunk = max(self.limits.chunk // 2, 1) if going else self.limits.chunk
        reading.sort(key=lambda entry: entry.order if self.oldest_next else (entry.remaining, entry.order))
        return self.backend.group(reading, chunk), [Part(entry, 1) for entry in going]

    def make_room(self) -> None:
        """Whoever runs needs room for one more token; beyond the limit the youngest go back to the queue and are read again later."""
        while len(self.running) > 1 and not self.backend.fits([len(entry.ids) + 1 for entry in self.running]):
            youngest = max(self.running, key=lambda entry: entry.order)
            self.leave(youngest)
            self.waiting.appendleft(youngest)

    def fork(self, source: Sequence, sibling: Sequence) -> None:
        """Let a sibling go on from a prompt that was read, or wait at the head of the queue if there is no room."""
        lengths = [len(entry.ids) + 1 for entry in (*self.running, sibling)]
        if len(lengths) > self.limits.sequences or not self.backend.fits(lengths):
            self.waiting.appendleft(sibling)
            return
        self.backend.fork(source, sibling)
        self.running.append(sibling)

    def leave(self, sequence: Sequence) -> None:
        """Free a sequence's place, among the running or in the queue."""
        if sequence.place is None:
            self.waiting = deque(entry for entry in self.waiting if entry is not sequence)
            return
        self.running.remove(sequence)
        self.backend.leave(sequence)

    def _join(self, sequence: Sequence) -> None:
        self.backend.join(sequence)
        self.running.append(sequence)
