"""Rows that offer several answers to choose from, and rows that belong to one document among many."""

from __future__ import annotations

from dataclasses import dataclass

from danlu.data.fields import Row, columns, kind_of, parse, string
from danlu.data.rows import BadRow

MOST_CHOICES = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceExample:
    """A text and several ways to go on; `answer` is the number of the right one."""

    prompt: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrieveExample:
    """A query and the document that should be found for it among the documents of all rows."""

    query: str
    document: str


def read_choice(row: Row) -> ChoiceExample:
    """A row with `prompt`, `choices` and `answer` (a number from 0, or the choice itself). Raises: BadRow if it is none."""
    for name in ("prompt", "choices", "answer"):
        if row.get(name) is None:
            raise BadRow(f"no field {name!r} among {columns(row)}")
    choices = row["choices"]
    if isinstance(choices, str):
        choices = parse(choices)
    if not isinstance(choices, list) or not 2 <= len(choices) <= MOST_CHOICES:
        raise BadRow(f"`choices` is {kind_of(choices)}; expected a list of 2 to {MOST_CHOICES} strings")
    texts = tuple(string(choice, "choices") for choice in choices)
    if len(set(texts)) < len(texts) or not all(texts):
        raise BadRow("`choices` holds an empty choice, or one twice")
    answer = row["answer"]
    if isinstance(answer, str):
        answer = int(answer) if answer.isdecimal() and answer not in texts else texts.index(answer) if answer in texts else -1
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(texts):
        raise BadRow(f"`answer` is {str(row['answer'])[:40]!r}; expected one of the choices, or its number from 0 to {len(texts) - 1}")
    return ChoiceExample(prompt=string(row["prompt"], "prompt"), choices=texts, answer=answer)


def read_pair(row: Row) -> RetrieveExample:
    """A row with `query` and `document`. Raises: BadRow if it is none."""
    for name in ("query", "document"):
        if not isinstance(row.get(name), str) or not str(row[name]).strip():
            raise BadRow(f"no text in {name!r} among {columns(row)}")
    return RetrieveExample(query=string(row["query"], "query"), document=string(row["document"], "document"))
