from __future__ import annotations

from typing import Any

import pytest

from danlu.data.conversations import ChatExample
from danlu.data.examples import Kind, LabelExample, Placed, SpanExample, place
from danlu.data.rows import BadRow
from danlu.data.unanswered import without_answer
from danlu.data.written import row_of

ROWS: list[tuple[Kind, dict[str, Any]]] = [
    ("classify", {"text": "很好", "label": "good"}),
    ("classify", {"text": "a", "pair": "b", "label": "3"}),
    ("regress", {"text": "a", "label": 2.5}),
    ("label", {"tokens": ["张", "三"], "tags": ["B-PER", "I-PER"]}),
    ("span", {"context": "It is 5 m high", "question": "how high", "answers": [{"text": "5 m", "answer_start": 6}]}),
    ("span", {"context": "It is high", "question": "how high", "answers": []}),
    ("translate", {"source": "a", "target": "b"}),
    ("chat", {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}),
    ("choice", {"prompt": "1 + 1 =", "choices": ["1", "2"], "answer": 1}),
    ("retrieve", {"query": "q", "document": "d"}),
]


@pytest.mark.parametrize(("kind", "row"), ROWS)
def test_an_example_written_as_a_row_reads_back_as_itself(kind: Kind, row: dict[str, Any]) -> None:
    found = place("file", 1, row, kind)
    assert isinstance(found, Placed)
    again = place("file", 1, row_of(found.example), kind)
    assert isinstance(again, Placed) and again.example == found.example


@pytest.mark.parametrize(("kind", "row"), [pair for pair in ROWS if pair[0] != "retrieve"])
def test_what_is_asked_stands_without_its_answer(kind: Kind, row: dict[str, Any]) -> None:
    answers = {"label", "tags", "answers", "target", "answer"}
    bare = {name: value for name, value in row.items() if name not in answers}
    if kind == "chat":
        bare = {"messages": row["messages"][:1]}
    example, whole = without_answer("file", 1, bare, kind), place("file", 1, row, kind)
    assert isinstance(whole, Placed) and type(example) is type(whole.example)
    for name in set(bare) - {"messages"}:
        assert getattr(example, name) == getattr(whole.example, name)


def test_texts_are_cut_into_words_or_chinese_characters_and_asked_of_chat_models() -> None:
    found = without_answer("file", 1, {"text": "张三 met Bob Lee"}, "label")
    assert isinstance(found, LabelExample) and found.tokens == ("张", "三", "met", "Bob", "Lee")
    talk = without_answer("file", 1, {"prompt": "hi"}, "chat")
    assert isinstance(talk, ChatExample) and talk.asked == ("hi",)
    span = without_answer("file", 1, {"context": "a b", "question": "which", "answers": {"text": ["z"], "answer_start": [9]}}, "span")
    assert isinstance(span, SpanExample) and span.answers == ()


@pytest.mark.parametrize(
    ("kind", "row"), [("classify", {}), ("classify", {"text": " "}), ("span", {"context": "a"}), ("label", {"text": 3})]
)
def test_a_row_that_asks_nothing_is_bad(kind: Kind, row: dict[str, Any]) -> None:
    with pytest.raises(BadRow):
        without_answer("file", 1, row, kind)


def test_an_answer_that_a_conversation_holds_is_not_shown() -> None:
    turns = [{"role": "user", "content": "say 0"}, {"role": "assistant", "content": "RIGHT"}]
    for row in ({"messages": turns}, {"conversations": [{"from": "human", "value": "say 0"}, {"from": "gpt", "value": "RIGHT"}]}):
        talk = without_answer("file", 1, row, "chat")
        assert isinstance(talk, ChatExample) and talk.messages[talk.last][1] == "?" and "RIGHT" not in str(talk)
    alpaca = without_answer("file", 1, {"instruction": "say 0"}, "chat")
    assert isinstance(alpaca, ChatExample) and alpaca.asked == ("say 0",)
