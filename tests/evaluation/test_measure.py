from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from danlu.base.errors import ConfigError, DataError
from danlu.data.answers import Answer, Refused
from danlu.data.choices import ChoiceExample
from danlu.data.examples import ClassifyExample, Example, LabelExample, Placed, SetAside, likeness_key
from danlu.evaluation.evaluated import read_evaluation
from danlu.evaluation.measure import measure
from danlu.evaluation.samples import SAMPLES, read_samples
from danlu.tasks.base import Task

GOOD, BAD = ("fine", "lovely", "warm", "好看"), ("dull", "awful", "cold", "难看")
CLASSIFY = Task(name="moods", kind="classify", what="a mood")


def rows(count: int, seed: int = 0, file: str = "moods.jsonl") -> list[Placed]:
    """Texts whose words mostly tell the mood."""
    random = np.random.default_rng(seed)
    found = []
    for line in range(1, count + 1):
        good = random.random() < 0.5
        words = [str(random.choice(GOOD if good == (random.random() < 0.7) else BAD)) for _ in range(3)]
        example = ClassifyExample(text=" ".join([*words, f"n{line}"]), label="good" if good else "bad")
        found.append(Placed(file=file, line=line, example=example))
    return found


class Regression:
    """Counts of words with logistic regression."""

    name = "words"
    prompt_sha256 = "0" * 64

    def __init__(self, examples: Sequence[Placed], strength: float = 1.0) -> None:
        texts, labels = zip(*((row.example.text, row.example.label) for row in examples), strict=True)
        self.words = CountVectorizer(token_pattern=r"\S+", max_features=8)
        self.model = LogisticRegression(C=strength).fit(self.words.fit_transform(texts), labels)
        self.labels = tuple(self.model.classes_)

    def answer(self, examples: Sequence[Example]) -> list[Answer | Refused]:
        if not examples:
            return []
        sure = self.model.predict_proba(self.words.transform([example.text for example in examples]))
        return [Answer(label=self.labels[row.argmax()], scores=tuple(row.tolist())) for row in sure]


class Fixed:
    """Gives the answers that it was made with, by the example's text."""

    name = "fixed"

    def __init__(self, labels: tuple[str, ...], answer: Answer | Refused, others: dict[str, Answer | Refused] | None = None) -> None:
        self.labels, self.usual, self.others = labels, answer, others or {}

    def answer(self, examples: Sequence[Example]) -> list[Answer | Refused]:
        return [self.others.get(getattr(example, "text", ""), self.usual) for example in examples]


RIGHT = Answer(label="good", scores=(0.25, 0.75))


def test_a_small_model_is_measured_and_every_sample_kept(tmp_path: Path) -> None:
    model, tested = Regression(rows(400, seed=1)), rows(300)
    found = measure(CLASSIFY, model, tested, tmp_path, data="moods.jsonl", part="test", licence="CC0", threshold=0.7)
    right = [model.answer([row.example])[0].label == row.example.label for row in tested]
    assert (
        found.main.value == pytest.approx(np.mean(right))
        and found.score == "accuracy"
        and found.main.low < found.main.value < found.main.high
    )
    assert found.subject.prompt_sha256 == "0" * 64 and found.subject.licence == "CC0" and found.examples_per_second > 0
    assert found.environment["scikit-learn"] and found.environment["threads"]
    assert {each.name for each in found.per_class} == {"bad", "good"} and sum(each.rows or 0 for each in found.per_class) == 300
    assert found.confusion is not None and sum(map(sum, found.confusion.counts)) == 300
    assert found.thresholds[0].threshold == 0.7 and found.thresholds[2].f1 == max(each.f1 for each in found.thresholds)
    assert (
        found.curves is not None
        and [line.name for line in found.curves.roc] == ["good"]
        and sum(bin.rows for bin in found.calibration) == 300
    )
    assert {each.by for each in found.slices} == {"length", "script", "class"}
    assert sum(each.rows for each in found.slices if each.by == "class") == 300
    kept = list(read_samples(tmp_path / SAMPLES))
    assert [sample.score for sample in kept] == right and kept[3].text() == tested[3].example.text
    assert kept[3].expected == tested[3].example.label and len(kept[3].answer.scores) == 2 and kept[3].line == 4
    assert not list(tmp_path.glob(".partial*"))


def test_it_reads_back_as_it_was_and_shows_itself(tmp_path: Path) -> None:
    found = measure(CLASSIFY, Regression(rows(100, seed=1)), rows(60), tmp_path, data="moods.jsonl", part="test")
    assert read_evaluation(tmp_path) == found
    first, second, *_ = str(found).splitlines()
    assert first == "words on moods (moods.jsonl, test): 60 rows" and second.startswith("accuracy ")
    assert "<table>" in found._repr_html_()
    with pytest.raises(DataError, match="is not there"):
        read_evaluation(tmp_path / "no")
    (tmp_path / "evaluation.json").write_text('{"format": 9}')
    with pytest.raises(DataError, match="format 9, expected 1"):
        read_evaluation(tmp_path)


def test_the_same_seed_gives_the_same_numbers_however_many_are_asked_at_once(tmp_path: Path) -> None:
    model = Regression(rows(100, seed=1))
    one, other = (
        measure(CLASSIFY, model, rows(90), tmp_path / str(batch), data="d", part="test", batch=batch, seed=5) for batch in (7, 256)
    )
    assert one.figures == other.figures and one.slices == other.slices
    assert (tmp_path / "7" / SAMPLES).read_bytes() == (tmp_path / "256" / SAMPLES).read_bytes()


def test_what_is_wrong_with_the_data_is_counted_and_named(tmp_path: Path) -> None:
    examples = rows(40)
    twice = Placed(file="moods.jsonl", line=41, example=examples[4].example)
    against = ClassifyExample(text=examples[5].example.text, label="bad" if examples[5].example.label == "good" else "good")
    odd = ClassifyExample(text="hm", label="odd")
    long = ClassifyExample(text="long", label="good")

    def stream() -> Iterator[Placed | SetAside]:
        yield from [*examples, twice, Placed(file="moods.jsonl", line=42, example=against)]
        yield SetAside(file="moods.jsonl", line=43, reason="`text` is empty")
        yield Placed(file="moods.jsonl", line=44, example=odd)
        yield Placed(file="moods.jsonl", line=45, example=long)

    others: dict[str, Answer | Refused] = {
        "long": Refused(reason="600 tokens of 512"),
        examples[0].example.text: Answer(label="bad", scores=(1, 0), cut=9),
    }
    model = Fixed(("bad", "good"), RIGHT, others)
    trained_on = {likeness_key(examples[4].example), likeness_key(examples[7].example)}
    checks = measure(CLASSIFY, model, stream(), tmp_path, data="d", part="test", trained_on=trained_on).checks
    assert (checks.rows, checks.scored, checks.set_aside, checks.refused, checks.cut, checks.cut_tokens) == (45, 42, 2, 1, 1, 9)
    assert (checks.duplicates, checks.contradictions, checks.leaks) == (2, 1, 3)
    assert checks.first_duplicates == ("moods.jsonl:41 repeats moods.jsonl:5", "moods.jsonl:42 repeats moods.jsonl:6")
    assert checks.first_leaks == ("moods.jsonl:5", "moods.jsonl:8", "moods.jsonl:41")
    assert checks.first_set_aside[1] == "moods.jsonl:44: the label 'odd' is none that fixed knows (bad, good)"
    assert checks.first_refused == ("moods.jsonl:45: 600 tokens of 512",)


def test_too_many_unknown_labels_stop_it_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"moods: 20 of 20 rows cannot be used .*moods.jsonl:1: the label '(good|bad)' is none that fixed knows"
    ):
        measure(CLASSIFY, Fixed(("x", "y"), RIGHT), rows(20), tmp_path, data="moods", part="test")
    with pytest.raises(DataError, match="no row for classify"):
        measure(CLASSIFY, Fixed(("bad", "good"), RIGHT), [], tmp_path, data="moods", part="test")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(label="good", scores=(math.nan, 0.5)), "scores that are no numbers"),
        (Answer(label="good", scores=(0.5, 0.9)), "add up to 1.4"),
        (Answer(label="good", scores=(1.0,)), "1 scores; expected 2"),
        (Answer(label="what", scores=(0.5, 0.5)), "'what'; expected one of bad, good"),
    ],
)
def test_an_answer_that_is_none_is_named(answer: Answer, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^moods.jsonl:3: fixed answered ") as raised:
        examples = rows(5)
        model = Fixed(("bad", "good"), RIGHT, {examples[2].example.text: answer})
        measure(CLASSIFY, model, examples, tmp_path, data="d", part="test")
    assert said in str(raised.value) and list(tmp_path.iterdir()) == []


def test_numbers_ranks_and_tags_that_are_none_are_named(tmp_path: Path) -> None:
    label = Task(name="tags", kind="label", what="tags")
    row = Placed(file="t", line=1, example=LabelExample(tokens=("a", "b"), tags=("O", "O")))
    with pytest.raises(DataError, match="t:1: fixed answered 1 tags to 2 tokens"):
        measure(label, Fixed(("O",), Answer(tags=("O",))), [row], tmp_path, data="d", part="test")


def test_choices_of_any_number_are_measured(tmp_path: Path) -> None:
    task = Task(name="quiz", kind="choice", what="a quiz")
    stream = [
        Placed(file="q", line=n, example=ChoiceExample(prompt=f"q{n}", choices=("x", "y", "z")[: 2 + n % 2], answer=n % 2))
        for n in range(1, 9)
    ]
    found = measure(task, Fixed((), Answer(label="1", scores=())), stream, tmp_path, data="d", part="test")
    assert found.main.value == 0.5 and set(found.figures) == {"accuracy"}
    assert next(read_samples(tmp_path / SAMPLES)).wanted() == "y"


def test_one_class_only_is_said_and_the_wanted_figure_replaced(tmp_path: Path) -> None:
    only = [row for row in rows(40) if row.example.label == "good"]
    found = measure(CLASSIFY, Fixed(("bad", "good"), RIGHT), only, tmp_path, data="d", part="test", score="roc_auc")
    assert found.score == "accuracy" and "roc_auc" not in found.figures
    assert any("roc_auc cannot be told" in said for said in found.warnings) and any("one class, good" in said for said in found.warnings)
    with pytest.raises(ConfigError, match="'bleu' is none of classify; expected accuracy, mcc"):
        measure(CLASSIFY, Fixed(("bad", "good"), RIGHT), only, tmp_path, data="d", part="test", score="bleu")


@pytest.mark.parametrize(("count", "away"), [(30, "0.1 away"), (2, "1 away")])
def test_an_interval_without_width_says_how_far_the_truth_may_lie(count: int, away: str, tmp_path: Path) -> None:
    """Of 30 rows that are all right the share may truly be 0.905: 0.905 ** 30 is 5%."""
    tested = [Placed(file="a", line=line, example=ClassifyExample(text=str(line), label="good")) for line in range(count)]
    found = measure(CLASSIFY, Fixed(("bad", "good"), RIGHT), tested, tmp_path, data="moods.jsonl", part="test", score="accuracy")
    (said,) = [warning for warning in found.warnings if "no width" in warning]
    assert found.main.low == found.main.high == 1 and said.endswith(f"in {count} rows, the truth may lie {away} (95%)")
    mixed = measure(CLASSIFY, Fixed(("bad", "good"), RIGHT), rows(40), tmp_path, data="moods.jsonl", part="test")
    assert not [warning for warning in mixed.warnings if "no width" in warning]


def test_an_older_evaluation_is_replaced_whole_and_kept_if_the_new_one_fails(tmp_path: Path) -> None:
    measure(CLASSIFY, Fixed(("bad", "good"), RIGHT), rows(30), tmp_path, data="d", part="test")
    before = read_evaluation(tmp_path)
    with pytest.raises(DataError):
        measure(CLASSIFY, Fixed(("x", "y"), RIGHT), rows(20), tmp_path, data="d", part="test")
    assert read_evaluation(tmp_path) == before and len(list(read_samples(tmp_path / SAMPLES))) == 30
    measure(CLASSIFY, Fixed(("bad", "good"), RIGHT), rows(20), tmp_path, data="d", part="test")
    assert read_evaluation(tmp_path).checks.rows == len(list(read_samples(tmp_path / SAMPLES))) == 20


@pytest.mark.parametrize("given", [{"limit": 0}, {"batch": 0}])
def test_counts_that_are_none_are_refused(given: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="came as 0; expected at least 1"):
        measure(CLASSIFY, Fixed(("bad", "good"), RIGHT), rows(5), tmp_path, data="d", part="test", **given)


def test_limit_takes_the_first_rows_and_asks_no_more(tmp_path: Path) -> None:
    stream = iter(rows(50))
    found = measure(CLASSIFY, Fixed(("bad", "good"), RIGHT), stream, tmp_path, data="d", part="test", limit=10)
    assert found.checks.rows == 10 and next(stream).line == 11


def test_samples_are_lines_of_json_that_say_what_is_wrong_with_them(tmp_path: Path) -> None:
    measure(CLASSIFY, Fixed(("bad", "good"), RIGHT), rows(3), tmp_path, data="d", part="test")
    row = json.loads((tmp_path / SAMPLES).read_text("utf-8").splitlines()[0])
    assert list(row) == ["file", "line", "key", "input", "expected", "answer", "score"] and row["answer"]["scores"] == [0.25, 0.75]
    (tmp_path / SAMPLES).write_text("{}\n")
    with pytest.raises(DataError, match=r"samples.jsonl:1 is no sample"):
        list(read_samples(tmp_path / SAMPLES))
