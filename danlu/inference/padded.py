"""The backend of every other family: the model's own module, sequences of one step side by side in a batch, the shorter ones padded."""

from __future__ import annotations

from collections.abc import Sequence as Several
from typing import Any

import torch
from torch import Tensor

from danlu.inference.backend import Logits, Part
from danlu.inference.cache import Cache, CacheShape, States
from danlu.inference.request import Limits, Sequence
from danlu.inference.sources import Stacked, stack_sources
from danlu.models.base import Inputs
from danlu.nn.attention import KeyValue

LONGEST = 2**20  # positions of a recurrent network, whose memory does not grow


class Padded:
    """Computes by a module, float32. A place is the number of a row in the cache; rows in use stand side by side."""

    flat = False

    def __init__(self, module: Any, limits: Limits) -> None:
        self.module, self.limits = module, limits
        self.vocabulary_size: int = module.config.vocabulary_size
        self.clear()
        most = LONGEST if isinstance(self.cache, States) else self.cache.most_tokens
        self.context_length = LONGEST if isinstance(self.cache, States) else min(module.config.context_length, most)

    @property
    def retries(self) -> bool:
        return self.cache.pads

    @property
    def sound(self) -> bool:
        return not self.cache.broken

    def fits(self, lengths: Several[int]) -> bool:
        return self.cache.fits(len(lengths), max(lengths, default=0))

    def join(self, sequence: Sequence) -> None:
        sequence.place, sequence.computed = len(self.rows), 0
        self.rows.append(sequence)
        self._reserve()

    def leave(self, sequence: Sequence) -> None:
        last = self.rows.pop()
        if last is not sequence:
            self.cache.copy(last.place, sequence.place, last.computed)
            self.rows[sequence.place], last.place = last, sequence.place
        self.read.pop(id(sequence), None)
        sequence.place, sequence.computed = None, 0

    def fork(self, source: Sequence, sibling: Sequence) -> None:
        self.join(sibling)
        self.cache.copy(source.place, sibling.place, source.computed)
        sibling.computed = source.computed
        if id(source) in self.read:
            self.read[id(sibling)] = self.read[id(source)]

    def group(self, reading: Several[Sequence], chunk: int) -> list[Part]:
        first, others = reading[0], sorted(reading[1:], key=lambda entry: entry.remaining)
        new = min(first.remaining, chunk)
        if first.reports_prompt or not self.cache.pads:
            return [Part(first, new)]
        others = [entry for entry in others if entry.computed + new <= self.cache.columns and not entry.reports_prompt]
        return [Part(entry, min(new, entry.remaining)) for entry in (first, *others[: chunk // new - 1])]

    def compute(self, parts: Several[Part]) -> list[Logits | None]:
        self._reserve()
        order = sorted(range(len(parts)), key=lambda index: parts[index].sequence.place)
        sorted_parts = [parts[index] for index in order]
        hidden = self._forward(sorted_parts)
        results: list[Logits | None] = [None] * len(parts)
        places = [(row, place) for row, part in enumerate(sorted_parts) for place in range(part.count - part.asked, part.count)]
        if places:
            logits, end = self.module.logits(hidden[[row for row, _ in places], [place for _, place in places]]), 0
            for row, part in enumerate(sorted_parts):
                if part.asked:
                    results[order[row]] = _told(logits[end : end + part.asked])
                    end += part.asked
        return results

    def forget(self, sequence: Sequence) -> None:
        self.cache.clear(sequence.place)

    def rest(self) -> None:
        self.cache.release()
        self._forget_stacked()

    def clear(self) -> None:
        config = self.module.config
        self.rows: list[Sequence] = []
        self.read: dict[int, list[KeyValue]] = {}  # what encoder-decoders have read, by sequence
        self._forget_stacked()
        self.cache: Cache | States
        if hasattr(config, "state_width"):
            width = config.state_width
            self.cache = States(config.num_layers, width, max(1, self.limits.cache_bytes // (4 * config.num_layers * width)))
        else:
            shape = CacheShape(num_layers=config.num_layers, num_kv_heads=config.num_kv_heads, head_dim=config.head_dim)
            self.cache = Cache(shape, self.limits.cache_bytes // shape.bytes_per_token)

    def close(self) -> None:
        return

    def _forget_stacked(self) -> None:
        self.stacked: tuple[list[Sequence], Stacked] | None = None  # what those have read that went on last

    def _reserve(self) -> None:
        longest = max(len(entry.ids) for entry in self.rows) + 1
        self.cache.reserve(len(self.rows), longest, [entry.computed for entry in self.rows])

    def _forward(self, parts: Several[Part]) -> Tensor:
        """One pass over the new tokens of some rows, to hidden states (B, T, D); what stands behind a row's end is seen by nobody."""
        group = [part.sequence for part in parts]
        new = max(part.count for part in parts)
        cut = [part.sequence.ids[part.sequence.computed : part.sequence.computed + part.count] for part in parts]
        ids = torch.tensor([tokens + [0] * (new - len(tokens)) for tokens in cut])
        starts, rows = [sequence.computed for sequence in group], [sequence.place for sequence in group]
        positions = torch.tensor(starts)[:, None] + torch.arange(new)
        simple = max(starts) == 0 or (new == 1 and min(starts) == max(starts))  # plain causal, or everything is seen
        visible = None if simple else torch.arange(max(starts) + new) <= positions[:, None, :, None]
        positions = positions.clamp(max=self.context_length - 1)
        for sequence in group:
            if sequence.request.source is not None and id(sequence) not in self.read:
                source = Inputs(tokens=ids[:1], source=torch.tensor([sequence.request.source]))
                self.read[id(sequence)] = self.module.read_source(source)
        cache = self.cache.view(rows, starts, new)
        if group[0].request.source is None:
            return self.module(Inputs(tokens=ids, positions=positions, visible=visible), cache=cache)  # type: ignore[no-any-return]
        if self.stacked is None or self.stacked[0] != group:
            self.stacked = (group, stack_sources([self.read[id(sequence)] for sequence in group]))
        read, source_visible = self.stacked[1]
        inputs = Inputs(tokens=ids, positions=positions, visible=visible, source_visible=source_visible)
        return self.module(inputs, cache=cache, read=read)  # type: ignore[no-any-return]


def _told(logits: Tensor) -> Logits:
    return Logits(values=logits, likeliest=logits.argmax(-1).tolist(), finite=logits.sum(-1).isfinite().int().tolist())
