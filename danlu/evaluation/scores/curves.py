"""What a classifier's scores look like at every threshold: curves, thresholds worth choosing, calibration, confusion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

from danlu.evaluation.scores.classes import BINS, ClassScores, bin_of
from danlu.evaluation.scores.counts import rates

MOST_POINTS = 200  # of a curve
MOST_CURVES = 12  # classes that have one: the most frequent
NONE = "(none)"  # an answer that is no label
DIGITS = 5


@dataclass(frozen=True, kw_only=True)
class Line:
    """A curve of one class: equally many x and y, from 0 to 1."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Receiver operating characteristic (x: false positives' share, y: true ones') and precision (y) against recall (x), a class each."""

    roc: tuple[Line, ...] = ()
    precision_recall: tuple[Line, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Answers that are about equally sure: how many, their mean confidence, and the share of them that is right."""

    low: float
    high: float
    rows: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """What the positive class's figures are where it is said from this score on. `why` tells how the threshold was chosen."""

    why: str
    threshold: float
    accuracy: float
    precision: float
    recall: float
    f1: float
    specificity: float


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """How often each true label (rows) was answered with each label (columns; NONE stands last if there is such an answer)."""

    labels: tuple[str, ...]
    answered: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


def curves_of(scores: ClassScores) -> Curves:
    """Curves of the classes that are there, one against the rest; of two classes the positive one's."""
    if not scores.scored or not len(scores):
        return Curves()
    truth, counts = scores.truth, np.bincount(scores.truth, minlength=len(scores.labels))
    places = sorted(sorted(scores.ranked(), key=lambda place: -counts[place])[:MOST_CURVES])
    roc, balance = [], []
    for place in places:
        of, sure, name = truth == place, scores.scores[:, place], scores.labels[place]
        false, true, _ = metrics.roc_curve(of, sure)
        roc.append(_line(name, false, true))
        precision, recall, _ = metrics.precision_recall_curve(of, sure, drop_intermediate=True)
        balance.append(_line(name, recall[::-1], precision[::-1]))
    return Curves(roc=tuple(roc), precision_recall=tuple(balance))


def _line(name: str, x: NDArray[np.float64], y: NDArray[np.float64]) -> Line:
    """A curve of at most MOST_POINTS points, evenly along its way."""
    if len(x) > MOST_POINTS:
        way = np.concatenate([[0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
        kept = np.unique(np.concatenate([[0, len(x) - 1], np.searchsorted(way, np.linspace(0, way[-1], MOST_POINTS - 2))]))
        kept = kept[kept < len(x)]
        x, y = x[kept], y[kept]
    return Line(name=name, x=tuple(np.round(x, DIGITS).tolist()), y=tuple(np.round(y, DIGITS).tolist()))


def bins_of(scores: ClassScores) -> tuple[Bin, ...]:
    """Bins of confidence that hold any answer, from the least sure."""
    if not scores.scored or not len(scores):
        return ()
    sure, right = scores.confidence().astype(np.float64), scores.truth == scores.told
    places = bin_of(sure)
    found = []
    for place in np.unique(places).tolist():
        among = places == place
        means = {"confidence": float(sure[among].mean()), "accuracy": float(right[among].mean())}
        found.append(Bin(low=place / BINS, high=(place + 1) / BINS, rows=int(among.sum()), **means))
    return tuple(found)


def thresholds_of(scores: ClassScores, given: float | None = None) -> tuple[Threshold, ...]:
    """For two classes: the given threshold, 0.5, that of the best F1, and that of the best Youden's J (the lowest of equals).

    The best ones are chosen on the very samples that they are measured on, so they flatter; choose on others, and give it here.
    Source of J: Youden 1950, Cancer 3(1).
    """
    if not scores.binary or not scores.scored or not scores.ranked():
        return ()
    positive, sure = scores.truth == 1, scores.scores[:, 1].astype(np.float64)
    values, places = np.unique(sure, return_inverse=True)
    from_here = [np.bincount(places, which)[::-1].cumsum()[::-1] for which in (positive, ~positive)]
    hits, misses = (each.astype(np.float64) for each in from_here)
    f1 = rates(hits, hits + misses, np.full(len(hits), hits[0]))["f1"]
    youden = hits / hits[0] - misses / misses[0]
    wanted: list[tuple[str, float]] = [] if given is None else [("given", given)]
    wanted += [("one half", 0.5), ("best F1 here", float(values[f1.argmax()])), ("best Youden's J here", float(values[youden.argmax()]))]
    return tuple(_at(why, threshold, positive, sure) for why, threshold in wanted)


def _at(why: str, threshold: float, positive: NDArray[np.bool_], sure: NDArray[np.float64]) -> Threshold:
    said = sure >= threshold
    hits, told, true = (np.array([each.sum()], np.float64) for each in (said & positive, said, positive))
    found = {name: float(value[0]) for name, value in rates(hits, told, true).items()}
    specificity = float((~said & ~positive).sum() / (~positive).sum())
    return Threshold(why=why, threshold=threshold, accuracy=float((said == positive).mean()), specificity=specificity, **found)


def confusion_of(scores: ClassScores) -> Confusion:
    """Counts of truth against answer."""
    size = len(scores.labels)
    answered = (*scores.labels, NONE) if (scores.told < 0).any() else scores.labels
    told = np.where(scores.told < 0, size, scores.told)
    counts: Any = metrics.confusion_matrix(scores.truth, told, labels=np.arange(size + 1)).tolist()
    return Confusion(labels=scores.labels, answered=answered, counts=tuple(tuple(row[: len(answered)]) for row in counts[:size]))
