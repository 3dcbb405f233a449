"""Rows whose answers are not known yet: what a model is to be applied to."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from danlu.data.examples import Example, Kind, Placed, place
from danlu.data.fields import Row, parse
from danlu.data.rows import BadRow

UNKNOWN = "?"
# What a text is cut into that came without tokens: characters of scripts written without spaces, as Chinese is, else words.
TOKEN = re.compile(
    r"[\u2e80-\uabff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]|[^\s\u2e80-\uabff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]+"
)


def without_answer(file: str, line: int, row: Row, kind: Kind) -> Example:
    """A row as an example of a kind, its answer left open where it has none. Raises: BadRow if what is asked is missing."""
    found = place(file, line, FILLED[kind](row) if kind in FILLED else row, kind)
    if not isinstance(found, Placed):
        raise BadRow(found.reason)
    return found.example


def _class(row: Row) -> Row:
    return {**row, "label": UNKNOWN}


def _number(row: Row) -> Row:
    return {**row, "label": 0}


def _tags(row: Row) -> Row:
    tokens = row.get("tokens")
    if isinstance(tokens, str):
        tokens = parse(tokens)
    if tokens is None and isinstance(row.get("text"), str):
        tokens = TOKEN.findall(str(row["text"]))
    return {**row, "tokens": tokens, "tags": ["O"] * len(tokens)} if isinstance(tokens, list) else row


def _span(row: Row) -> Row:
    return {**row, "answers": []}


def _target(row: Row) -> Row:
    source = row.get("source", row.get("prompt", row.get("text")))
    return {"source": source, "target": UNKNOWN} if source is not None else row


def _talk(row: Row) -> Row:
    for turns, speaker, said, roles in (
        ("messages", "role", "content", ("assistant",)),
        ("conversations", "from", "value", ("gpt", "chatgpt", "assistant")),
    ):
        if row.get(turns) is None:
            continue
        told = parse(row[turns]) if isinstance(row[turns], str) else row[turns]
        if not isinstance(told, list):
            return row
        while told and isinstance(told[-1], Mapping) and told[-1].get(speaker) in roles:  # an answer that is known is not shown
            told = told[:-1]
        return {turns: [*told, {speaker: roles[0], said: UNKNOWN}]}
    if row.get("instruction") is not None:
        return {**row, "output": UNKNOWN}
    asked = row.get("prompt", row.get("text"))
    return {"prompt": asked, "completion": UNKNOWN} if asked is not None else row


def _choice(row: Row) -> Row:
    return {**row, "answer": 0}


FILLED: dict[Kind, Callable[[Row], Row]] = {
    "classify": _class,
    "regress": _number,
    "label": _tags,
    "span": _span,
    "translate": _target,
    "chat": _talk,
    "choice": _choice,
}
