"""The backend of decoders: any mixture of prompts and answers in one native call, over a cache in pages that share beginnings."""

from __future__ import annotations

from collections.abc import Sequence as Several
from dataclasses import dataclass, field
from math import prod

import torch

from danlu.base.memory import zeros
from danlu.inference.backend import Logits, Part
from danlu.inference.pages import Pages, beginning, following
from danlu.inference.request import Limits, Sequence
from danlu.kernels import native
from danlu.kernels.steps import CACHES, PAGE, Steps, StepWork, page_bytes
from danlu.kernels.table import Table
from danlu.kernels.twin import TwinSteps

KEPT = 8  # a part of so many of the cache's pages may hold what nobody uses just now
BLOCK = 32  # positions of a prompt that tiles take together: fewer are quicker without
SMALL = 4_000_000  # bytes of weights up to which a second thread waits longer than it helps


@dataclass
class Place:
    """One sequence's pages, and the key of the text that the first `known` of them hold."""

    key: bytes
    pages: list[int] = field(default_factory=list)
    known: int = 0


@dataclass(frozen=True)
class Stretch:
    """Positions of one sequence, `read` in blocks of its prompt or computed as an answer's are; the last `wanted` ask for logits."""

    sequence: Sequence
    start: int
    end: int
    read: bool
    wanted: int


class Paged:
    """Computes by a table of layers. Every number of a row is made in one order: what runs beside an answer does not change a bit of it."""

    flat = True
    retries = True
    sound = True

    def __init__(self, table: Table, limits: Limits, threads: int | None = None) -> None:
        self.table, config = table, table.config
        self.vocabulary_size: int = config.vocabulary_size
        bytes_of_head = page_bytes(CACHES[table.precision], config.head_dim)
        bytes_of_page = config.num_layers * config.num_kv_heads * bytes_of_head
        most_useful = 2 * limits.sequences * -(-config.context_length // PAGE)
        count = max(1, min(limits.cache_bytes // bytes_of_page, most_useful))
        self.pages = Pages(count, count // KEPT)
        self.context_length = min(config.context_length, count * PAGE)
        shape = (config.num_layers, config.num_kv_heads, count, bytes_of_head)
        self.cache = zeros(prod(shape), huge=False).view(shape)  # in huge pages a first token would take one for each layer and head
        # For whole pages: torch's threads would go on watching for work for a while, on the cores that the next step needs.
        self.bytes = self.cache.numpy()
        build = native.found()
        self.steps: Steps = (
            TwinSteps(table, self.cache)
            if build is None
            else native.NativeSteps(table, self.cache, threads or (torch.get_num_threads() if table.num_bytes > SMALL else 1), build[1])
        )

    def fits(self, lengths: Several[int]) -> bool:
        return sum(-(-length // PAGE) for length in lengths) <= self.pages.count

    def join(self, sequence: Sequence) -> None:
        owner = sequence.request.owner
        known = sequence.asked_from  # at most
        if self.steps.tiles:  # where prompts are computed by tiles, a longer text may have left more in blocks than this one has
            known = min(known, _blocks(sequence))
        found = self.pages.find(owner, sequence.ids[: known + 1])
        key = beginning(owner)
        for start in range(0, len(found) * PAGE, PAGE):
            key = following(key, sequence.ids[start : start + PAGE])
        sequence.place = Place(key, found, len(found))
        sequence.computed = len(found) * PAGE
        if not sequence.request.sampled:  # not one that made room for others and comes back
            sequence.request.known = sequence.computed

    def leave(self, sequence: Sequence) -> None:
        for page in sequence.place.pages:
            self.pages.give(page)
        sequence.place, sequence.computed = None, 0

    def fork(self, source: Sequence, sibling: Sequence) -> None:
        whole = source.computed // PAGE
        pages = [self.pages.share(page) for page in source.place.pages[:whole]]
        for page in source.place.pages[whole:]:  # the last one, which both go on to fill
            pages.append(self.pages.take())
            self.bytes[:, :, pages[-1]] = self.bytes[:, :, page]
        sibling.place = Place(source.place.key, pages, source.place.known)
        sibling.computed = source.computed

    def group(self, reading: Several[Sequence], chunk: int) -> list[Part]:
        parts = []
        for sequence in reading:
            if chunk <= 0:
                break
            parts.append(Part(sequence, min(sequence.remaining, chunk)))
            chunk -= parts[-1].count
        return parts

    def compute(self, parts: Several[Part]) -> list[Logits | None]:
        stretches = sorted((one for part in parts for one in self._stretches(part)), key=lambda one: one.read)
        tokens: list[int] = []
        positions: list[int] = []
        first_page: list[int] = []
        pages: list[int] = []
        wanted: list[int] = []
        rows_of: dict[int, slice] = {}  # which of those wanted are a sequence's
        for one in stretches:
            sequence, place = one.sequence, one.sequence.place
            while len(place.pages) * PAGE < one.end:
                place.pages.append(self.pages.take())
                self.bytes[:, :, place.pages[-1]] = 0  # whoever had it may have left what is no number, and zero times that is none either
            tokens += sequence.ids[one.start : one.end]
            positions += range(one.start, one.end)
            first_page.append(len(pages))
            pages += place.pages
            if one.wanted:
                rows_of[id(sequence)] = slice(len(wanted), len(wanted) + one.wanted)
                wanted += range(len(tokens) - one.wanted, len(tokens))
        found = self.steps.step(
            StepWork(
                tokens=tokens,
                positions=positions,
                part_rows=[one.end - one.start for one in stretches],
                part_first_page=first_page,
                pages=pages,
                wanted=wanted,
                read=sum(one.end - one.start for one in stretches if one.read),
            )
        )
        results: list[Logits | None] = []
        for part in parts:
            rows = rows_of.get(id(part.sequence))
            if rows is not None:
                results.append(Logits(values=found.logits[rows], likeliest=found.likeliest[rows], finite=found.finite[rows]))
            else:
                results.append(None)
            if results[-1] is None or all(results[-1].finite):
                self._learn(part)
        return results

    def _stretches(self, part: Part) -> list[Stretch]:
        """A part's positions: whole blocks of the prompt first, then its rest and the answer (read again if it made room for others)."""
        sequence, start = part.sequence, part.sequence.computed
        end, blocks = start + part.count, min(max(_blocks(sequence), start), start + part.count)
        bounds = [(start, blocks, True), (blocks, end, False)]
        return [Stretch(sequence, one, other, read, part.asked if other == end else 0) for one, other, read in bounds if one < other]

    def _learn(self, part: Part) -> None:
        """Pages that are full now can be found by who begins alike: not an answer's where prompts are computed otherwise."""
        sequence, place = part.sequence, part.sequence.place
        end = sequence.computed + part.count
        for index in range(place.known, (min(end, _blocks(sequence)) if self.steps.tiles else end) // PAGE):
            place.key = following(place.key, sequence.ids[index * PAGE : (index + 1) * PAGE])
            self.pages.know(place.key, place.pages[index])
            place.known = index + 1

    def forget(self, sequence: Sequence) -> None:
        for page in sequence.place.pages:
            self.pages.forget(page)

    def rest(self) -> None:
        return

    def clear(self) -> None:
        self.pages = Pages(self.pages.count, self.pages.kept)

    def close(self) -> None:
        self.steps.close()


def _blocks(sequence: Sequence) -> int:
    """Positions of a sequence's prompt that fill blocks: known from the request alone, so that what runs beside it changes nothing.

    None if the prompt's own likelihoods are asked for: these are those that an answer would have.
    """
    return 0 if sequence.request.sampling.prompt_logprobs else len(sequence.request.ids) // BLOCK * BLOCK
