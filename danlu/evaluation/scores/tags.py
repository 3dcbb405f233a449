"""Scores of tagged tokens: each token by itself, and whole entities where the tags begin with B- and I-."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from seqeval.metrics.sequence_labeling import get_entities

from danlu.data.answers import OUTSIDE, Answer
from danlu.evaluation.scores.counts import AVERAGES, RATES, averaged, by_class, cells
from danlu.evaluation.scores.figures import Column, Expected, Floats, Part, Scores, Sums, finite

IOB2 = re.compile(r"O|[BI]-.+")


class TagScores(Scores):
    """Share of tokens tagged rightly; precision, recall and F1 of entities by seqeval's rules, or of tags where there are no entities.

    Kept of a sample (a sequence of tokens): how many tokens, how many rightly, and of each name in it how often it is right, told, true.
    """

    def __init__(self, labels: Sequence[str] = ()) -> None:
        self.iob2 = all(map(IOB2.fullmatch, labels))
        self.tokens, self.count = Column(np.int32, 2), 0
        self.tags, self.entities = _Tally(), _Tally()

    def add(self, expected: Sequence[Expected], answers: Sequence[Answer]) -> list[float]:
        """Take a batch. Returns: each sequence's share of tokens tagged rightly."""
        found = []
        for wanted, answer in zip(expected, answers, strict=True):
            true, told = [str(tag) for tag in wanted], list(answer.tags)  # type: ignore[union-attr]
            self.iob2 = self.iob2 and all(map(IOB2.fullmatch, (*true, *told)))
            found.append((sum(mine == theirs for mine, theirs in zip(told, true, strict=True)), len(true)))
            tokens = list(enumerate(true))
            self.tags.add(self.count, ((tag, (place,)) for place, tag in enumerate(told)), ((tag, (place,)) for place, tag in tokens))
            if self.iob2:
                self.entities.add(self.count, _entities(told), _entities(true))
            self.count += 1
        self.tokens.add(found)
        return [right / length for right, length in found]

    def __len__(self) -> int:
        return self.count

    @property
    def tally(self) -> _Tally:
        """Of entities if there are any, or of tags."""
        return self.entities if self.iob2 and self.entities.names else self.tags

    def figures(self, weights: NDArray[np.int64] | None = None) -> dict[str, float]:
        """seqeval finds the entities; what follows from their counts is the same for it and for us. Shapes: weights (N,)."""
        total = np.ones((self.count, 1)) if weights is None else weights.astype(np.float64)[:, None]
        return finite({name: float(value[0]) for part in self.parts() for name, value in part.of(total).items()})

    def parts(self, wanted: Collection[str] | None = None) -> list[Part]:
        """Tokens, and entities or tags."""
        matrix = sparse.csr_matrix(self.tokens.array().astype(np.float64))
        return [Sums(matrix=matrix, formula=lambda sums, _: {"accuracy": sums[:, 0] / sums[:, 1]}), self.tally.sums(self.count)]

    def warnings(self) -> list[str]:
        """Tags that look like entities, of which there are none."""
        nothing = self.iob2 and not self.entities.names and self.count
        return ["no entity stands in truth or answers: the F1 is that of the tags"] if nothing else []


class _Tally:
    """How often each name is right, told and true in each sample. Entries are sparse: a sequence has few names."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}
        self.entries = array("i")  # sample, name, right, told, true, one after the other

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.places)

    def add(self, sample: int, told: Iterable[tuple[str, tuple[int, ...]]], true: Iterable[tuple[str, tuple[int, ...]]]) -> None:
        mine, theirs = set(told), set(true)
        counts = [Counter(name for name, _ in found) for found in (mine & theirs, mine, theirs)]
        for name in sorted({*counts[1], *counts[2]}):
            self.entries.extend((sample, self.places.setdefault(name, len(self.places)), *(of[name] for of in counts)))

    def sums(self, count: int) -> Sums:
        entries, number = np.array(self.entries, np.int64).reshape(-1, 5), len(self.places)
        order = sorted(range(number), key=self.names.__getitem__)
        names, ranks = [self.names[place] for place in order], np.argsort(order)
        columns = (ranks[entries[:, 1]] + number * np.arange(3)[:, None]).ravel()
        matrix = cells(np.tile(entries[:, 0], 3), columns, entries[:, 2:].T.ravel(), (count, 3 * number))
        present = np.array([name != OUTSIDE for name in names])
        present = present if present.any() else ~present

        def formula(sums: Floats, _: Floats) -> dict[str, Floats]:
            right, told, true = (sums[:, begin : begin + number] for begin in range(0, 3 * number, number))
            kept = averaged(right[:, present], told[:, present], true[:, present], np.ones(int(present.sum()), bool))
            plain = {figure: kept[f"{figure}_{AVERAGES[0]}"] for figure in RATES}
            return plain | kept | by_class(right, told, true, names)

        return Sums(matrix=matrix, formula=formula)


def _entities(tags: Sequence[str]) -> list[tuple[str, tuple[int, ...]]]:
    """Entities as (type, (first, last)) by seqeval's rules, which are conlleval's. Source: Tjong Kim Sang & Buchholz 2000, W00-0726."""
    return [(kind, (first, last)) for kind, first, last in get_entities(list(tags))]
