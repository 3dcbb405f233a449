from __future__ import annotations

from typing import Any

import pytest

from danlu.data.fields import render
from danlu.data.rows import BadRow


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"text": "a"}, "a"),
        ({"text": "a", "label": 3}, "a"),
        ({"prompt": "1+1=", "completion": "2"}, "1+1=\n2"),
        ({"prompt": "1+1=", "completion": " 2"}, "1+1= 2"),
        ({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}, "user: hi\n\nassistant: ho"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}, "user: hi"),
        ({"prompt": "p", "chosen": "good", "rejected": "bad"}, "p\ngood"),
        ({"prompt": "p", "chosen": [{"role": "assistant", "content": "good"}], "rejected": []}, "p\nassistant: good"),
        ({"source": "cat", "target": "猫"}, "cat\n猫"),
        ({"tokens": ["Peter", "lives"], "tags": ["B", "O"]}, "Peter lives"),
        ({"tokens": ["李白", "乘舟"], "tags": ["nr", "v"]}, "李白乘舟"),
        ({"tokens": ["", "한국어", "문장"], "tags": ["", "", ""]}, "한국어 문장"),
        ({"context": "c", "question": "q", "answers": {"text": ["a", "b"], "answer_start": [0, 1]}}, "c\n\nq\n\na"),
        ({"context": "c", "question": "q", "answers": []}, "c\n\nq"),
        ({"context": "c", "question": "q", "answers": ["a"]}, "c\n\nq\n\na"),
        ({"instruction": "i", "input": "", "output": "o"}, "i\n\no"),
        ({"instruction": "i", "input": "n", "output": "o"}, "i\n\nn\n\no"),
        ({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]}, "human: hi\n\ngpt: ho"),
        ({"title": "T", "extract": "E", "topic": "x"}, "T\n\nE"),
        ({"title": "静夜思", "author": "李白", "paragraphs": ["床前明月光，", "疑是地上霜。"]}, "静夜思\n床前明月光，\n疑是地上霜。"),
        ({"title": "关雎", "chapter": "国风", "content": ["关关雎鸠，在河之洲。"]}, "关雎\n关关雎鸠，在河之洲。"),
    ],
)
def test_every_shape_becomes_text(row: dict[str, Any], text: str) -> None:
    assert render(row) == text


def test_a_field_can_be_named() -> None:
    assert render({"body": "b", "text": "t"}, "body") == "b"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"body": "b", "id": 3}, r"fields body, id; expected one of: .*text"),
        ({"text": 3}, "`text` is a number; expected a string"),
        ({"text": None}, "fields text; expected"),
        ({}, "fields none"),
        ([1], "a row is a list"),
        (3, "a row is a number"),
        ({"messages": "hi"}, "`messages` is a string"),
        ({"messages": [{"content": "hi"}]}, "no 'role'"),
        ({"tokens": [1, 2], "tags": []}, "expected a list of strings"),
    ],
)
def test_other_rows_say_what_came_and_what_was_expected(row: object, reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        render(row)


def test_a_missing_named_field_lists_the_others() -> None:
    with pytest.raises(BadRow, match="no field 'body' among text"):
        render({"text": "t"}, "body")
