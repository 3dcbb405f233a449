from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from danlu.base.errors import CheckpointError, ConfigError
from danlu.data.answers import Answer, Refused
from danlu.data.examples import ClassifyExample, Example
from danlu.evaluation.answerers.ensemble import Ensemble, Members

EXAMPLES = [ClassifyExample(text="a", label="x"), ClassifyExample(text="b", label="y")]


class Fixed:
    """Says the same to every example."""

    def __init__(self, answer: Answer | Refused, labels: tuple[str, ...] = ("x", "y")) -> None:
        self.name, self.labels, self.said = "fixed", labels, answer

    def answer(self, examples: Sequence[Example]) -> list[Answer | Refused]:
        return [self.said] * len(examples)


def test_scores_are_the_weighted_mean_and_the_label_is_the_likeliest() -> None:
    members = [Fixed(Answer(label="x", scores=(0.9, 0.1))), Fixed(Answer(label="y", scores=(0.3, 0.7), cut=4))]
    for weights, expected in (((1, 1), (0.6, 0.4)), ((1, 3), (0.45, 0.55))):
        for answer in Ensemble("both", members, weights).answer(EXAMPLES):
            assert isinstance(answer, Answer)
            assert answer.scores == pytest.approx(expected) and answer.label == ("x" if expected[0] > 0.5 else "y") and answer.cut == 4


def test_tags_and_texts_are_voted_for_and_numbers_averaged() -> None:
    tags = [Fixed(Answer(tags=("O", "B"))), Fixed(Answer(tags=("B", "B"))), Fixed(Answer(tags=("O", "O")))]
    assert Ensemble("tags", tags, [1, 1, 1]).answer(EXAMPLES)[0] == Answer(tags=("O", "B"))
    texts = [Fixed(Answer(text="one")), Fixed(Answer(text="two")), Fixed(Answer(text="two"))]
    assert Ensemble("texts", texts, [1, 1, 1]).answer(EXAMPLES)[0] == Answer(text="two")
    (said, _) = Ensemble("numbers", [Fixed(Answer(value=1.0)), Fixed(Answer(value=4.0))], [2, 1]).answer(EXAMPLES)
    assert isinstance(said, Answer) and said.value == pytest.approx(2.0)


def test_what_one_member_refuses_is_refused_and_other_labels_are_no_ensemble() -> None:
    refused = Refused(reason="600 tokens long")
    found = Ensemble("half", [Fixed(Answer(label="x", scores=(1.0, 0.0))), Fixed(refused)], [1, 1])
    assert found.answer(EXAMPLES) == [refused, refused]
    with pytest.raises(ConfigError, match="different labels"):
        Ensemble("odd", [Fixed(refused), Fixed(refused, ("x", "z"))], [1, 1])


def test_a_folder_reads_back_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    written = Members(task="classify", method="average", names=("member-1", "member-2"), weights=(1.0, 0.5))
    assert Members.read(tmp_path) is None
    written.write(tmp_path)
    assert Members.read(tmp_path) == written
    file = tmp_path / "ensemble.json"
    for damage in (file.read_text()[:40], file.read_text().replace("member-1", "../member-1"), "[]", '{"format": 9}'):
        file.write_text(damage)
        with pytest.raises(CheckpointError, match=r"ensemble.json"):
            Members.read(tmp_path)
