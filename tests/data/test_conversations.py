from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from danlu.base.errors import DataError
from danlu.data.conversations import ChatExample, read_conversation
from danlu.data.examples import read_examples, split_examples
from danlu.data.rows import BadRow

ASKED = (("user", "1+1?"), ("assistant", "2"))


def turns(*pairs: tuple[str, str], speaker: str = "role", said: str = "content") -> list[dict[str, str]]:
    return [{speaker: role, said: content} for role, content in pairs]


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"messages": turns(*ASKED)}, ASKED),
        ({"messages": turns(("system", ""), *ASKED, *ASKED)}, (("system", ""), *ASKED, *ASKED)),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "1+1?"}]}, turns(ASKED[1])[0]]}, ASKED),
        ({"messages": json.dumps(turns(*ASKED)), "id": 3}, ASKED),
        ({"conversations": turns(("human", "1+1?"), ("gpt", "2"), speaker="from", said="value")}, ASKED),
        ({"prompt": "1+1?", "completion": "2"}, ASKED),
        ({"prompt": turns(ASKED[0]), "completion": turns(ASKED[1])}, ASKED),
        ({"instruction": "Add.", "input": "1+1", "output": "2"}, (("user", "Add.\n\n1+1"), ("assistant", "2"))),
        ({"instruction": "1+1?", "input": "", "output": "2"}, ASKED),
        ({"instruction": "1+1?", "output": "2"}, ASKED),
    ],
)
def test_every_usual_shape_is_one_conversation(row: dict[str, Any], messages: tuple[tuple[str, str], ...]) -> None:
    assert read_conversation(row) == ChatExample(messages=messages)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "a"}, "fields text; expected messages"),
        ({"messages": "hello"}, "not JSON"),
        ({"messages": {}}, "is an object; expected a list"),
        ({"messages": ["hi"]}, "has no 'role'"),
        ({"messages": turns(("tool", "2"))}, "is from 'tool'; expected one of"),
        ({"messages": turns(("user", "a"))}, "does not answer a user"),
        ({"messages": turns(("assistant", "a"), ("user", "b"), ("assistant", "c"))}, "does not answer a user"),
        ({"messages": turns(("user", "a"), ("assistant", " \n"))}, "a message is empty"),
        ({"messages": [{"role": "user", "content": None}, *turns(ASKED[1])]}, "is null; expected a string"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "other parts than text"),
        ({"prompt": "", "completion": "2"}, "a message is empty"),
        ({"instruction": "a", "output": 2}, "`output` is a number"),
    ],
)
def test_a_bad_row_says_why(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        read_conversation(row)


def test_files_are_read_and_bad_rows_set_aside_with_their_line(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": f"{i % 12}?", "completion": str(i)} for i in range(30)]
    rows[7] = {"messages": []}
    file = tmp_path / "talks.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    found = read_examples([str(file)], "chat")
    assert len(found.records) == 29
    (bad,) = found.set_aside
    assert (bad.file.endswith("talks.jsonl"), bad.line, "does not answer a user" in bad.reason) == (True, 8, True)
    train, held = split_examples(found, 0.2, 0)
    asked = [{record.asked for record in part.records if isinstance(record, ChatExample)} for part in (train, held)]
    assert asked[0] and asked[1] and not asked[0] & asked[1]
    file.write_text("\n".join(json.dumps({"text": "a"}) for _ in range(3)))
    with pytest.raises(DataError, match="3 of 3 rows cannot be used for chat"):
        read_examples([str(file)], "chat")
