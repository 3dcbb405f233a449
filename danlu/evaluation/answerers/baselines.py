"""Answers without a Transformer, so that every figure has one beside it that costs nothing: counted words, dictionaries, rules."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier

from danlu.base.errors import ConfigError, DataError
from danlu.data.answers import Answer, Refused
from danlu.data.choices import ChoiceExample, RetrieveExample
from danlu.data.conversations import ChatExample
from danlu.data.examples import (
    ClassifyExample,
    Example,
    LabelExample,
    RegressExample,
    TranslateExample,
    input_of,
    label_names,
)
from danlu.evaluation.answerers.base import Answerer
from danlu.evaluation.answerers.dictionary import NameDictionary, TagDictionary, has_names
from danlu.evaluation.answerers.overlap import WordOverlap
from danlu.evaluation.answerers.word_features import Words, fitted, words_for
from danlu.tasks.base import Task

STRENGTH = 10.0  # C of the logistic regression: how little its weights are held back; chosen on training parts
HELD_BACK = 1.0  # alpha of the ridge regression
AT_ONCE = 256  # rows compared with all others at once


def baseline(task: Task, train: Sequence[Example], words: Words | None = None) -> Answerer:
    """Who answers a task's examples after training on these; `words` says what texts are counted by, else their script does.

    Spans and choices need no training. What is to be retrieved is `train`, or what the answerer's fit is given.

    Raises: ConfigError if there is nothing to train on, or the task's rows must not be; DataError if all of it is of one class.
    """
    if task.kind == "span":
        return WordOverlap()
    if task.kind == "choice":
        return LongestChoice()
    if task.kind == "retrieve":
        return Search(words).fit(train) if train else Search(words)
    if task.test_share == 1:
        raise ConfigError(
            f"the rows of --task {task.name} measure only, and a baseline would learn from them what it is asked; take another task"
        )
    if not train:
        raise ConfigError(f"a baseline of --task {task.name} learns from examples and there are none; give it the training part")
    if task.kind == "label":
        tagged = [example for example in train if isinstance(example, LabelExample)]
        return NameDictionary(tagged) if has_names(label_names(tagged)) else TagDictionary(tagged)
    if task.kind == "classify":
        return Classes(train, words)
    return Numbers(train, words) if task.kind == "regress" else Nearest(train, words)


class Classes:
    """Logistic regression on what a text's words or characters weigh (TF-IDF)."""

    def __init__(self, train: Sequence[Example], words: Words | None = None) -> None:
        records = [example for example in train if isinstance(example, ClassifyExample)]
        texts = [text_of(example) for example in records]
        self.labels = label_names(records)
        if len(self.labels) < 2:
            raise DataError(f"all training examples are of the class {', '.join(self.labels)}; expected two classes or more")
        words = words or words_for(texts)
        self.name = f"TF-IDF of {words}, logistic regression"
        self.vectors = fitted(words, texts)
        numbers = {label: number for number, label in enumerate(self.labels)}
        targets = np.array([numbers[example.label] for example in records])
        # Solved in its dual form, a class at a time: with more features than texts 20 to 40 times as fast as all classes in one.
        single = LogisticRegression(C=STRENGTH, solver="liblinear", dual=True, max_iter=1000, random_state=0)
        self.model = (single if len(self.labels) == 2 else OneVsRestClassifier(single)).fit(self.vectors.transform(texts), targets)

    def answer(self, examples: Sequence[Example]) -> list[Answer | Refused]:
        if not examples:
            return []
        shares = self.model.predict_proba(self.vectors.transform([text_of(example) for example in examples]))
        return [Answer(label=self.labels[int(row.argmax())], scores=tuple(map(float, row))) for row in shares]


class Numbers:
    """Ridge regression on what a text's words or characters weigh (TF-IDF)."""

    labels: tuple[str, ...] = ()

    def __init__(self, train: Sequence[Example], words: Words | None = None) -> None:
        records = [example for example in train if isinstance(example, RegressExample)]
        texts = [text_of(example) for example in records]
        words = words or words_for(texts)
        self.name = f"TF-IDF of {words}, ridge regression"
        self.vectors = fitted(words, texts)
        self.model = Ridge(alpha=HELD_BACK).fit(self.vectors.transform(texts), [example.label for example in records])

    def answer(self, examples: Sequence[Example]) -> list[Answer | Refused]:
        if not examples:
            return []
        values = self.model.predict(self.vectors.transform([text_of(example) for example in examples]))
        return [Answer(value=float(value)) for value in values]


class Nearest:
    """The answer of the training example whose input is most alike (cosine of TF-IDF), the first of equals."""

    labels: tuple[str, ...] = ()

    def __init__(self, train: Sequence[Example], words: Words | None = None) -> None:
        texts = [text_of(example) for example in train]
        words = words or words_for(texts)
        self.name = f"TF-IDF of {words}, nearest training example"
        self.vectors = fitted(words, texts)
        self.known = self.vectors.transform(texts).T.tocsc()
        self.answers = [_said(example) for example in train]

    def answer(self, examples: Sequence[Example]) -> list[Answer | Refused]:
        found = list[Answer | Refused]()
        for start in range(0, len(examples), AT_ONCE):
            asked = self.vectors.transform([text_of(example) for example in examples[start : start + AT_ONCE]])
            found += [Answer(text=self.answers[int(place)]) for place in np.asarray((asked @ self.known).argmax(axis=1)).ravel()]
        return found


class Search:
    """Documents by the cosine of their TF-IDF with the query's; those that several rows share are one document.

    Characters are counted where nothing else is asked for: they find a document whose words have other endings.
    """

    labels: tuple[str, ...] = ()

    def __init__(self, words: Words | None = None) -> None:
        self.words: Words = words or "chars"
        self.name = f"TF-IDF of {self.words}, cosine"
        self.places = dict[str, int]()

    def fit(self, examples: Sequence[Example]) -> Search:
        """Take the documents of all these examples to search in. Raises: ConfigError if they have none."""
        documents = list(dict.fromkeys(example.document for example in examples if isinstance(example, RetrieveExample)))
        if not documents:
            raise ConfigError("there are no documents to search in; give examples with query and document")
        self.vectors = fitted(self.words, documents)
        self.known = self.vectors.transform(documents).T.tocsr()
        self.places = {document: place for place, document in enumerate(documents)}
        return self

    def answer(self, examples: Sequence[Example]) -> list[Answer | Refused]:
        """The rank of each one's document, from 1; documents that are as like the query count as before it."""
        found = list[Answer | Refused]()
        for start in range(0, len(examples), AT_ONCE):
            found += self._ranks(examples[start : start + AT_ONCE])
        return found

    def _ranks(self, examples: Sequence[Example]) -> list[Answer | Refused]:
        found: list[Answer | Refused] = [Refused(reason="its document is not among those that are searched") for _ in examples]
        known = [
            (number, example.query, self.places[example.document])
            for number, example in enumerate(examples)
            if isinstance(example, RetrieveExample) and example.document in self.places
        ]
        if known:
            likeness = (self.vectors.transform([query for _, query, _ in known]) @ self.known).toarray()
            for row, (number, _, place) in zip(likeness, known, strict=True):
                found[number] = Answer(value=float((row >= row[place]).sum()))
        return found


class LongestChoice:
    """The choice with the most characters, the first of equals; scores are shares of all choices' characters."""

    name = "longest choice"
    labels: tuple[str, ...] = ()

    def answer(self, examples: Sequence[Example]) -> list[Answer | Refused]:
        return [_longest(example) if isinstance(example, ChoiceExample) else Refused(reason="it has no choices") for example in examples]


def _longest(example: ChoiceExample) -> Answer:
    sizes = [len(choice) for choice in example.choices]
    return Answer(label=str(sizes.index(max(sizes))), scores=tuple(size / sum(sizes) for size in sizes))


def text_of(example: Example) -> str:
    """All that a model is given of an example, as one text."""
    return "\n".join(text for text in input_of(example) if text)


def _said(example: Example) -> str:
    if isinstance(example, TranslateExample):
        return example.target
    assert isinstance(example, ChatExample), "other kinds have answerers of their own"
    return example.messages[example.last][1]
