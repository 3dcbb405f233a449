"""What measuring costs beside the model: resident memory at 10,000 and 100,000 rows, and the time of the intervals.

python -m bench.evaluate [ROWS ...]

Each number of rows runs in a process of its own, with an answerer that draws its scores, so that nothing but measuring is measured.
Prints one JSON object a line: rows, classes, wall seconds (rows, and all with intervals, curves and slices), seconds of the thousand draws
alone, and resident memory in MB: at the start, after the last row, and at its peak.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil

from danlu.data.answers import Answer, Refused
from danlu.data.examples import ClassifyExample, Example, Placed
from danlu.evaluation.comparing import read_scored
from danlu.evaluation.measure import measure
from danlu.evaluation.scores.figures import bootstrap
from danlu.tasks.base import Task

ROWS = (10_000, 100_000)
CLASSES = 4
LABELS = tuple(f"class {place}" for place in range(CLASSES))
TEXT = "a text of a usual length, as a review or a headline is, with its number at the end: "
MB = 1e6


class Drawn:
    """Answers at random, somewhat better than chance."""

    name, labels = "drawn", LABELS

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)

    def answer(self, examples: Sequence[Example]) -> list[Answer | Refused]:
        """Scores that add up to 1."""
        raw = self.random.random((len(examples), CLASSES))
        for row, example in zip(raw, examples, strict=True):
            row[LABELS.index(example.label)] += 0.3  # type: ignore[union-attr]
        raw /= raw.sum(1, keepdims=True)
        return [Answer(label=LABELS[row.argmax()], scores=tuple(row.tolist())) for row in raw]


def run(rows: int) -> dict[str, float]:
    """Measure so many rows in this process."""
    process, began, marks = psutil.Process(), time.perf_counter(), {}

    def stream() -> Iterator[Placed]:
        marks["start_mb"] = process.memory_info().rss / MB
        for line in range(1, rows + 1):
            yield Placed(file="drawn", line=line, example=ClassifyExample(text=f"{TEXT}{line}", label=LABELS[line % CLASSES]))
        marks["rows_mb"] = process.memory_info().rss / MB

    task = Task(name="drawn", kind="classify", what="a number's remainder")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(task, Drawn(), stream(), Path(folder), data="drawn", part="all")
        whole = time.perf_counter() - began
        scores = read_scored(Path(folder), found).scores
    began = time.perf_counter()
    bootstrap(scores)
    drawing = time.perf_counter() - began
    peak = _peak_mb()
    return {
        "rows": rows,
        "classes": CLASSES,
        "rows_seconds": found.wall_seconds,
        "all_seconds": round(whole, 2),
        "draws_seconds": round(drawing, 2),
        **{name: round(value, 1) for name, value in marks.items()},
        "peak_mb": round(peak, 1),
    }


def _peak_mb() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MB


def main() -> None:
    """Each number of rows by itself."""
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(run(int(sys.argv[2]))))
        return
    for rows in map(int, sys.argv[1:]) if sys.argv[1:] else ROWS:
        subprocess.run([sys.executable, "-m", "bench.evaluate", "--one", str(rows)], check=True)


if __name__ == "__main__":
    main()
