"""The main figure of some of the samples: by length, class and script."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from danlu.evaluation.scores.figures import Figure, Scores, bootstrap

OF_A_CLASS = "accuracy"  # its recall
MOST_CLASSES = 40  # that have a slice: the most frequent


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Some of the samples: in what they are alike, how many they are, and a figure; None if it cannot be told of them."""

    by: str
    name: str
    rows: int
    score: str
    figure: Figure | None


def slices_of(scores: Scores, score: str, lengths: NDArray[np.int32], chinese: NDArray[np.bool_], seed: int) -> tuple[Slice, ...]:
    """Slices of more than none and less than all, by the main figure; classes by accuracy, since means over classes tell nothing of one.

    Shapes: lengths in characters (N,), chinese (N,).
    """
    found = []
    for by, name, chosen in _chosen(scores, lengths, chinese):
        rows = np.flatnonzero(chosen)
        if 0 < len(rows) < len(scores):
            own = OF_A_CLASS if by == "class" else score
            figure = bootstrap(scores, rows, (own,), seed=seed).get(own)
            found.append(Slice(by=by, name=name, rows=len(rows), score=own, figure=figure))
    return tuple(found)


def _chosen(scores: Scores, lengths: NDArray[np.int32], chinese: NDArray[np.bool_]) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    if not len(scores):
        return
    low, high = np.quantile(lengths, [1 / 3, 2 / 3], method="lower").tolist()
    yield "length", f"short: up to {low:,} characters", lengths <= low
    if high > low:
        yield "length", f"middle: up to {high:,}", (lengths > low) & (lengths <= high)
    yield "length", f"long: over {high:,}", lengths > max(low, high)
    yield "script", "mostly Chinese", chinese
    yield "script", "other", ~chinese
    grouped = scores.groups()
    if grouped is not None:
        names, places = grouped
        counts = np.bincount(places, minlength=len(names))
        for place in sorted(np.argsort(-counts, kind="stable")[:MOST_CLASSES].tolist()):
            yield "class", names[place], places == place
