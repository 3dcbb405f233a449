"""What is wrong with the data or was done to it: rows left out, repeated, or seen in training; counted, and the first ones named."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import numpy as np
import xxhash
from numpy.typing import NDArray

from danlu.data.examples import Placed, SetAside, likeness_key
from danlu.evaluation.samples import expected_of, given_of, sample_key, text_of
from danlu.evaluation.scores.figures import Column
from danlu.evaluation.scores.texts import is_chinese

NAMED = 20  # rows of each sort that are named
DECIDED = ("classify", "regress", "label", "choice")  # kinds whose same input should have the same answer


@dataclass(frozen=True, kw_only=True)
class Checks:
    """How many rows there were and what became of them. Lists name the first of them as file:line, with the reason where there is one.

    `duplicates` repeat an earlier row's input; `contradictions` are those of them that want another answer; `leaks` are rows whose input
    was in training but for case, spaces and signs, None if it is not known what was; `cut` rows were read in part only, `cut_tokens` in
    sum.
    """

    rows: int
    scored: int
    set_aside: int
    refused: int
    cut: int
    cut_tokens: int
    duplicates: int
    contradictions: int
    leaks: int | None
    first_set_aside: tuple[str, ...] = ()
    first_refused: tuple[str, ...] = ()
    first_duplicates: tuple[str, ...] = ()
    first_leaks: tuple[str, ...] = ()


@dataclass(kw_only=True)
class Ledger:
    """Keeps count while rows pass by: of each row that is scored a few numbers, of the others the first reasons only."""

    kind: str
    trained_on: AbstractSet[int] | None = None
    set_aside: list[SetAside] = field(default_factory=list)
    refused: list[SetAside] = field(default_factory=list)
    set_aside_count: int = 0
    refused_count: int = 0
    cut: int = 0
    cut_tokens: int = 0
    leaks: int = 0
    first_leaks: list[str] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.keys, self.wanted = Column(np.uint64), Column(np.uint64)
        self.places = Column(np.int64, 2)  # file, line
        self.lengths, self.chinese = Column(np.int32), Column(np.bool_)

    def leave_out(self, row: SetAside, refused: bool = False) -> None:
        """Count a row that is not scored."""
        if refused:
            self.refused_count += 1
        else:
            self.set_aside_count += 1
        first = self.refused if refused else self.set_aside
        if len(first) < NAMED:
            first.append(row)

    def add(self, batch: Sequence[Placed], cut: Sequence[int]) -> None:
        """Count rows that are scored, and the tokens that were left out of each."""
        self.cut += sum(tokens > 0 for tokens in cut)
        self.cut_tokens += sum(cut)
        self.keys.add([sample_key(placed.example) for placed in batch])
        self.wanted.add([xxhash.xxh3_64_intdigest(repr(expected_of(placed.example)).encode()) for placed in batch])
        self.places.add([(self.files.setdefault(placed.file, len(self.files)), placed.line) for placed in batch])
        texts = [text_of(given_of(placed.example)) for placed in batch]
        self.lengths.add([len(text) for text in texts])
        self.chinese.add([is_chinese(text) for text in texts])
        for placed in batch if self.trained_on is not None else ():
            if likeness_key(placed.example) in (self.trained_on or ()):
                self.leaks += 1
                if len(self.first_leaks) < NAMED:
                    self.first_leaks.append(f"{placed.file}:{placed.line}")

    def close(self) -> Checks:
        """What was counted, with the duplicates, which are found at the end."""
        later, first = self._repeated()
        wanted = self.wanted.array()
        opposed = int((wanted[later] != wanted[first]).sum()) if self.kind in DECIDED else 0
        named = [f"{self._place(row)} repeats {self._place(before)}" for row, before in zip(later[:NAMED], first[:NAMED], strict=True)]
        return Checks(
            rows=len(self.keys) + self.set_aside_count + self.refused_count,
            scored=len(self.keys),
            set_aside=self.set_aside_count,
            refused=self.refused_count,
            cut=self.cut,
            cut_tokens=self.cut_tokens,
            duplicates=len(later),
            contradictions=opposed,
            leaks=None if self.trained_on is None else self.leaks,
            first_set_aside=tuple(map(str, self.set_aside)),
            first_refused=tuple(map(str, self.refused)),
            first_duplicates=tuple(named),
            first_leaks=tuple(self.first_leaks),
        )

    def _repeated(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Rows whose input stood there before, in their order, and where it stood first."""
        _, first, places = np.unique(self.keys.array(), return_index=True, return_inverse=True)
        before = first[places]
        later = np.flatnonzero(before != np.arange(len(places)))
        return later, before[later]

    def _place(self, row: int) -> str:
        file, line = self.places.array()[row]
        return f"{list(self.files)[file]}:{line}"
