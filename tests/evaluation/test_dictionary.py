from __future__ import annotations

from collections.abc import Callable

import pytest
from seqeval.metrics import f1_score
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB2

from danlu.data.answers import Answer
from danlu.data.examples import ClassifyExample, Examples, LabelExample
from danlu.evaluation.answerers.dictionary import NameDictionary, TagDictionary, has_names, names_in
from danlu.tasks.parts import Part


def tagged(text: str, **names: str) -> LabelExample:
    """Characters with the tags of the names that stand in the text."""
    tags = ["O"] * len(text)
    for name, kind in names.items():
        start = text.index(name)
        tags[start : start + len(name)] = [f"B-{kind}"] + [f"I-{kind}"] * (len(name) - 1)
    return LabelExample(tokens=tuple(text), tags=tuple(tags))


def found(dictionary: NameDictionary, text: str) -> list[str]:
    (answer,) = dictionary.answer([LabelExample(tokens=tuple(text), tags=("O",) * len(text))])
    assert isinstance(answer, Answer) and len(answer.tags) == len(text)
    return [f"{text[start:end]}/{kind}" for start, end, kind in names_in(answer.tags)]


@pytest.mark.parametrize(
    "tags", ["", "O", "B-A", "B-A I-A O B-B", "B-A B-A I-A", "I-A I-A O", "B-A I-B I-B", "O I-B B-B I-A I-A B-A", "B-A I-A"]
)
def test_stretches_are_read_as_seqeval_reads_them(tags: str) -> None:
    assert list(names_in(tags.split())) == [(start, end + 1, kind) for kind, start, end in get_entities(tags.split())]


def test_the_longest_name_of_training_wins() -> None:
    dictionary = NameDictionary([tagged("在北京开会", 北京="LOC"), tagged("北京大学很大", 北京大学="ORG"), tagged("李白来", 李白="PER")])
    assert found(dictionary, "李白在北京大学，不在北京") == ["李白/PER", "北京大学/ORG", "北京/LOC"]
    assert found(dictionary, "没有") == [] and found(dictionary, "北") == []
    assert dictionary.labels == ("B-LOC", "B-ORG", "B-PER", "I-LOC", "I-ORG", "I-PER", "O")


def test_a_name_that_is_mostly_a_word_is_dropped() -> None:
    rows = [tagged("高走了", 高="PER"), tagged("很高"), tagged("高山"), tagged("李来", 李="PER"), tagged("李子")]
    dictionary = NameDictionary(rows)
    assert found(dictionary, "高") == [] and found(dictionary, "李") == ["李/PER"]  # right in one of three, and in one of two


def test_a_words_most_frequent_tag_and_what_endings_tell() -> None:
    rows = [
        LabelExample(tokens=("The", "dog", "runs", "quickly"), tags=("DET", "NOUN", "VERB", "ADV")),
        LabelExample(tokens=("dog", "dog", "the", "slowly"), tags=("NOUN", "VERB", "DET", "ADV")),
        *[LabelExample(tokens=("it",), tags=("PRON",))] * 9,
    ]
    dictionary = TagDictionary(rows)
    (answer,) = dictionary.answer([LabelExample(tokens=("THE", "dog", "sadly", "sits", "zzz", "x"), tags=("O",) * 6)])
    assert isinstance(answer, Answer)
    assert answer.tags[:4] == ("DET", "NOUN", "ADV", "VERB") and "PRON" not in answer.tags  # as rare words are, not as `it` is
    assert not has_names(dictionary.labels) and has_names(("B-A", "O"))


def test_the_names_of_real_news(part_of: Callable[[str, Part], Examples]) -> None:
    train = [record for record in part_of("names-zh", "train").records if isinstance(record, LabelExample)]
    test = [record for record in part_of("names-zh", "test").records[:1000] if isinstance(record, LabelExample)]
    answers = [answer.tags for answer in NameDictionary(train).answer(test) if isinstance(answer, Answer)]
    assert len(answers) == len(test)
    true, given = [list(record.tags) for record in test], [list(tags) for tags in answers]
    strict = f1_score(true, given, mode="strict", scheme=IOB2)
    assert 0.80 <= strict <= 0.90
    assert strict == f1_score(true, given)  # the answers are sound IOB2


def test_an_example_without_tokens_is_refused() -> None:
    dictionary = TagDictionary([LabelExample(tokens=("a",), tags=("X",))])
    assert not isinstance(dictionary.answer([ClassifyExample(text="a", label="b")])[0], Answer)
