"""Precision, recall and F1 from counts: of classes, of tags, and of entities by their type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from danlu.evaluation.scores.figures import SEPARATOR, Floats

RATES = ("precision", "recall", "f1")
AVERAGES = ("micro", "macro", "weighted")


def cells(samples: NDArray[np.int64], columns: NDArray[np.int64], values: Any, shape: tuple[int, int]) -> sparse.csr_matrix:
    """A sparse matrix (N, columns) of what each sample adds to each column. Shapes: all (entries,)."""
    return sparse.csr_matrix((np.broadcast_to(np.asarray(values, np.float64), samples.shape), (samples, columns)), shape=shape)


def share(part: Floats, whole: Floats) -> Floats:
    """A part of a whole; 0 of nothing, as scikit-learn's zero_division=0 and seqeval have it."""
    return np.divide(part, whole, out=np.zeros(np.broadcast_shapes(part.shape, whole.shape)), where=whole > 0)


def rates(right: Floats, told: Floats, true: Floats) -> dict[str, Floats]:
    """Precision, recall and F1. Shapes: all (...)."""
    return {"precision": share(right, told), "recall": share(right, true), "f1": share(2 * right, told + true)}


def averaged(right: Floats, told: Floats, true: Floats, present: NDArray[np.bool_]) -> dict[str, Floats]:
    """Rates over all, their mean over the classes that are present, and that weighted by how often each is true.

    Shapes: right, told, true (draws, classes); present (classes,) -> (draws,).
    """
    pooled = rates(right.sum(1), told.sum(1), true.sum(1))
    found = {f"{name}_micro": value for name, value in pooled.items()}
    for name, value in rates(right, told, true).items():
        found[f"{name}_macro"] = value[:, present].mean(1)
        found[f"{name}_weighted"] = share((value * true).sum(1), true.sum(1))
    return found


def by_class(right: Floats, told: Floats, true: Floats, names: Sequence[str]) -> dict[str, Floats]:
    """Each class's own rates, as f1/NAME. Shapes: (draws, classes) -> (draws,)."""
    return {
        f"{figure}{SEPARATOR}{name}": value[:, place]
        for figure, value in rates(right, told, true).items()
        for place, name in enumerate(names)
    }
