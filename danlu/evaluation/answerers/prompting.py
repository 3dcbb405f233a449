"""A language model as an answerer: examples put to it as prompts, solved ones before them, read by likelihoods or by what it writes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import numpy as np

from danlu.base.errors import ConfigError, RequestError
from danlu.data.answers import Answer, Refused
from danlu.data.conversations import ChatExample
from danlu.data.examples import Example, Kind
from danlu.evaluation.answerers.shots import Shots, ShotsBy
from danlu.evaluation.answerers.speaking import Speaker
from danlu.inference.likelihood import Scored
from danlu.inference.remote import Said
from danlu.tasks.base import Task

JOINED = "\n\n"  # between examples of a prompt, as EleutherAI's lm-eval joins them
# Most tokens of a written answer, and what ends it, by kind; conversations end by the model's own template.
WRITTEN: dict[Kind, tuple[int, tuple[str, ...]]] = {
    "classify": (16, ("\n",)),
    "choice": (64, ("\n",)),
    "span": (48, ("\n",)),
    "translate": (256, (JOINED,)),
    "chat": (512, ()),
}
CHOSEN = ("classify", "choice")  # kinds whose answer is one of several

By = Literal["sum", "mean", "generation"]


@dataclass(frozen=True, kw_only=True)
class Prompting:
    """How a language model is asked.

    `by` chooses among labels or choices by the log-likelihood summed over tokens, by that divided by the choice's characters (lm-eval's
    acc and acc_norm), or takes the first that the model writes. Other kinds are always written.
    """

    shots: int = 0
    shots_by: ShotsBy = "random"
    by: By = "sum"
    max_tokens: int | None = None  # of what is written; none: what suits the kind
    seed: int = 0

    def __post_init__(self) -> None:
        if self.by not in get_args(By):
            raise ConfigError(f"by came as {self.by!r}; expected {', '.join(get_args(By))}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ConfigError(f"max_tokens came as {self.max_tokens}; expected at least 1")


class Prompted:
    """Answers examples of a task by prompting. `prompt_sha256` is the same where prompts are made alike.

    Scores are the softmax of what `by` compares; of written answers 1 for the one that was found, and where none of them is found, which
    is a wrong answer and no refusal, `label` is empty and all have the same.
    """

    def __init__(
        self, task: Task, speaker: Speaker, labels: Sequence[str] = (), pool: Sequence[Example] = (), how: Prompting | None = None
    ) -> None:
        """`labels` are a classification's; shots are drawn from `pool`.

        Raises: ConfigError if the task cannot be prompted, two labels are one word there, or there are too few examples for the shots.
        """
        self.task, self.speaker, self.how = task, speaker, how or Prompting()
        self.labels = tuple(labels) if task.kind == "classify" else ()
        if task.kind not in WRITTEN:
            raise ConfigError(f"the task {task.name} ({task.kind}) cannot be put as a prompt; expected {', '.join(WRITTEN)}")
        words = [task.words.get(label, label) for label in self.labels]
        if task.kind == "classify" and (len(words) < 2 or len(set(words)) < len(words) or not all(map(str.strip, words))):
            raise ConfigError(f"the labels of {task.name} are called {', '.join(words) or 'nothing'}; expected two or more different words")
        answered = [example for example in pool if task.answer(example).strip()]
        self.shots = Shots(answered, self.how.shots, self.how.shots_by, self.how.seed)
        told = "" if not self.how.shots else f", {self.how.shots} {self.how.shots_by} shots"
        self.name = f"{speaker.name}{told}" + (f", by {self.how.by}" if task.kind in CHOSEN else "")
        settings = asdict(self.how) | {"template": task.prompt, "words": dict(task.words), "labels": self.labels, "joined": JOINED}
        self.prompt_sha256 = hashlib.sha256(json.dumps(settings, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    def answer(self, examples: Sequence[Example]) -> list[Answer | Refused]:
        """Answers in the examples' order. Raises: RequestError if the model or endpoint cannot be asked at all."""
        if self.task.kind in CHOSEN and self.how.by != "generation":
            pairs = [self._pair(example) for example in examples]
            found = self.speaker.score(pairs)
            return [self._likeliest(example, one) for example, one in zip(examples, found, strict=True)]
        most, stop = WRITTEN[self.task.kind]
        most = self.how.max_tokens or most
        if self.task.kind == "chat":
            said = self.speaker.chat([self.messages(example) for example in examples], most)
        else:
            said = self.speaker.generate([self.prompt(example) for example in examples], most, stop)
        return [self._written(example, one) for example, one in zip(examples, said, strict=True)]

    def prompt(self, example: Example) -> str:
        """All that a model reads before it answers: solved examples, and the one that is asked."""
        asked = [(self.task.ask(shot), self.task.answer(shot)) for shot in self.shots.draw(example)]
        return JOINED.join([*(prompt + behind(prompt, answer) for prompt, answer in asked), self.task.ask(example)])

    def messages(self, example: Example) -> list[dict[str, str]]:
        """A conversation up to the answer; solved ones stand before it, behind its own instructions to the system."""
        asked = _until_answer(example, answered=False)
        shown = [turn for shot in self.shots.draw(example) for turn in _until_answer(shot, answered=True) if turn[0] != "system"]
        system = [turn for turn in asked if turn[0] == "system"]
        return [{"role": role, "content": content} for role, content in [*system, *shown, *(turn for turn in asked if turn[0] != "system")]]

    def _pair(self, example: Example) -> tuple[str, list[str]]:
        prompt = self.prompt(example)
        return prompt, [behind(prompt, choice) for choice in self.task.choices(example, self.labels)]

    def _likeliest(self, example: Example, found: Sequence[Scored] | RequestError) -> Answer | Refused:
        if isinstance(found, RequestError):
            return Refused(reason=str(found))
        choices = self.task.choices(example, self.labels)
        sizes = [len(choice) if self.how.by == "mean" else 1 for choice in choices]
        values = np.array([one.nats / size for one, size in zip(found, sizes, strict=True)])
        best = int(values.argmax())
        shares = np.exp(values - values[best])
        return Answer(label=self._label(best), scores=tuple((shares / shares.sum()).tolist()), cut=max(one.cut for one in found))

    def _written(self, example: Example, said: Said | RequestError) -> Answer | Refused:
        if isinstance(said, RequestError):
            return Refused(reason=str(said))
        text = said.text.strip()
        if self.task.kind not in CHOSEN:
            return Answer(text=text, cut=said.cut)
        choices = self.task.choices(example, self.labels)
        place = first_named(text, choices)
        scores = [1 / len(choices)] * len(choices) if place is None else [float(one == place) for one in range(len(choices))]
        return Answer(label="" if place is None else self._label(place), scores=tuple(scores), text=text, cut=said.cut)

    def _label(self, place: int) -> str:
        return self.labels[place] if self.task.kind == "classify" else str(place)


def behind(prompt: str, answer: str) -> str:
    """An answer as it stands behind a prompt: after one space, as lm-eval has it, but none after a space or where none is written."""
    return answer if prompt[-1:].isspace() or not prompt[-1:].isascii() else f" {answer}"


def first_named(text: str, choices: Sequence[str]) -> int | None:
    """Which of the choices comes first in a text, as words of their own, of two in one place the longer; none if none does."""
    text, found = text.casefold(), list[tuple[int, int, int]]()
    for place, choice in enumerate(choices):
        name = choice.strip().casefold()
        begins, ends = (r"(?<![0-9a-z])" if name[:1].isascii() else ""), (r"(?![0-9a-z])" if name[-1:].isascii() else "")
        there = re.search(begins + re.escape(name) + ends, text)
        if there is not None:
            found.append((there.start(), -len(name), place))
    return min(found)[2] if found else None


def _until_answer(example: Example, answered: bool) -> tuple[tuple[str, str], ...]:
    """A conversation's turns before the assistant's last, or up to it."""
    assert isinstance(example, ChatExample)
    return example.messages[: example.last + answered]
