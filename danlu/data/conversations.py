"""Rows that hold a conversation, in whatever of the usual shapes: read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from danlu.data.fields import Row, columns, kind_of, parse, string
from danlu.data.rows import BadRow

# Who speaks, by the names that ShareGPT's descendants use; the others are OpenAI's own.
ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatExample:
    """A conversation: (role, content) each, where roles are system, user and assistant; something is asked and answered."""

    messages: tuple[tuple[str, str], ...]

    @property
    def last(self) -> int:
        """The place of the assistant's last turn: what is to be answered."""
        return max(place for place, (role, _) in enumerate(self.messages) if role == "assistant")

    @property
    def asked(self) -> tuple[str, ...]:
        """All that the assistant did not say."""
        return tuple(content for role, content in self.messages if role != "assistant")


def read_conversation(row: Row) -> ChatExample:
    """A row with `messages`, ShareGPT's `conversations`, `prompt` and `completion`, or Alpaca's fields. Raises: BadRow if it is none."""
    if row.get("messages") is not None:
        messages = _turns(row["messages"], "messages", "role", "content")
    elif row.get("conversations") is not None:
        messages = _turns(row["conversations"], "conversations", "from", "value")
    elif row.get("prompt") is not None and row.get("completion") is not None:
        messages = _side(row["prompt"], "prompt", "user") + _side(row["completion"], "completion", "assistant")
    elif row.get("instruction") is not None and row.get("output") is not None:
        given = row.get("input")
        parts = [string(row["instruction"], "instruction"), given if isinstance(given, str) else ""]
        messages = [("user", "\n\n".join(part for part in parts if part)), ("assistant", string(row["output"], "output"))]
    else:
        raise BadRow(f"fields {columns(row)}; expected messages; conversations; prompt+completion; or instruction+output")
    answered = [place for place, (role, _) in enumerate(messages) if role == "assistant"]
    asked = [place for place, (role, _) in enumerate(messages) if role == "user"]
    if not answered or not asked or answered[0] < asked[0]:
        raise BadRow("the assistant does not answer a user; expected a user's message and then the assistant's")
    if any(not content.strip() for role, content in messages if role != "system"):
        raise BadRow("a message is empty")
    return ChatExample(messages=tuple(messages))


def _side(value: object, field: str, role: str) -> list[tuple[str, str]]:
    return _turns(value, field, "role", "content") if isinstance(value, list) else [(role, string(value, field))]


def _turns(turns: object, field: str, speaker: str, said: str) -> list[tuple[str, str]]:
    if isinstance(turns, str):  # tables of text hold lists as JSON
        turns = parse(turns)
    if not isinstance(turns, list):
        raise BadRow(f"`{field}` is {kind_of(turns)}; expected a list of {{{speaker}, {said}}}")
    return [_turn(turn, field, speaker, said) for turn in turns]


def _turn(turn: object, field: str, speaker: str, said: str) -> tuple[str, str]:
    if not isinstance(turn, Mapping) or not isinstance(turn.get(speaker), str):
        raise BadRow(f"a turn of `{field}` has no {speaker!r}; expected {{{speaker}, {said}}}")
    role = ROLES.get(turn[speaker])
    if role is None:
        raise BadRow(f"a turn of `{field}` is from {turn[speaker][:40]!r}; expected one of {', '.join(ROLES)}")
    content = turn.get(said)
    if isinstance(content, list):  # OpenAI's content parts: text alone is understood
        if not all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in content):
            raise BadRow(f"a turn of `{field}` holds other parts than text; expected text")
        content = "".join(part["text"] for part in content)
    return role, string(content, said)
