"""Every sample in a file: what was asked, what should have been answered and what was, with a score; one JSON object a line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xxhash

from danlu.base.errors import DataError
from danlu.data.answers import OUTSIDE, Answer
from danlu.data.choices import ChoiceExample, RetrieveExample
from danlu.data.conversations import ChatExample
from danlu.data.examples import (
    ClassifyExample,
    Example,
    LabelExample,
    Placed,
    RegressExample,
    SpanExample,
    TranslateExample,
    input_key,
)
from danlu.evaluation.scores.figures import Expected

SAMPLES = "samples.jsonl"
OWN_ANSWER = ("label", "tags", "answers", "target", "answer")  # fields that hold what should be answered, and are told as `expected`


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One line of the file. `key` is a hash of all that the model was given; `score` is the sample's own."""

    file: str
    line: int
    key: int
    given: Mapping[str, Any]
    expected: Expected
    answer: Answer
    score: float

    def text(self) -> str:
        """What was asked, for people."""
        return text_of(self.given)

    def told(self) -> str:
        """What was answered, for people."""
        answer = self.answer
        choices = self.given.get("choices")
        if choices and answer.label.isdecimal() and int(answer.label) < len(choices):
            return str(choices[int(answer.label)])
        return answer.text or answer.label or self._tagged(answer.tags) or ("" if math.isnan(answer.value) else f"{answer.value:g}")

    def wanted(self) -> str:
        """What should have been answered, for people."""
        choices = self.given.get("choices")
        if choices and isinstance(self.expected, int):
            return str(choices[self.expected])
        if isinstance(self.expected, str | int | float):
            return f"{self.expected:g}" if isinstance(self.expected, float) else str(self.expected)
        return self._tagged(self.expected) if "tokens" in self.given else " | ".join(self.expected)

    def _tagged(self, tags: Sequence[str]) -> str:
        """Tokens that have a tag, with it."""
        tokens = self.given.get("tokens", ())
        return " ".join(f"{token}/{tag}" for token, tag in zip(tokens, tags, strict=False) if tag != OUTSIDE)

    def sureness(self) -> float:
        """How sure the model was of its answer; NaN if it does not say."""
        return max(self.answer.scores, default=math.nan)


def expected_of(example: Example) -> Expected:
    """What should be answered: a label, a number, a choice's number, tags, texts of which any will do, or a text."""
    if isinstance(example, ClassifyExample | RegressExample):
        return example.label
    if isinstance(example, LabelExample):
        return list(example.tags)
    if isinstance(example, SpanExample):
        return [answer.text for answer in example.answers]
    if isinstance(example, TranslateExample):
        return example.target
    if isinstance(example, ChatExample):
        return example.messages[example.last][1]
    return example.answer if isinstance(example, ChoiceExample) else example.document


def given_of(example: Example) -> dict[str, Any]:
    """What the model was given, by field."""
    if isinstance(example, ChatExample):
        return {"messages": [list(message) for message in example.messages[: example.last]]}
    if isinstance(example, RetrieveExample):
        return {"query": example.query}
    return {name: value for name, value in asdict(example).items() if name not in OWN_ANSWER and value is not None}


def sample_key(example: Example) -> int:
    """A 64-bit hash of all that the model was given: input_key, but for a span the question too."""
    if isinstance(example, SpanExample):
        return xxhash.xxh3_64_intdigest(f"{example.context}\0{example.question}".encode())
    return input_key(example)


def text_of(given: Mapping[str, Any]) -> str:
    """What was given as one text."""
    if "tokens" in given:
        return " ".join(given["tokens"])
    if "messages" in given:
        return "\n\n".join(content for _, content in given["messages"])
    return "\n\n".join(str(value) for value in given.values() if isinstance(value, str))


def line_of(placed: Placed, answer: Answer, score: float) -> bytes:
    """A sample's line, its end included."""
    told = {
        name: value for name, value in asdict(answer).items() if value not in ("", ()) and value == value and (name, value) != ("cut", 0)
    }
    example = placed.example
    row = {
        "file": placed.file,
        "line": placed.line,
        "key": f"{sample_key(example):016x}",
        "input": given_of(example),
        "expected": expected_of(example),
        "answer": told,
        "score": round(score, 6),
    }
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def read_samples(path: Path) -> Iterator[Sample]:
    """The samples of a file that measure() wrote. Raises: DataError if it is missing or damaged."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    row = json.loads(line)
                    answer: dict[str, Any] = {
                        name: tuple(value) if isinstance(value, list) else value for name, value in row["answer"].items()
                    }
                    place = {"file": row["file"], "line": row["line"], "key": int(row["key"], 16)}
                    yield Sample(**place, given=row["input"], expected=row["expected"], answer=Answer(**answer), score=float(row["score"]))
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise DataError(f"{path}:{number} is no sample ({error}); evaluate again") from error
    except FileNotFoundError as error:
        raise DataError(f"{path} is not there; expected the folder of an evaluation, which holds {SAMPLES}") from error
