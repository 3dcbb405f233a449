from __future__ import annotations

from collections.abc import Callable

import pytest

from danlu.data.answers import Answer
from danlu.data.examples import ClassifyExample, Examples, SpanExample
from danlu.evaluation.answerers.overlap import WordOverlap, overlapping
from danlu.tasks.parts import Part

TEXT = "The bridge is long. In 1932 the engineer John Bradfield opened it, with 52,000 workers. Trains cross the river today."
ASKED = [
    ("Who was the engineer that opened the bridge?", "John Bradfield"),
    ("When was it opened by the engineer?", "1932"),
    ("How many workers opened it?", "1932"),  # the first number: no more than a rule
    ("What can cross the river?", "Trains"),
]


@pytest.mark.parametrize(("question", "answer"), ASKED)
def test_the_sentence_that_shares_rare_words_answers(question: str, answer: str) -> None:
    assert overlapping(TEXT, question) == answer


def test_without_names_the_longest_stretch_is_taken() -> None:
    assert overlapping("water boils quite soon, says he", "what does water do?") == "boils quite soon"
    assert overlapping("水在一百度沸腾。冰很冷。", "冰怎么样？") == "很冷"
    assert overlapping("?!", "what?") == "?!"


def test_answers_stand_in_their_context(part_of: Callable[[str, Part], Examples]) -> None:
    records = [record for record in part_of("squad-en", "all").records if isinstance(record, SpanExample)]
    answers = WordOverlap().answer(records)
    right = 0
    for record, answer in zip(records, answers, strict=True):
        assert isinstance(answer, Answer) and answer.text and answer.text in record.context
        right += any(answer.text == known.text for known in record.answers)
    assert 0.15 < right / len(records) < 0.3


def test_what_is_no_question_is_refused() -> None:
    assert not isinstance(WordOverlap().answer([ClassifyExample(text="a", label="b")])[0], Answer)
