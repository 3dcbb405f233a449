from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest

from danlu.base.errors import ConfigError, DataError
from danlu.data.answers import Answer, Refused
from danlu.data.choices import ChoiceExample, RetrieveExample
from danlu.data.conversations import ChatExample
from danlu.data.examples import ClassifyExample, Example, Examples, LabelExample, RegressExample, TranslateExample
from danlu.evaluation.answerers.baselines import LongestChoice, Search, baseline, text_of
from danlu.tasks.loading import find_task
from danlu.tasks.parts import Part

COLOURS = [
    ClassifyExample(text=f"{word} thing {number}", label=word) for number in range(4) for word in ("red", "green", "blue")
]  # fmt: skip


def answered(found: Sequence[Answer | Refused]) -> list[Answer]:
    assert all(isinstance(answer, Answer) for answer in found)
    return [answer for answer in found if isinstance(answer, Answer)]


def accuracy(name: str, part_of: Callable[[str, Part], Examples], every: int = 1) -> float:
    test = [record for record in part_of(name, "test").records if isinstance(record, ClassifyExample)]
    given = answered(baseline(find_task(name), part_of(name, "train").records[::every]).answer(test))
    assert all(math.isclose(sum(answer.scores), 1) for answer in given)
    return sum(answer.label == record.label for answer, record in zip(given, test, strict=True)) / len(test)


def test_sentiment_and_topics_by_counted_words(part_of: Callable[[str, Part], Examples]) -> None:
    assert accuracy("sentiment-zh", part_of) >= 0.84
    assert accuracy("sentiment-en", part_of) >= 0.79
    assert accuracy("topics-en", part_of, every=3) >= 0.70


def test_scores_stand_in_the_order_of_the_labels() -> None:
    found = baseline(find_task("classify"), COLOURS)
    assert found.labels == ("blue", "green", "red") and found.name == "TF-IDF of words, logistic regression"
    (answer,) = answered(found.answer([ClassifyExample(text="a green thing", label="?")]))
    assert answer.label == "green" and max(answer.scores) == answer.scores[1] and math.isclose(sum(answer.scores), 1)
    two = baseline(find_task("classify"), [example for example in COLOURS if example.label != "red"])
    (answer,) = answered(two.answer([ClassifyExample(text="green", label="?")]))
    assert len(answer.scores) == 2 and answer.scores[1] > 0.5 and answer.label == "green"
    assert found.answer([]) == []


def test_the_same_examples_train_the_same_baseline() -> None:
    asked = [ClassifyExample(text="green or blue", label="?")]
    assert baseline(find_task("classify"), COLOURS).answer(asked) == baseline(find_task("classify"), COLOURS).answer(asked)


def test_a_second_text_counts_too() -> None:
    rows = [ClassifyExample(text="same", pair=word * 3, label=word) for word in ("yes", "no") for _ in range(3)]
    (answer,) = answered(baseline(find_task("classify"), rows).answer([ClassifyExample(text="same", pair="nonono", label="?")]))
    assert answer.label == "no" and text_of(rows[0]) == "same\nyesyesyes"


def test_one_class_and_nothing_to_train_on_are_refused() -> None:
    with pytest.raises(DataError, match="all training examples are of the class red; expected two"):
        baseline(find_task("classify"), COLOURS[:1])
    for kind in ("classify", "regress", "label", "translate", "chat"):
        with pytest.raises(ConfigError, match=f"a baseline of --task {kind} learns from examples and there are none"):
            baseline(find_task(kind), [])


def test_rows_that_only_measure_teach_no_baseline() -> None:
    with pytest.raises(ConfigError, match="the rows of --task sst2 measure only"):
        baseline(find_task("sst2"), COLOURS)


def test_numbers_follow_words() -> None:
    rows = [RegressExample(text=f"{word} {number}", label=value) for number in range(9) for word, value in (("good", 5), ("bad", 1))]
    high, low = answered(
        baseline(find_task("regress"), rows).answer([RegressExample(text="good", label=0), RegressExample(text="bad", label=0)])
    )
    assert 3 < high.value <= 6 and 0 <= low.value < 3


def test_the_longest_choice_is_taken() -> None:
    rows = [ChoiceExample(prompt="q", choices=("a", "bbb", "ccc"), answer=0), ChoiceExample(prompt="q", choices=("aa", "b"), answer=1)]
    first, second = answered(baseline(find_task("choice"), []).answer(rows))
    assert (first.label, second.label) == ("1", "0") and first.scores == pytest.approx((1 / 7, 3 / 7, 3 / 7))
    assert isinstance(LongestChoice().answer(COLOURS[:1])[0], Refused)


def test_boolqs_longest_choice_is_its_most_frequent(part_of: Callable[[str, Part], Examples]) -> None:
    records = [record for record in part_of("boolq", "test").records if isinstance(record, ChoiceExample)]
    given = answered(baseline(find_task("boolq"), ()).answer(records))
    assert sum(answer.label == str(record.answer) for answer, record in zip(given, records, strict=True)) == 2_033


def test_a_document_is_ranked_among_all_that_were_given() -> None:
    rows = [RetrieveExample(query=f"a {word} fruit", document=f"{word} thing") for word in ("red", "green", "blue", "red")]
    search = Search().fit(rows)
    assert [answer.value for answer in answered(search.answer(rows[:3]))] == [1, 1, 1]  # two rows share a document: it counts once
    lost = RetrieveExample(query="???", document="red thing")
    other = RetrieveExample(query="red", document="a document of another folder")
    found = search.answer([other, lost])
    assert isinstance(found[0], Refused) and isinstance(found[1], Answer) and found[1].value == 3  # all are equal: it is the last
    with pytest.raises(ConfigError, match="no documents to search in"):
        Search().fit(COLOURS)
    assert isinstance(Search().answer(rows)[0], Refused)


def test_descriptions_are_found_by_words(part_of: Callable[[str, Part], Examples]) -> None:
    records = part_of("descriptions-en", "test").records
    ranks = [answer.value for answer in answered(baseline(find_task("descriptions-en"), records).answer(records[::20]))]
    assert min(ranks) == 1 and max(ranks) <= 9_290
    assert 0.55 < sum(1 / math.log2(1 + rank) for rank in ranks if rank <= 10) / len(ranks) < 0.70


def test_the_nearest_training_example_answers_where_any_text_may() -> None:
    talks: list[Example] = [
        ChatExample(messages=(("user", f"what colour is the {thing}?"), ("assistant", colour)))
        for thing, colour in (("sky", "blue"), ("grass", "green"))
    ]  # fmt: skip
    asked = ChatExample(messages=(("user", "and the grass?"), ("assistant", "?")))
    assert [answer.text for answer in answered(baseline(find_task("chat"), talks).answer([asked]))] == ["green"]
    pairs = [TranslateExample(source="good morning", target="早上好"), TranslateExample(source="good night", target="晚安")]
    found = baseline(find_task("translate"), pairs).answer([TranslateExample(source="night", target="?")])
    assert [answer.text for answer in answered(found)] == ["晚安"]


def test_tags_choose_between_names_and_single_words() -> None:
    names = [LabelExample(tokens=("李", "白"), tags=("B-PER", "I-PER"))]
    words = [LabelExample(tokens=("a", "dog"), tags=("DET", "NOUN"))]
    assert "names" in baseline(find_task("label"), names).name and "frequent tag" in baseline(find_task("label"), words).name


def test_tasks_need_no_scikit_learn() -> None:
    code = "import sys, danlu.tasks.loading as l; l.tasks(); assert not {'torch', 'sklearn', 'jieba', 'seqeval'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
