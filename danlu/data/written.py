"""Examples back as rows, with the fields that they are read from."""

from __future__ import annotations

from typing import Any

from danlu.data.choices import ChoiceExample
from danlu.data.conversations import ChatExample
from danlu.data.examples import Example, SpanExample


def row_of(example: Example) -> dict[str, Any]:
    """A row that reads back as the same example."""
    if isinstance(example, SpanExample):
        answers = [{"text": answer.text, "answer_start": answer.start} for answer in example.answers]
        return {"context": example.context, "question": example.question, "answers": answers}
    if isinstance(example, ChatExample):
        return {"messages": [{"role": role, "content": content} for role, content in example.messages]}
    if isinstance(example, ChoiceExample):
        return {"prompt": example.prompt, "choices": list(example.choices), "answer": example.answer}
    fields = {name: getattr(example, name) for name in example.__dataclass_fields__}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items() if value is not None}
