"""A task: one value that training, evaluation, examples in a prompt, the server and the command line all use."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from danlu.base.errors import ConfigError
from danlu.data.choices import ChoiceExample
from danlu.data.conversations import ChatExample
from danlu.data.examples import (
    ClassifyExample,
    Example,
    Kind,
    LabelExample,
    RegressExample,
    SpanExample,
    TranslateExample,
)
from danlu.data.fields import Row

# How an example is put to a language model where a task does not say it, by kind.
PROMPTS: Mapping[Kind, str] = {
    "classify": "{text}\nLabel:",
    "regress": "{text}\nNumber:",
    "label": "{text}\nTags:",
    "span": "{context}\nQuestion: {question}\nAnswer:",
    "translate": "{source}\n",
    "chat": "{text}",
    "choice": "{prompt}",
    "retrieve": "{query}",
}
# The figure that counts most where a task does not say it, by kind; evaluation/figures.py computes these and more.
SCORES: Mapping[Kind, str] = {
    "classify": "accuracy",
    "regress": "spearman",
    "label": "accuracy",
    "span": "f1",
    "translate": "exact_match",
    "chat": "exact_match",
    "choice": "accuracy",
    "retrieve": "ndcg_at_10",
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """Something that a model is asked to do, and how it is measured.

    `rows` reads the data that the catalog knows under `source` and gives rows with the fields of the task's kind; without a source the
    data is the user's own. `test_share` of the rows measure and are never trained on: 1 where all of them do, 0 where there are folds only.
    A task that is `made_of` others has `remake` turn each of their examples into a row: its training part is made of their training
    parts and its test part of their test parts, so that what measures one of them was never trained on by way of the other.
    `prompt` puts an example to a language model, with the example's own fields in braces; `words` says what labels are called there.
    """

    name: str
    kind: Kind
    what: str
    source: str | None = None
    rows: Callable[[Path], Iterable[Row]] | None = None
    made_of: tuple[Task, ...] = ()
    remake: Callable[[Task, Example], Row] | None = None
    test_share: float = 0.2
    score: str = ""
    language: str = ""
    prompt: str = ""
    words: Mapping[str, str] = field(default_factory=dict)
    citation: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", self.prompt or PROMPTS[self.kind])
        object.__setattr__(self, "score", self.score or SCORES[self.kind])
        if (self.source is None) != (self.rows is None):
            raise ConfigError(f"the task {self.name} has a source or a way to read its rows, but not both")
        if bool(self.made_of) != (self.remake is not None) or (self.made_of and self.source is not None):
            raise ConfigError(f"the task {self.name} has tasks that it is made of and a way to remake them, or a source, or neither")
        if not 0 <= self.test_share <= 1:
            raise ConfigError(f"the task {self.name} has a test_share of {self.test_share:g}; expected 0 to 1")

    @property
    def sources(self) -> tuple[str, ...]:
        """The catalog's names of all data that the task brings; none if the data is the user's own."""
        own = (self.source,) if self.source is not None else ()
        return tuple(dict.fromkeys([*own, *(name for task in self.made_of for name in task.sources)]))

    def ask(self, example: Example) -> str:
        """The prompt that puts an example to a language model; the answer goes on behind it."""
        return _Fields().format(self.prompt, **_told(example))

    def answer(self, example: Example) -> str:
        """What should stand behind the prompt, without the space between them."""
        if isinstance(example, ClassifyExample):
            return self.words.get(example.label, example.label)
        if isinstance(example, RegressExample):
            return f"{example.label:g}"
        if isinstance(example, ChoiceExample):
            return example.choices[example.answer]
        if isinstance(example, SpanExample):
            return example.answers[0].text if example.answers else ""
        if isinstance(example, LabelExample):
            return " ".join(example.tags)
        if isinstance(example, TranslateExample):
            return example.target
        if isinstance(example, ChatExample):
            return example.messages[example.last][1]
        return example.document

    def choices(self, example: Example, labels: Iterable[str]) -> tuple[str, ...]:
        """What may stand behind the prompt, in the order of the labels or choices; nothing where any text may."""
        if isinstance(example, ChoiceExample):
            return example.choices
        return tuple(self.words.get(label, label) for label in labels) if isinstance(example, ClassifyExample) else ()


class _Fields(string.Formatter):
    """Names only: nothing of an object can be reached from a prompt."""

    def get_field(self, field_name: str, args: object, kwargs: Mapping[str, str]) -> tuple[str, str]:  # type: ignore[override]
        if field_name not in kwargs:
            raise ConfigError(f"a prompt asks for {{{field_name}}}; its examples have {', '.join(kwargs)}")
        return kwargs[field_name], field_name


def _told(example: Example) -> dict[str, str]:
    """An example's texts by name; `text` is all that it tells, where it has no field of that name."""
    told = {name: value for name in example.__dataclass_fields__ if isinstance(value := getattr(example, name), str)}
    if isinstance(example, ClassifyExample | RegressExample):
        told["pair"] = example.pair or ""
    if isinstance(example, LabelExample):
        told["text"] = " ".join(example.tokens)
    if isinstance(example, ChatExample):
        told["text"] = "\n\n".join(content for role, content in example.messages if role != "assistant")
    told.pop("label", None)
    return told
