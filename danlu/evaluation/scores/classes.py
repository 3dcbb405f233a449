"""Scores of classes: what was right, how sure the model was, and how well its scores put samples in order."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn import metrics

from danlu.data.answers import Answer
from danlu.evaluation.scores.counts import AVERAGES, RATES, averaged, by_class, cells, share
from danlu.evaluation.scores.figures import SEPARATOR, Column, Expected, Floats, Part, Scores, Sums, finite, grouped, means_of
from danlu.evaluation.scores.means import SMALLEST

BINS = 15  # of confidence, for the calibration error
FEWEST_GROUPS, ALL_GROUPS = 64, 8192  # of nearly equal scores, a class and altogether, in the bootstrap of areas
AREAS = ("roc_auc", "average_precision")


class ClassScores(Scores):
    """One class a sample, of `labels`; with two, the last is the positive one. An answer without scores has only its label counted.

    Shapes, once all is there: truth (N,); told (N,), -1 for an answer that is no label; scores (N, classes), float32.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = tuple(labels)
        self.place = {label: place for place, label in enumerate(self.labels)}
        self.truths, self.answers, self.sureness = Column(np.int32), Column(np.int32), Column(np.float32, len(self.labels))
        self.scored = True

    def add(self, expected: Sequence[Expected], answers: Sequence[Answer]) -> list[float]:
        """Take a batch. Returns: 1 where the answer is right."""
        truth = [self.place[str(label)] for label in expected]
        told = [self.place.get(answer.label, -1) for answer in answers]
        self.scored = self.scored and all(answer.scores for answer in answers)
        self.truths.add(truth)
        self.answers.add(told)
        if self.scored:
            self.sureness.add([answer.scores for answer in answers])
        return [float(mine == theirs) for mine, theirs in zip(told, truth, strict=True)]

    def __len__(self) -> int:
        return len(self.truths)

    @property
    def truth(self) -> NDArray[np.int32]:
        """Each sample's class (N,)."""
        return self.truths.array()

    @property
    def told(self) -> NDArray[np.int32]:
        """Each answer's class (N,), -1 for none."""
        return self.answers.array()

    @property
    def scores(self) -> NDArray[np.float32]:
        """How sure the model is of each class (N, classes)."""
        return self.sureness.array()

    @property
    def binary(self) -> bool:
        """Whether there are two classes, of which the last is the positive one."""
        return len(self.labels) == 2

    def present(self) -> NDArray[np.bool_]:
        """Which classes stand in truth or answers (classes,): scikit-learn's means are over these."""
        found = np.bincount(self.truth, minlength=len(self.labels)) + np.bincount(self.told[self.told >= 0], minlength=len(self.labels))
        return found > 0

    def ranked(self) -> list[int]:
        """The classes whose area under a curve can be told: some samples are of it, some are not; the positive one of two."""
        counts = np.bincount(self.truth, minlength=len(self.labels))
        found = [place for place, count in enumerate(counts) if 0 < count < len(self)]
        return found[-1:] if self.binary else found

    def groups(self) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """Classes, and each sample's own."""
        return self.labels, self.truth.astype(np.int64)

    def warnings(self) -> list[str]:
        """One class only; classes that no sample is of; answers that are no label."""
        counts = np.bincount(self.truth, minlength=len(self.labels))
        said = []
        if (counts > 0).sum() == 1:
            only = self.labels[int(counts.argmax())]
            said.append(f"every sample is of one class, {only}: areas under curves cannot be told, and accuracy tells little")
        elif missing := [label for label, count in zip(self.labels, counts, strict=True) if not count]:
            more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
            said.append(f"no sample is of {', '.join(missing[:10])}{more}")
        if lost := int((self.told < 0).sum()):
            said.append(f"{lost:,} answers are none of the labels and count as wrong")
        return said

    def figures(self, weights: NDArray[np.int64] | None = None) -> dict[str, float]:
        """What scikit-learn counts; the calibration error is our own. Shapes: weights (N,)."""
        truth, told, names = self.truth, self.told, self.labels
        rows = {"sample_weight": weights}
        found = {"accuracy": metrics.accuracy_score(truth, told, **rows), "mcc": 0.0}
        if len(np.union1d(truth, told)) > 1:  # or scikit-learn says 0 too, with a warning
            found["mcc"] = metrics.matthews_corrcoef(truth, told, **rows)
        known = {"labels": np.flatnonzero(self.present()), "zero_division": 0, **rows}
        for average in AVERAGES:
            three = metrics.precision_recall_fscore_support(truth, told, average=average, **known)
            found |= {f"{name}_{average}": three[place] for place, name in enumerate(RATES)}
        each = metrics.precision_recall_fscore_support(truth, told, average=None, **known | {"labels": np.arange(len(names))})
        for place, name in enumerate(RATES):
            if self.binary:
                found[name] = each[place][1]
            found |= {f"{name}{SEPARATOR}{label}": value for label, value in zip(names, each[place], strict=True)}
        return finite(found | (self._of_scores(weights) if self.scored else {}))

    def _of_scores(self, weights: NDArray[np.int64] | None) -> dict[str, float]:
        truth, scores, rows = self.truth, self.scores, {"sample_weight": weights}
        total = np.ones(len(self)) if weights is None else weights.astype(np.float64)
        found = {name: float(value[0]) for name, value in self._likelihood().of(total[:, None]).items()}
        found["ece"] = float(self._calibration().of(total[:, None])["ece"][0])
        for place in self.ranked():
            of, sure = truth == place, scores[:, place]
            if weights is not None and not 0 < weights[of].sum() < weights.sum():
                continue
            found[f"roc_auc{SEPARATOR}{self.labels[place]}"] = metrics.roc_auc_score(of, sure, **rows)
            found[f"average_precision{SEPARATOR}{self.labels[place]}"] = metrics.average_precision_score(of, sure, **rows)
        for name in AREAS:
            if areas := [value for key, value in found.items() if key.startswith(name + SEPARATOR)]:
                found[name] = float(np.mean(areas))
        return found

    def parts(self, wanted: Collection[str] | None = None) -> list[Part]:
        """Counts always; what needs scores where it is wanted."""
        found: list[Part] = [self._counts()]
        if not self.scored or not len(self):
            return found
        heads = None if wanted is None else {name.partition(SEPARATOR)[0] for name in wanted}
        if heads is None or heads & {"log_loss", "brier"}:
            found.append(self._likelihood())
        if heads is None or "ece" in heads:
            found.append(self._calibration())
        if (heads is None or heads & set(AREAS)) and self.ranked():
            found.append(self._areas())
        return found

    def _counts(self) -> Sums:
        """Columns: right, told, true of each class, and told of none."""
        count, classes, truth, told = len(self), len(self.labels), self.truth.astype(np.int64), self.told.astype(np.int64)
        samples, right, present, names, binary = np.arange(count), truth == told, self.present(), self.labels, self.binary
        places = np.concatenate([samples[right], samples, samples])
        columns = np.concatenate([truth[right], classes + np.where(told < 0, 2 * classes, told), 2 * classes + truth])

        def formula(sums: Floats, total: Floats) -> dict[str, Floats]:
            hits, given, true, none = (sums[:, begin : begin + classes] for begin in range(0, 4 * classes, classes))
            found = averaged(hits, given, true, present) | by_class(hits, given, true, names)
            if binary:
                found |= {name: found[f"{name}{SEPARATOR}{names[1]}"] for name in RATES}
            rightly = hits.sum(1)
            agreement = rightly * total - (given * true).sum(1)
            spread = (total**2 - (given**2).sum(1) - none.sum(1) ** 2) * (total**2 - (true**2).sum(1))
            return found | {"accuracy": rightly / total, "mcc": share(agreement, np.sqrt(np.maximum(spread, 0)))}

        return Sums(matrix=cells(places, columns, 1.0, (count, 4 * classes)), formula=formula)

    def _likelihood(self) -> Sums:
        """Log loss in nats; Brier's score, halved where there are two classes, as scikit-learn has it."""
        scores, samples = self.scores.astype(np.float64), np.arange(len(self))
        right = np.clip(scores[samples, self.truth], SMALLEST, 1 - SMALLEST)
        squared = (scores**2).sum(1) - 2 * scores[samples, self.truth] + 1
        return means_of(("log_loss", "brier"), np.stack([-np.log(right), squared / (2 if self.binary else 1)], 1))

    def _calibration(self) -> Sums:
        """How far sureness is from being right, over bins of equal width. Source: Guo et al. 2017, arXiv:1706.04599, equation 3."""
        sure = self.confidence().astype(np.float64)
        matrix = cells(np.arange(len(self)), bin_of(sure), (self.truth == self.told) - sure, (len(self), BINS))
        return Sums(matrix=matrix, formula=lambda sums, total: {"ece": np.abs(sums).sum(1) / total})

    def confidence(self) -> NDArray[np.float32]:
        """How sure each answer is of its own label (N,)."""
        return self.scores[np.arange(len(self)), np.maximum(self.told, 0)]

    def _areas(self) -> Sums:
        """Columns: how many others, and how many samples of a class, in each group of nearly equal scores, from the lowest."""
        places, count = self.ranked(), len(self)
        most = max(FEWEST_GROUPS, ALL_GROUPS // len(places))
        columns, bounds, begin = [], [], 0
        for place in places:
            group = grouped(self.scores[:, place], most)
            number = int(group.max()) + 1
            columns.append(begin + group + number * (self.truth == place))
            bounds.append((begin, begin + number, begin + 2 * number))
            begin = bounds[-1][2]
        matrix = sparse.csr_matrix(
            (np.ones(count * len(places)), np.stack(columns, 1).ravel(), np.arange(0, count * len(places) + 1, len(places))),
            shape=(count, begin),
        )
        names = [self.labels[place] for place in places]

        def formula(sums: Floats, total: Floats) -> dict[str, Floats]:
            two = [areas(sums[:, middle:high], sums[:, low:middle]) for low, middle, high in bounds]
            found = {
                f"{area}{SEPARATOR}{name}": each[which] for name, each in zip(names, two, strict=True) for which, area in enumerate(AREAS)
            }
            for which, area in enumerate(AREAS):
                stacked = np.stack([each[which] for each in two])
                told = np.isfinite(stacked)
                found[area] = np.divide(np.where(told, stacked, 0).sum(0), told.sum(0), out=np.full(len(total), np.nan), where=told.any(0))
            return found

        return Sums(matrix=matrix, formula=formula)


def areas(positives: Floats, negatives: Floats) -> tuple[Floats, Floats]:
    """Area under the ROC curve and average precision, NaN where there are no positives or no negatives.

    Shapes: both (draws, groups), of rising scores -> (draws,).
    Source: Fawcett 2006, Pattern Recognition Letters 27(8); average precision as scikit-learn steps it, without interpolation.
    """
    falling, others = positives[:, ::-1], negatives[:, ::-1]
    hits, misses = falling.cumsum(1), others.cumsum(1)
    both = hits[:, -1] * misses[:, -1]
    won = (falling * (misses[:, -1:] - misses + others / 2)).sum(1)
    stepped = (falling * (hits / np.maximum(hits + misses, SMALLEST))).sum(1)
    nothing = np.full(len(both), np.nan)
    roc = np.divide(won, both, out=nothing.copy(), where=both > 0)
    return roc, np.divide(stepped, hits[:, -1], out=nothing, where=both > 0)


def bin_of(sure: Floats) -> NDArray[np.int64]:
    """The bin of each confidence (N,): the first is [0, 1/15], the others ]k/15, (k+1)/15]."""
    return np.clip(np.ceil(sure * BINS).astype(np.int64) - 1, 0, BINS - 1)
