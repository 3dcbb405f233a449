from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable

import pytest

from danlu.base.errors import ConfigError
from danlu.data.conversations import ChatExample
from danlu.data.examples import ClassifyExample, Examples
from danlu.tasks.instructions import MOST_CHARACTERS, WORDINGS, conversation
from danlu.tasks.loading import find_task
from danlu.tasks.parts import Part


def test_each_part_is_made_of_the_same_part_of_three_tasks(part_of: Callable[[str, Part], Examples]) -> None:
    assert find_task("instructions-en").sources == ("rated-snippets", "wikipedia-leads", "spam-assassin")
    parts: tuple[Part, ...] = ("train", "test")
    for part in parts:
        asked = [record.asked[0] for record in part_of("instructions-en", part).records if isinstance(record, ChatExample)]
        texts = [record.text for name in WORDINGS for record in part_of(name, part).records if isinstance(record, ClassifyExample)]
        assert len(asked) == len(texts)
        assert all(text[:500] in question for text, question in zip(texts, asked, strict=True))


def test_every_wording_is_asked_and_every_answer_given(part_of: Callable[[str, Part], Examples]) -> None:
    records = [record for record in part_of("instructions-en", "test").records if isinstance(record, ChatExample)]
    answers = Counter(record.messages[-1][1] for record in records)
    assert len(answers) == 2 + 12 + 2 and set(answers) > {"positive", "negative", "yes", "no", "arts"}
    assert all(role == "assistant" for role, _ in (record.messages[-1] for record in records))
    for wordings in WORDINGS.values():
        for wording in wordings:
            fixed = max(wording.split("{text}"), key=len)
            assert sum(fixed in record.asked[0] for record in records) > 100


def test_long_texts_are_cut_between_words_and_braces_mean_nothing() -> None:
    task = find_task("sentiment-en")
    row = conversation(task, ClassifyExample(text="{text} " + "word " * 1000, label="positive"))
    said = row["messages"][0]["content"]
    assert len(said) < MOST_CHARACTERS + 200 and "{text} word word" in said and " wor\n" not in said
    assert row["messages"][1] == {"role": "assistant", "content": "positive"}
    uncut = conversation(task, ClassifyExample(text="x" * 5000, label="negative"))["messages"][0]["content"]
    assert "x" * MOST_CHARACTERS in uncut and "x" * (MOST_CHARACTERS + 1) not in uncut


def test_a_task_made_of_others_brings_no_source_of_its_own() -> None:
    task = find_task("instructions-en")
    for wrong in ({"remake": None}, {"made_of": ()}, {"source": "wikipedia-leads", "rows": lambda path: []}):
        with pytest.raises(ConfigError, match="made of"):
            dataclasses.replace(task, **wrong)  # type: ignore
