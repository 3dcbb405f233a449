"""The fields of a row that are understood, and the text each shape is turned into for pretraining."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from danlu.data.rows import BadRow
from danlu.inputs.spacing import between

Row = Mapping[str, Any]
LINES = ("paragraphs", "content", "para")  # what collections of poems call a list of lines


def render(row: object, field: str | None = None) -> str:
    """The text of one row; `field` names the column to take instead of looking for a known shape.

    Raises: BadRow naming the columns that came and what was expected.
    """
    if isinstance(row, str) and field is None:
        return row
    if not isinstance(row, Mapping):
        raise BadRow(f"a row is {kind_of(row)}; expected an object with fields")
    if field is not None:
        if field not in row:
            raise BadRow(f"no field {field!r} among {columns(row)}")
        return string(row[field], field)
    for names, shape in SHAPES:
        if all(row.get(name) is not None for name in names):
            return shape(row)
    raise BadRow(f"fields {columns(row)}; expected one of: {'; '.join('+'.join(names) for names, _ in SHAPES)}")


def parse(text: str) -> object:
    """A row from a line of JSON.

    Raises: BadRow if it is none.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BadRow(f"not JSON ({error})") from None


def _plain(row: Row) -> str:
    return string(row["text"], "text")


def _completion(row: Row) -> str:
    return _glue(_said(row["prompt"], "prompt"), _said(row["completion"], "completion"))


def _preference(row: Row) -> str:
    return _glue(_said(row["prompt"], "prompt"), _said(row["chosen"], "chosen"))


def _messages(row: Row) -> str:
    return _talk(row["messages"], "messages", "role", "content")


def _sharegpt(row: Row) -> str:
    return _talk(row["conversations"], "conversations", "from", "value")


def _pair(row: Row) -> str:
    return string(row["source"], "source") + "\n" + string(row["target"], "target")


def _labelled(row: Row) -> str:
    tokens = row["tokens"]
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise BadRow(f"`tokens` is {kind_of(tokens)}; expected a list of strings")
    text = ""
    for token in tokens:
        text += between(text[-1:], token[:1]) + token
    return text


def _question(row: Row) -> str:
    answers = row["answers"]
    if isinstance(answers, Mapping):
        answers = answers.get("text", [])
    first = answers[0] if isinstance(answers, list) and answers else answers
    if isinstance(first, Mapping):
        first = first.get("text", "")
    answer = first if isinstance(first, str) else ""  # SQuAD 2 has questions that the text does not answer
    parts = [string(row["context"], "context"), string(row["question"], "question"), answer]
    return "\n\n".join(part for part in parts if part)


def _alpaca(row: Row) -> str:
    given = row.get("input")
    parts = [string(row["instruction"], "instruction"), given if isinstance(given, str) else "", string(row["output"], "output")]
    return "\n\n".join(part for part in parts if part)


def _article(row: Row) -> str:
    return string(row["title"], "title") + "\n\n" + string(row["extract"], "extract")


def _poem(row: Row) -> str:
    """Lines below their title, as the collections of Chinese poetry have them."""
    name = next(name for name in LINES if row.get(name) is not None)
    lines = [row[name]] if isinstance(row[name], str) else row[name]
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise BadRow(f"`{name}` is {kind_of(lines)}; expected a list of strings")
    title = row.get("title") or row.get("rhythmic")
    return "\n".join([title, *lines] if isinstance(title, str) else lines)


SHAPES: tuple[tuple[tuple[str, ...], Callable[[Row], str]], ...] = (
    (("messages",), _messages),
    (("conversations",), _sharegpt),
    (("prompt", "completion"), _completion),
    (("prompt", "chosen", "rejected"), _preference),
    (("context", "question", "answers"), _question),
    (("instruction", "output"), _alpaca),
    (("source", "target"), _pair),
    (("tokens", "tags"), _labelled),
    (("text",), _plain),
    (("title", "extract"), _article),
    (("paragraphs",), _poem),
    (("title", "content"), _poem),
    (("title", "para"), _poem),
)


def _talk(turns: object, field: str, speaker: str, said: str) -> str:
    """Turns as `speaker: what was said`, an empty line between them."""
    if not isinstance(turns, list):
        raise BadRow(f"`{field}` is {kind_of(turns)}; expected a list of {{{speaker}, {said}}}")
    lines = []
    for turn in turns:
        if not isinstance(turn, Mapping) or not isinstance(turn.get(speaker), str):
            raise BadRow(f"a turn of `{field}` has no {speaker!r}; expected {{{speaker}, {said}}}")
        content = turn.get(said)
        if isinstance(content, list):  # OpenAI's content parts: the text ones
            content = "".join(part.get("text", "") for part in content if isinstance(part, Mapping))
        if content is not None:  # an assistant that only calls a tool says nothing
            lines.append(f"{turn[speaker]}: {string(content, said)}")
    return "\n\n".join(lines)


def _said(value: object, field: str) -> str:
    return _talk(value, field, "role", "content") if isinstance(value, list) else string(value, field)


def _glue(prompt: str, completion: str) -> str:
    apart = not prompt or not completion or prompt[-1].isspace() or completion[0].isspace()
    return prompt + completion if apart else prompt + "\n" + completion


def string(value: object, field: str) -> str:
    """A field's value, which must be a string.

    Raises: BadRow if it is none.
    """
    if not isinstance(value, str):
        raise BadRow(f"`{field}` is {kind_of(value)}; expected a string")
    return value


def columns(row: Row) -> str:
    """The names of a row's fields, for messages."""
    names = [str(name)[:40] for name in row]
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "") or "none"


def kind_of(value: object) -> str:
    """What a value is, for messages."""
    return {list: "a list", dict: "an object", str: "a string", type(None): "null", bool: "true or false"}.get(type(value), "a number")
