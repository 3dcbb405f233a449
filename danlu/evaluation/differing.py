"""Rows on which two evaluations differ most: what one has right and the other wrong, and surely so."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from danlu.evaluation.samples import SAMPLES, Sample, read_samples
from danlu.evaluation.scores.figures import Column

MOST = 6  # rows a side


@dataclass(frozen=True, kw_only=True)
class Differing:
    """Rows as both answered them, (first, second): where the first is the better one, and where the second is, the farthest apart first."""

    first_better: tuple[tuple[Sample, Sample], ...]
    second_better: tuple[tuple[Sample, Sample], ...]


def place_of(sample: Sample) -> int:
    """What tells a row from others, wherever the folder of its file stands."""
    return xxhash.xxh3_64_intdigest(f"{Path(sample.file).name}\0{sample.line}\0{sample.key}".encode())


def find_differing(first: Path, second: Path, *, less_is_better: bool = False, most: int = MOST) -> Differing:
    """Two passes over the samples of two evaluations' folders: numbers first, then the texts of those that were chosen."""
    one, other = (_numbers(read_samples(folder / SAMPLES)) for folder in (first, second))
    places, mine, theirs = np.intersect1d(one[0], other[0], return_indices=True)
    gap = (one[1][mine] - other[1][theirs]) * (-1 if less_is_better else 1)
    sides = [
        _chosen(places, gap, np.nan_to_num(other[2][theirs]), mine, most),
        _chosen(places, -gap, np.nan_to_num(one[2][mine]), mine, most),
    ]
    wanted = {place for side in sides for place in side}
    told = [
        {place: sample for sample in read_samples(folder / SAMPLES) if (place := place_of(sample)) in wanted} for folder in (first, second)
    ]
    better = [tuple((told[0][place], told[1][place]) for place in side) for side in sides]
    return Differing(first_better=better[0], second_better=better[1])


def _numbers(samples: Iterable[Sample]) -> tuple[NDArray[np.uint64], NDArray[np.float32], NDArray[np.float32]]:
    """Each row's place, score and the model's sureness (N,)."""
    places, scores, sure = Column(np.uint64), Column(np.float32), Column(np.float32)
    held: list[tuple[int, float, float]] = []
    for sample in samples:
        held.append((place_of(sample), sample.score, sample.sureness()))
        if len(held) == 1024:
            _move(held, places, scores, sure)
    _move(held, places, scores, sure)
    return places.array(), scores.array(), sure.array()


def _move(held: list[tuple[int, float, float]], *columns: Column) -> None:
    for column, values in zip(columns, zip(*held, strict=True), strict=False):
        column.add(values)
    held.clear()


def _chosen(
    places: NDArray[np.uint64], gap: NDArray[np.float32], sure: NDArray[np.float32], order: NDArray[np.intp], most: int
) -> list[int]:  # fmt: skip
    """Places of the widest gaps, of equals those of which the worse one was surest, of those the first in the data."""
    ranked = np.lexsort((order, -sure, -gap))
    return [int(places[row]) for row in ranked[:most] if gap[row] > 0]
