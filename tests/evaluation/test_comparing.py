from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from danlu.base.errors import ConfigError, DataError
from danlu.data.answers import Answer, Refused
from danlu.data.examples import ClassifyExample, Example, Placed, RegressExample
from danlu.evaluation.comparing import compare, holm, mcnemar
from danlu.evaluation.differing import find_differing
from danlu.evaluation.measure import measure
from danlu.tasks.base import Task

CLASSIFY = Task(name="moods", kind="classify", what="a mood")
REGRESS = Task(name="grades", kind="regress", what="a grade", score="mse")


class Skilled:
    """Right with a chance, by a seed of its own; knows the answers from the text."""

    labels = ("no", "yes")

    def __init__(self, name: str, skill: float, seed: int) -> None:
        self.name, self.skill, self.random = name, skill, np.random.default_rng(seed)

    def answer(self, examples: Sequence[Example]) -> list[Answer | Refused]:
        found: list[Answer | Refused] = []
        for example in examples:
            if example.text.startswith("grade"):
                found.append(Answer(value=float(example.text.split()[-1]) + self.random.normal(0, 1 - self.skill)))
                continue
            right = self.labels.index(example.text.split()[0])
            told = right if self.random.random() < self.skill else 1 - right
            sure = self.random.uniform(0.5, 1)
            found.append(Answer(label=self.labels[told], scores=(sure, 1 - sure) if told == 0 else (1 - sure, sure)))
        return found


def rows(begin: int, end: int, file: str = "a.jsonl") -> list[Placed]:
    labels = ("no", "yes")
    return [Placed(file=file, line=n, example=ClassifyExample(text=f"{labels[n % 2]} {n}", label=labels[n % 2])) for n in range(begin, end)]


def measured(folder: Path, name: str, skill: float, stream: list[Placed], seed: int, task: Task = CLASSIFY) -> Path:
    measure(task, Skilled(name, skill, seed), stream, folder / name, data="a.jsonl", part="test")
    return folder / name


def test_a_clear_difference_is_told_and_a_small_one_is_not(tmp_path: Path) -> None:
    good = measured(tmp_path, "good", 0.9, rows(0, 400), 0)
    fair = measured(tmp_path, "fair", 0.7, rows(0, 400), 1)
    same = measured(tmp_path, "same", 0.7, rows(0, 400), 2)
    found = compare([good, fair, same])
    clear, _, unclear = found.pairs
    assert clear.told and str(clear).startswith("good is better than fair by 0.") and "p < 0.001" in str(clear)
    assert clear.difference.value == pytest.approx(found.evaluations[0].main.value - found.evaluations[1].main.value)
    assert clear.difference.low < clear.difference.value < clear.difference.high and clear.test == "McNemar, exact"
    assert not unclear.told and "no difference can be told" in str(unclear)
    assert str(found).splitlines()[0].startswith("good  accuracy 0.")
    assert compare([good, fair, same]) == found


def test_pairing_makes_the_interval_narrower_than_that_of_strangers(tmp_path: Path) -> None:
    one = measured(tmp_path, "one", 0.8, rows(0, 500), 0)
    (tmp_path / "b").mkdir()
    other = measured(tmp_path / "b", "other", 0.8, rows(0, 500), 0)  # the same seed: answers the same
    pair = compare([one, other]).pairs[0]
    assert pair.difference.error == 0 and pair.p == 1.0 and not pair.told


def test_rows_are_matched_by_place_and_input_in_whatever_order(tmp_path: Path) -> None:
    one = measured(tmp_path, "one", 0.9, rows(0, 300), 0)
    other = measured(tmp_path, "other", 0.6, rows(100, 350, file="elsewhere/a.jsonl")[::-1], 1)
    pair = compare([one, other]).pairs[0]
    assert (pair.rows, pair.left_out) == (200, 150)
    stranger = measured(tmp_path, "stranger", 0.9, rows(0, 20, file="b.jsonl"), 0)
    with pytest.raises(DataError, match="no row in common"):
        compare([one, stranger])


def test_where_less_is_better_less_wins(tmp_path: Path) -> None:
    stream = [Placed(file="g", line=n, example=RegressExample(text=f"grade {n % 7}", label=float(n % 7))) for n in range(150)]
    near, far = (measured(tmp_path, name, skill, stream, 0, REGRESS) for name, skill in (("near", 0.8), ("far", 0.1)))
    pair = compare([far, near]).pairs[0]
    assert pair.difference.value > 0 and str(pair).startswith("near is better than far") and pair.test == "paired bootstrap"
    assert pair.only_first is None


def test_rows_that_differ_are_those_that_one_alone_has_right(tmp_path: Path) -> None:
    one, other = measured(tmp_path, "one", 0.9, rows(0, 200), 0), measured(tmp_path, "other", 0.6, rows(0, 200)[::-1], 1)
    found = find_differing(one, other, most=4)
    assert len(found.first_better) == 4 and all(a.score == 1 and b.score == 0 and a.line == b.line for a, b in found.first_better)
    sure = [b.sureness() for _, b in found.first_better]
    assert sure == sorted(sure, reverse=True) and all(a.score == 0 and b.score == 1 for a, b in found.second_better)
    assert find_differing(one, one).first_better == ()


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    one = measured(tmp_path, "one", 0.9, rows(0, 30), 0)
    grades = measured(tmp_path, "two", 0.9, [Placed(file="g", line=1, example=RegressExample(text="grade 1", label=1.0))], 0, REGRESS)
    with pytest.raises(ConfigError, match="two or more"):
        compare([one])
    with pytest.raises(ConfigError, match="different kinds"):
        compare([one, grades])
    with pytest.raises(ConfigError, match="no figure 'bleu'"):
        compare([one, one], score="bleu")


def test_the_exact_test_and_holms_way() -> None:
    assert mcnemar(0, 0) == 1.0 and mcnemar(10, 2) == pytest.approx(2 * stats.binom.cdf(2, 12, 0.5))
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06]) and holm([0.9, 0.8]) == [1.0, 1.0]
