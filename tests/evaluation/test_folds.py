from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import danlu
from danlu.base.errors import ConfigError
from danlu.data.answers import Answer
from danlu.data.examples import Answer as Gold
from danlu.data.examples import ClassifyExample, Placed, SpanExample
from danlu.evaluation.answerers.choosing import Asking, answerer_of
from danlu.evaluation.folds import Method, cross_validate, split
from danlu.evaluation.samples import read_samples
from danlu.tasks.base import Task
from danlu.tasks.loading import find_task

CLASSIFY = find_task("classify")
WORDS = ["river", "hill", "stone", "wind", "rain"]


def texts_of(folder: Path) -> list[str]:
    return [str(sample.given["text"]) for sample in read_samples(folder / "evaluation" / "classify-unseen" / "samples.jsonl")]


def labelled(count: int) -> list[Placed]:
    """Texts in two classes that a word tells apart, a quarter of them twice."""
    draw = np.random.default_rng(5)
    rows = []
    for number in range(count):
        label = "old" if number % 3 else "new"
        text = f"{label} {' '.join(draw.choice(WORDS, 3))} {number - (number % 4 == 3) * 3}"
        rows.append(Placed(file="rows", line=number + 1, example=ClassifyExample(text=text, label=label)))
    return rows


def test_folds_have_equal_shares_of_each_class_and_an_input_is_in_one_of_them() -> None:
    twice = [ClassifyExample(text=f"{number // 2}", label=str(number // 2 % 5 == 0)) for number in range(400)]
    parts = split(CLASSIFY, twice, 5, seed=0)
    assert sorted(np.concatenate(parts).tolist()) == list(range(400))
    for part in parts:
        texts = Counter(twice[place].text for place in part)
        assert set(texts.values()) == {2}
        assert 70 <= len(part) <= 90 and 14 <= sum(twice[place].label == "True" for place in part) <= 18
    assert [part.tolist() for part in split(CLASSIFY, twice, 5, seed=0)] == [part.tolist() for part in parts]
    assert [part.tolist() for part in split(CLASSIFY, twice, 5, seed=1)] != [part.tolist() for part in parts]


def test_questions_to_one_context_stay_together() -> None:
    task = Task(name="questions", kind="span", what="")
    asked = [SpanExample(context=f"c {n // 3}", question=f"q {n}", answers=(Gold(text="c", start=0),)) for n in range(60)]
    for part in split(task, asked, 4, seed=0):
        assert all(count == 3 for count in Counter(asked[place].context for place in part).values())


@pytest.mark.parametrize(("folds", "rows", "reason"), [(1, 40, "expected 2 to"), (99, 40, "expected 2 to"), (8, 15, "rarest label")])
def test_too_few_rows_are_refused(folds: int, rows: int, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        split(CLASSIFY, [each.example for each in labelled(rows)], folds, seed=0)


@pytest.mark.parametrize("method", ["average", "bagging", "boosting"])
def test_each_row_is_measured_by_those_who_had_not_seen_it_and_all_answer_together(method: Method, tmp_path: Path) -> None:
    examples, learnt = labelled(90), dict[str, list[str]]()

    def learn(rows: Path, name: str) -> str:
        learnt[name] = [json.loads(line)["text"] for line in rows.read_text().splitlines()]
        return danlu.train("rnn/gru-nano", task="classify", data=rows, steps=25, runs=tmp_path, name=name, threads=1).run

    made = cross_validate(CLASSIFY, examples, tmp_path, learn, folds=3, method=method, seed=0)
    assert made.mean == pytest.approx(np.mean(made.members)) and made.mean > 0.6
    texts = Counter(texts_of(tmp_path))
    assert all(count <= 2 for count in texts.values())
    if method == "average":
        assert len(made.members) == 3 and sum(texts.values()) == 90
        assert all(set(learnt[name]) < {each.example.text for each in examples} for name in learnt)  # type: ignore[union-attr]
    for number in range(1, len(made.members) + 1):
        member = set(texts_of(tmp_path / f"member-{number}"))
        assert member and not member & set(learnt[f"member-{number}"])
    if method == "bagging":
        assert max(Counter(learnt["member-1"]).values()) > 2 and len(learnt["member-1"]) == 90
    ensemble = answerer_of(str(tmp_path), CLASSIFY, Asking())
    answers = ensemble.answer([ClassifyExample(text=text, label="") for text in ("old river", "old wind rain")])
    assert [answer.label for answer in answers if isinstance(answer, Answer)] == ["old", "old"]


def test_boosting_draws_what_was_wrong_more_often(tmp_path: Path) -> None:
    drawn, hard, rows = list[Counter[str]](), set[str](), list[Placed]()
    for each in labelled(60):
        assert isinstance(each.example, ClassifyExample)
        if each.line <= 30 and each.line % 5 == 0:  # with the wrong label
            hard.add(each.example.text)
            each = replace(each, example=replace(each.example, label="new" if each.example.label == "old" else "old"))
        rows.append(each)

    def learn(file: Path, name: str) -> str:
        drawn.append(Counter(json.loads(line)["text"] for line in file.read_text().splitlines()))
        return danlu.train("rnn/gru-nano", task="classify", data=file, steps=30, runs=tmp_path, name=name, threads=1).run

    cross_validate(CLASSIFY, rows, tmp_path, learn, folds=3, method="boosting", seed=0)
    shares = [sum(each[text] for text in hard) / sum(each.values()) for each in drawn]
    assert len(shares) > 1 and max(shares[1:]) > 1.5 * shares[0]
